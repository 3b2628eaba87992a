"""The page of a split: what is in it, and how it looks in a real browser."""

import base64
import contextlib
import csv
import io
import json
import re
import shutil
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from browsing import DESKTOP, PHONE
from conftest import TINY, make_pairs
from PIL import Image

import evaluate
import train
from config import Config
from images.gallery import THUMBNAIL, Gallery, thumbnail


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The output of evaluate.py for a tiny run, some of its images under difficult names."""
    root = tmp_path_factory.mktemp("gallery")
    make_pairs(root / "pairs")
    test = root / "pairs" / "test"
    shutil.move(test / "2.png", test / "</script><b>#50% &.png".replace("/", "\u2215"))
    shutil.move(test / "3.png", test / "'\"{{data}}?ü.png")
    fields = {**TINY, "epochs": 1, "data_root": str(root / "pairs")}
    train.train(Config(output=str(root / "run"), **fields))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(evaluate, "command_line", lambda: "python evaluate.py run --seed 3")
        assert evaluate.main([root / "run", "--seed", 3]) == 0
    assert str(root / "run" / "test" / "gallery.html") in out.getvalue()
    return root / "run" / "test"


def data_of(page: Path) -> dict:
    """The data embedded in a page, as its script reads them."""
    text = page.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(data)


def test_the_page_holds_scores_thumbnails_and_the_configuration(folder):
    data = data_of(folder / "gallery.html")
    with open(folder / "scores.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [image["name"] for image in data["images"]] == [row["name"] for row in rows]
    assert data["scores"] == [name for name in rows[0] if name != "name"]
    for row, image in zip(rows, data["images"], strict=True):
        assert image["scores"] == pytest.approx([float(row[n]) for n in data["scores"]], abs=1e-6)
        assert len(image["thumbnails"]) == 3
        assert all(t.startswith("data:image/webp;base64,") for t in image["thumbnails"])
        assert (folder / "output" / urllib.parse.unquote(image["file"])).is_file()
    means = json.loads((folder / "scores.json").read_text())
    assert data["means"]["l1"] == pytest.approx(means["l1"], abs=1e-6)
    assert data["config"]["receptive_field"] == 70 and data["command"].endswith("--seed 3")


def test_a_perfect_score_is_null_and_large_images_are_reduced(tmp_path):
    gallery = Gallery("title", "command", Config())
    gallery.add("1", [thumbnail(Image.new("L", (640, 320)))] * 3, {"psnr": float("inf")})
    gallery.write(tmp_path / "gallery.html", {"psnr": float("inf")})
    data = data_of(tmp_path / "gallery.html")
    assert data["means"] == {"psnr": None} and data["images"][0]["scores"] == [None]
    content = data["images"][0]["thumbnails"][0].partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(content))) as small:
        assert small.size == (THUMBNAIL, THUMBNAIL // 2)


# ---- In a browser -----------------------------------------------------------------------------


@pytest.fixture
def opened(browser):
    """Opens a page. Afterwards, asserts that it had no error and made no network request."""
    contexts, wrong = [], []

    def start(path: Path, options=DESKTOP):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: r.url[:5] in ("file:", "data:") or wrong.append(r.url))
        page.goto(path.resolve().as_uri())
        return page

    yield start
    for context in contexts:
        context.close()
    assert not wrong


def names(page) -> list[str]:
    return page.locator("main .caption button").all_text_contents()


def natural_widths(page, where: str) -> list[int]:
    """The widths of the images there, once they are loaded; 0 means broken."""
    page.wait_for_function(
        f"[...document.querySelectorAll('{where} img')].every(img => img.complete)"
    )
    return page.eval_on_selector_all(f"{where} img", "all => all.map(img => img.naturalWidth)")


def pixels(page, where: str) -> np.ndarray:
    """A screenshot of the first element there, (H, W, 3)."""
    return image_pixels(page.locator(where).first.screenshot())


def image_pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize("options", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_shows_every_image_with_its_scores(folder, opened, options):
    page = opened(folder / "gallery.html", options)
    with open(folder / "scores.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert names(page) == [row["name"] for row in rows] and len(rows) == 3
    for row, card in zip(rows, page.locator("main .card").all(), strict=True):
        assert f"{float(row['l1']):.4f}" in card.inner_text()
        card.scroll_into_view_if_needed()
    assert natural_widths(page, "main") == [32] * 9
    # No sideways scrolling.
    assert page.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"]
    page.click("summary")
    assert page.inner_text("#command").endswith("--seed 3")
    assert page.inner_text("#command").startswith("python evaluate.py")
    assert "receptive_field\n70" in page.inner_text("#config")


@pytest.mark.slow
def test_it_sorts_by_scores_and_filters_by_name(folder, opened):
    page = opened(folder / "gallery.html")
    with open(folder / "scores.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    keys = {
        "l1 worst": lambda row: -float(row["l1"]),
        "psnr worst": lambda row: float(row["psnr"]),
        "ssim best": lambda row: -float(row["ssim"]),
        "sharpness worst": lambda row: -abs(np.log(float(row["sharpness"]))),
        "name": rows.index,
    }
    for order, key in keys.items():
        page.select_option("#sort", order)
        assert names(page) == [row["name"] for row in sorted(rows, key=key)], order
    page.fill("#filter", "SCRIPT")
    assert len(names(page)) == 1 and "script" in names(page)[0]
    assert page.inner_text("#count") == "1 of 3"
    page.fill("#filter", "nothing of this name")
    assert names(page) == []


@pytest.mark.slow
@pytest.mark.parametrize("options", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_slider_uncovers_the_output_and_the_difference_is_one(folder, opened, options):
    page = opened(folder / "gallery.html", options)
    page.click(".tools .views button[data-view=slider]")
    assert natural_widths(page, "main .card:first-child") == [32, 32]
    whole = {}
    for kind, at in (("output", 0), ("target", 100)):
        page.locator("main input[type=range]").first.fill(str(at))
        whole[kind] = pixels(page, "main .stack")
    page.locator("main input[type=range]").first.fill("50")
    half = pixels(page, "main .stack")
    middle, width = half.shape[1] // 2, half.shape[1]
    rows = slice(0, half.shape[0] * 3 // 4)  # above the words in the corners
    left, right = (rows, slice(8, middle - 8)), (rows, slice(middle + 8, width - 8))
    assert abs(half[left] - whole["target"][left]).mean() < 1
    assert abs(half[right] - whole["output"][right]).mean() < 1
    assert abs(whole["target"] - whole["output"]).mean() > 20

    # By hand: pressed in the middle and drawn to the left.
    place = page.locator("main .stack").first.bounding_box()
    y = place["y"] + place["height"] / 2
    page.mouse.move(place["x"] + place["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(place["x"] + place["width"] / 4, y, steps=4)
    page.mouse.up()
    assert 15 < float(page.locator("main input[type=range]").first.input_value()) < 35

    page.click(".tools .views button[data-view=difference]")
    page.locator("#gain").fill("1")
    seen = pixels(page, "main .stack")
    expected = abs(whole["output"] - whole["target"])
    # Enlarged first and then subtracted, which is not quite the other way round.
    assert abs(seen[left] - expected[left]).mean() < 0.1 * expected[left].mean()
    page.locator("#gain").fill("4")
    assert pixels(page, "main .stack").mean() > 1.5 * seen.mean()


@pytest.mark.slow
def test_an_image_is_enlarged_and_the_next_one_follows_in_the_order_shown(folder, opened):
    page = opened(folder / "gallery.html")
    page.select_option("#sort", "l1 worst")
    page.locator("main .triple").first.click()
    assert page.inner_text("#name") == names(page)[0]
    sources = page.eval_on_selector_all("dialog img", "all => all.map(img => img.src)")
    assert all(source.startswith("file:") for source in sources)  # those of full size
    assert natural_widths(page, "dialog") == [32] * 3
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#name") == names(page)[1]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#name") == names(page)[0]
    page.click("dialog .views button[data-view=slider]")
    assert natural_widths(page, "dialog") == [32] * 2
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


@pytest.mark.slow
def test_the_enlarged_images_zoom_together(folder, opened):
    page = opened(folder / "gallery.html")
    page.locator("main .triple").first.click()
    image = page.locator("dialog .image").nth(1)
    box, before = image.bounding_box(), pixels(page, "dialog .image")
    page.mouse.move(box["x"] + 20, box["y"] + 30)
    page.mouse.wheel(0, -200)
    widths = (
        "[...document.querySelectorAll('dialog img')].map(i => i.getBoundingClientRect().width)"
    )
    assert np.allclose(page.evaluate(widths), 2**0.5 * box["width"], rtol=0.01)
    assert np.abs(pixels(page, "dialog .image") - before).mean() > 1
    left = page.evaluate("view.x")
    page.mouse.down()
    page.mouse.move(box["x"] - 10, box["y"] + 30, steps=3)
    page.mouse.up()
    assert page.evaluate("view.x") < left
    page.click("#larger")
    page.keyboard.press("-")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("[view.zoom, view.x, view.y]") == [1, 0, 0]  # of the next image


@pytest.mark.slow
def test_the_address_holds_view_order_and_image(folder, opened):
    page = opened(folder / "gallery.html")
    page.select_option("#sort", "l1 worst")
    page.click(".tools .views button[data-view=difference]")
    order = names(page)
    page.locator("main .caption button").nth(1).click()
    address = page.url
    assert "view=difference" in address and "sort=l1+worst" in address
    page.reload()
    assert names(page) == order and page.inner_text("#name") == order[1]
    page.keyboard.press("Escape")
    page.wait_for_function("!location.hash.includes('image=')")
    assert page.evaluate("document.body.dataset.view") == "difference"
    page.evaluate("location.hash = '#view=nothing&sort=none&filter=script'")
    page.wait_for_function("document.body.dataset.view === 'side'")
    assert page.input_value("#sort") == "name" and len(names(page)) == 1


@pytest.mark.slow
def test_label_maps_are_enlarged_without_smoothing(opened, tmp_path):
    gallery = Gallery("labels", "python evaluate.py labels", Config(), labels=("input",))
    checks = Image.fromarray(np.uint8([[0, 255], [255, 0]]))
    gallery.add("1", [thumbnail(checks)] * 3, {"l1": 0.5})
    gallery.write(tmp_path / "gallery.html", {"l1": 0.5})
    for kind in ("input", "output", "target"):
        (tmp_path / kind).mkdir()
        checks.save(tmp_path / kind / "1.png")
    page = opened(tmp_path / "gallery.html")
    page.locator("main .triple").first.click()
    assert natural_widths(page, "dialog") == [2] * 3
    between = []
    for i in range(2):
        seen = image_pixels(page.locator("dialog .image").nth(i).screenshot())
        inner = seen[10 : len(seen) * 3 // 4, 10:-10]
        between.append(((inner > 60) & (inner < 195)).mean())
    assert between[0] < 0.02 < 0.1 < between[1]


@pytest.mark.slow
def test_the_page_alone_shows_its_thumbnails(folder, browser, tmp_path):
    shutil.copy(folder / "gallery.html", tmp_path)
    page = browser.new_page()
    page.goto((tmp_path / "gallery.html").as_uri())
    page.locator("main .triple").first.click()
    page.wait_for_function(
        "[...document.querySelectorAll('dialog img')].every(img => img.naturalWidth == 32)"
    )
    page.close()


def test_only_the_first_items_have_thumbnails(tmp_path):
    gallery = Gallery("many", "python evaluate.py many", Config())
    for number in range(1003):
        gallery.add(str(number), [thumbnail(Image.new("RGB", (8, 8), "teal"))] * 3, {"l1": 0.5})
    gallery.write(tmp_path / "gallery.html", {"l1": 0.5})
    counts = [len(item["thumbnails"]) for item in data_of(tmp_path / "gallery.html")["images"]]
    assert counts == [3] * 1000 + [0] * 3


@pytest.mark.slow
def test_items_without_thumbnails_show_their_files(folder, opened, monkeypatch):
    monkeypatch.setattr("images.gallery.EMBEDDED", 0)
    gallery = Gallery("files", "python evaluate.py files", Config())
    for name in names(opened(folder / "gallery.html")):
        gallery.add(name, [thumbnail(Image.new("RGB", (8, 8), "teal"))] * 3, {"l1": 0.5})
    gallery.write(folder / "files.html", {"l1": 0.5})
    opened(folder / "files.html").wait_for_function(
        "document.querySelector('main .card:first-child img')?.naturalWidth == 32"
    )


@pytest.mark.slow
def test_of_a_thousand_images_only_those_near_the_window_are_loaded(opened, tmp_path):
    gallery = Gallery("many", "python evaluate.py many", Config())
    image = Image.new("RGB", (256, 256), "teal")
    for number in range(1000):
        scores = {"l1": number * 37 % 1000 / 1000, "psnr": float("inf")}
        gallery.add(str(number), [thumbnail(image)] * 3, scores)
    gallery.write(tmp_path / "gallery.html", {"l1": 0.5, "psnr": float("inf")})
    page = opened(tmp_path / "gallery.html")
    assert len(names(page)) == 1000 and page.inner_text("#means").split() == [
        "L1",
        "0.5000",
        "PSNR",
        "∞",
    ]
    near = "document.querySelectorAll('main img').length"
    page.wait_for_function(f"{near} > 0")
    assert page.evaluate(near) < 150
    page.select_option("#sort", "l1 worst")
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_function(
        "document.querySelector('main .card:last-child img')?.naturalWidth == 160"
    )
    assert page.evaluate(near) < 150
    assert names(page)[-1] == "0"
