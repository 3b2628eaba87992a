"""Images of other values than 8-bit colors, with any number of channels: .npy, 16-bit, float.

An array is (H, W, C), float32, in the units of its file; images/ranges.py maps it to [-1, 1].
"""

import io
import threading
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import PLANAR_CONFIGURATION, SAMPLESPERPIXEL, ImageFileDirectory_v2

from engine.cli import UserError
from engine.files import replacing
from images.nodata import mark_nodata
from images.ranges import is_eight_bit
from images.reading import FORMATS, check_pixels


def output_endings(value_range: str, channels: int, nodata: str) -> list[str]:
    """The endings that a translation can have, the usual one first: PNG for images, and for arrays
    with the values of one; see `is_eight_bit`."""
    if not value_range:
        return [".png"]
    eight_bit = is_eight_bit(value_range, channels, nodata)
    return [".png", ".npy", ".tif"] if eight_bit else [".npy", ".tif", ".png"]


# NumPy parses .npy headers as Python code, which Python 3.11 cannot do in two threads at once.
HEADER_LOCK = threading.Lock()


def read_array(path: Path, nodata: str = "", large: bool = False) -> np.ndarray:
    """Reads a .npy file, (H, W) or (H, W, C), or an image file at full bit depth; NaN where a pixel
    has the value `nodata`. `large` is as in `check_pixels`. Raises UserError naming the file."""
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".npy":
            with HEADER_LOCK:
                array = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            array = decode(content)
        array = np.atleast_3d(array)
        if array.ndim != 3 or not array.size:
            raise ValueError(f"its shape is {array.shape}, not (H, W) or (H, W, C)")
        check_pixels(*array.shape[1::-1], large)
        return mark_nodata(array, nodata)
    except Exception as error:  # NumPy's and OpenCV's readers raise nearly anything
        raise UserError(f"{path} cannot be read as an array: {error}") from error


def decode(content: bytes) -> np.ndarray:
    """The values in an image file, (H, W) or (H, W, C), colors as RGB. Raises ValueError, also for
    the layouts of TIFF that OpenCV misreads."""
    array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ValueError("it is not an image, or of a type that only .npy can have")
    channels = 1 if array.ndim == 2 else array.shape[2]
    if content[:2] in (b"II", b"MM"):
        file = io.BytesIO(content)
        tags = ImageFileDirectory_v2(file.read(16 if 43 in content[2:4] else 8))  # 43: BigTIFF
        file.seek(tags.next)
        tags.load(file)
        planar = tags.get(PLANAR_CONFIGURATION) == 2 and channels > 1
        if tags.next or planar or tags.get(SAMPLESPERPIXEL, 1) != channels:
            raise ValueError("it has pages, or bands that OpenCV cannot read; save it as .npy")
    elif (turn := orientation(content)) > 1:  # OpenCV applies only a TIFF's
        array = upright(array, turn)
    return swap_colors(array) if channels > 2 else array


def swap_colors(array: np.ndarray) -> np.ndarray:
    """RGB <-> BGR, OpenCV's order; further channels, such as alpha, stay."""
    channels = array.shape[2]
    return array[:, :, [2, 1, 0, *range(3, channels)]] if channels > 2 else array


def orientation(content: bytes) -> int:
    """The EXIF orientation of an image file, 1 (upright) to 8."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data; the pixels are fine
        return 1


def upright(array: np.ndarray, turn: int) -> np.ndarray:
    """An array (H, W, ...) whose EXIF orientation is `turn`, as it should be seen."""
    if turn in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        array = array[::-1]
    return array[:, ::-1] if turn in (2, 3, 6, 7) else array


def write_array(array: np.ndarray, path: Path, eight_bit: bool = False) -> None:
    """Writes an array as .npy or .tif, float32, or as a .png, rounded, with 16 bits or 8."""
    ending = path.suffix.lower()
    with replacing(path, durable=False) as temporary, open(temporary, "wb") as file:
        if ending == ".npy":
            np.save(file, array)
            return
        if array.shape[2] not in (1, 3, 4):
            raise UserError(f"{path} cannot hold {array.shape[2]} channels; .npy can")
        if ending == ".png" and eight_bit:
            array = array.round().astype(np.uint8)
        elif ending == ".png":
            if array.min() < 0 or not 1 < array.max() < 65535.5:
                found = f"{array.min():.4g} to {array.max():.4g}"
                raise UserError(f"{path} cannot hold values from {found}; .npy and .tif can")
            array = array.round().astype(np.uint16)
        lossless = [cv2.IMWRITE_TIFF_COMPRESSION, 5] if ending == ".tif" else []  # LZW
        _, content = cv2.imencode(ending, swap_colors(array), lossless)
        file.write(content.tobytes())
