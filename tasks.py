"""Tasks: how a pair is made, and how a full-size picture is translated.

Pairs of files are the plain case. The others need nothing but a folder of ordinary pictures, for
they make x, y or both from one of them. Pictures are (C, H, W) floats in [-1, 1].
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from config import Config, UserError


class Pairs:
    """Two pictures from files. What the other tasks do differently, they say."""

    plain = False  # whether one ordinary picture is enough

    def __init__(self, config: Config):
        self.config = config
        self.channels = config.in_channels  # of the pictures that it translates

    def target(self, photo: np.ndarray) -> np.ndarray:
        """From a picture, uint8 (S, S, C), the one beside which it is cropped and mirrored."""
        return photo

    def pair(self, x: Tensor, y: Tensor, random: np.random.Generator) -> dict[str, Tensor]:
        """{"input", "target"} from the two after crop and mirror, on the CPU."""
        return {"input": x, "target": y}

    def show(self, pair: dict[str, Tensor], y: Tensor) -> Tensor:
        """The picture, 1 or 3 channels, that y means: `pair["target"]`, or G(x)."""
        return y

    def translate(self, picture: Tensor, run, mask: Tensor | None = None) -> Tensor:
        """A picture of any size by `run`, which is G for any size. On the CPU."""
        return run(picture)


class Colorization(Pairs):
    """Lightness -> colour, in Lab: x = L/50 - 1, y = ab/110 (the Lua code)."""

    plain = True

    def __init__(self, config):
        super().__init__(config)
        self.channels = 3

    def pair(self, x, y, random):
        light, colour = to_lab(y)
        return {"input": light, "target": colour}

    def show(self, pair, y):
        return from_lab(pair["input"], y)

    def translate(self, picture, run, mask=None):
        """The colours are found at the size of the training and laid on the lightness of the
        source at its own size: the eye misses detail in lightness only."""
        light, _ = to_lab(picture)
        colour = run(at_training_size(light, self.config.crop_size))
        return from_lab(light, resize(colour, picture.shape[-2:]))


class Inpainting(Pairs):
    """A picture with a hole -> the whole picture. The hole is white, as in the Lua code."""

    plain = True
    # (1, H, W) bool each, to train with, if config.mask is a folder
    masks: tuple[Tensor, ...] = ()

    def pair(self, x, y, random):
        hole = self.hole(*y.shape[-2:], random)
        return {"input": y.masked_fill(hole, 1.0), "target": y, "mask": hole}

    def hole(self, height: int, width: int, random: np.random.Generator) -> Tensor:
        """(1, H, W) bool."""
        if self.masks:
            return self.masks[random.integers(len(self.masks))]
        hole = torch.zeros(1, height, width, dtype=torch.bool)
        if self.config.mask == "centre":  # half as wide and high as the picture
            hole[:, height // 4 : height - height // 4, width // 4 : width - width // 4] = True
            return hole
        for _ in range(random.integers(1, 4)):
            h, w = (int(side * random.uniform(0.15, 0.5)) for side in (height, width))
            top, left = random.integers(height - h + 1), random.integers(width - w + 1)
            hole[:, top : top + h, left : left + w] = True
        return hole

    def show(self, pair, y):
        return torch.where(pair["mask"], y, pair["input"])

    def translate(self, picture, run, mask=None):
        """`mask` is (1, H, W) bool. The hole is filled at the size of the training; the pixels
        around it stay exactly what they were."""
        if mask is None and self.config.mask != "centre":
            raise UserError("this run learned to fill any hole; a mask has to say which (--mask)")
        if mask is None:
            mask = self.hole(*picture.shape[-2:], np.random.default_rng(0))
        if not mask.any():
            return picture
        # White before it is resized, so that nothing under the mask is seen, and again afterwards,
        # with the rim where the two have mixed; every pixel that the mask touches counts.
        small = at_training_size(picture.masked_fill(mask, 1.0), self.config.crop_size)
        hole = F.adaptive_max_pool2d(mask.float(), small.shape[-2:])
        if small.shape != picture.shape:
            hole = F.max_pool2d(hole, 3, stride=1, padding=1)
        filled = resize(run(small.masked_fill(hole > 0, 1.0)), picture.shape[-2:])
        return torch.where(mask, filled, picture)


class SuperResolution(Pairs):
    """A picture that was reduced, enlarged again bicubically -> the picture as it was."""

    plain = True

    def pair(self, x, y, random):
        small = resize(y, [side // self.config.factor for side in y.shape[-2:]])
        return {"input": self.enlarge(eight_bits(small) / 127.5 - 1), "target": y}

    def enlarge(self, picture: Tensor) -> Tensor:
        return resize(picture, [side * self.config.factor for side in picture.shape[-2:]])

    def translate(self, picture, run, mask=None):
        """`factor` times as large, in tiles of the size of the training, so that the norms see as
        much at a time as they did then, and any size fits into memory."""
        return in_tiles(run, self.enlarge(picture), self.config.crop_size)


class Edges(Pairs):
    """A drawing -> a photo. To train, Canny's detector draws: black lines, 1 px wide, on white."""

    plain = True

    def pair(self, x, y, random):
        return {"input": draw(y).repeat(self.config.in_channels, 1, 1), "target": y}


class Style(Pairs):
    """A photo -> a painting. Without pairs, an OpenCV filter paints, in ink and wash."""

    plain = True

    def target(self, photo):
        large = cv2.resize(photo, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)  # finer outlines
        painting = cv2.stylization(large, sigma_s=60, sigma_r=0.6)
        return cv2.resize(painting, photo.shape[1::-1], interpolation=cv2.INTER_AREA)


TASKS = {
    "pairs": Pairs,
    "colorization": Colorization,
    "inpainting": Inpainting,
    "super_resolution": SuperResolution,
    "edges": Edges,
    "style": Style,
}


def task_of(config: Config) -> Pairs:
    return TASKS[config.task](config)


# ---- What they are made of --------------------------------------------------------------------


def eight_bits(picture: Tensor) -> Tensor:
    """Values in [-1, 1] -> whole numbers in [0, 255], as floats: what is left of them in a file."""
    return ((picture.float() + 1) * 127.5).round().clamp(0, 255)


def to_lab(picture: Tensor) -> tuple[Tensor, Tensor]:
    """(3, H, W) RGB -> lightness (1, H, W), L/50 - 1, and colour (2, H, W), ab/110."""
    rgb = ((picture.float().cpu() + 1) / 2).permute(1, 2, 0).contiguous().numpy()
    lab = torch.from_numpy(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)).permute(2, 0, 1)
    return lab[:1] / 50 - 1, lab[1:] / 110


def from_lab(light: Tensor, colour: Tensor) -> Tensor:
    """Its inverse; colours that no screen has become the nearest in each channel."""
    lab = torch.cat([(light.cpu() + 1) * 50, colour.cpu() * 110]).float()
    rgb = cv2.cvtColor(lab.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_LAB2RGB)
    return torch.from_numpy(rgb).permute(2, 0, 1).clamp(0, 1) * 2 - 1


def draw(photo: Tensor) -> Tensor:
    """(C, H, W) -> (1, H, W), its edges in black on white."""
    grey = eight_bits(photo.mean(dim=0)).to(torch.uint8).numpy()
    lines = cv2.Canny(cv2.GaussianBlur(grey, (3, 3), 0), 100, 200)
    return torch.where(torch.from_numpy(lines) > 0, -1.0, 1.0)[None]


def resize(picture: Tensor, size) -> Tensor:
    """(C, H, W) -> (C, *size), bicubic, reduced without aliasing."""
    size = [max(1, side) for side in size]
    if list(picture.shape[-2:]) == size:
        return picture
    return F.interpolate(picture[None], size, mode="bicubic", antialias=True)[0].clamp(-1, 1)


def at_training_size(picture: Tensor, side: int) -> Tensor:
    """Its shorter side made `side` px long, as in training, and the other at most 4 times that."""
    height, width = picture.shape[-2:]
    scale = min(side / min(height, width), 4 * side / max(height, width))
    return resize(picture, [round(height * scale), round(width * scale)])


def in_tiles(run, x: Tensor, side: int) -> Tensor:
    """`run` on tiles of at most `side` px that overlap by half and fade into each other."""
    height, width = x.shape[-2:]
    if max(height, width) <= side:
        return run(x)
    (tops, rows), (lefts, columns) = (tiles(length, side) for length in (height, width))
    weights = rows[:, None] * columns
    corners = [(top, left) for top in tops for left in lefts]
    total = 0.0
    for top, left in tqdm(corners, "tiles", leave=False, disable=None):
        place = (..., slice(top, top + len(rows)), slice(left, left + len(columns)))
        y = run(x[place])
        if isinstance(total, float):
            total, share = (torch.zeros(len(z), height, width) for z in (y, y[:1]))
        total[place] += y * weights
        share[place] += weights
    return total / share


def tiles(length: int, side: int) -> tuple[list[int], Tensor]:
    """Where tiles begin along one side of a picture, and how much each of their pixels counts."""
    side = min(side, length)
    starts = [*range(0, length - side, max(1, side // 2)), length - side]
    middle = torch.arange(side) + 0.5
    return starts, torch.minimum(middle, side - middle)
