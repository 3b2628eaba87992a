"""Every measure: of one translation, of a split, and of its labels, sharpness and colours.

    from scores import SplitScores

    scores = SplitScores("cityscapes")  # where labels are made; SplitScores() where photos are
    scores.add(output, target)  # for each picture, (C, H, W) in [-1, 1]
    scores.summary()

Labels, gradients and colours are measured on the 8 bits that a picture is saved with, so that they
can be repeated from the files. Section numbers are those of the paper.
"""

import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from config import UserError
from data.make_demo import LABELS
from tasks import eight_bits


def score(output: Tensor, target: Tensor) -> dict[str, float]:
    """L1, PSNR in dB and SSIM of one translation, (1, C, H, W) in [-1, 1].

    L1 is the mean absolute difference in that range, as in the training loss: 2 is the worst. The
    other two are taken in [0, 1]: SSIM compares brightness, which is not negative.
    """
    l1 = (output - target).abs().mean()
    output, target = (output + 1) / 2, (target + 1) / 2
    psnr = peak_signal_noise_ratio(output, target, data_range=1.0)
    # SSIM subtracts squares of means that it takes by convolutions: not in cuDNN's TF32.
    with torch.backends.cudnn.flags(enabled=False):
        ssim = structural_similarity_index_measure(output, target, data_range=1.0)
    return {"l1": l1.item(), "psnr": psnr.item(), "ssim": ssim.item()}


# ---- Labels -----------------------------------------------------------------------------------

Colour = tuple[int, int, int]


class Palette(NamedTuple):
    """The colours of label pictures. A pixel of a void colour has no class and is not scored."""

    classes: dict[str, Colour]
    void: tuple[Colour, ...] = ()


PALETTES: dict[str, Palette] = {
    "cityscapes": Palette(
        {
            "road": (128, 64, 128),
            "sidewalk": (244, 35, 232),
            "building": (70, 70, 70),
            "wall": (102, 102, 156),
            "fence": (190, 153, 153),
            "pole": (153, 153, 153),
            "traffic light": (250, 170, 30),
            "traffic sign": (220, 220, 0),
            "vegetation": (107, 142, 35),
            "terrain": (152, 251, 152),
            "sky": (70, 130, 180),
            "person": (220, 20, 60),
            "rider": (255, 0, 0),
            "car": (0, 0, 142),
            "truck": (0, 0, 70),
            "bus": (0, 60, 100),
            "train": (0, 80, 100),
            "motorcycle": (0, 0, 230),
            "bicycle": (119, 11, 32),
        },
        # What the benchmark leaves out. Its polegroup and license plate have the colours of pole
        # and car.
        void=(
            (0, 0, 0),  # unlabelled, static, the own car, the border
            (111, 74, 0),  # dynamic
            (81, 0, 81),  # ground
            (250, 170, 160),  # parking
            (230, 150, 140),  # rail track
            (180, 165, 180),  # guard rail
            (150, 100, 100),  # bridge
            (150, 120, 90),  # tunnel
            (0, 0, 90),  # caravan
            (0, 0, 110),  # trailer
        ),
    ),
    # As in the released files, whose colours are not those of the CMP dataset itself.
    "facades": Palette(
        {
            "background": (0, 0, 222),
            "facade": (0, 48, 255),
            "window": (0, 128, 255),
            "door": (0, 207, 255),
            "cornice": (32, 255, 224),
            "sill": (112, 255, 143),
            "balcony": (192, 255, 63),
            "blind": (255, 239, 0),
            "deco": (255, 159, 0),
            "molding": (255, 80, 0),
            "pillar": (255, 0, 0),
            "shop": (174, 0, 0),
        }
    ),
    "demo": Palette(LABELS),
}


def nearest_colours(picture: Tensor, palette: Palette) -> tuple[Tensor, Tensor]:
    """Which colour of the palette is nearest to each pixel, and how far it is in RGB.

    picture: (3, H, W) in [-1, 1]. Returns the number of the colour, classes first and then void,
    and its Euclidean distance in units of 8 bits, both (H, W).
    """
    pixels = eight_bits(picture).flatten(1).T
    colours = pixels.new_tensor([*palette.classes.values(), *palette.void])
    # Not as a matrix product, which cancels, the more so in TF32; in parts, to save memory.
    mode = "donot_use_mm_for_euclid_dist"
    parts = [torch.cdist(part, colours, compute_mode=mode).min(1) for part in pixels.split(2**18)]
    distances, numbers = map(torch.cat, zip(*parts, strict=True))
    return numbers.view(picture.shape[1:]), distances.view(picture.shape[1:])


def read_classes(picture: Tensor, palette: Palette) -> Tensor:
    """The class of each pixel, (3, H, W) in [-1, 1] -> (H, W) int64: that of the nearest colour.

    Networks and JPEG never hit a colour exactly. Void is the number len(palette.classes).
    """
    return nearest_colours(picture, palette)[0].clamp(max=len(palette.classes))


def far_from_palette(picture: Tensor, palette: Palette, distance: float) -> float:
    """The share of pixels farther than `distance` from every colour: of a label picture a small
    one, mostly where two labels meet. In RGB, [0, 255]; the picture is (3, H, W) in [-1, 1]."""
    return (nearest_colours(picture, palette)[1] > distance).float().mean().item()


def confusion(true: Tensor, predicted: Tensor, palette: Palette) -> Tensor:
    """How many pixels of each true class (row) were given each class (column), void the last.

    Both are int64 of one shape, from `read_classes`. Returns (n + 1, n + 1) int64 for n classes;
    matrices of pictures add up to that of their split.
    """
    size = len(palette.classes) + 1
    return torch.bincount((true * size + predicted).flatten(), minlength=size**2).view(size, size)


def class_scores(matrix: Tensor) -> dict[str, float]:
    """Per-pixel accuracy, per-class accuracy and class IoU of a `confusion` matrix, in [0, 1].

    As in the paper's script (Section 4, Table 6): over the matrix of a whole split; where the truth
    is void, nothing counts; predicting void is wrong; the means are over all classes, those that
    never occur counting 0. "classes_present" says how many do occur, as less than all of them
    limits these means.
    """
    matrix = matrix[:-1].double()
    right, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)[:-1]
    union = true + predicted - right
    return {
        "pixel_accuracy": (right.sum() / true.sum().clamp(min=1)).item(),
        "class_accuracy": (right / true.clamp(min=1)).mean().item(),
        "class_iou": (right / union.clamp(min=1)).mean().item(),
        "classes_present": int((true > 0).sum()),
    }


# ---- Sharpness and colours --------------------------------------------------------------------


def lab_of(picture: Tensor) -> np.ndarray:
    """(C, H, W) in [-1, 1], C 1 or 3 -> (H, W, 3): L in [0, 100], a and b within ±110."""
    pixels = eight_bits(picture).expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
    return cv2.cvtColor(np.ascontiguousarray(pixels) / np.float32(255), cv2.COLOR_RGB2Lab)


def sharpness(picture: Tensor) -> float:
    """How much the lightness L of Lab changes from pixel to pixel, the mean over the picture.

    The picture is (C, H, W) in [-1, 1], C 1 or 3. Blur, L1's answer to doubt, lowers it.
    """
    lightness = lab_of(picture)[:, :, 0]
    right, down = np.diff(lightness, axis=1)[:-1], np.diff(lightness, axis=0)[:, :-1]
    return float(np.hypot(right, down).mean(dtype=np.float64))


def relative_sharpness(output: float, target: float) -> float:
    """1: as sharp as the target; less: blurred. Two flat pictures are equally sharp."""
    return (output + 1e-6) / (target + 1e-6)


LAB_RANGES = ((0, 100), (-110, 110), (-110, 110))
LAB_BINS = 100  # the paper does not give its number


def lab_histograms(picture: Tensor) -> Tensor:
    """How often each L, a and b occur, (C, H, W) in [-1, 1] -> (3, LAB_BINS) int64."""
    planes = torch.from_numpy(lab_of(picture)).unbind(2)
    counts = [
        torch.histc(plane.clamp(low, high), LAB_BINS, low, high)
        for plane, (low, high) in zip(planes, LAB_RANGES, strict=True)
    ]
    return torch.stack(counts).long()


def intersection(one: Tensor, other: Tensor) -> Tensor:
    """What two (3, bins) histograms share of each of L, a and b, in [0, 1] (Section 4.2, Figure 7).

    Each is brought to the sum of 1 before; 1 means equal distributions, 0 disjoint ones.
    """
    one, other = (counts.double() / counts.sum(1, keepdim=True) for counts in (one, other))
    return torch.minimum(one, other).sum(1)


# ---- Splits -----------------------------------------------------------------------------------


class SplitScores:
    """The scores of a split, picture by picture and together.

    `palette_name` is the one of PALETTES that the targets are painted in, where these are label
    pictures. Those are scored by class, photos by sharpness and colours; both by L1, PSNR and SSIM.
    Raises UserError if there is no such palette.
    """

    def __init__(self, palette_name: str | None = None):
        if palette_name is not None and palette_name not in PALETTES:
            raise UserError(f"there is no palette {palette_name!r}, only {', '.join(PALETTES)}")
        self.palette = PALETTES.get(palette_name)
        self.scores = []  # of each picture
        self.matrix = 0  # sums from here on; pairs are (output, target)
        self.gradients = np.zeros(2)
        self.histograms = torch.zeros(2, 3, LAB_BINS, dtype=torch.int64)

    def add(self, output: Tensor, target: Tensor, true: Tensor | None = None) -> dict[str, float]:
        """The scores of one picture, both (C, H, W) in [-1, 1], C 1 or 3.

        `true` are its true classes, (H, W), should they be known better than from the target.
        """
        scores = score(output[None], target[None])
        self.scores.append(scores)
        if self.palette:
            true = read_classes(target, self.palette) if true is None else true
            matrix = confusion(true, read_classes(output, self.palette), self.palette).cpu()
            self.matrix += matrix
            return {**scores, "pixel_accuracy": class_scores(matrix)["pixel_accuracy"]}
        gradients = sharpness(output), sharpness(target)
        self.gradients += gradients
        if len(target) == 3:
            self.histograms += torch.stack([lab_histograms(output), lab_histograms(target)])
        return {**scores, "sharpness": relative_sharpness(*gradients)}

    def summary(self) -> dict[str, float]:
        """The means of L1, PSNR and SSIM; all else is of the split as a whole."""
        names = self.scores[0]
        means = {name: float(np.mean([scores[name] for scores in self.scores])) for name in names}
        if self.palette:
            return {**means, **class_scores(self.matrix)}
        means["sharpness"] = float(relative_sharpness(*self.gradients / len(self.scores)))
        if self.histograms.any():
            shared = intersection(*self.histograms).tolist()
            means |= zip(("histogram_l", "histogram_a", "histogram_b"), shared, strict=True)
        return means


class Distances:
    """FID and KID: how far the outputs of a split are from its targets, as sets; 0 is alike.

    `weights` is a file of the Inception network of the original FID, as torch-fidelity has it;
    nothing is downloaded. Raises UserError if that file or the package is missing.
    """

    def __init__(self, weights: str | Path, device: str | torch.device = "cpu"):
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise UserError(
                "FID and KID need the package torch-fidelity: pip install torch-fidelity"
            ) from error
        if not Path(weights).is_file():
            raise UserError(
                f"there is no file {weights} of Inception's weights; get "
                "weights-inception-2015-12-05-6726825d.pth from "
                "https://github.com/toshas/torch-fidelity/releases"
            )
        try:
            torch.load(weights, weights_only=True)  # torch-fidelity's own way could run code in it
            network = FeatureExtractorInceptionV3("inception", ["2048"], str(weights))
        except Exception as error:  # torch.load raises nearly anything on a damaged file
            raise UserError(f"{weights} does not hold Inception's weights") from error
        self.network = network.to(device).eval()  # older versions leave that to the caller
        self.features = []  # (2, 2048) of each (output, target)

    @torch.inference_mode()
    def add(self, output: Tensor, target: Tensor) -> None:
        """One picture of each set, both (C, H, W) in [-1, 1], C 1 or 3, and of one size."""
        pictures = torch.stack([eight_bits(p).expand(3, -1, -1) for p in (output, target)])
        device = next(self.network.parameters()).device
        self.features.append(self.network(pictures.to(device, torch.uint8))[0].cpu())

    def summary(self) -> dict[str, float]:
        """{"fid": ..., "kid": ...}. Raises UserError on a set of one picture, which has no spread.

        KID is the mean over 100 subsets of 50 pictures, or of all where there are fewer.
        """
        if len(self.features) < 2:
            raise UserError("FID and KID compare sets of pictures; there have to be 2 or more")
        # Both measures get the features, computed once, in place of pictures.
        features = nn.Identity()
        features.num_features = 2048
        fid = FrechetInceptionDistance(features)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it keeps all features
            kid = KernelInceptionDistance(features, subset_size=min(50, len(self.features)))
        for real, pictures in zip((False, True), torch.stack(self.features, 1), strict=True):
            fid.update(pictures, real=real)
            kid.update(pictures, real=real)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # of the subsets
            return {"fid": fid.compute().item(), "kid": kid.compute()[0].item()}
