"""What a person does on the page to draw on, in a real browser."""

import base64
import json
import shutil
import statistics
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import (
    DESKTOP,
    PHONE,
    RUNS,
    blocks,
    declared,
    drag,
    drop,
    fast_generator,
    image_of,
    place,
    png,
    serving,
    settled,
    until,
    untrained,
    visible_channels,
    write_json,
)
from conftest import REPOSITORY
from PIL import Image

from images.pixels import to_image, to_tensor
from images.reading import MAX_PIXELS
from metrics.palettes import PALETTES
from pages.server import Server
from pages.server import page as whole_page
from tasks.colorization import to_lab
from tasks.edges import draw as draw_edges
from utils import translate

BLUE, WINDOW = (PALETTES["facades"].classes[name] for name in ("background", "window"))


@pytest.mark.slow
def test_a_rectangle_changes_the_output_and_undo_restores_both(server, runs, opened):
    page = opened(server, "facades")
    before = visible_channels(page, "canvas"), visible_channels(page, "output")
    assert (before[0] == BLUE).all()
    drag(page, (4, 6), (20, 15))
    settled(page)
    drawn = np.full((32, 32, 3), BLUE)
    drawn[6:16, 4:21] = WINDOW
    after = visible_channels(page, "canvas"), visible_channels(page, "output")
    assert (after[0] == drawn).all() and np.abs(after[1] - before[1]).mean() > 1
    generator = fast_generator(runs / "facades")
    expected = translate(generator, Image.fromarray(drawn.astype(np.uint8)))
    assert (after[1] == np.asarray(expected)).all()
    for key, (canvas, output) in (("Control+z", before), ("Control+y", after), ("z", before)):
        page.keyboard.press(key)
        settled(page)
        assert (visible_channels(page, "canvas") == canvas).all() and (
            visible_channels(page, "output") == output
        ).all()
    assert page.locator("#undo").is_disabled() and page.locator("#redo").is_enabled()


@pytest.mark.slow
def test_the_palette_has_the_names_and_colors_of_the_classes(server, opened):
    page = opened(server, "facades")
    names = page.locator("#palette button span").all_text_contents()
    assert names == list(PALETTES["facades"].classes)
    page.keyboard.press("r")
    for key, name in (("7", "balcony"), ("0", "molding"), ("Shift+Digit2", "shop")):
        page.keyboard.press(key)
        chosen = page.locator("#palette [aria-checked=true] span")
        assert chosen.all_text_contents() == [name]
        drag(page, (0, 0), (3, 3))
        assert tuple(visible_channels(page, "canvas")[1, 1]) == PALETTES["facades"].classes[name]
    page.click("text=door")
    drag(page, (10, 10), (12, 12))
    assert tuple(visible_channels(page, "canvas")[11, 11]) == PALETTES["facades"].classes["door"]
    settled(page)


@pytest.mark.slow
def test_every_tool_draws_in_colors_of_the_palette_only(server, opened):
    page = opened(server, "facades")
    page.locator("#size").fill("5")
    for key, points in {
        "b": [(3, 3), (15, 9), (5, 20)],
        "l": [(28, 2), (20, 29)],
        "r": [(12, 22), (18, 28)],
        "e": [(4, 4), (12, 8)],
    }.items():
        page.keyboard.press(key)
        drag(page, *points)
    pixels = visible_channels(page, "canvas")
    assert {tuple(color) for color in pixels.reshape(-1, 3)} == {BLUE, WINDOW}
    assert (pixels[20, 5] == WINDOW).all() and (pixels[4, 4] == BLUE).all()
    assert (pixels[24, 15] == WINDOW).all() and (pixels[15, 24] == WINDOW).all()
    page.keyboard.press("f")
    page.keyboard.press("4")
    page.mouse.click(*place(page, 31, 31))
    door = PALETTES["facades"].classes["door"]
    filled = visible_channels(page, "canvas")
    assert (filled[31, 31] == door).all()
    assert ((filled == WINDOW).all(-1) == (pixels == WINDOW).all(-1)).all()
    assert {tuple(color) for color in filled.reshape(-1, 3)} == {BLUE, WINDOW, door}  # BLUE inside
    page.keyboard.press("c")
    assert (visible_channels(page, "canvas") == BLUE).all()
    page.keyboard.press("z")
    page.keyboard.press("b")
    page.mouse.click(*place(page, 24, 15), button="right")
    assert (visible_channels(page, "canvas")[15, 24] == BLUE).all()
    page.mouse.click(*place(page, 24, 15))
    assert (visible_channels(page, "canvas")[15, 24] == door).all()
    settled(page)


@pytest.mark.slow
def test_touch_draws_at_the_width_of_a_phone(server, opened):
    page = opened(server, "facades", PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    before = visible_channels(page, "output")
    session = page.context.new_cdp_session(page)
    page.tap("#brush")
    for kind, point in (("Start", (5, 5)), ("Move", (12, 12)), ("Move", (25, 8)), ("End", None)):
        points = [dict(zip("xy", place(page, *point), strict=True))] if point else []
        session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    settled(page)
    pixels = visible_channels(page, "canvas")
    assert all((pixels[y, x] == WINDOW).all() for x, y in ((5, 5), (9, 9), (12, 12), (25, 8)))
    assert page.evaluate("scrollY") == 0  # drawing does not scroll
    assert np.abs(visible_channels(page, "output") - before).mean() > 0.1
    page.tap("#undo")
    until(page, "drawing.at === 0")
    settled(page)
    assert (visible_channels(page, "output") == before).all()


@pytest.mark.slow
def test_dropped_images_of_any_kind(server, runs, opened):
    page = opened(server, "sketches")
    deep = np.arange(32 * 24, dtype=np.uint16).reshape(24, 32) * 85
    drop(page, "deep.png", png(Image.fromarray(deep)))
    until(page, "canvas.height === 24")
    settled(page)
    expected = (deep / 257).round()
    assert (visible_channels(page, "canvas")[..., 0] == expected).all()
    generator = fast_generator(runs / "sketches")
    image = Image.fromarray(visible_channels(page, "canvas").astype(np.uint8))
    assert (visible_channels(page, "output") == np.asarray(translate(generator, image))).all()

    pair = Image.new("RGB", (64, 32))  # A is the input
    pair.paste(blocks(32, 32), (0, 0))
    drop(page, "pair.png", png(pair))
    until(page, "canvas.height === 32 && !element('toast').hidden")
    assert (visible_channels(page, "canvas") == np.asarray(blocks(32, 32))).all()
    assert "left half" in page.inner_text("#toast")
    settled(page)

    page.select_option("#runs", "edges")
    settled(page)
    drop(page, "photo.png", png(blocks(64, 64)))
    until(page, "element('toast').textContent === 'the edges of the photo'")
    assert set(np.unique(visible_channels(page, "canvas"))) == {0, 255}
    settled(page)


@pytest.mark.slow
def test_a_bad_upload_is_a_message_and_the_page_goes_on(server, opened):
    opened.expected.append("400 (Bad Request)")
    page = opened(server, "facades")
    before = visible_channels(page, "canvas")
    cases = {
        "notes.txt": (b"hello", "notes.txt cannot be read as an image"),
        "huge.png": (declared(MAX_PIXELS // 64 + 1, 64), "over 67 megapixels"),
        "long.png": (bytes(17 * 2**20), "the limit is 16 MB"),
        "x.json": (b"{}", "not a drawing of this page"),
    }
    for name, (content, line) in cases.items():
        drop(page, name, content)
        until(page, f"element('toast').textContent.includes({json.dumps(line)})")
    assert (visible_channels(page, "canvas") == before).all()
    drag(page, (4, 6), (20, 15))
    settled(page)
    assert not (visible_channels(page, "canvas") == before).all()


@pytest.mark.slow
def test_a_hole_is_painted_on_a_photo(server, runs, opened):
    page = opened(server, "hole")
    photo = np.asarray(blocks(48, 40)).astype(int)
    assert (visible_channels(page, "canvas") == photo).all()
    page.keyboard.press("c")
    settled(page)
    assert (visible_channels(page, "output") == photo).all()  # nothing to fill
    page.keyboard.press("r")
    drag(page, (10, 5), (29, 14))
    settled(page)
    mask = Image.new("L", (48, 40))
    mask.paste(255, (10, 5, 30, 15))
    generator = fast_generator(runs / "hole")
    expected = translate(generator, blocks(48, 40), mask=mask)
    assert (visible_channels(page, "output") == np.asarray(expected)).all()
    page.keyboard.press("e")
    page.locator("#size").fill("8")
    drag(page, (10, 8), (30, 8), (30, 12), (10, 12))
    settled(page)
    assert (visible_channels(page, "output") == photo).all()


@pytest.mark.slow
def test_a_photo_from_the_webcam(server, opened):
    page = opened(server, "color")
    assert page.inner_text("#empty") == "Drop, paste or open an image"
    page.keyboard.press("w")
    until(page, "element('time').textContent.endsWith('images/s')")
    frames = [visible_channels(page, "output")]
    until(page, f"output.toDataURL() !== {json.dumps(page.evaluate('output.toDataURL()'))}")
    frames.append(visible_channels(page, "output"))  # the test pattern moves
    assert not (frames[0] == frames[1]).all()
    page.click("#take")
    until(page, "!camera && state() && !state().empty")
    settled(page)
    assert page.locator("#empty").is_hidden() and page.locator("#take").is_hidden()
    assert visible_channels(page, "output").shape == visible_channels(page, "canvas").shape


@pytest.mark.slow
def test_noise_slider_and_the_drawing_as_text(server, opened):
    page = opened(server, "facades", permissions=["clipboard-read", "clipboard-write"])
    drag(page, (4, 6), (20, 15))
    settled(page)
    noisy = visible_channels(page, "output")
    page.click("#redraw")
    settled(page)
    other = visible_channels(page, "output")
    assert not (other == noisy).all()
    canvas = visible_channels(page, "canvas")
    page.keyboard.press("j")
    page.click("#copy")
    text = page.evaluate("navigator.clipboard.readText()")
    assert "http" not in text and json.loads(text)["run"] == "facades"
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    page.keyboard.press("n")
    settled(page)
    assert page.get_attribute("#noise", "aria-pressed") == "false"
    drop(page, "drawing.json", text.encode())
    until(page, "drawing.states.length === 4")
    settled(page)
    assert (visible_channels(page, "canvas") == canvas).all() and (
        visible_channels(page, "output") == other
    ).all()
    page.keyboard.press("v")
    for at in (100, 50):
        page.locator("#at").fill(str(at))
        seen = image_of(page.locator("#right .stage").screenshot())
        corners = seen[40, [40, -40]]
        assert np.abs(corners - BLUE).max(-1).tolist()[0] <= 1  # the input on the left
        assert (np.abs(corners[1] - BLUE).max() <= 1) == (at == 100)
    with page.expect_download() as download:
        page.keyboard.press("s")
    assert (image_of(Path(download.value.path()).read_bytes()) == other).all()
    assert download.value.suggested_filename == "facades_output.png"


@pytest.mark.slow
def test_two_pages_and_a_run_that_saves(opened, tmp_path):
    untrained(tmp_path / "run", palette="facades")
    with serving(Server([str(tmp_path / "run")], device="cpu")) as server:
        pages = [opened(server), opened(server)]
        before = visible_channels(pages[0], "output")
        drag(pages[0], (4, 6), (20, 15))
        drag(pages[1], (14, 16), (20, 25))
        for page in pages:
            settled(page)
        assert not (
            visible_channels(pages[0], "output") == visible_channels(pages[1], "output")
        ).all()
        untrained(tmp_path / "run", palette="facades", seed=1)
        stamp = pages[0].evaluate("run.stamp")
        until(pages[0], f"run.stamp !== '{stamp}'")
        settled(pages[0])
        assert not (visible_channels(pages[0], "output") == before).all()
        for page in pages:
            page.context.close()


@pytest.mark.slow
def test_the_time_from_the_end_of_a_stroke_to_the_output(opened, tmp_path, capsys):
    """At 256 px with 32 filters. Prints the medians for docs/draw.md: run it with -s."""
    fields = {"load_size": 286, "crop_size": 256, "depth": 8, "base_channels": 32}
    untrained(tmp_path / "run", palette="facades", **fields)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with serving(Server([str(tmp_path / "run")], device="cpu")) as server:
            page, strokes, variations = opened(server), [], []
            for i in range(24):
                drag(page, (20 + 5 * i, 30), (40 + 5 * i, 90 + 5 * i))
                settled(page)
                strokes.append(int(page.inner_text("#time").removesuffix(" ms")))
            for _ in range(24):
                page.keyboard.press("d")
                settled(page)
                variations.append(int(page.inner_text("#time").removesuffix(" ms")))
            page.context.close()
    finally:
        torch.set_num_threads(threads)
    with capsys.disabled():
        for name, times in (("stroke", strokes), ("variation", variations)):
            print(f" {name}: median {statistics.median(times)} ms of {sorted(times)}")
    assert statistics.median(strokes) < 3000  # the machine may have others busy


# ---- Live -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_output_follows_during_the_stroke(server, runs, opened):
    page = opened(server, "facades")
    shown = [page.evaluate("output.toDataURL()")]
    page.mouse.move(*place(page, 4, 4))
    page.mouse.down()
    for x in (10, 18, 26):
        page.mouse.move(*place(page, x, x), steps=3)
        until(page, f"stroke && !sending && output.toDataURL() !== {json.dumps(shown[-1])}")
        shown.append(page.evaluate("output.toDataURL()"))
    assert page.evaluate("drawing.states.length") == 1  # nothing is committed yet
    page.keyboard.press("Escape")  # the canvas and the output are those from before
    until(page, f"!sending && output.toDataURL() === {json.dumps(shown[0])}")
    page.mouse.up()
    settled(page)


@pytest.mark.slow
def test_the_webcam_is_translated_live_and_mirrored(server, runs, opened):
    page = opened(server, "sketches")
    before = visible_channels(page, "canvas")
    page.click("#webcam")
    until(page, "element('time').textContent.endsWith('images/s')")
    mirrored = page.evaluate(
        """(() => {
          const { video } = camera, { videoWidth: w, videoHeight: h } = video;
          const [flipped, plain] = [true, false].map(mirror => {
            const one = blank(canvas.width, canvas.height), on = context(one);
            if (mirror) on.scale(-1, 1);
            on.drawImage(video, mirror ? -one.width : 0, 0, one.width, one.height);
            return on.getImageData(0, 0, one.width, one.height).data;
          });
          const now = pixels.getImageData(0, 0, canvas.width, canvas.height).data;
          const far = other => now.reduce((sum, value, i) => sum + Math.abs(value - other[i]), 0);
          return far(flipped) < far(plain);
        })()"""
    )
    assert mirrored
    page.keyboard.press("Escape")  # back to the drawing, and the camera is off
    settled(page)
    assert (visible_channels(page, "canvas") == before).all() and not page.evaluate("camera")
    page.click("#webcam")
    until(page, "camera && element('time').textContent.endsWith('images/s')")
    tracks = page.evaluate_handle("camera.stream.getTracks()")
    page.evaluate(
        """Object.defineProperty(document, "hidden", { value: true, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"))"""
    )
    assert tracks.evaluate("all => all.every(track => track.readyState === 'ended')")
    assert "as the page was hidden" in page.inner_text("#toast")
    assert not page.evaluate("camera")


@pytest.mark.slow
def test_edges_of_the_webcam_are_drawn_in_the_page(server, opened):
    page = opened(server, "edges")
    page.click("#webcam")
    until(page, "element('time').textContent.endsWith('images/s')")
    page.click("#take")
    settled(page)
    assert set(np.unique(visible_channels(page, "canvas"))) == {0, 255}
    assert page.evaluate("[canvas.width, canvas.height]") == [32, 32]


@pytest.mark.slow
def test_edges_are_those_of_training(server, opened):
    page = opened(server, "edges")
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (12, 9, 3), np.uint8))
    for photo in (coarse.resize((90, 120), Image.Resampling.BICUBIC), blocks(64, 48)):
        data = base64.b64encode(png(photo)).decode()
        drawn = page.evaluate(
            """async data => {
              const image = await fetched(`data:image/png;base64,${data}`);
              const one = blank(image.width, image.height), on = context(one);
              on.drawImage(image, 0, 0);
              const values = on.getImageData(0, 0, one.width, one.height);
              canny(values);
              return Array.from(values.data).filter((_, i) => i % 4 === 0);
            }""",
            data,
        )
        expected = to_image(draw_edges(to_tensor(np.asarray(photo)))).convert("L")
        same = np.reshape(drawn, photo.size[::-1]) == np.asarray(expected)
        assert same.mean() > 0.999 and (np.asarray(expected) == 0).any()


# ---- Zoom -------------------------------------------------------------------------------------


def touch(session, kind: str, *points) -> None:
    points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
    session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})


@pytest.mark.slow
def test_two_fingers_zoom_and_leave_no_stroke(server, opened):
    page = opened(server, "facades", PHONE)
    before = visible_channels(page, "canvas")
    session = page.context.new_cdp_session(page)
    one, other = place(page, 14, 16), place(page, 18, 16)
    touch(session, "Start", one)
    touch(session, "Move", (one[0] - 4, one[1]))
    touch(session, "Start", (one[0] - 4, one[1]), other)
    for by in (10, 20, 40):
        touch(session, "Move", (one[0] - by, one[1]), (other[0] + by, other[1]))
    assert page.evaluate("view.zoom") > 1.5
    touch(session, "Move", (one[0] - 40, one[1] + 60), (other[0] + 40, other[1] + 60))
    x, y = page.evaluate("[view.x, view.y]")
    assert x < 0 and y < 0
    touch(session, "End")
    assert page.evaluate("drawing.states.length") == 1 and page.evaluate("fingers.size") == 0
    assert (visible_channels(page, "canvas") == before).all()
    settled(page)


@pytest.mark.slow
def test_the_wheel_zooms_at_the_pointer_and_the_space_bar_pans(server, opened):
    page = opened(server, "facades")
    at = place(page, 8, 24)
    page.mouse.move(*at)
    page.mouse.wheel(0, -200)
    until(page, "view.zoom > 1.3")
    moved = place(page, 8, 24)
    assert abs(at[0] - moved[0]) < 1 and abs(at[1] - moved[1]) < 1
    page.keyboard.press("r")
    page.mouse.click(*at)  # drawn where it is seen
    assert (visible_channels(page, "canvas")[24, 8] == WINDOW).all()
    steps = page.evaluate("drawing.states.length")
    page.keyboard.down("Space")
    page.mouse.down()
    page.mouse.move(at[0] + 30, at[1] - 20)
    page.mouse.up()
    page.keyboard.up("Space")
    seen = place(page, 8, 24)
    assert page.evaluate("drawing.states.length") == steps
    assert abs(seen[0] - at[0] - 30) < 1 or abs(seen[1] - at[1] + 20) < 1
    page.keyboard.press("h")
    assert page.evaluate("[view.zoom, view.x, view.y]") == [1, 0, 0]
    settled(page)


# ---- Sizes, tasks, files ----------------------------------------------------------------------


@pytest.mark.slow
def test_narrow_images_are_refused_and_clear_restores_the_size_of_training(server, opened):
    page = opened(server, "sketches")
    drop(page, "line.png", png(Image.new("RGB", (4000, 4))))
    until(page, "element('toast').textContent.includes('4000×4 px, too small or too narrow')")
    assert page.evaluate("[canvas.width, canvas.height]") == [32, 32]
    drop(page, "wide.png", png(blocks(64, 40)))
    until(page, "canvas.height === 20")
    assert "reduced from 64×40 to 32×20 px" in page.inner_text("#toast")
    page.keyboard.press("c")
    assert page.evaluate("[canvas.width, canvas.height]") == [32, 32]
    assert (visible_channels(page, "canvas") == 255).all()
    settled(page)


@pytest.mark.slow
def test_what_each_task_needs(server, runs, opened, tmp_path):
    page = opened(server, "color")
    drop(page, "photo.png", png(blocks(48, 40)))
    until(page, "state() && !state().empty")
    settled(page)
    gray = visible_channels(page, "canvas")
    assert (gray.max(2) == gray.min(2)).all()  # with the lightness of the photo
    light = [to_lab(to_tensor(i.astype(np.uint8)))[0] for i in (gray, np.asarray(blocks(48, 40)))]
    assert (light[0] - light[1]).abs().max() < 0.01

    page.select_option("#runs", "facades")
    settled(page)
    drop(page, "photo.png", png(blocks(32, 32)))
    until(page, "element('toast').textContent.includes('not those of the palette')")
    settled(page)

    page.select_option("#runs", "hole")
    settled(page)
    with page.expect_download() as download:
        page.click("#save-mask")
    hole = image_of(Path(download.value.path()).read_bytes())
    assert (hole == visible_channels(page, "holeImage()")).all()
    assert (hole[20, 24] == 255).all() and (hole[2, 2] == 0).all() and hole.shape == (40, 48, 3)
    page.keyboard.press("v")
    under = visible_channels(page, "element('under')")
    assert len(np.unique(under[10:30, 12:36])) > 2  # stripes over the hole, not one color
    assert not (under == np.asarray(blocks(48, 40))).all()


@pytest.mark.slow
def test_super_resolution_says_how_large_and_does_not_shrink(opened, tmp_path):
    untrained(tmp_path / "large", task="super_resolution", factor=2)
    with serving(Server([str(tmp_path / "large")], device="cpu")) as server:
        page = opened(server)
        drop(page, "photo.png", png(blocks(70, 50)))
        until(page, "state() && !state().empty")
        settled(page)
        assert "70×50 → 140×100 px" in page.inner_text("#about")
        assert visible_channels(page, "output").shape == (100, 140, 3)
        drop(page, "huge.png", png(Image.new("RGB", (3000, 40))))
        until(page, "element('toast').textContent.includes('3000×40 px are not enlarged here')")
        assert page.evaluate("canvas.width") == 70
        page.context.close()


@pytest.mark.slow
def test_input_and_output_as_one_png_and_in_the_clipboard(server, opened):
    page = opened(server, "facades", permissions=["clipboard-read", "clipboard-write"])
    drag(page, (4, 6), (20, 15))
    settled(page)
    expected = np.hstack([visible_channels(page, "canvas"), visible_channels(page, "output")])
    with page.expect_download() as download:
        page.keyboard.press("p")
    assert download.value.suggested_filename == "facades_both.png"
    assert (image_of(Path(download.value.path()).read_bytes()) == expected).all()
    page.click("#copy-image")
    until(page, "element('toast').textContent === 'copied: input and output'")
    copied = page.evaluate(
        """(async () => {
          const [item] = await navigator.clipboard.read();
          const image = await createImageBitmap(await item.getType("image/png"));
          const one = blank(image.width, image.height);
          context(one).drawImage(image, 0, 0);
          return one.toDataURL().split(",")[1];
        })()"""
    )
    assert (image_of(base64.b64decode(copied)) == expected).all()


@pytest.mark.slow
def test_the_drawing_survives_a_reload_one_for_each_run(server, opened):
    page = opened(server, "facades")
    drag(page, (4, 6), (20, 15))
    page.click("#redraw")
    settled(page)
    drawn = visible_channels(page, "canvas"), visible_channels(page, "output")
    page.select_option("#runs", "hole")
    settled(page)
    page.keyboard.press("c")
    drag(page, (10, 5), (29, 14))
    settled(page)
    hole = visible_channels(page, "mask")
    page.reload()
    until(page, "run !== null && state()")
    settled(page)
    assert page.evaluate("run.name") == "hole"
    assert (visible_channels(page, "mask") == hole).all()
    page.select_option("#runs", "facades")
    settled(page)
    assert (visible_channels(page, "canvas") == drawn[0]).all()
    assert (visible_channels(page, "output") == drawn[1]).all()  # the seed, too


@pytest.mark.slow
def test_the_drawing_as_a_file(server, opened, tmp_path):
    page = opened(server, "facades")
    drag(page, (4, 6), (20, 15))
    settled(page)
    drawn = visible_channels(page, "canvas")
    page.keyboard.press("j")
    with page.expect_download() as download:
        page.click("#save-text")
    assert download.value.suggested_filename == "facades_drawing.json"
    download.value.save_as(tmp_path / "drawing.json")
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    page.keyboard.press("j")
    with page.expect_file_chooser() as chooser:
        page.click("#open-text")
    chooser.value.set_files(tmp_path / "drawing.json")
    until(page, "drawing.states.length === 4 && !element('json').open")
    assert (visible_channels(page, "canvas") == drawn).all()
    settled(page)


# ---- What goes wrong --------------------------------------------------------------------------


@pytest.mark.slow
def test_it_opens_on_a_run_that_works_and_lists_the_others_with_the_reason(runs, opened, tmp_path):
    shutil.copytree(runs / "facades", tmp_path / "a")
    write_json(tmp_path / "a" / "config.json", {"input_range": "0 100"})
    shutil.copytree(runs / "edges", tmp_path / "b")
    with serving(Server([str(tmp_path)], device="cpu")) as server:
        page = opened(server)
        assert page.evaluate("run.name") == "b" and page.input_value("#runs") == "b"
        option = page.locator("#runs option").first
        assert option.is_disabled() and "translates arrays" in option.inner_text()
        page.context.close()


@pytest.mark.slow
def test_a_stopped_server_and_a_removed_run_are_one_sentence(runs, opened, tmp_path):
    opened.expected += ["ERR_INTERNET_DISCONNECTED", "404 (Not Found)"]
    for name in ("edges", "color"):
        shutil.copytree(runs / name, tmp_path / name)
    with serving(Server([str(tmp_path)], device="cpu")) as server:
        page = opened(server, "edges")
        shutil.rmtree(tmp_path / "edges")
        page.click("#redraw")
        line = "the run edges is no longer there; choose another"
        until(page, f"element('toast').textContent === '{line}'")
        page.evaluate("say(''), watch()")
        until(page, f"element('toast').textContent === '{line}'")
        assert page.locator("#runs option").all_text_contents() == ["color"]
        page.context.set_offline(True)  # as if it had stopped
        line = "the server does not answer; start it again"
        for action in ("update()", "watch()"):
            page.evaluate(f"say(''), {action}")
            until(page, f"element('toast').textContent === '{line}'")
        drop(page, "photo.png", png(blocks(32, 32)))
        until(page, f"element('toast').textContent === '{line}'")
        page.context.close()


@pytest.mark.slow
def test_the_page_as_a_file_says_how_to_serve_it(browser, tmp_path):
    (tmp_path / "index.html").write_bytes(whole_page())
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    until(page, "element('toast').textContent.includes('python -m http.server')")
    page.close()


@pytest.mark.slow
def test_over_plain_http_webcam_and_copy_say_what_they_need(server, opened):
    page = opened(server, "sketches")
    page.evaluate(
        """for (const name of ["mediaDevices", "clipboard"])
          Object.defineProperty(navigator, name, { value: undefined })"""
    )
    for button in ("#webcam", "#copy-image"):
        page.click(button)
        until(page, "element('toast').textContent.includes('needs https or localhost')")
        page.evaluate("say('')")


# ---- Accessibility ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    """The source of axe-core, from npm."""
    folder, npm = tmp_path_factory.mktemp("axe"), shutil.which("npm")
    packed = npm and subprocess.run([npm, "pack", "axe-core"], cwd=folder, capture_output=True)
    if not packed or packed.returncode:
        pytest.skip("needs npm and its registry")
    (archive,) = folder.glob("*.tgz")
    shutil.unpack_archive(archive, folder)
    return (folder / "package" / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("options", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_no_violation(server, opened, axe, options):
    page = opened(server, "facades", options)
    page.evaluate(f"{axe}; undefined")
    for run in RUNS:
        page.select_option("#runs", run)
        if run != "color":
            settled(page)
        found = page.evaluate("axe.run().then(result => result.violations)")
        assert [f"{run}: {one['id']}: {one['nodes'][0]['html']}" for one in found] == []
    page.evaluate("element('json').showModal()")
    assert page.evaluate("axe.run().then(result => result.violations.length)") == 0


@pytest.mark.slow
def test_the_arrow_keys_move_in_the_palette(server, opened):
    page = opened(server, "facades")
    classes = list(PALETTES["facades"].classes)
    page.locator("#palette [tabindex='0']").focus()
    assert page.locator("#palette [tabindex='0']").count() == 1
    for key, name in (("ArrowRight", classes[3]), ("ArrowLeft", classes[2]), ("ArrowUp", "facade")):
        page.keyboard.press(key)
        assert page.locator("#palette [aria-checked=true] span").inner_text() == name
        assert page.evaluate("document.activeElement.ariaChecked") == "true"
    assert page.get_attribute("#canvas", "aria-label") == "drawing, 32 × 32 px"
    assert page.get_attribute("#time", "role") is None  # or each stroke would be announced


@pytest.mark.slow
def test_targets_on_a_phone_are_large_enough(server, opened):
    page = opened(server, "hole", PHONE)
    sizes = page.evaluate(
        """[...document.querySelectorAll("button, select")].filter(one => one.offsetParent)
          .map(one => [one.id, one.offsetWidth, one.offsetHeight])"""
    )
    assert [one for one in sizes if min(one[1:]) < 44] == []


@pytest.mark.slow
def test_forced_colors_keep_swatches_and_the_chosen_tool(server, opened):
    page = opened(server, "facades", {**DESKTOP, "forced_colors": "active"})
    colors = page.eval_on_selector_all(
        "#palette i", "all => all.map(i => getComputedStyle(i).backgroundColor)"
    )
    expected = [
        f"rgb({', '.join(map(str, color))})" for color in PALETTES["facades"].classes.values()
    ]
    assert colors == expected
    look = "getComputedStyle(element('{}')).backgroundColor"
    assert page.evaluate(look.format("rectangle")) != page.evaluate(look.format("brush"))


@pytest.mark.slow
def test_the_pretrained_colorization_colors_an_old_photo(opened, tmp_path):
    with serving(Server([str(REPOSITORY / "pretrained")], device="cpu")) as server:
        page = opened(server, "colorization")
        page.set_input_files("#file", REPOSITORY / "pretrained" / "old_photo.jpg")
        until(page, "canvas.width === 640")
        settled(page)
        shown, colored = visible_channels(page, "canvas"), visible_channels(page, "output")
    assert shown.shape == colored.shape == (427, 640, 3)
    assert (np.ptp(shown, axis=2) <= 1).all()  # the gray image that the generator sees
    red, _, blue = colored[40:250, 120:420].mean(axis=(0, 1))
    assert blue > red + 40
