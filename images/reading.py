"""Image files: finding them and reading them as RGB, whatever their mode."""

import contextlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.cli import UserError


def optional_formats() -> dict[str, list[str]]:
    """The endings of AVIF, which Pillow reads from version 11.3, and of HEIC, with the package
    pillow-heif, where they can be read."""
    found = {}
    with contextlib.suppress(ImportError):
        from PIL import AvifImagePlugin

        found |= {"AVIF": [".avif"]} if AvifImagePlugin.SUPPORTED else {}
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        found["HEIF"] = [".heic", ".heif"]
    return found


OPTIONAL = optional_formats()
ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".bmp", ".tif", ".tiff", ".npy")
ENDINGS += tuple(chain(*OPTIONAL.values()))

# Pillow reads many more, some by starting other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", *OPTIONAL)
MAX_PIXELS = 2**26  # 8192 x 8192; a file of a few bytes can declare any size
MAX_PIXELS_IN_TILES = 2**30


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
        raise no_images(folder, folder.glob("*"))
    return files


def find_images_below(folder: Path, excluded: Path) -> list[Path]:
    """The image files in a folder and its subfolders, links included, in natural order, except
    those below `excluded`. Prints what is not read. Raises UserError if none."""
    files, seen = [], {os.path.realpath(excluded)}
    for here, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(here) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(os.path.realpath(here))
        files += [Path(here, name) for name in names]
    images = sorted(filter(is_image, files), key=natural_order)
    if not images:
        raise no_images(folder, files)
    report(folder, files)
    return images


def holds_images(folder: Path) -> bool:
    return any(map(is_image, folder.glob("*")))


def unread(paths: Iterable[Path]) -> str:
    """Counts what is no image, such as "2 .gif, 1 folder"; hidden files do not count."""
    kinds = Counter()
    for path in paths:
        if not is_image(path) and not path.name.startswith("."):
            kinds["folder" if path.is_dir() else path.suffix.lower() or "other"] += 1
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    heic = ".heic" in kinds or ".heif" in kinds
    return found + (" (pip install pillow-heif reads .heic)" if heic else "")


def no_images(folder: Path, paths: Iterable[Path]) -> UserError:
    found = unread(paths)
    instead = f", but {found}" if found else ""
    return UserError(f"{folder} holds no images ({', '.join(ENDINGS)}){instead}")


def report_unread(folders: Iterable[Path]) -> None:
    """Prints a line for each folder that holds what is not read."""
    for folder in folders:
        report(folder, folder.glob("*"))


def report(folder: Path, paths: Iterable[Path]) -> None:
    if found := unread(paths):
        print(f"{folder}: not read: {found}")


def is_large(width: int, height: int) -> bool:
    """Whether an image has too many pixels to be read, except in tiles."""
    return width * height > MAX_PIXELS


def check_pixels(width: int, height: int, large: bool = False) -> None:
    """Raises UserError if an image has too many pixels, or too many even in tiles if `large`."""
    if width * height > (MAX_PIXELS_IN_TILES if large else MAX_PIXELS):
        raise too_large(f"{width}x{height}", large)


def too_large(size: str, large: bool) -> UserError:
    if large:
        return UserError(f"it is {size}, over {MAX_PIXELS_IN_TILES // 10**6} megapixels")
    limit = f"over {MAX_PIXELS // 10**6} megapixels"
    return UserError(f"it is {size}, {limit}; evaluate.py --tile translates larger ones")


def read_image(
    path: Path, content: bytes | None = None, large: bool = False, as_rgb: bool = True
) -> Image.Image:
    """Reads an image file as upright RGB, whatever its mode; or, not `as_rgb`, upright with the
    values in the file. `content` are its bytes if they do not come from the disk; `large` is as in
    `check_pixels`. Raises UserError naming the file."""
    if large:
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS_IN_TILES  # Pillow's own limit
    try:
        if content is None and not path.is_file():  # opening a pipe would wait
            raise UserError("it is missing or not a regular file")
        if path.suffix.lower() == ".npy":
            either = "an input_range or a target_range, or class numbers in palette.json"
            raise UserError(f"an array needs {either}, see docs/own_data.md")
        # Opened here: given a name, Pillow maps a TIFF into memory and mixes up its EXIF rotation.
        with (
            open(path, "rb") if content is None else io.BytesIO(content) as file,
            Image.open(file, formats=FORMATS) as image,
        ):
            check_pixels(*image.size, large)
            if image.format == "PNG":  # Pillow checks its checksums only in verify()
                image.verify()
                image = Image.open(file, formats=("PNG",))
            if image.format in ("TIFF", "WEBP", "PNG") and getattr(image, "n_frames", 1) > 1:
                note_frames(image.format)
            return to_mode(image, channels=3) if as_rgb else upright(image)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: {too_large('too large', large)}") from error
    except UnidentifiedImageError as error:
        size = path.stat().st_size if content is None else len(content)
        kind = f"none of {', '.join(FORMATS)}" if size else "empty"
        raise UserError(f"{path} cannot be read as an image: it is {kind}") from error
    except Exception as error:  # Pillow has no common error for damaged files
        raise UserError(f"{path} cannot be read as an image: {error}") from error


@cache
def note_frames(kind: str) -> None:
    """Prints, once for each kind of file, that the first frame is used."""
    print(f"some {kind} files have several frames or pages; the first is used")


def upright(image: Image.Image) -> Image.Image:
    """The image, loaded, with its EXIF orientation applied."""
    try:
        image.getexif()
    except Exception:  # damaged EXIF data; the pixels are fine
        image.info.pop("exif", None)
    else:
        image = ImageOps.exif_transpose(image)
    image.load()
    return image


def to_mode(image: Image.Image, channels: int) -> Image.Image:
    """The image in mode L (1 channel) or RGB (3), with its EXIF orientation applied, 16 bits scaled
    to 8 and transparency blended with white. Raises UserError on 32-bit values."""
    image = upright(image)
    if image.mode.startswith("I;16"):  # Pillow's own conversion would clip or truncate
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError(f"32-bit values (mode {image.mode}) have no known range; save 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")
