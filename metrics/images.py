"""Scores of one image: L1, PSNR, SSIM and sharpness; and histograms of colors."""

import cv2
import numpy as np
import torch
from torch import Tensor

from images.pixels import eight_bits, visible_channels

# The PSNR of two equal images is infinite, and so would be the mean. One step of 8 bits in a single
# one of 256x256x3 values is 101 dB.
MAX_PSNR = 100.0
BINS = 100  # of a color histogram; the paper does not give its number
LAB_RANGES = ((0, 100), (-110, 110), (-110, 110))


def score(output: Tensor, target: Tensor) -> dict[str, float]:
    """L1, PSNR in dB and SSIM of one image, both (1, C, H, W) in [-1, 1]. L1 is the mean absolute
    difference in that range, as in the training loss; at most 2. PSNR, at most MAX_PSNR, and SSIM
    are computed in [0, 1], since SSIM compares luminance, which is not negative."""
    from torchmetrics.functional import image as functional  # its import takes seconds

    l1 = (output - target).abs().mean()
    output, target = (output + 1) / 2, (target + 1) / 2
    psnr = functional.peak_signal_noise_ratio(output, target, data_range=1.0)
    # SSIM subtracts squared means from convolutions, which cuDNN's TF32 would make inexact.
    with torch.backends.cudnn.flags(enabled=False):
        ssim = functional.structural_similarity_index_measure(output, target, data_range=1.0)
    return {"l1": l1.item(), "psnr": min(psnr.item(), MAX_PSNR), "ssim": ssim.item()}


def to_lab(image: Tensor) -> np.ndarray:
    """(H, W, 3), L in [0, 100], a and b within ±127. image: (C, H, W) in [-1, 1], C 1 or 3; rounded
    to 8 bits first, so that the values can be computed from the saved file."""
    pixels = eight_bits(visible_channels(image)).expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
    return cv2.cvtColor(np.ascontiguousarray(pixels) / np.float32(255), cv2.COLOR_RGB2Lab)


def sharpness(image: Tensor) -> float:
    """The mean magnitude of the gradient of the lightness L (Lab), in L per pixel. image: (C, H, W)
    in [-1, 1], C 1 or 3. Blur, to which the L1 loss alone leads (Section 4.2), lowers it."""
    lightness = to_lab(image)[:, :, 0]
    right, down = np.diff(lightness, axis=1)[:-1], np.diff(lightness, axis=0)[:, :-1]
    return float(np.hypot(right, down).mean(dtype=np.float64))


def relative_sharpness(output: float, target: float) -> float:
    """1: as sharp as the target; below 1: blurrier. Two flat images are equally sharp."""
    return (output + 1e-6) / (target + 1e-6)


def lab_histograms(image: Tensor) -> np.ndarray:
    """The number of pixels in each bin of L, a and b, (3, BINS)."""
    planes = zip(np.moveaxis(to_lab(image), 2, 0), LAB_RANGES, strict=True)
    return np.stack([np.histogram(plane.clip(*ends), BINS, ends)[0] for plane, ends in planes])


def intersections(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What two histograms share, for each of L, a and b: 1 if they are alike, 0 if they are
    disjoint (Section 4.2, Figure 7)."""
    one, other = (counts / counts.sum(1, keepdims=True) for counts in (one, other))
    return np.minimum(one, other).sum(1)
