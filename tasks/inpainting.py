"""Inpainting: an image with a hole -> the whole image (Section 6.2)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from engine.cli import UserError
from images.pixels import resize, to_tensor
from images.reading import find_images, read_image
from tasks.base import PhotoTask, at_training_size


class Inpainting(PhotoTask):
    """The hole is white in the input, as in the Lua code. Pairs have a third entry, "mask"."""

    masks: tuple[Tensor, ...] = ()  # (1, S, S) bool, to train with, if config.mask is a folder

    def prepare(self, refuse):
        if self.config.mask not in ("center", "random"):
            self.masks = read_masks(Path(self.config.mask), self.config.crop_size, refuse)

    def make_pair(self, x, y, random):
        hole = self.hole(*y.shape[-2:], random)
        return {"input": y.masked_fill(hole, 1.0), "target": y, "mask": hole}

    def hole(self, height: int, width: int, random: np.random.Generator) -> Tensor:
        """A hole for an image, (1, H, W) bool."""
        if self.masks:
            mask = self.masks[random.integers(len(self.masks))]
            return F.interpolate(mask[None].float(), (height, width))[0] > 0
        hole = torch.zeros(1, height, width, dtype=torch.bool)
        if self.config.mask == "center":  # half the height and width
            hole[:, height // 4 : height - height // 4, width // 4 : width - width // 4] = True
            return hole
        for _ in range(random.integers(1, 4)):
            h, w = (int(side * random.uniform(0.15, 0.5)) for side in (height, width))
            top, left = random.integers(height - h + 1), random.integers(width - w + 1)
            hole[:, top : top + h, left : left + w] = True
        return hole

    def show(self, pair, y):
        return torch.where(pair["mask"], y, pair["input"])

    def translate(self, image, run, mask=None):
        """Fills the hole `mask`, (1, H, W) bool, at the size of training; by default the one of
        training, if that is the center. The pixels around it keep their exact values. Raises
        UserError if a mask is needed."""
        if mask is None and self.config.mask != "center":
            raise UserError("this run was trained to fill any hole; specify which (--mask)")
        if mask is None:
            mask = self.hole(*image.shape[-2:], np.random.default_rng(0))
        # White before resizing, so that nothing under the mask is seen, and again afterwards,
        # including the rim where both have mixed; every pixel that the mask touches counts.
        small = at_training_size(image.masked_fill(mask, 1.0), self.config.crop_size)
        hole = F.adaptive_max_pool2d(mask.float(), small.shape[-2:])
        if small.shape != image.shape:
            hole = F.max_pool2d(hole, 3, stride=1, padding=1)
        filled = resize(run(small.masked_fill(hole > 0, 1.0)), image.shape[-2:])
        return torch.where(mask, filled, image)


def read_masks(folder: Path, size: int, refuse: Callable[[UserError], None]) -> tuple[Tensor, ...]:
    """Reads the masks in a folder as (1, size, size) bool, true where they are white. Calls
    `refuse` for each file that cannot be read. Raises UserError if none can."""
    if not folder.is_dir():
        raise UserError(f"mask is {str(folder)!r}; it must be center, random or a folder of masks")
    masks = []
    for path in find_images(folder):
        try:
            image = read_image(path).convert("L").resize((size, size))
        except UserError as error:
            refuse(error)
        else:
            mask = to_tensor(np.asarray(image)) > 0
            if mask.any():
                masks.append(mask)
            else:
                refuse(UserError(f"{path} has no white pixels at {size} px; the hole is white"))
    if not masks:
        raise UserError(f"none of the masks in {folder} can be used")
    return tuple(masks)


def read_mask(path: Path, large: bool = False) -> Image.Image:
    """Reads the mask of an image to fill; `large` is as in `check_pixels`. Raises UserError, also
    if there is nothing to fill."""
    mask = read_image(path, large=large).convert("L")
    if mask.getextrema()[1] < 128:
        raise UserError(f"the mask {path} has no white pixels; the hole must be white")
    return mask
