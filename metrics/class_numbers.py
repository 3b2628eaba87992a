"""Label files that hold class numbers: one channel, or palette-mode PNGs, whose numbers are the
indices. The network sees the colors of the palette instead; outputs are saved as numbers as well.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from engine.cli import UserError
from images.pairs import Picture
from metrics.labels import read_classes
from metrics.palettes import Palette

# Files look like class numbers if they hold few numbers, up to 63 or in palette-mode files any, and
# most pixels equal their neighbor. Colors and photos do not.
FEW, HIGHEST, EQUAL_NEIGHBORS = 64, 63, 0.8
VOID = 255  # as in VOC and Cityscapes
NUMBERS = "output_labels"  # the folder of outputs in class numbers


def numbers_in(labels: Picture) -> np.ndarray:
    """The class numbers in an image or an array, (H, W) integers, or if it has colors (H, W, 3)
    uint8. Raises UserError on values that are no numbers of classes."""
    if isinstance(labels, np.ndarray):
        values = labels[:, :, 0] if labels.shape[2:] == (1,) else labels
    elif labels.mode in ("L", "P", "1", "I", "F") or labels.mode.startswith("I;16"):
        values = np.asarray(labels)
    else:
        return np.asarray(labels.convert("RGB"))
    if values.ndim != 2:
        raise UserError(f"class numbers have one channel, it has the shape {values.shape}")
    if values.dtype in (np.uint8, np.uint16, bool):
        return values.astype(np.uint16)
    numbers = values.astype(np.int64)
    if (numbers != values).any() or numbers.min() < 0 or numbers.max() >= 2**16:
        found = f"{values.min():.7g} to {values.max():.7g}"
        raise UserError(f"its values, {found}, are not class numbers: whole, from 0 to 65535")
    return numbers


def of_file(labels: Picture) -> Picture:
    """Labels as read from a file: in colors with three equal channels these are the numbers."""
    if isinstance(labels, Image.Image) and labels.mode == "RGB":
        pixels = np.asarray(labels)
        if (pixels == pixels[:, :, :1]).all():
            return Image.fromarray(pixels[:, :, 0])
    return labels


def paint(labels: Picture, palette: Palette) -> Image.Image:
    """The RGB image that the network sees of class numbers, or of an image in these colors, which
    stays as it is. Raises UserError on other numbers or colors."""
    values = numbers_in(labels)
    colors = np.array([*palette.classes.values(), *palette.void], np.uint8)
    if values.ndim == 3:
        code = np.array([2**16, 2**8, 1])
        if not np.isin(values @ code, colors @ code).all():
            raise UserError("it has colors, but its palette has class numbers")
        return Image.fromarray(values)
    place = np.full(2**16, -1, np.int16)
    place[list(palette.numbers)] = range(len(colors))
    places = place[values]
    if (places < 0).any():
        unknown = ", ".join(map(str, np.unique(values[places < 0])[:5]))
        raise UserError(f"it holds {unknown}, no class of its palette; add it to classes or void")
    return Image.fromarray(colors[places])


def paint_file(labels: Picture, palette: Palette, path: Path) -> Image.Image:
    """`paint` for what was read from a file. Raises UserError naming it."""
    try:
        if path.suffix.lower() in (".jpg", ".jpeg", ".jfif", ".jpe"):
            raise UserError("JPEG changes class numbers; save them as PNG")
        return paint(of_file(labels), palette)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def to_numbers(image: Tensor, palette: Palette) -> Image.Image:
    """The class numbers of a label map (C, H, W) in [-1, 1], by the nearest color: a PIL image in
    mode L, or with 16 bits if a number is above 255."""
    kind = np.uint8 if max(palette.numbers) < 2**8 else np.uint16
    return Image.fromarray(np.array(palette.numbers, kind)[read_classes(image, palette).cpu()])


def suggest_palette(images: Iterable[Picture], indices: bool = True) -> tuple[str, str] | None:
    """How files that look like class numbers are read without a palette, and the content of a
    palette.json for them; None if they do not. The images are as in their files. With `indices`,
    palette-mode files count whatever their colors."""
    found, modes = set(), set()
    for image in map(of_file, images):
        if isinstance(image, np.ndarray) or image.mode in ("1", "F"):
            return None
        try:
            numbers = numbers_in(image)
        except UserError:
            return None
        if numbers.ndim == 3 or (np.diff(numbers) == 0).mean() < EQUAL_NEIGHBORS:
            return None
        found |= set(np.unique(numbers).tolist())
        modes.add(image.mode)
    classes = sorted(found - {VOID})
    in_palette_mode = modes == {"P"}
    if not 2 <= len(classes) <= FEW or ("P" in modes and not indices):
        return None
    if classes[-1] > HIGHEST and not in_palette_mode:
        return None
    void = {"void": [VOID]} if VOID in found else {}
    text = json.dumps({"classes": {f"class {number}": number for number in classes}, **void})
    return "the colors of their palettes" if in_palette_mode else "nearly black colors", text
