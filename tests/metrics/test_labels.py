"""Label scores, against numbers worked out by hand and real label maps."""

import io
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from PIL import Image

from images.pixels import eight_bits, to_image, to_tensor
from metrics.labels import class_scores, confusion, read_classes
from metrics.palettes import PALETTES, Palette
from metrics.split import SplitScores

# Where python -m tools.download puts the datasets.
REAL_DATA = Path(os.environ.get("PIX2PIX_DATA", REPOSITORY / "data"))
THREE = Palette({"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}, ((0, 0, 0),))


def paint(numbers, palette: Palette) -> torch.Tensor:
    """The label map of (H, W) numbers of colors, classes first and then void."""
    colors = np.array([*palette.classes.values(), *palette.void], np.uint8)
    return to_tensor(colors[np.asarray(numbers)])


def blocks(palette: Palette, side: int, seed: int = 0) -> np.ndarray:
    """(H, W) numbers of squares of every color of a palette in random order."""
    count = len(palette.classes) + len(palette.void)
    columns = math.ceil(math.sqrt(count))
    numbers = np.random.default_rng(seed).permutation(columns**2) % count
    return numbers.reshape(columns, columns).repeat(side, axis=0).repeat(side, axis=1)


def distances(image: torch.Tensor, palette: Palette) -> np.ndarray:
    """How far each pixel (H, W) is from the nearest color in RGB, 0 to 255."""
    pixels = eight_bits(image).numpy()[:, None]
    colors = np.float32([*palette.classes.values(), *palette.void])
    return np.linalg.norm(pixels - colors.T[:, :, None, None], axis=0).min(0)


def flat(*color: int, size: int = 32) -> torch.Tensor:
    return torch.tensor(color).view(-1, 1, 1).expand(-1, size, size) / 127.5 - 1


# ---- Classes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PALETTES)
def test_every_color_is_its_class(name):
    palette = PALETTES[name]
    numbers = blocks(palette, side=2)
    classes = read_classes(paint(numbers, palette), palette)
    assert classes.dtype == torch.int64
    assert np.array_equal(classes, numbers.clip(max=len(palette.classes)))
    assert (numbers > len(palette.classes)).any() == (name == "cityscapes")
    # Neither neighbors matter, nor the parts in which a large image is read.
    shift = np.random.default_rng(0).standard_normal((3, 600, 500))
    large = paint(np.resize(numbers, (600, 500)), palette) + torch.from_numpy(shift) / 127.5
    expected = read_classes(large[:, 400:, 300:], palette)
    assert torch.equal(read_classes(large, palette)[400:, 300:], expected)
    assert np.array_equal(expected, np.resize(numbers, (600, 500))[400:, 300:].clip(max=19))


@pytest.mark.parametrize("quality", [75, 85, 95])
@pytest.mark.parametrize("name", PALETTES)
def test_labels_survive_jpeg(name, quality):
    """Except where two labels meet, since color is stored at half the resolution (4:2:0)."""
    palette, side = PALETTES[name], 40
    numbers = blocks(palette, side)[5:, 3:]  # not aligned with JPEG's 16 px
    file = io.BytesIO()
    to_image(paint(numbers, palette)).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    image = to_tensor(np.asarray(Image.open(file)))
    right = read_classes(image, palette).numpy() == numbers.clip(max=len(palette.classes))
    assert right.mean() > 0.93
    distance = np.minimum(np.arange(400) % side, side - 1 - np.arange(400) % side)
    height, width = numbers.shape
    inside = np.minimum(distance[5:][:height, None], distance[3:][None, :width]) >= 15
    assert inside.mean() > 0.05 and right[inside].all()
    assert (distances(image, palette) > 40).mean() < 0.1


# ---- Scores -----------------------------------------------------------------------------------


def test_confusion_by_hand():
    void = 3
    true = torch.tensor([[0, 0, 0, 0], [1, 1, void, void]])
    predicted = torch.tensor([[0, 0, 1, void], [1, 0, 1, void]])
    matrix = confusion(true, predicted, THREE)
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == [[2, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]]
    # Of 6 labeled pixels 3 are right: red 2 of 4, green 1 of 2. Red's union is 4 + 3 - 2, green's
    # 2 + 2 - 1, since predictions where the ground truth is void are ignored. Blue is absent.
    assert class_scores(matrix) == pytest.approx(
        {
            "pixel_accuracy": 3 / 6,
            "class_accuracy": (2 / 4 + 1 / 2 + 0) / 3,
            "class_iou": (2 / 5 + 1 / 3 + 0) / 3,
            "classes_present": 2,
        },
        rel=1e-12,
    )


def test_predicting_an_absent_class_lowers_the_scores_of_others():
    matrix = torch.zeros(4, 4, dtype=torch.int64)
    matrix[0, 0], matrix[0, 2] = 3, 1
    result = class_scores(matrix)
    assert result["class_iou"] == pytest.approx((3 / 4 + 0 + 0) / 3)
    assert result["class_accuracy"] == pytest.approx((3 / 4 + 0 + 0) / 3)
    assert result["classes_present"] == 1


def test_nothing_but_void():
    matrix = torch.zeros(4, 4, dtype=torch.int64)
    nothing = {"pixel_accuracy": 0, "class_accuracy": 0, "class_iou": 0, "classes_present": 0}
    assert class_scores(matrix) == nothing
    matrix[3] = 5
    assert class_scores(matrix) == nothing


def add(split: SplitScores, output: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    split.add(measured := split.measure(output, target))
    return measured.row


@pytest.mark.parametrize("name", PALETTES)
def test_the_ground_truth_is_right(name):
    palette = PALETTES[name]
    truth = paint(blocks(palette, side=8), palette)
    split = SplitScores(palette)
    assert add(split, truth, truth)["pixel_accuracy"] == 1
    result = split.summary()
    assert result["pixel_accuracy"] == result["class_accuracy"] == result["class_iou"] == 1
    assert result["classes_present"] == len(palette.classes)


def test_classes_are_scored_over_the_split_not_per_image():
    red, green = flat(255, 0, 0), flat(0, 255, 0)
    half = red.clone()
    half[:, :16] = green[:, :16]
    split = SplitScores(THREE)
    assert add(split, half, red)["pixel_accuracy"] == 0.5
    assert add(split, green, green)["pixel_accuracy"] == 1
    assert add(split, red, flat(0, 0, 0))["pixel_accuracy"] == 0  # nothing to be right about
    result = split.summary()
    assert result["pixel_accuracy"] == 0.75  # not the mean of 0.5, 1 and 0
    assert result["class_accuracy"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert result["class_iou"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert result["classes_present"] == 2
    assert result["l1"] == pytest.approx((2 / 3 + 0 + 2 / 3) / 3, rel=1e-5)


# ---- Real labels ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "share"), [("facades", 0.2), ("cityscapes", 0.08)])
def test_real_labels_are_near_the_palette(name, share):
    """The released files are resized JPEGs: labels blend where they meet and are exact inside."""
    files = sorted((REAL_DATA / name).glob("*/*.jpg"))
    if not files:
        pytest.skip(f"no {name} in {REAL_DATA}")
    far, flat_pixels, flat_far = [], 0, 0
    for file in random.Random(0).sample(files, 40):
        labels = to_tensor(np.asarray(Image.open(file)))[:, :, 256:]
        distance = distances(labels, PALETTES[name])
        far.append((distance > 40).mean())
        pixels = torch.cat([eight_bits(labels), -eight_bits(labels)])
        highest, lowest = torch.nn.functional.max_pool2d(pixels, 5, 1, 2).split(3)
        is_flat = (highest + lowest <= 8).all(0).numpy()
        flat_pixels += is_flat.sum()
        flat_far += (is_flat & (distance > 20)).sum()
    assert 0 < np.mean(far) < share
    assert flat_pixels > 0.3 * len(far) * 256**2 and flat_far <= 1e-4 * flat_pixels
