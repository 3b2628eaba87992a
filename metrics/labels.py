"""Scores of label maps, and of photos by how well labels can be read from them (Section 4).

Label maps are images (3, H, W) in [-1, 1]; classes are (H, W) int64, numbered in the order of the
palette, with void as the number behind the last class.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from config import Config
from engine.cli import UserError
from images.pixels import eight_bits
from metrics.palettes import Palette, find_palette


def read_classes(image: Tensor, palette: Palette) -> Tensor:
    """The class of each pixel, (3, H, W) in [-1, 1] -> (H, W) int64, by the nearest color in RGB:
    networks and JPEG never reproduce a color exactly. Void is the number len(palette.classes)."""
    pixels = eight_bits(image).flatten(1).T
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


class LabelReader:
    """Segmentation scores of generated photos by a label reader, a stand-in for the paper's FCN-8s.
    The reader is a generator photo -> labels trained on the same data: `read` maps a photo (C, H,
    W) in [-1, 1] to a label map (3, H, W), and `scorer` is its configuration. It reads the real
    photos as well; their scores are a reference. Raises UserError if the reader does not fit
    `run`, the configuration of the generator labels -> photo."""

    def __init__(self, read: Callable[[Tensor], Tensor], run: Config, scorer: Config):
        palette, unfit = find_palette(run), "--scorer does not fit the run:"
        if not palette or run.direction != "BtoA" or run.in_channels != 3:
            raise UserError(f"{unfit} the run must translate label maps of a known palette (BtoA)")
        needed = {
            "direction": "AtoB",
            "in_channels": run.out_channels,
            "out_channels": 3,
            "crop_size": run.crop_size,
        }
        for name, value in needed.items():
            found = getattr(scorer, name)
            if found != value:
                raise UserError(f"{unfit} its {name} is {found}, it must be {value}")
        if find_palette(scorer) != palette:
            names = [f"{config.palette} of {config.data_root}" for config in (scorer, run)]
            raise UserError(f"{unfit} its palette is {names[0]}, the run's {names[1]}")
        self.read = read
        self.palette = palette
        self.matrices = {"read": 0, "real": 0}

    def add(self, true: Tensor, output: Tensor, photo: Tensor) -> None:
        """The true classes (H, W), the generated photo and the real one, (C, H, W) in [-1, 1]."""
        for name, image in (("read", output), ("real", photo)):
            predicted = read_classes(self.read(image), self.palette)
            self.matrices[name] += confusion(true, predicted, self.palette)

    def summary(self) -> dict[str, float]:
        """`class_scores` of the generated photos as "read_...", of the real ones as "real_..."."""
        return {
            f"{kind}_{name}": value
            for kind, matrix in self.matrices.items()
            for name, value in class_scores(matrix).items()
        }
