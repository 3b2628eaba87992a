"""The image pairs of a split, found in one of the layouts of data/README.md."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from engine.cli import UserError
from engine.curves import evenly
from images.arrays import read_array
from images.ranges import measure_range
from images.reading import find_images, is_image, natural_order, read_image

Picture = Image.Image | np.ndarray

# What replaces a split that a dataset lacks, in order of preference.
STAND_INS = {"train": (), "val": ("test", "train"), "test": ("val", "train")}


class Pair(NamedTuple):
    """A pair's name and files. `a` and `b` have several files if their channels are stacked; `b` is
    empty if the file in `a` holds both halves, or is a photo."""

    name: str
    a: tuple[Path, ...]
    b: tuple[Path, ...] = ()


def stop(error: UserError) -> None:
    raise error


def by_stem(files: list[Path], refuse: Callable[[UserError], None]) -> dict[str, Path]:
    """Files by name without ending. Refuses the second of two with the same."""
    found = {}
    for file in files:
        if file.stem in found:
            other = found[file.stem].name
            refuse(UserError(f"{file} and {other} differ only in the ending; rename one"))
        else:
            found[file.stem] = file
    return found


def find_pairs(
    root: Path, split: str, refuse: Callable[[UserError], None] = stop
) -> tuple[str, list[Pair]]:
    """The pairs of a split in natural order, not opened, and the split that was used. Prints a
    message if another split replaces a missing one. Calls `refuse` for each file that is no pair.
    Raises UserError if there is nothing to use."""
    if not root.is_dir():
        raise UserError(f"data_root {root} does not exist (python -m tools.download fetches some)")
    folders = {side: folders_of(root, side) for side in "AB"}
    base = folders["A"][0] if all(folders.values()) else root
    used = next((name for name in (split, *STAND_INS[split]) if (base / name).is_dir()), None)
    if used is None:
        raise UserError(
            f"{base} has no folder {split!r}; data_root must name the folder above the splits "
            "(python -m tools.combine makes pairs of two folders, see data/README.md)"
        )
    if used != split:
        print(f"{base} has no split {split!r}; using {used!r}")

    if base == root:
        files = by_stem(find_images(base / used), refuse)
        return used, [Pair(stem, (file,)) for stem, file in files.items()]
    found = {
        folder: by_stem(find_images(folder / used), refuse)
        for folder in (*folders["A"], *folders["B"])
    }
    everywhere = set.intersection(*(set(files) for files in found.values()))
    for files in found.values():
        for file in [file for stem, file in files.items() if stem not in everywhere]:
            lacking = next(other for other in found if file.stem not in found[other])
            refuse(UserError(f"{file} has no partner of that name in {lacking / used}"))
    sides = [[found[folder] for folder in folders[side]] for side in "AB"]
    names = [stem for stem in found[base] if stem in everywhere]
    return used, [Pair(s, *(tuple(files[s] for files in side) for side in sides)) for s in names]


def folders_of(root: Path, side: str) -> list[Path]:
    """The folder A, or folders A1, A2 ... of inputs whose channels are stacked; B likewise."""
    if (root / side).is_dir():
        return [root / side]
    return sorted(filter(Path.is_dir, root.glob(f"{side}[1-9]*")), key=natural_order)


def find_photos(
    root: Path, split: str, refuse: Callable[[UserError], None] = stop
) -> tuple[str, list[Pair]]:
    """The same for photos. Without folders for the splits, every tenth is set aside for val and
    every tenth for test."""
    files = sorted(filter(is_image, root.glob("*")), key=natural_order)
    if not files or (root / "train").is_dir():
        return find_pairs(root, split, refuse)
    if len(files) < 10:
        print(f"{root} has too few images to set some aside; using all of them as {split!r}")
    else:
        aside = {8: "val", 9: "test"}
        files = [file for i, file in enumerate(files) if aside.get(i % 10, "train") == split]
    return split, [Pair(stem, (file,)) for stem, file in by_stem(files, refuse).items()]


# ---- Reading ----------------------------------------------------------------------------------


def read_pair(
    pair: Pair, arrays: tuple[bool, bool] = (False, False), nodata: str = ""
) -> tuple[Picture, Picture]:
    """A and B of a pair, of equal size: RGB images, or where asked arrays of the values in their
    files, NaN where these are `nodata`. Raises UserError."""
    if pair.b:
        sides = zip(pair[1:], arrays, strict=True)
        a, b = (read_side(files, array, nodata) for files, array in sides)
        if size_of(a) != size_of(b):
            sizes = ["{}x{}".format(*size_of(image)) for image in (a, b)]
            other = f"{pair.b[0]} is {sizes[1]}; sizes must be equal"
            raise UserError(f"{pair.a[0]} is {sizes[0]} but {other}")
        return a, b
    images = {array: read_side(pair.a, array, nodata) for array in set(arrays)}
    a, b = (images[array] for array in arrays)
    width, _ = size_of(a)
    if width % 2:
        raise UserError(f"{pair.a[0]} is {width} px wide; two equal halves need an even width")
    return half_of(a, "A"), half_of(b, "B")


def read_side(files: tuple[Path, ...], array: bool, nodata: str = "") -> Picture:
    """An image, or an array, in which the channels of several files are joined; see `read_pair`."""
    if not array and len(files) > 1:
        raise UserError(f"{files[0]} and others are stacked; set input_range or target_range")
    if not array:
        return read_image(files[0])
    arrays = [read_array(file, nodata) for file in files]
    if len({array.shape[:2] for array in arrays}) > 1:
        raise UserError(f"{files[0]} does not have the size of {', '.join(map(str, files[1:]))}")
    return np.concatenate(arrays, axis=2)


def size_of(image: Picture) -> tuple[int, int]:
    """Width and height."""
    return image.size if isinstance(image, Image.Image) else image.shape[1::-1]


def half_of(image: Picture, part: str) -> Picture:
    """The left half A or the right half B of an image, or the whole."""
    width, height = size_of(image)
    left, right = {"A": (0, width // 2), "B": (width // 2, width // 2 * 2)}.get(part, (0, width))
    if isinstance(image, np.ndarray):
        return image[:, left:right]
    return image.crop((left, 0, right, height))


def measure_ranges(
    root: Path, ranges: tuple[str, str], channels: tuple[int, int], nodata: str = ""
) -> tuple[str, str]:
    """The ranges of A and B, with percentiles replaced by their values in up to 100 training pairs
    that can be read and have so many channels, `nodata` left out. Raises UserError."""
    if "%" not in "".join(ranges):
        return ranges
    _, pairs = find_pairs(root, "train", lambda error: None)  # the dataset reports bad files
    arrays = (bool(ranges[0]), bool(ranges[1]))
    found = sample_pixels(pairs, lambda pair: read_pair(pair, arrays, nodata), 100)
    a, b = map(measure_range, ranges, zip(*found, strict=True), channels, "AB")
    return a, b


def sample_pixels(
    pairs: list[Pair], read: Callable[[Pair], Iterable[Picture]], most: int
) -> list[list[np.ndarray]]:
    """Up to 100,000 pixels (N, C) of both images of each of at most so many pairs, evenly chosen,
    that can be read. Raises UserError if none can."""
    found, errors = [], []
    for pair in evenly(pairs, most):
        try:
            images = map(np.asarray, read(pair))
        except UserError as error:
            errors.append(error)
            continue
        pixels = (image.reshape(-1, image.shape[2]) for image in images)
        found.append([some[:: len(some) // 10**5 + 1].copy() for some in pixels])
    if not found:
        raise errors[0]
    return found
