"""Scores of label maps (Section 4).

Label maps are images (C, H, W) in [-1, 1], C 1 or 3; classes are (H, W) int64, numbered in the
order of the palette, with void as the number behind the last class.
"""

import torch
from torch import Tensor

from images.pixels import eight_bits
from metrics.palettes import Palette


def read_classes(image: Tensor, palette: Palette) -> Tensor:
    """The class of each pixel, (C, H, W) in [-1, 1] -> (H, W) int64, by the nearest color in RGB:
    networks and JPEG never reproduce a color exactly. Void is the number len(palette.classes)."""
    pixels = eight_bits(image).expand(3, -1, -1).flatten(1).T
    colors = pixels.new_tensor([*palette.classes.values(), *palette.void])
    # Not as a matrix product, which cancels, even more so in TF32; in parts, to save memory.
    mode = "donot_use_mm_for_euclid_dist"
    parts = pixels.split(2**18)
    nearest = [torch.cdist(part, colors, compute_mode=mode).min(1).indices for part in parts]
    return torch.cat(nearest).view(image.shape[1:]).clamp(max=len(palette.classes))


def confusion(true: Tensor, predicted: Tensor, palette: Palette) -> Tensor:
    """Counts pixels by true class (row) and predicted class (column), void last. Both are int64 of
    one shape. Returns (n + 1, n + 1) int64 for n classes; the matrices of the images of a split add
    up to that of the split."""
    size = len(palette.classes) + 1
    return torch.bincount((true * size + predicted).flatten(), minlength=size**2).view(size, size)


def class_ious(matrix: Tensor, palette: Palette) -> dict[str, float | None]:
    """The IoU of each class by name, as in `class_scores`; None if neither the ground truth nor the
    output has the class."""
    matrix = matrix[:-1].double()
    right = matrix.diagonal()
    union = matrix.sum(1) + matrix.sum(0)[:-1] - right
    ious = [(r / u).item() if u else None for r, u in zip(right, union, strict=True)]
    return dict(zip(palette.classes, ious, strict=True))


def class_scores(matrix: Tensor) -> dict[str, float]:
    """Per-pixel accuracy, per-class accuracy and class IoU of a `confusion` matrix, in [0, 1]. As
    in the paper's script (Section 4, Table 6): computed over a whole split; pixels whose ground
    truth is void are ignored; predicting void is wrong; means are over all classes, and a class
    that never occurs counts as 0. "classes_present" is the number of those that do occur."""
    matrix = matrix[:-1].double()
    right, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)[:-1]
    union = true + predicted - right
    return {
        "pixel_accuracy": (right.sum() / true.sum().clamp(min=1)).item(),
        "class_accuracy": (right / true.clamp(min=1)).mean().item(),
        "class_iou": (right / union.clamp(min=1)).mean().item(),
        "classes_present": int((true > 0).sum()),
    }
