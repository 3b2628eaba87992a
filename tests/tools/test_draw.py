"""The page to draw on: its server, and what a person does on it in a real browser."""

import base64
import http.client
import io
import json
import shutil
import statistics
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, refusal
from PIL import Image

from config import Config
from engine.cli import UserError
from images.reading import MAX_PIXELS
from metrics.palettes import PALETTES, copy_palette
from tools import draw, export
from tools.draw import Server, describe, find_runs
from utils import build_generator, load_generator, save_checkpoint, translate

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
DESKTOP = {"viewport": {"width": 1400, "height": 900}}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "is_mobile": True,
    "has_touch": True,
    "device_scale_factor": 2,
}

RUNS = {
    "facades": {"palette": "facades"},
    "edges": {"task": "edges", "in_channels": 1},
    "hole": {"task": "inpainting"},
    "color": {"task": "colorization", "in_channels": 1, "out_channels": 2},
    "sketches": {"direction": "AtoB"},
}


def untrained(folder: Path, seed: int = 0, **fields) -> Path:
    """A run with an untrained generator. The spread of its weights makes every layer count."""
    config = Config(**{**TINY, "output": str(folder), **fields})
    torch.manual_seed(seed)
    generator = build_generator(config)
    for parameter in generator.parameters():
        parameter.data.normal_(0.1, 0.3)
    weights = generator.state_dict()
    save_checkpoint(folder / "checkpoints" / "latest.pt", config, generator=weights, step=0)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder of runs."""
    folder = tmp_path_factory.mktemp("runs")
    for name, fields in RUNS.items():
        untrained(folder / name, **fields)
    (folder / "hole" / "examples").mkdir()
    blocks(48, 40).save(folder / "hole" / "examples" / "1.png")
    return folder


def write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def blocks(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def server(runs):
    with serving(Server([str(runs)], device="cpu")) as server:
        yield server


def ask(server, path: str, body: bytes | None = None, **headers) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    method = "GET" if body is None else "POST"
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def image_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def translated(server, name: str, image: Image.Image, seed: int = 0, noise: int = 1) -> np.ndarray:
    status, content = ask(server, f"/translate?run={name}&seed={seed}&noise={noise}", png(image))
    assert status == 200, content
    return image_of(content)


# ---- Runs -------------------------------------------------------------------------------------


def test_runs_are_found_alone_in_folders_and_as_exports(runs, tmp_path):
    assert list(find_runs([str(runs)])) == ["facades", "color", "edges", "hole", "sketches"]
    export.export_generator(runs / "edges", tmp_path / "edges")
    checkpoint = str(runs / "hole" / "checkpoints" / "latest.pt")
    found = find_runs([str(tmp_path), checkpoint, str(runs / "edges")])
    assert list(found.values()) == [str(tmp_path / "edges"), checkpoint, str(runs / "edges")]
    assert next(iter(found)) == str(tmp_path / "edges")  # two of a name are told apart
    with pytest.raises(UserError, match="nothing is no run"):
        find_runs(["nothing"])


def test_the_listing_tells_what_to_draw(server):
    listed = json.loads(ask(server, "/runs.json")[1])["runs"]
    assert [run["name"] for run in listed] == ["facades", "color", "edges", "hole", "sketches"]
    assert [run["kind"] for run in listed] == ["labels", "photo", "edges", "mask", "image"]
    assert [run["size"] for run in listed] == [32] * 5
    classes = {name: tuple(color) for name, color in listed[0]["palette"].items()}
    assert classes == PALETTES["facades"].classes and listed[1]["palette"] == {}
    (example,) = listed[3]["examples"]
    assert (image_of(ask(server, "/" + example)[1]) == np.asarray(blocks(48, 40))).all()


def test_a_palette_of_its_own_and_edges_of_the_paper(tmp_path):
    copy_palette("demo", tmp_path)
    write_json(tmp_path / "config.json", {"data_root": "data/mine"})
    about = describe(str(tmp_path))
    assert about["kind"] == "labels" and "roof" in about["palette"]
    (tmp_path / "palette.json").unlink()
    write_json(tmp_path / "config.json", {"data_root": "data/edges2shoes", "direction": "AtoB"})
    assert describe(str(tmp_path))["kind"] == "edges"


def test_a_run_that_cannot_be_used_leaves_the_others_alone(runs, tmp_path):
    shutil.copytree(runs / "edges", tmp_path / "edges")
    untrained(tmp_path / "bad", palette="none")
    write_json(tmp_path / "bad" / "config.json", {"palette": "gone.json"})
    with serving(Server([str(tmp_path)], device="cpu")) as server:
        bad, good = json.loads(ask(server, "/runs.json")[1])["runs"]
        assert "gone.json" in bad["error"] and "error" not in good
        translated(server, "edges", blocks(32, 32))


def test_runs_of_arrays_are_refused(runs, tmp_path):
    run = tmp_path / "scans"
    shutil.copytree(runs / "facades", run)
    (run / "config.json").write_text('{"input_range": "0 100"}')
    with pytest.raises(UserError, match="scans translates arrays"):
        describe(str(run))
    for broken in ('{"config": null}', '{"config": 5}'):  # listed beside the others
        (run / "config.json").write_text(broken)
        with Server([tmp_path]) as server:
            (listed,) = server.listing()
        assert "holds no configuration" in listed["error"]


def test_examples_are_those_of_the_run_or_else_its_test_images(runs, tmp_path):
    for name, tested in (("sketches", "input"), ("color", "target")):
        run = shutil.copytree(runs / name, tmp_path / name)
        assert describe(str(run))["examples"] == []
        for folder in ("test/input", "test/target", "examples"):
            (run / folder).mkdir(parents=True)
            for number in ("10", "2"):
                blocks(32, 32).save(run / folder / f"{number}.png")
            if folder == "test/target":
                expected = [run / "test" / tested / f"{number}.png" for number in (2, 10)]
                assert describe(str(run))["examples"] == expected
        assert describe(str(run))["examples"] == [run / "examples" / f"{i}.png" for i in (2, 10)]


# ---- The server -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_it_translates_as_utils_does(server, runs, name):
    generator, image, mask = load_generator(runs / name), blocks(40, 24), None
    sent = image
    if name == "hole":
        mask = Image.new("L", image.size)
        mask.paste(255, (3, 5, 20, 12))
        sent = Image.new("RGB", (40, 48))
        sent.paste(image, (0, 0))
        sent.paste(mask, (0, 24))
    expected = translate(generator, image, 0, False, mask).convert("RGB")
    result = translated(server, name, sent, noise=0)
    assert np.abs(result - np.asarray(expected).astype(int)).max() <= 1  # rounded otherwise
    generator.to(memory_format=torch.channels_last)  # in which the noise is drawn in another order
    for seed in (0, 7):
        expected = translate(generator, image, seed, True, mask).convert("RGB")
        result = translated(server, name, sent, seed)
        assert (result == np.asarray(expected)).all() and not (result == image_of(png(image))).all()


def test_a_run_is_loaded_again_when_it_has_saved(tmp_path):
    untrained(tmp_path / "run")
    with serving(Server([str(tmp_path / "run")], device="cpu")) as server:
        before = translated(server, "run", blocks(32, 32))
        stamp = json.loads(ask(server, "/runs.json")[1])["runs"][0]["stamp"]
        assert (translated(server, "run", blocks(32, 32)) == before).all()
        untrained(tmp_path / "run", seed=1)
        assert not (translated(server, "run", blocks(32, 32)) == before).all()
        assert json.loads(ask(server, "/runs.json")[1])["runs"][0]["stamp"] != stamp


def test_it_answers_pages_of_this_server_only(server):
    assert server.server_address[0] == "127.0.0.1"
    port = server.server_port
    own, body = f"http://127.0.0.1:{port}", png(blocks(8, 8))
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", ""):
        assert ask(server, "/", Host=host)[0] == 403
    for origin in (
        "http://evil.example",
        "null",
        f"https://127.0.0.1:{port}",
        own + ".evil.example",
    ):
        status, answer = ask(server, "/translate?run=edges&seed=0&noise=1", body, Origin=origin)
        assert status == 403 and b"PNG" not in answer
    assert ask(server, "/read", body, Origin=own)[0] == 200
    assert ask(server, "/", Host=f"localhost:{port}", Origin=f"http://localhost:{port}")[0] == 200
    for path in ("/draw.py", "/../config.py", "//etc/passwd", "/example?run=..&number=0"):
        assert ask(server, path)[0] == 404


def declared(width: int, height: int) -> bytes:
    """A PNG that only says how large it is."""
    content = bytearray(png(Image.new("L", (1, 1))))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def test_bad_uploads_are_one_line_and_the_server_lives_on(server):
    good = png(blocks(32, 32))
    cases = {
        b"": "empty",
        b"hello": "none of PNG",
        good[: len(good) // 2]: "cannot be read as an image",
        declared(MAX_PIXELS // 64 + 1, 64): "over 67 megapixels",
    }
    for body, line in cases.items():
        for path in ("/read?name=a.png", "/translate?run=edges&seed=0&noise=1"):
            status, answer = ask(server, path, body)
            assert status == 400 and line in answer.decode() and b"\n" not in answer
    queries = {
        "run=nobody&seed=0&noise=1": "nobody",
        "run=edges&seed=x&noise=1": "x",
        f"run=edges&seed={10**30}&noise=1": "",
        "run=edges": "seed",
    }
    for query, line in queries.items():
        status, answer = ask(server, f"/translate?{query}", good)
        assert status >= 400 and line in answer.decode()
    translated(server, "edges", blocks(32, 32))


def test_a_body_that_is_too_long_is_not_read(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    for length in (str(16 * 2**20 + 1), "-5", "many"):
        connection.putrequest("POST", "/read")
        connection.putheader("Content-Length", length)
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 400 and b"at most 16 MB" in answer.read()
        assert answer.getheader("Connection") == "close"
        connection.close()


def test_uploads_become_eight_bit_rgb(server):
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    status, content = ask(server, "/read", png(Image.fromarray(deep)))
    assert status == 200 and (image_of(content)[..., 0] == np.arange(256).reshape(16, 16)).all()
    tiff = io.BytesIO()
    blocks(30, 20).save(tiff, "TIFF")
    assert (image_of(ask(server, "/read", tiff.getvalue())[1]) == np.asarray(blocks(30, 20))).all()
    large = image_of(ask(server, "/read", png(Image.new("RGB", (5000, 100))))[1])
    assert large.shape == (41, 2048, 3)
    edges = image_of(ask(server, "/read?edges=32", png(blocks(64, 64)))[1])
    assert edges.shape == (32, 32, 3) and set(np.unique(edges)) == {0, 255}


def test_nothing_is_written_and_several_pages_work(server, runs):
    before = {file: file.stat().st_mtime_ns for file in runs.rglob("*")}
    images = [blocks(32, 32, seed) for seed in range(6)]
    alone = [translated(server, "sketches", image) for image in images]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(partial(translated, server, "sketches"), images))
    assert all((one == other).all() for one, other in zip(alone, together, strict=True))
    assert {file: file.stat().st_mtime_ns for file in runs.rglob("*")} == before


def test_mistakes_of_the_command_are_one_line(server, runs, capsys):
    assert "nothing is no run" in refusal(capsys, draw.main, "nothing", "--no_browser")
    taken = str(server.server_port)
    line = refusal(capsys, draw.main, str(runs / "edges"), "--port", taken, "--no_browser")
    assert f"--port {taken} cannot be used" in line
    assert "--port 70000" in refusal(capsys, draw.main, str(runs / "edges"), "--port", "70000")
    assert "did you mean" in refusal(capsys, draw.main, "--no_browsr")


def test_a_folder_may_begin_with_a_run_of_arrays(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Server, "serve_forever", lambda self: None)
    scans = shutil.copytree(runs / "facades", tmp_path / "a")
    (scans / "config.json").write_text('{"input_range": "0 100"}')
    words = [str(tmp_path), "--device", "cpu", "--no_browser"]
    assert "a translates arrays" in refusal(capsys, draw.main, *words)
    shutil.copytree(runs / "edges", tmp_path / "b")
    assert draw.main(words) == 0
    assert "drawing with b at" in capsys.readouterr().out


def test_the_command_opens_the_page_and_ends_with_ctrl_c(runs, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(draw.webbrowser, "open", opened.append)

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupted)
    assert draw.main([str(runs / "edges"), "--device", "cpu"]) == 0
    (address,) = opened
    assert f"drawing with edges at {address}" in capsys.readouterr().out


# ---- The static site and the Space ------------------------------------------------------------


@pytest.fixture
def site(monkeypatch):
    """tools.site with a runtime of its own, as small files."""
    pytest.importorskip("onnx")
    from tools import site

    checksum = "OLBgp1GsljhM2TJ+sbHjaiH9txEUvgdDTAzHv2P24donTt6/529l+9Ua0vFImLlb"  # of nothing
    monkeypatch.setattr(site, "RUNTIME", dict.fromkeys(site.RUNTIME, checksum))
    return site


@pytest.fixture
def runtime(site, tmp_path) -> Path:
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in site.RUNTIME:
        (folder / name).touch()
    return folder


def test_the_site_holds_all_that_it_needs(runs, site, runtime, tmp_path):
    runtime_ = pytest.importorskip("onnxruntime")
    words = [str(runs / "hole"), "--web", str(tmp_path / "site"), "--runtime", str(runtime)]
    assert export.main(words) == 0
    assert export.main(words) == 0  # replaces it
    folder = tmp_path / "site"
    assert (folder / "index.html").read_bytes() == draw.PAGE.read_bytes()
    assert all((folder / "runtime" / name).is_file() for name in site.RUNTIME)
    (about,) = json.loads((folder / "runs.json").read_text())["runs"]
    assert about["examples"] == ["examples/1.png"] and about["name"] == "hole"
    assert str(runs.parent) not in (folder / "runs.json").read_text()

    image = blocks(40, 24)
    x = np.float32(np.asarray(image)).transpose(2, 0, 1)[None] / 127.5 - 1
    feeds = {"input": x}
    for i, (channels, halvings) in enumerate(about["noise"]):
        sides = [-(-side // about["multiple"]) * about["multiple"] >> halvings for side in (24, 40)]
        feeds[f"noise_{i}"] = np.ones((1, channels, *sides), np.float32)
    session = runtime_.InferenceSession(str(folder / "model.onnx"))
    (output,) = session.run(None, feeds)
    from utils import generate_any_size

    expected = generate_any_size(load_generator(runs / "hole"), torch.from_numpy(x[0]), noise=False)
    assert np.abs(output[0] - expected.numpy()).max() < 4 / 255
    sizes = [session.get_inputs()[i].shape for i in (1, 2, 3)]
    assert len(sizes) == len(about["noise"])


def test_the_space_has_an_app_requirements_and_a_card(runs, site, tmp_path):
    assert export.main([str(runs / "facades"), "--space", str(tmp_path / "space")]) == 0
    names = {file.name for file in (tmp_path / "space").iterdir()}
    assert names == {"README.md", "app.py", "model.onnx", "requirements.txt", "runs.json"}
    compile((tmp_path / "space" / "app.py").read_text(), "app.py", "exec")
    assert "sdk: gradio" in (tmp_path / "space" / "README.md").read_text()


def test_mistakes_of_the_export_are_one_line(runs, site, runtime, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(site.urllib.request, "urlopen", offline)
    (runtime / "other").mkdir()
    for name in site.RUNTIME:
        (runtime / "other" / name).write_text("another version")
    new = tmp_path / "new"
    cases = {
        ("color", "--web", new): "colorization needs more",
        ("hole", "--space", new): "inpainting needs more",
        ("edges", "--web", tmp_path / "mine"): "holds other files",
        ("edges", "--web", new): "no network; or: npm pack onnxruntime-web",
        ("edges", "--web", new, "--runtime", runtime / "other"): "another checksum",
        ("edges", "--web", new, "--runtime", tmp_path / "none"): "cannot be read",
        ("edges", "--runtime", runtime): "--runtime needs --web",
    }
    for (run, *words), line in cases.items():
        with pytest.raises(UserError) as caught:
            export.main([str(runs / run), *map(str, words)])
        assert line in str(caught.value)
    assert not new.exists() and (tmp_path / "mine" / "notes.txt").read_text() == "mine"


# ---- In a browser -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    # No network, which the browser itself would use; a webcam that shows a test pattern.
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Opens a server's page at a run. Afterwards, asserts that no page had an error or console
    message, or asked for anything elsewhere; except for the refusals that a test expects."""
    contexts, wrong, expected = [], [], []

    def start(server, run: str | None = None, options=DESKTOP, **more):
        contexts.append(browser.new_context(**options, **more))
        page = contexts[-1].new_page()
        address = f"http://127.0.0.1:{server.server_port}/"
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda r: r.url.startswith((address, "data:", "blob:")) or wrong.append(r.url),
        )
        page.goto(address)
        until(page, "run !== null")
        if run:
            page.select_option("#runs", run)
        if not page.locator("#empty").is_visible():
            settled(page)
        return page

    start.expected = expected
    yield start
    for context in contexts:
        context.close()
    assert [text for text in wrong if not any(part in text for part in expected)] == []


def until(page, condition: str, seconds: float = 30) -> None:
    """Waits. Not by page.wait_for_function, which the page's security policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(f"Boolean({condition})"):
        assert time.monotonic() < end, condition
        time.sleep(0.02)


def settled(page) -> None:
    """Waits for the output of what is drawn."""
    until(page, "state() && !sending && wanted === null && element('time').textContent")


def visible_channels(page, name: str) -> np.ndarray:
    """The pixels of a canvas."""
    return image_of(base64.b64decode(page.evaluate(f"{name}.toDataURL().split(',')[1]")))


def place(page, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the canvas is in the window."""
    box = page.locator("#canvas").bounding_box()
    size = page.evaluate("[canvas.width, canvas.height]")
    return box["x"] + (x + 0.5) * box["width"] / size[0], box["y"] + (y + 0.5) * box[
        "height"
    ] / size[1]


def drag(page, *points: tuple[float, float]) -> None:
    page.mouse.move(*place(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*place(page, *point), steps=3)
    page.mouse.up()


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
    generator = load_generator(runs / "facades").to(memory_format=torch.channels_last)
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


def drop(page, name: str, content: bytes) -> None:
    data = base64.b64encode(content).decode()
    page.evaluate(
        """([name, data]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name));
          for (const type of ["dragover", "drop"])
            document.body.dispatchEvent(new DragEvent(type, {
              dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        [name, data],
    )


@pytest.mark.slow
def test_dropped_images_of_any_kind(server, runs, opened):
    page = opened(server, "sketches")
    deep = np.arange(32 * 24, dtype=np.uint16).reshape(24, 32) * 85
    drop(page, "deep.png", png(Image.fromarray(deep)))
    until(page, "canvas.height === 24")
    settled(page)
    expected = (deep / 257).round()
    assert (visible_channels(page, "canvas")[..., 0] == expected).all()
    generator = load_generator(runs / "sketches").to(memory_format=torch.channels_last)
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
    generator = load_generator(runs / "hole").to(memory_format=torch.channels_last)
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
    until(page, "element('video').videoWidth > 0")
    page.click("#take")
    until(page, "state() && !state().empty")
    settled(page)
    assert page.locator("#empty").is_hidden() and not page.locator("#camera").is_visible()
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
    """At 256 px with 32 filters. Prints the median for docs/draw.md: run it with -s."""
    fields = {"load_size": 286, "crop_size": 256, "depth": 8, "base_channels": 32}
    untrained(tmp_path / "run", palette="facades", **fields)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with serving(Server([str(tmp_path / "run")], device="cpu")) as server:
            page, times = opened(server), []
            for i in range(24):
                drag(page, (20 + 5 * i, 30), (40 + 5 * i, 90 + 5 * i))
                settled(page)
                times.append(int(page.inner_text("#time").removesuffix(" ms")))
            page.context.close()
    finally:
        torch.set_num_threads(threads)
    with capsys.disabled():
        print(f" {len(times)} strokes, median {statistics.median(times)} ms, {sorted(times)} ")
    assert statistics.median(times) < 3000  # the machine may have others busy


@pytest.mark.slow
def test_the_static_site_in_a_browser(runs, opened, tmp_path):
    """With onnxruntime-web from npm."""
    pytest.importorskip("onnx")
    from tools.site import PACKAGE

    npm = shutil.which("npm")
    packed = npm and subprocess.run([npm, "pack", PACKAGE], cwd=tmp_path, capture_output=True)
    if not packed or packed.returncode:
        pytest.skip("needs npm and its registry")
    (archive,) = tmp_path.glob("*.tgz")
    shutil.unpack_archive(archive, tmp_path)
    words = ["--web", str(tmp_path / "site"), "--runtime", str(tmp_path / "package" / "dist")]
    for name in ("facades", "edges", "hole"):
        assert export.main([str(runs / name), *words]) == 0

        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

        handler = partial(Quiet, directory=str(tmp_path / "site"))
        with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
            page = opened(server)
            if name != "hole":
                drag(page, (4, 6), (20, 15), (20, 25))
            settled(page)
            noisy = visible_channels(page, "output")
            page.click("#noise")
            settled(page)
            image = Image.fromarray(visible_channels(page, "canvas").astype(np.uint8))
            mask = (
                Image.fromarray(visible_channels(page, "mask").astype(np.uint8))
                if name == "hole"
                else None
            )
            expected = translate(load_generator(runs / name), image, noise=False, mask=mask)
            output = visible_channels(page, "output")
            assert not (noisy == output).all()
            assert np.abs(output - np.asarray(expected.convert("RGB")).astype(int)).max() <= 2
            page.click("#noise")
            settled(page)
            assert (visible_channels(page, "output") == noisy).all()
            page.context.close()
        shutil.rmtree(tmp_path / "site")
