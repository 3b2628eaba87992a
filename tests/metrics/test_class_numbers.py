"""Label files that hold class numbers: reading, painting, training, and outputs in numbers."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import config_for, equal, refusal, save_pair, weights
from PIL import Image

import dataset
import evaluate
import train
from config import Config
from dataset import PairedDataset
from engine.cli import UserError
from images.pixels import eight_bits, to_tensor
from metrics.class_numbers import paint, suggest_palette, to_numbers
from metrics.palettes import Palette, find_palette, parse_palette
from tools import combine
from utils import load_checkpoint, load_generator, translate

FIVE = {"classes": {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4}}
PALETTE = parse_palette(json.dumps(FIVE), "five")


def labels(seed: int = 0, side: int = 48) -> np.ndarray:
    """Rectangles of the classes 1 to 4 on 0, (H, W) uint8."""
    random = np.random.default_rng(seed)
    numbers = np.zeros((side, side), np.uint8)
    for number in (1, 2, 3, 4):
        y, x = random.integers(0, side - 20, 2)
        numbers[y : y + 16, x : x + 16] = number
    return numbers


def photo_of(numbers: np.ndarray) -> np.ndarray:
    colors = np.array([[60, 90, 160], [200, 60, 50], [70, 170, 60], [230, 200, 80], [240] * 3])
    return colors[numbers].astype(np.uint8)


def save(image: np.ndarray, path: Path, palette: list | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(image)
    if palette:
        picture = Image.fromarray(image, "P")
        picture.putpalette(palette)
    picture.save(path)


@pytest.fixture
def data(tmp_path) -> Path:
    """Photos in A, class numbers in B, without a palette.json."""
    root = tmp_path / "data"
    for split, count in (("train", 4), ("test", 2)):
        for number in range(count):
            numbers = labels(number)
            save(photo_of(numbers), root / "A" / split / f"{number}.png")
            save(numbers, root / "B" / split / f"{number}.png")
    return root


def with_palette(root: Path, content: dict = FIVE) -> Path:
    (root / "palette.json").write_text(json.dumps(content))
    return root


# ---- Numbers and colors -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "P", "I", "I;16", "F"])
def test_numbers_become_colors_and_come_back(mode):
    numbers = labels()
    kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    image = Image.fromarray(numbers.astype(kinds.get(mode, np.uint8)))
    if mode == "P":
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [7] * 759)
    assert image.mode == mode
    painted = paint(image, PALETTE)
    assert np.array_equal(np.asarray(painted)[numbers == 3][0], PALETTE.classes["c"])
    back = to_numbers(to_tensor(np.asarray(painted)), PALETTE)
    assert back.mode == "L" and np.array_equal(back, numbers)
    assert paint(painted, PALETTE) == painted  # colors, as a page sends what is drawn


def test_numbers_above_255_and_void():
    content = {"classes": {"sky": 300, "sea": 7}, "void": [65535]}
    palette = parse_palette(json.dumps(content), "many")
    numbers = np.array([[7, 300], [65535, 7]], np.uint16)
    painted = to_tensor(np.asarray(paint(Image.fromarray(numbers), palette)))
    back = to_numbers(painted, palette)
    assert back.mode == "I;16" and np.array_equal(back, numbers)


def test_one_bit_images_hold_0_and_1():
    palette = parse_palette('{"classes": {"off": 0, "on": 1}}', "two")
    mask = Image.fromarray(labels() > 0)
    assert mask.mode == "1"
    painted = np.asarray(paint(mask, palette))
    assert np.array_equal(painted[:, :, 1], (labels() > 0) * 255)  # black and white


@pytest.mark.parametrize(
    ("image", "line"),
    [
        (Image.new("L", (4, 4), 9), "it holds 9, no class of its palette"),
        (Image.new("RGB", (4, 4), (1, 2, 3)), "it has colors, but its palette has class numbers"),
        (Image.new("I", (4, 4), -1), "-1 to -1, are not class numbers"),
        (Image.new("F", (4, 4), 0.5), "0.5 to 0.5, are not class numbers"),
        (np.zeros((4, 4, 2), np.float32), r"has the shape \(4, 4, 2\)"),
    ],
)
def test_what_is_no_class_is_refused(image, line):
    with pytest.raises(UserError, match=line):
        paint(image, PALETTE)


# ---- Files that look like class numbers -------------------------------------------------------


def suggested(*images, **options) -> dict | None:
    found = suggest_palette(images, **options)
    return found and json.loads(found[1])


def test_what_looks_like_class_numbers():
    numbers = labels()
    expected = {"classes": {f"class {number}": number for number in range(5)}}
    assert suggested(Image.fromarray(numbers)) == expected
    assert suggested(Image.fromarray(numbers.astype(np.uint16))) == expected
    assert suggested(Image.fromarray(np.dstack([numbers] * 3))) == expected  # as OpenCV saves it
    void = np.where(numbers == 4, 255, numbers).astype(np.uint8)
    assert suggested(Image.fromarray(void))["void"] == [255]
    assert suggested(Image.fromarray(void))["classes"].keys() == {
        f"class {number}" for number in range(4)
    }
    empty, mask = (Image.fromarray((numbers == n).astype(np.uint8)) for n in (9, 1))
    assert suggested(empty, mask) == {"classes": {"class 0": 0, "class 1": 1}}
    indices = Image.fromarray(numbers * 40, "P")
    indices.putpalette([9] * 768)
    assert list(suggested(indices)["classes"].values()) == [0, 40, 80, 120, 160]
    assert suggested(indices, indices=False) is None


def test_what_does_not():
    numbers, random = labels(), np.random.default_rng(0)
    for image in (
        photo_of(numbers),
        numbers * 60,  # grays that can be told apart
        (numbers > 0) * np.uint8(255),
        numbers > 0,  # one bit, which is read as black and white
        np.zeros((48, 48), np.uint8),
        random.integers(0, 40, (48, 48), np.uint8),  # a dark photo
        random.integers(0, 256, (48, 48), np.uint8),
    ):
        assert suggest_palette([Image.fromarray(image)]) is None
    assert suggest_palette([]) is None
    assert suggest_palette([Image.fromarray(numbers), Image.fromarray(photo_of(numbers))]) is None
    assert suggest_palette([Image.new("I", (4, 4), -1), Image.fromarray(numbers)]) is None


# ---- Pairs ------------------------------------------------------------------------------------


def pixels(image: torch.Tensor) -> np.ndarray:
    return eight_bits(image).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("channels", [1, 3])
def test_targets_are_exact_at_any_size(data, tmp_path, channels):
    config = config_for(with_palette(data), tmp_path / "run")
    config = replace(config, direction="AtoB", out_channels=channels)
    palette = find_palette(config)
    colors = {color[:channels] for color in palette.classes.values()}
    for split in ("train", "test"):
        for pair in PairedDataset(config, split):
            found = pixels(pair["target"]).reshape(-1, channels)
            assert {tuple(map(int, color)) for color in found} <= colors
    if channels == 1:
        assert sorted(colors) == [(0,), (64,), (128,), (191,), (255,)]
    native = PairedDataset(replace(config, resize="none"), "test")[0]["target"]
    assert np.array_equal(to_numbers(native, palette), labels(0))


def test_inputs_in_colors_are_blended_and_those_in_grays_are_not(data, tmp_path):
    """The gray between two classes is that of a third."""
    config = config_for(with_palette(data), tmp_path / "run")
    for channels in (1, 3):
        config = replace(config, in_channels=channels)
        colors = {color[:channels] for color in find_palette(config).classes.values()}
        found = pixels(PairedDataset(config, "test")[0]["input"]).reshape(-1, channels)
        exact = {tuple(map(int, color)) for color in found} <= colors
        assert exact == (channels == 1)


@pytest.mark.parametrize("kind", ["palette", "npy", "gray", "side by side", "void"])
def test_kinds_of_files(tmp_path, kind):
    numbers, content = labels(), FIVE
    photo, path = photo_of(numbers), tmp_path / "B" / "test" / "1.png"
    if kind == "void":
        numbers, content = np.where(numbers == 4, 255, numbers), {**FIVE, "void": [255]}
        numbers = numbers.astype(np.uint8)
    if kind == "side by side":
        save_pair(tmp_path / "test" / "1.png", photo, np.dstack([numbers] * 3))
    else:
        save(photo, tmp_path / "A" / "test" / "1.png")
        save(np.dstack([numbers] * 3) if kind == "gray" else numbers, path)
    if kind == "palette":
        save(numbers, path, [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128] + [0] * 753)
    if kind == "npy":
        path.unlink()
        np.save(path.with_suffix(".npy"), numbers)
    config = config_for(with_palette(tmp_path, content), tmp_path / "run")
    config = replace(config, direction="AtoB", resize="none")
    target = PairedDataset(config, "test")[0]["target"]
    assert np.array_equal(to_numbers(target, find_palette(config)), numbers)


def test_bad_label_files_are_named(data, tmp_path, capsys):
    with_palette(data)
    save(labels() + np.uint8(7), data / "B" / "train" / "0.png")
    save(photo_of(labels()), data / "B" / "train" / "1.png")
    Image.fromarray(labels()).save(data / "B" / "train" / "2.jpg")
    (data / "B" / "train" / "2.png").unlink()
    assert dataset.main(["--data_root", str(data)]) == 2
    out = capsys.readouterr().out
    assert re.search(r"B/train/0\.png: it holds 7, 8, 9, 10, 11, no class of its palette", out)
    assert re.search(r"B/train/1\.png: it has colors, but its palette has class numbers", out)
    assert re.search(r"B/train/2\.jpg: JPEG changes class numbers", out)
    assert "train: 1 good, 3 bad" in out


# ---- Runs -------------------------------------------------------------------------------------


def trained(data: Path, run: Path, **fields) -> Path:
    config = replace(config_for(data, run, epochs=1), **fields)
    assert train.train(config) == 0
    return run


def test_a_photo_becomes_class_numbers(data, tmp_path, undrawn, capsys):
    run = trained(with_palette(data), tmp_path / "run", direction="AtoB")
    assert evaluate.main([str(run)]) == 0
    out = capsys.readouterr().out
    summary = json.loads((run / "test" / "scores.json").read_text())
    assert list(summary["class_ious"]) == ["background", "a", "b", "c", "d"]
    assert all(f"IoU {iou:.3f}  {name}" in out for name, iou in summary["class_ious"].items())
    ious = summary["class_ious"].values()
    assert summary["class_iou"] == pytest.approx(sum(ious) / 5)
    right = []
    for number in range(2):
        colored = to_tensor(np.asarray(Image.open(run / "test" / "output" / f"{number}.png")))
        found = Image.open(run / "test" / "output_labels" / f"{number}.png")
        assert found.mode == "L" and np.array_equal(found, to_numbers(colored, PALETTE))
        true = Image.fromarray(labels(number)).resize((32, 32), Image.Resampling.NEAREST)
        right.append((np.asarray(found) == np.asarray(true)).mean())
    assert summary["pixel_accuracy"] == pytest.approx(np.mean(right))

    words = [str(run), "--input", str(data / "A" / "test"), "--output", str(tmp_path / "out")]
    assert evaluate.main(words) == 0
    result = np.asarray(Image.open(tmp_path / "out" / "0.png"))
    found = Image.open(tmp_path / "out" / "output_labels" / "0.png")
    assert found.size == (48, 48)
    assert np.array_equal(found, to_numbers(to_tensor(result), PALETTE))


def test_class_numbers_become_a_photo_without_the_dataset(data, tmp_path, undrawn, capsys):
    run = trained(with_palette(data), tmp_path / "run")
    assert json.loads(load_checkpoint(run)["config"]["palette"]) == FIVE
    fresh = labels(7)
    save(fresh, tmp_path / "fresh.png", [9] * 768)
    (data / "palette.json").unlink()
    capsys.readouterr()
    words = [str(run), "--input", str(tmp_path / "fresh.png"), "--output", str(tmp_path / "y.png")]
    assert evaluate.main(words) == 0
    assert "class numbers" not in capsys.readouterr().err
    generator = load_generator(run)
    expected = translate(generator, paint(Image.fromarray(fresh), PALETTE))
    assert np.array_equal(Image.open(tmp_path / "y.png"), expected)
    assert translate(generator, Image.open(tmp_path / "fresh.png")) == expected
    assert not (tmp_path / "output_labels").exists()
    save(fresh + np.uint8(1), tmp_path / "fresh.png")
    line = refusal(capsys, evaluate.main, *words)
    assert "fresh.png: it holds 5, no class of its palette" in line


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_numbers_train_as_their_colors_do(data, tmp_path, undrawn, direction):
    runs = []
    for kind in ("numbers", "colors"):
        root = shutil.copytree(data, tmp_path / kind)
        colors = {"classes": {**PALETTE.classes}}
        if kind == "colors":
            for file in (root / "B").rglob("*.png"):
                paint(Image.open(file), PALETTE).save(file)
        with_palette(root, FIVE if kind == "numbers" else colors)
        runs.append(trained(root, tmp_path / f"{kind} run", direction=direction))
    assert equal(*map(weights, runs))


def test_combined_files_keep_their_numbers(data, tmp_path):
    sides = [str(data / side / "train") for side in "AB"]
    assert combine.main([*sides, str(tmp_path / "both"), "--val", "0", "--test", "0"]) == 0
    config = config_for(with_palette(tmp_path / "both"), tmp_path / "run")
    config = replace(config, direction="AtoB", resize="none")
    for pair in PairedDataset(config, "train", augment=False):
        assert np.array_equal(to_numbers(pair["target"], PALETTE), labels(int(pair["name"])))


def test_one_channel_is_scored(data, tmp_path, undrawn):
    """With class numbers, and with colors whose grays differ."""
    colors = {name: [60 * number] * 3 for name, number in FIVE["classes"].items()}
    for content in (FIVE, {"classes": colors}):
        if content is not FIVE:
            for file in (data / "B").rglob("*.png"):
                save(np.asarray(Image.open(file)) * 60, file)
        run = trained(
            with_palette(data, content),
            tmp_path / str(len(str(content))),
            direction="AtoB",
            out_channels=1,
        )
        summary = evaluate.evaluate_split(load_generator(run), "test", tmp_path / "test")
        assert 0 < summary["pixel_accuracy"] < 1 and len(summary["class_ious"]) == 5


def test_colors_that_share_a_gray_are_refused(data, tmp_path):
    content = {"classes": {"a": [0, 128, 0], "b": [75, 75, 75]}}
    config = replace(config_for(with_palette(data, content), tmp_path), direction="AtoB")
    assert isinstance(find_palette(config), Palette)
    with pytest.raises(UserError, match="class 'a' of the palette has the gray of another"):
        find_palette(replace(config, out_channels=1))
    assert find_palette(replace(config, out_channels=1, palette="none")) is None
    assert find_palette(replace(config, in_channels=1, direction="BtoA"))  # the input can have them


def test_without_a_palette_one_line_says_so(data, tmp_path, undrawn, capsys):
    start = "the files of B look like class numbers but are read as nearly black colors"
    run = trained(data, tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith(start)]
    assert line.endswith(json.dumps({"classes": {f"class {i}": i for i in range(5)}}))
    assert dataset.main(["--data_root", str(data)]) == 0
    assert capsys.readouterr().out.count(start) == 1
    words = [str(run), "--input", str(data / "B" / "test"), "--output", str(tmp_path / "out")]
    assert evaluate.main(words) == 0
    error = capsys.readouterr().err
    assert error.count("looks like class numbers but is read as nearly black colors") == 1
    content = json.loads(error[error.index("{") : error.index("}}") + 2])
    with_palette(data, content)  # as it is
    assert dataset.main(["--data_root", str(data)]) == 0
    assert "look like" not in capsys.readouterr().out

    # The run has learned other colors.
    assert "was trained without; train again" in refusal(capsys, evaluate.main, run)
    assert evaluate.main([str(run), "--palette", "none"]) == 0
    words = ["--resume", run, "--epochs", 2]
    assert "or the numbers in palette.json" in refusal(capsys, train.main, *words)


def test_numbers_in_a_are_named_and_none_keeps_quiet(data, tmp_path, capsys):
    PairedDataset(config_for(data, tmp_path, palette="none"), "train")
    assert not capsys.readouterr().out
    for side, other in (("A", "C"), ("B", "A"), ("C", "B")):
        (data / side).rename(data / other)
    PairedDataset(config_for(data, tmp_path), "train")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("the files of A look") and "after exchanging the folders" in line


def test_palette_mode_files_are_read_as_numbers_or_named(data, tmp_path, capsys):
    voc = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128] + [0] * 753
    for file in (data / "B").rglob("*.png"):
        save(np.asarray(Image.open(file)), file, voc)
    PairedDataset(config_for(data, tmp_path), "train")
    assert "read as the colors of their palettes; put" in capsys.readouterr().out
    config = replace(config_for(with_palette(data), tmp_path), resize="none", direction="AtoB")
    target = PairedDataset(config, "test")[1]["target"]
    assert np.array_equal(to_numbers(target, PALETTE), labels(1))


def test_a_palette_of_numbers_elsewhere(data, tmp_path):
    file = with_palette(data).joinpath("palette.json").rename(tmp_path / "numbers.json")
    assert find_palette(Config(data_root=str(data), palette=str(file))) == PALETTE
