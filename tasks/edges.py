"""Edges: a drawing -> a photo. Canny's detector draws the training inputs."""

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from images.pixels import eight_bits, to_image, to_tensor
from tasks.base import PhotoTask


class Edges(PhotoTask):
    """The input is the drawing, the target the photo."""

    def make_pair(self, x, y, random):
        return {"input": draw(y).repeat(self.config.in_channels, 1, 1), "target": y}


def draw(photo: Tensor) -> Tensor:
    """(C, H, W) -> (1, H, W), both in [-1, 1]: its edges, black lines 1 px wide on white."""
    gray = eight_bits(photo.mean(dim=0)).to(torch.uint8).numpy()
    lines = cv2.Canny(cv2.GaussianBlur(gray, (3, 3), 0), 100, 200)
    return torch.where(torch.from_numpy(lines) > 0, -1.0, 1.0)[None]


def draw_photo(photo: Image.Image) -> Image.Image:
    """The drawing of a photo, as `draw` makes it."""
    return to_image(draw(to_tensor(np.asarray(photo))))
