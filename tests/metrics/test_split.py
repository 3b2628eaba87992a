"""The scores of an image and of a split, against their definitions."""

import json
import math

import numpy as np
import pytest
import torch

import metrics.images
from images.pixels import eight_bits, to_image, to_tensor
from metrics.images import intersections, score, to_lab
from metrics.split import SplitScores


def flat(*color: int, size: int = 32) -> torch.Tensor:
    return torch.tensor(color).view(-1, 1, 1).expand(-1, size, size) / 127.5 - 1


def noise(channels: int = 3, size: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(channels, size, size, generator=generator) * 2 - 1


def blurred(image: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(image[None], 5, stride=1)[0]


def sharpness(image: torch.Tensor) -> float:
    return metrics.images.sharpness(to_lab(image))


def lab_histograms(image: torch.Tensor) -> np.ndarray:
    return metrics.images.lab_histograms(to_lab(image))


def add(split: SplitScores, output: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    split.add(measured := split.measure(output, target))
    return measured.row


# ---- Images -----------------------------------------------------------------------------------


def test_scores_against_their_definitions():
    torch.manual_seed(0)
    one, other = torch.rand(2, 3, 32, 32) * 2 - 1
    result = score(one, other)
    difference = (one - other) / 2  # in a range of 1
    assert result["l1"] == pytest.approx(2 * difference.abs().mean().item(), rel=1e-5)
    psnr = -10 * np.log10(difference.square().mean().item())
    assert result["psnr"] == pytest.approx(psnr, rel=1e-4)
    assert score(one, one)["ssim"] == pytest.approx(1, abs=1e-5)
    assert result["ssim"] < 0.1
    # For two flat images SSIM compares only their luminance a and b, in [0, 1].
    a, b = 0.2, 0.7
    result = score(torch.full((1, 3, 32, 32), 2 * a - 1), torch.full((1, 3, 32, 32), 2 * b - 1))
    assert result["ssim"] == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4), abs=1e-4)
    assert score(torch.ones(3, 32, 32), -torch.ones(3, 32, 32))["l1"] == 2


@pytest.mark.parametrize("size", [(3, 64, 48), (1, 16, 16), (13, 40, 24)])
def test_scores_equal_those_of_torchmetrics(size):
    from torchmetrics.functional import image as reference

    one = torch.rand(size, generator=torch.Generator().manual_seed(0)).double()
    flat, nearly_flat = torch.full_like(one, 0.97), one * 1e-3 + 0.9
    for other in (one.flip(1), (one + 0.1 * one.flip(2)).clamp(0, 1), flat, nearly_flat):
        scores = score(2 * one - 1, 2 * other - 1)
        pair = one[None], other[None]
        ssim = reference.structural_similarity_index_measure(*pair, data_range=1.0)
        psnr = reference.peak_signal_noise_ratio(*pair, data_range=1.0)
        assert scores["ssim"] == pytest.approx(ssim.item(), abs=1e-6)
        assert scores["psnr"] == pytest.approx(psnr.item(), abs=1e-5)  # by a float32 logarithm


def test_an_exact_image_leaves_finite_means():
    image, other = noise(), noise(seed=1)
    split = SplitScores()
    for output in (image, other):
        add(split, output, image)
    means = split.summary()
    assert score(image, image)["psnr"] == 100
    assert means["psnr"] == pytest.approx((100 + score(other, image)["psnr"]) / 2)
    assert json.loads(json.dumps(means, allow_nan=False)) == means


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_measured_as_they_are_saved(channels):
    image = 1.2 * noise(channels)  # a network's tanh keeps the range, other things need not
    saved = to_tensor(np.asarray(to_image(image).convert("RGB")))
    assert torch.equal(eight_bits(image).expand(3, -1, -1), eight_bits(saved))
    assert sharpness(image) == sharpness(saved)


def test_sharpness_by_hand():
    assert sharpness(flat(90, 10, 200)) == 0
    columns = flat(0, 0, 0, size=33).clone()
    columns[:, :, 1::2] = 1  # from black to white, 0 to 100 in L, at each of the 32 steps
    assert sharpness(columns) == pytest.approx(100, rel=1e-4)
    assert sharpness(columns.transpose(1, 2)) == pytest.approx(100, rel=1e-4)
    assert sharpness(columns[:1]) == sharpness(columns)  # gray is a color
    board = columns * columns.transpose(1, 2)  # a chessboard: 100 both ways
    assert sharpness(board) == pytest.approx(100 * math.sqrt(2), rel=1e-4)


def test_blur_lowers_sharpness():
    image = noise()
    assert sharpness(blurred(image)) < 0.3 * sharpness(image)
    assert sharpness(blurred(blurred(image))) < 0.5 * sharpness(blurred(image))


def test_color_histograms_by_hand():
    """White has L 100, sRGB red (53, 80, 67)."""
    half = torch.cat([flat(255, 255, 255), flat(255, 0, 0)], dim=2)
    counts = lab_histograms(half)
    assert counts.shape == (3, 100) and (counts.sum(1) == 2 * 32 * 32).all()
    assert {*np.flatnonzero(counts[0])} == {53, 99}
    assert {*np.flatnonzero(counts[1])} == {50, 86} or {*np.flatnonzero(counts[1])} == {49, 86}
    white = lab_histograms(flat(255, 255, 255))
    assert intersections(counts, white) == pytest.approx([0.5, 0.5, 0.5])
    assert (intersections(white, 7 * white) == 1).all()  # of shares, not of numbers
    assert (intersections(lab_histograms(flat(255, 0, 0)), white) == 0).all()


# ---- Splits -----------------------------------------------------------------------------------


def test_photos_are_scored_over_the_split_not_per_image():
    sharp, soft = noise(), 0.1 * noise(seed=1)
    split = SplitScores()
    first, second = add(split, blurred(sharp), sharp[:, :28, :28]), add(split, soft, soft)
    assert first["sharpness"] < 0.3 and second["sharpness"] == 1
    assert first.keys() == second.keys() == {"l1", "psnr", "ssim", "sharpness"}
    result = split.summary()
    counts = [
        sum(map(lab_histograms, images))
        for images in ((blurred(sharp), soft), (sharp[:, :28, :28], soft))
    ]
    shares = [result[f"histogram_{name}"] for name in "lab"]
    assert shares == pytest.approx(intersections(*counts)) and 0.3 < min(shares) < max(shares) < 1
    outputs = sharpness(blurred(sharp)) + sharpness(soft)
    targets = sharpness(sharp[:, :28, :28]) + sharpness(soft)
    assert result["sharpness"] == pytest.approx(outputs / targets, rel=1e-4)
    assert result["l1"] == pytest.approx((first["l1"] + second["l1"]) / 2)
    assert result["ssim"] == pytest.approx((first["ssim"] + second["ssim"]) / 2)


def test_gray_images_have_the_same_scores():
    split = SplitScores()
    add(split, noise(1), noise(1))
    names = {"l1", "psnr", "ssim", "sharpness", "histogram_l", "histogram_a", "histogram_b"}
    assert split.summary().keys() == names
    assert split.summary()["sharpness"] == pytest.approx(1)
    assert split.summary()["histogram_l"] == 1


def test_flat_images():
    for output, sharp in ((flat(90, 90, 90), 1), (noise(), 1e6)):
        split = SplitScores()
        image = add(split, output, flat(90, 90, 90))
        result = split.summary()
        assert math.isfinite(image["sharpness"]) and math.isfinite(result["sharpness"])
        assert image["sharpness"] >= sharp and result["sharpness"] >= sharp
    split = SplitScores()
    assert add(split, flat(90, 90, 90), noise())["sharpness"] < 1e-6
