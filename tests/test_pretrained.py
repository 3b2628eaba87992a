"""The pretrained generators that come with the code."""

import numpy as np
from conftest import REPOSITORY
from PIL import Image

import evaluate
from metrics.palettes import PALETTES
from pages.server import Server
from utils import load_generator, translate

PRETRAINED = REPOSITORY / "pretrained" / "facades"
LABELS = REPOSITORY / "pretrained" / "labels.png"


def test_results_stay_small():
    for folder, limit in (("results", 10e6), ("pretrained", 60e6)):
        files = [file for file in (REPOSITORY / folder).rglob("*") if file.is_file()]
        assert sum(file.stat().st_size for file in files) < limit


def test_the_shipped_generator_makes_a_photo_of_labels(tmp_path):
    words = [PRETRAINED, "--input", LABELS, "--output", tmp_path / "photo.png"]
    assert evaluate.main([*words, "--device", "cpu"]) == 0
    labels, photo = Image.open(LABELS), Image.open(tmp_path / "photo.png")
    assert photo.size == labels.size
    pixels = np.asarray(photo.convert("RGB"), float)
    floor = pixels[54:82]  # the upper windows of labels.png, and the wall between them
    windows = [floor[:, left : left + 24].mean() for left in (40, 78, 116, 154, 192)]
    walls = [floor[:, left : left + 6].mean() for left in (68, 106, 144, 182)]
    assert min(walls) > max(windows) + 10
    assert (pixels.max(2) - pixels.min(2)).mean() < 60  # hardly any of the labels' colors is left


def test_the_shipped_generator_follows_its_labels():
    generator = load_generator(PRETRAINED)
    labels = Image.open(LABELS).convert("RGB")
    photo = np.asarray(translate(generator, labels), float)
    mirrored = labels.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    other = np.asarray(translate(generator, mirrored), float)
    assert np.abs(photo - other).mean() > 10


def test_a_drawn_shoe_is_filled_and_its_surroundings_stay_white(tmp_path):
    folder = REPOSITORY / "pretrained" / "edges2shoes"
    words = [folder, "--input", folder / "examples", "--output", tmp_path]
    assert evaluate.main([*words, "--device", "cpu"]) == 0
    photos = sorted(tmp_path.glob("*.png"))
    assert [photo.stem for photo in photos] == ["boot", "pump", "sneaker"]
    boot = np.asarray(Image.open(photos[0]).convert("L"), float)
    assert boot[180:210, 80:200].mean() < 150
    assert boot[:60, 180:].mean() > 235


def test_a_gray_photo_gets_a_blue_sky(tmp_path):
    photo = REPOSITORY / "pretrained" / "old_photo.jpg"
    words = ["--input", photo, "--output", tmp_path / "colored.png", "--device", "cpu"]
    assert evaluate.main([REPOSITORY / "pretrained" / "colorization", *words]) == 0
    gray, colored = Image.open(photo), Image.open(tmp_path / "colored.png")
    assert gray.mode == "L" and colored.size == gray.size
    pixels = np.asarray(colored, float)
    assert np.abs(pixels @ [0.299, 0.587, 0.114] - np.asarray(gray, float)).mean() < 12
    red, _, blue = pixels[40:250, 120:420].mean(axis=(0, 1))
    assert blue > red + 40


def test_every_pretrained_generator_is_one_to_draw_for():
    with Server([REPOSITORY / "pretrained"]) as server:
        listing = server.listing()
    assert {run["name"]: run["kind"] for run in listing} == {
        "facades": "labels",
        "edges2shoes": "edges",
        "maps": "image",
        "colorization": "photo",
    }
    assert listing[0]["name"] == "facades"


def test_the_faq_has_the_colors_to_draw_with():
    page = (REPOSITORY / "docs" / "faq.md").read_text(encoding="utf-8")
    for name, color in PALETTES["facades"].classes.items():
        assert "`#{:02x}{:02x}{:02x}` {}".format(*color, name) in " ".join(page.split())
