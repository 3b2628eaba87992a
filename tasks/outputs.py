"""Translations as files: in the colors, units or class numbers of the data they learned from."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from config import Config
from engine.cli import UserError
from engine.files import save_image
from images.arrays import write_array
from images.gallery import thumbnail
from images.grids import side_by_side
from images.nodata import mean_error, write_nodata
from images.pixels import to_image, to_tensor
from images.ranges import from_unit, is_eight_bit
from metrics.class_numbers import NUMBERS, to_numbers
from metrics.palettes import Palette
from tasks import task_of


class Translation(NamedTuple):
    """A translated pair of a dataset."""

    name: str
    x: Tensor  # (C, H, W) in [-1, 1], as are the next two
    output: Tensor  # G(x)
    y: Tensor
    index: int
    missing: tuple[np.ndarray, np.ndarray]  # where x and y have no data, (H, W, C) bool


def save_output(
    image: Image.Image | np.ndarray,
    path: Path,
    config: Config,
    beside: Image.Image | np.ndarray | None = None,
) -> None:
    """Writes the translation of a file, if given with its input `beside` it, and its class numbers
    if it has them. Raises UserError."""
    if beside is not None and (config.input_range or config.target_range):
        raise UserError("--side_by_side is for 8-bit colors; this run translates arrays")
    if config.target_range:
        eight_bit = is_eight_bit(config.target_range, config.out_channels, config.nodata)
        write_array(image, path, eight_bit=eight_bit)
    else:
        save_image(image if beside is None else side_by_side(beside, image), path)
    task = task_of(config)
    if task.numbers and config.direction == "AtoB":
        labels = to_numbers(to_tensor(np.asarray(image)), task.palette)
        save_image(labels, path.parent / NUMBERS / path.name)


def save_translation(
    translation: Translation, folder: Path, config: Config, palette: Palette | None
) -> list[str]:
    """Writes the three images, and the output's values or class numbers if it has them. Returns
    thumbnails of the images. `palette` is that of the outputs. Raises UserError."""
    name, x, output, y, _, missing = translation
    ranges = (config.input_range, config.target_range, config.target_range)
    images = [to_image(image, range) for image, range in zip((x, output, y), ranges, strict=True)]
    for kind, image in zip(("input", "output", "target"), images, strict=True):
        save_image(image, folder / kind / f"{name}.png")
    if palette and palette.numbers:
        save_image(to_numbers(output, palette), folder / NUMBERS / f"{name}.png")
    if config.target_range:
        values = write_nodata(to_units(output, config), missing[0], config.nodata)
        write_array(values, folder / "values" / f"{name}.npy")
    return [thumbnail(image) for image in images]


def value_error(translation: Translation, config: Config) -> float:
    """The mean absolute error of an output in the units of the targets."""
    values, truth = (to_units(image, config) for image in (translation.output, translation.y))
    return mean_error(values, truth, *translation.missing)


def to_units(image: Tensor, config: Config) -> np.ndarray:
    """(C, H, W) in [-1, 1] -> (H, W, C) in the units of the targets."""
    return from_unit(image.permute(1, 2, 0).numpy(), config.target_range)
