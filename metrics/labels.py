"""Scores of label maps, and of photos by how well labels can be read from them (Section 4).

Label maps are images (3, H, W) in [-1, 1]; classes are (H, W) int64, numbered in the order of the
palette, with void as the number behind the last class.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from config import Config
from engine.cli import UserError
from engine.images import eight_bits
from metrics.palettes import Palette, find_palette, palette_name


def nearest_colours(image: Tensor, palette: Palette) -> tuple[Tensor, Tensor]:
    """The color of the palette nearest to each pixel, and its distance. image: (3, H, W) in [-1,
    1]. Returns the index of the color, classes first and then void, and its Euclidean distance in
    RGB, 0 to 255; both (H, W)."""
    pixels = eight_bits(image).flatten(1).T
    colors = pixels.new_tensor([*palette.classes.values(), *palette.void])
    # Not as a matrix product, which cancels, even more so in TF32; in parts, to save memory.
    mode = "donot_use_mm_for_euclid_dist"
    parts = [torch.cdist(part, colors, compute_mode=mode).min(1) for part in pixels.split(2**18)]
    distances, indices = map(torch.cat, zip(*parts, strict=True))
    return indices.view(image.shape[1:]), distances.view(image.shape[1:])


def read_classes(image: Tensor, palette: Palette) -> Tensor:
    """The class of each pixel, (3, H, W) in [-1, 1] -> (H, W) int64, by the nearest color. Networks
    and JPEG never reproduce a color exactly. Void is the number len(palette.classes)."""
    return nearest_colours(image, palette)[0].clamp(max=len(palette.classes))


def far_from_palette(image: Tensor, palette: Palette, distance: float) -> float:
    """The share of pixels farther than `distance` (RGB, 0 to 255) from every color. It is small for
    a label map, whose colors blend only where two labels meet."""
    return (nearest_colours(image, palette)[1] > distance).float().mean().item()


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
    photos as well; their scores are the upper limit. Raises UserError if the reader does not fit
    `run`, the configuration of the generator labels -> photo."""

    def __init__(self, read: Callable[[Tensor], Tensor], run: Config, scorer: Config):
        palette = find_palette(run)
        fits = "--scorer does not fit the run: "
        if not palette or run.direction != "BtoA" or run.in_channels != 3:
            raise UserError(f"{fits}the run must translate label maps of a known palette (BtoA)")
        if scorer.direction != "AtoB" or scorer.out_channels != 3:
            raise UserError(f"{fits}it must translate photos to label maps (AtoB)")
        if find_palette(scorer) != palette:
            names = [f"{palette_name(config)} of {config.data_root}" for config in (scorer, run)]
            raise UserError(f"{fits}its palette is {names[0]}, the run's {names[1]}")
        if scorer.crop_size != run.crop_size:
            raise UserError(f"{fits}it was trained at {scorer.crop_size} px, not {run.crop_size}")
        if scorer.in_channels != run.out_channels:
            raise UserError(f"{fits}it reads {scorer.in_channels} channels, not {run.out_channels}")
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
