"""Grids of images, with a title above each column."""

import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from engine.curves import GAP
from images.pixels import resize, to_image, to_tensor, visible_channels


def image_grid(rows: list[list[Tensor | Image.Image]], titles: list[str] = ()) -> Image.Image:
    """Draws rows of images on white, with a title above each column. Images are tensors (C, H, W)
    in [-1, 1], or PIL images in mode L or RGB; those of several sizes are centered on squares."""
    from torchvision.utils import make_grid  # its import takes a second

    images = [image for row in rows for image in row]
    for i, image in enumerate(images):
        tensor = image if isinstance(image, Tensor) else to_tensor(np.asarray(image))
        images[i] = visible_channels(tensor.cpu().float()).expand(3, -1, -1)
    if len({image.shape for image in images}) > 1:
        images = center_on_squares(images)
    grid = to_image(make_grid(images, nrow=len(rows[0]), padding=GAP, pad_value=1.0))
    if not titles:
        return grid
    pitch = images[0].shape[-1] + GAP
    font = ImageFont.load_default(size=14)
    lines = [textwrap.wrap(title, max(pitch // 8, 6)) for title in titles]  # a letter: 8 px
    top = 8 + 16 * max(map(len, lines))
    titled = Image.new("RGB", (grid.width, grid.height + top), "white")
    titled.paste(grid, (0, top))
    draw = ImageDraw.Draw(titled)
    for column, words in enumerate(lines):
        place = (GAP / 2 + (column + 0.5) * pitch, top / 2)
        draw.text(place, "\n".join(words), "black", font, anchor="mm", align="center", spacing=2)
    return titled


def center_on_squares(images: list[Tensor], largest: int = 512) -> list[Tensor]:
    """Centers images on white squares of one size; squares of one size stay as they are."""
    sides = {side for image in images for side in image.shape[-2:]}
    if len(sides) == 1:
        return images
    return [center_on_square(image, min(largest, max(sides))) for image in images]


def center_on_square(image: Tensor, side: int) -> Tensor:
    """Centers an image on a white square, reduced if it is larger."""
    scale = min(1, side / max(image.shape[-2:]))
    image = resize(image, [round(length * scale) for length in image.shape[-2:]])
    top, left = ((side - length) // 2 for length in image.shape[-2:])
    square = image.new_ones(len(image), side, side)
    square[:, top : top + image.shape[-2], left : left + image.shape[-1]] = image
    return square


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Both images beside each other, RGB, the left one at the height of the right."""
    if left.height != right.height:
        width = round(left.width * right.height / left.height)
        left = left.resize((width, right.height), Image.Resampling.BICUBIC)
    both = Image.new("RGB", (left.width + right.width, right.height))
    both.paste(left)
    both.paste(right, (left.width, 0))
    return both
