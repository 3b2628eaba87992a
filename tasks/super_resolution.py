"""Super-resolution: an image that was reduced and enlarged bicubically -> the original."""

from torch import Tensor

from images.pixels import eight_bits, resize
from tasks.base import PhotoTask


class SuperResolution(PhotoTask):
    """Enlarges by `config.factor`. Translates in tiles of the size of training, so that the norms
    see as much at a time as they did then, and any size fits into memory."""

    def __init__(self, config):
        super().__init__(config)
        self.tile = config.crop_size

    def make_pair(self, x, y, random):
        height, width = (side // self.config.factor for side in y.shape[-2:])
        y = y[:, : height * self.config.factor, : width * self.config.factor]
        small = resize(y, (height, width))
        return {"input": self.enlarge(eight_bits(small) / 127.5 - 1), "target": y}

    def enlarge(self, image: Tensor) -> Tensor:
        return resize(image, [side * self.config.factor for side in image.shape[-2:]])

    def translate(self, image, run, mask=None):
        """Returns an image `factor` times as large."""
        return run(self.enlarge(image))
