"""The interface of a task; `Task` itself reads both images of a pair from files.

Images are (C, H, W) floats in [-1, 1], C 1 or 3, unless a task says otherwise.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from config import Config
from engine.cli import UserError
from engine.images import resize


class Task:
    """Pairs from files. Other tasks make their pairs from photos and override how."""

    tile = 0  # side of the tiles in which images are translated; 0: whole

    def __init__(self, config: Config):
        self.config = config
        self.from_photos = config.task != "pairs"
        self.channels = config.in_channels  # of an image passed to `translate`
        self.photo_channels = 1 if config.out_channels == 1 else 3  # that a photo is read with
        # Channels kept in the cache: those of a photo, or of both images.
        both = config.in_channels + config.out_channels
        self.cached_channels = self.photo_channels if self.from_photos else both

    def prepare(self, refuse: Callable[[UserError], None]) -> None:
        """Reads what training needs besides the photos. Calls `refuse` for each bad file."""

    def target(self, photo: np.ndarray) -> np.ndarray:
        """Makes the target for a photo, uint8 (S, S, C); both then get the same crop and flip."""
        return photo

    def pair(self, x: Tensor, y: Tensor, random: np.random.Generator) -> dict[str, Tensor]:
        """Makes {"input", "target"} of both images after crop and flip, on the CPU."""
        return {"input": x, "target": y}

    def show(self, pair: dict[str, Tensor], y: Tensor) -> Tensor:
        """The image, 1 or 3 channels, for y: `pair["target"]` or the generator's output."""
        return y

    def translate(
        self, image: Tensor, run: Callable[[Tensor], Tensor], mask: Tensor | None = None
    ) -> Tensor:
        """Translates an image of any size, on the CPU. `run` is the generator, for any size."""
        return run(image)


def at_training_size(image: Tensor, side: int) -> Tensor:
    """Resizes the shorter side to `side` px, as in training, and the longer to at most 4 * side."""
    height, width = image.shape[-2:]
    scale = min(side / min(height, width), 4 * side / max(height, width))
    return resize(image, [round(height * scale), round(width * scale)])
