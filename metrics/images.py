"""Scores of one image: L1, PSNR, SSIM and sharpness; and histograms of colors."""

import math
from functools import partial

import cv2
import numpy as np
from torch import Tensor

from images.pixels import eight_bits, visible_channels

# The PSNR of two equal images is infinite, and so would be the mean. One step of 8 bits in a single
# one of 256x256x3 values is 101 dB.
MAX_PSNR = 100.0
BINS = 100  # of a color histogram; the paper does not give its number
LAB_RANGES = ((0, 100), (-110, 110), (-110, 110))


def score(output: Tensor, target: Tensor) -> dict[str, float]:
    """L1, PSNR in dB and SSIM of one image, both (C, H, W) in [-1, 1]. L1 is the mean absolute
    difference in that range, as in the training loss; at most 2. PSNR, at most MAX_PSNR, and SSIM
    are computed in [0, 1], since SSIM compares luminance, which is not negative."""
    # SSIM subtracts squared means, which in float32 costs up to five of its digits.
    x, y = (image.cpu().double().numpy() for image in (output, target))
    l1 = np.abs(x - y).mean()
    x, y = (x + 1) / 2, (y + 1) / 2
    error = np.square(x - y).mean()
    psnr = -10 * math.log10(error) if error else math.inf
    ssim = np.mean([structural_similarity(*planes) for planes in zip(x, y, strict=True)])
    return {"l1": float(l1), "psnr": min(psnr, MAX_PSNR), "ssim": float(ssim)}


def structural_similarity(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM (Wang et al., 2004) of one channel, (H, W) float64 in [0, 1]: the mean over all pixels,
    with a Gaussian window of 11 px and a standard deviation of 1.5 px."""
    blur = partial(cv2.GaussianBlur, ksize=(11, 11), sigmaX=1.5)  # mirrors x and y at their border
    mean_x, mean_y = blur(x), blur(y)
    squares, product = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    variances, covariance = blur(x * x + y * y) - squares, blur(x * y) - product
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * product + c1) / (squares + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).mean()


def to_lab(image: Tensor) -> np.ndarray:
    """(H, W, 3), L in [0, 100], a and b within ±127. image: (C, H, W) in [-1, 1], C 1 or 3; rounded
    to 8 bits first, so that the values can be computed from the saved file."""
    pixels = eight_bits(visible_channels(image)).expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
    return cv2.cvtColor(np.ascontiguousarray(pixels) / np.float32(255), cv2.COLOR_RGB2Lab)


def sharpness(lab: np.ndarray) -> float:
    """The mean magnitude of the gradient of the lightness of `to_lab`, in L per pixel. Blur, to
    which the L1 loss alone leads (Section 4.2), lowers it."""
    lightness = lab[:, :, 0]
    right, down = np.diff(lightness, axis=1)[:-1], np.diff(lightness, axis=0)[:, :-1]
    return float(np.hypot(right, down).mean(dtype=np.float64))


def relative_sharpness(output: float, target: float) -> float:
    """1: as sharp as the target; below 1: blurrier. Two flat images are equally sharp."""
    return (output + 1e-6) / (target + 1e-6)


def lab_histograms(lab: np.ndarray) -> np.ndarray:
    """The number of pixels of `to_lab` in each bin of L, a and b, (3, BINS)."""
    planes = zip(np.moveaxis(lab, 2, 0), LAB_RANGES, strict=True)
    return np.stack([np.histogram(plane.clip(*ends), BINS, ends)[0] for plane, ends in planes])


def intersections(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What two histograms share, for each of L, a and b: 1 if they are alike, 0 if they are
    disjoint (Section 4.2, Figure 7)."""
    one, other = (counts / counts.sum(1, keepdims=True) for counts in (one, other))
    return np.minimum(one, other).sum(1)
