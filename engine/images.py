"""Images: finding and reading files, pixels <-> tensors, resizing, tiling, grids.

A tensor image is (C, H, W), floats in [-1, 1].
"""

import io
import re
import textwrap
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from engine.cli import UserError
from engine.files import replacing

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".npy")

# Pillow reads many more, some by starting other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 2**26  # 8192 x 8192; a file of a few bytes can declare any size

# ---- Files ------------------------------------------------------------------------------------


def natural_order(path: Path) -> list:
    """A sorting key that puts 2.jpg before 10.jpg."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if part.isdecimal() else part for part in parts]


def is_image(path: Path) -> bool:
    """Whether the name is that of an image. Hidden files, such as macOS's ._1.jpg, are not."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def find_images(folder: Path) -> list[Path]:
    """The image files directly in a folder, in natural order. Raises UserError if none."""
    files = sorted(filter(is_image, folder.glob("*")), key=natural_order)
    if not files:
        raise UserError(f"{folder} holds no images ({', '.join(ENDINGS)})")
    return files


def read_image(path: Path, content: bytes | None = None) -> Image.Image:
    """Reads an image file as upright RGB, whatever its mode. `content` are its bytes if they do not
    come from the disk. Raises UserError naming the file."""
    try:
        if content is None and not path.is_file():  # opening a pipe would wait
            raise UserError("it is missing or not a regular file")
        if path.suffix.lower() == ".npy":
            raise UserError("an array needs an input_range or a target_range, see docs/own_data.md")
        # Opened here: given a name, Pillow maps a TIFF into memory and mixes up its EXIF rotation.
        with (
            open(path, "rb") if content is None else io.BytesIO(content) as file,
            Image.open(file, formats=FORMATS) as image,
        ):
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(f"it is {width}x{height}, over {MAX_PIXELS // 10**6} megapixels")
            if image.format == "PNG":  # Pillow checks its checksums only in verify()
                image.verify()
                image = Image.open(file, formats=("PNG",))
            return to_mode(image, channels=3)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except UnidentifiedImageError as error:
        size = path.stat().st_size if content is None else len(content)
        kind = f"none of {', '.join(FORMATS)}" if size else "empty"
        raise UserError(f"{path} cannot be read as an image: it is {kind}") from error
    except Exception as error:  # Pillow's readers raise nearly anything on a damaged file
        raise UserError(f"{path} cannot be read as an image: {error}") from error


def save_image(image: Image.Image, path: Path) -> None:
    """Writes a PNG, atomically, and creates its folder."""
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")


def to_mode(image: Image.Image, channels: int) -> Image.Image:
    """The image in mode L (1 channel) or RGB (3), with its EXIF orientation applied, 16 bits scaled
    to 8 and transparency blended with white. Raises UserError on 32-bit values."""
    try:
        image.getexif()
    except Exception:  # damaged EXIF data; the pixels are fine
        image.info.pop("exif", None)
    else:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow's own conversion would clip or truncate
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError(f"32-bit values (mode {image.mode}) have no known range; save 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def plan_outputs(
    source: Path, output: Path, others: Sequence[Path] = (), endings: Sequence[str] = (".png",)
) -> dict[Path, Path]:
    """Maps each image of `source` to its output file: the same name and subfolders below `output`,
    with the first of `endings`. For a single image, `output` may also be a file with any of them.
    An `output` inside `source` is not searched for inputs. Raises UserError if there is no image,
    or if an image or one of `others` would be overwritten."""
    if not source.exists():
        raise UserError(f"image or folder {source} does not exist")
    if not source.is_dir():
        is_file = output.suffix in endings and not output.is_dir()
        if output.suffix and not is_file and not output.is_dir():
            raise UserError(f"--output {output} is neither a folder nor a {', '.join(endings)}")
        plan = {source: output if is_file else output / f"{source.stem}{endings[0]}"}
    elif output.resolve() == source.resolve():
        raise UserError(f"--output is the folder of the inputs, {source}; they would be lost")
    else:
        files = sorted(filter(is_image, source.rglob("*")), key=natural_order)
        files = [file for file in files if output.resolve() not in file.resolve().parents]
        if not files:
            raise UserError(f"{source} holds no images ({', '.join(ENDINGS)})")
        names = [file.relative_to(source).with_suffix("") for file in files]
        # 1.jpg and 1.png keep their endings; file systems may not distinguish A.png and a.png.
        if len({str(name).casefold() for name in names}) < len(names):
            names = [file.relative_to(source) for file in files]
        plan = {
            file: output / f"{name}{endings[0]}" for file, name in zip(files, names, strict=True)
        }

    sources = {file.resolve() for file in (*plan, *others)}
    for file, result in plan.items():
        if result.resolve() in sources:
            raise UserError(f"the translation of {file} would overwrite {result}; give an --output")
    return plan


# ---- Pixels and tensors -----------------------------------------------------------------------


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Pixels (..., H, W, C) or (H, W) -> (..., C, H, W) in [-1, 1], where floats already are."""
    # In NumPy, on one thread: torch's threads would wait for each other on shared cores.
    values = np.array(np.moveaxis(np.atleast_3d(pixels), -1, -3), np.float32, order="C")
    if pixels.dtype == np.uint8:
        values /= 127.5
        values -= 1
    return torch.from_numpy(values)


def eight_bits(image: Tensor) -> Tensor:
    """[-1, 1] -> whole numbers in [0, 255], as floats: the values an image file keeps."""
    return ((image.float() + 1) * 127.5).round().clamp(0, 255)


def shown(image: Tensor) -> Tensor:
    """The channels of (C, H, W) that are shown: 1 or 3 as they are, else the first 3, or of 2 the
    first."""
    return image if len(image) in (1, 3) else image[: 3 if len(image) > 3 else 1]


def to_image(image: Tensor) -> Image.Image:
    """(C, H, W) in [-1, 1], C 1 or 3 -> a PIL image in mode L or RGB."""
    pixels = eight_bits(shown(image).cpu()).to(torch.uint8)
    return Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())


def resize(image: Tensor, size) -> Tensor:
    """(C, H, W) -> (C, *size), bicubic with antialiasing."""
    size = [max(1, side) for side in size]
    if list(image.shape[-2:]) == size:
        return image
    return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(-1, 1)


def in_tiles(run, x: Tensor, side: int) -> Tensor:
    """Applies `run`, (C, H, W) -> (C, H, W), to tiles of at most `side` px, which overlap by half
    and are blended linearly."""
    height, width = x.shape[-2:]
    if max(height, width) <= side:
        return run(x)
    (tops, rows), (lefts, columns) = (tiles(length, side) for length in (height, width))
    weights = rows[:, None] * columns
    total, share = 0, torch.zeros(1, height, width)
    corners = list(product(tops, lefts))
    for top, left in tqdm(corners, "tiles", leave=False, disable=None):
        place = (..., slice(top, top + len(rows)), slice(left, left + len(columns)))
        part = run(x[place]) * weights  # may have other channels than x
        total = total if share.any() else part.new_zeros(len(part), height, width)
        total[place] += part
        share[place] += weights
    return total / share


def tiles(length: int, side: int) -> tuple[list[int], Tensor]:
    """Where the tiles along one side of an image begin, and the weight of each of their pixels."""
    side = min(side, length)
    starts = [*range(0, length - side, max(1, side // 2)), length - side]
    middle = torch.arange(side) + 0.5
    return starts, torch.minimum(middle, side - middle)


# ---- Grids ------------------------------------------------------------------------------------

GAP = 4  # px around each image of a grid


def image_grid(rows: list[list[Tensor | Image.Image]], titles: list[str] = ()) -> Image.Image:
    """Draws rows of images on white, with a title above each column. Images are tensors (C, H, W)
    in [-1, 1], or PIL images in mode L or RGB; those of several sizes are centered on squares."""
    from torchvision.utils import make_grid  # its import takes a second

    images = [image for row in rows for image in row]
    for i, image in enumerate(images):
        tensor = image if isinstance(image, Tensor) else to_tensor(np.asarray(image))
        images[i] = shown(tensor.cpu().float()).expand(3, -1, -1)
    if len({image.shape for image in images}) > 1:
        images = on_squares(images)
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


def on_squares(images: list[Tensor], largest: int = 512) -> list[Tensor]:
    """Centers images on white squares of one size; squares of one size stay as they are."""
    sides = {side for image in images for side in image.shape[-2:]}
    if len(sides) == 1:
        return images
    return [on_square(image, min(largest, max(sides))) for image in images]


def on_square(image: Tensor, side: int) -> Tensor:
    """Centers an image on a white square, reduced if it is larger."""
    scale = min(1, side / max(image.shape[-2:]))
    image = resize(image, [round(length * scale) for length in image.shape[-2:]])
    top, left = ((side - length) // 2 for length in image.shape[-2:])
    square = image.new_ones(len(image), side, side)
    square[:, top : top + image.shape[-2], left : left + image.shape[-1]] = image
    return square
