"""Colorization: lightness -> color, in Lab (Section 4.5). Scaled as in the Lua code."""

import cv2
import torch
from torch import Tensor

from images.pixels import resize
from tasks.base import PhotoTask, at_training_size


class Colorization(PhotoTask):
    """The input is the lightness, L/50 - 1, (1, H, W); the target the color, ab/110, (2, H, W)."""

    def __init__(self, config):
        super().__init__(config)
        self.channels = 3

    def make_pair(self, x, y, random):
        light, color = to_lab(y)
        return {"input": light, "target": color}

    def show(self, pair, y):
        return from_lab(pair["input"], y)

    def translate(self, image, run, mask=None):
        """Predicts the color at the size of training and combines it with the lightness at full
        size: the eye misses detail in lightness only."""
        light, _ = to_lab(image)
        color = run(at_training_size(light, self.config.crop_size))
        return from_lab(light, resize(color, image.shape[-2:]))


def to_lab(image: Tensor) -> tuple[Tensor, Tensor]:
    """RGB (3, H, W) in [-1, 1] -> lightness (1, H, W), L/50 - 1, and color (2, H, W), ab/110."""
    rgb = ((image.float().cpu() + 1) / 2).permute(1, 2, 0).contiguous().numpy()
    lab = torch.from_numpy(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)).permute(2, 0, 1)
    return lab[:1] / 50 - 1, lab[1:] / 110


def from_lab(light: Tensor, color: Tensor) -> Tensor:
    """The inverse of `to_lab`. Colors outside of RGB are clipped in each channel."""
    lab = torch.cat([(light.cpu() + 1) * 50, color.cpu() * 110]).float()
    rgb = cv2.cvtColor(lab.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_LAB2RGB)
    return torch.from_numpy(rgb).permute(2, 0, 1).clamp(0, 1) * 2 - 1
