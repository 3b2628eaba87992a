"""The image pairs of a split, found in one of the layouts of data/README.md."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from engine.cli import UserError
from engine.curves import evenly
from images.arrays import read_array
from images.names import by_name, core, near_misses
from images.ranges import measure_range
from images.reading import (
    find_images,
    holds_images,
    is_image,
    natural_order,
    read_image,
    report_unread,
)

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


def find_pairs(
    root: Path, split: str, refuse: Callable[[UserError], None] = stop
) -> tuple[str, list[Pair]]:
    """The pairs of a split in natural order, not opened, and the split that was used. Prints a
    message if another split replaces a missing one, and on files that are not read. Calls `refuse`
    for each file that is no pair. Raises UserError if there is nothing to use."""
    sides = sides_of(root)
    used = choose_split(sides, split)
    if used == split:
        report_unread(folder / used for side in sides for folder in side)
    return used, match_pairs(sides, used, refuse)


def sides_of(root: Path) -> tuple[list[Path], list[Path]]:
    """The folders above the splits: those of A and of B, or `root` alone if a file holds both.
    Raises UserError if it does not exist."""
    if not root.is_dir():
        raise UserError(f"data_root {root} does not exist (python -m tools.download fetches some)")
    a, b = folders_of(root, "A"), folders_of(root, "B")
    return (a, b) if a and b else ([root], [])


def choose_split(sides: tuple[list[Path], list[Path]], split: str) -> str:
    """The split, or the one that replaces it, with a message. Raises UserError if there is none."""
    folders = [*sides[0], *sides[1]]
    for name in (split, *STAND_INS[split]):
        lacking = [folder for folder in folders if not holds_images(folder / name)]
        if not lacking:
            if name != split:
                missing = f"{folders[0]} has no split {split!r}{misnamed(folders[0], split)}"
                print(f"{missing}; using {name!r}")
            return name
        if len(lacking) < len(folders) and split != "train":
            whole = next(folder for folder in folders if folder not in lacking) / name
            print(
                f"{whole} is left out, as there are no images in {lacking[0] / name}; to translate "
                f"new inputs: python evaluate.py RUN --input {whole}"
            )
    for folder in folders:
        if (folder / split).is_dir():
            find_images(folder / split)  # or raises
    missing = f"{folders[0]} has no folder {split!r}{misnamed(folders[0], split)}"
    raise UserError(
        f"{missing}; data_root must name the folder above the splits (python -m tools.combine "
        "makes pairs of two folders, see data/README.md)"
    )


def misnamed(folder: Path, split: str) -> str:
    """Names a folder such as validation/, which is not read."""
    names = (other.name for other in folder.glob("*") if other.is_dir())
    near = (name for name in names if name.casefold().startswith(split) and name != split)
    found = next(near, None)
    return f" ({found} is not read: rename it to {split})" if found else ""


def match_pairs(
    sides: tuple[list[Path], list[Path]], split: str, refuse: Callable[[UserError], None]
) -> list[Pair]:
    """The pairs of a split; see `find_pairs`."""
    found = {
        folder: by_name(find_images(folder / split), refuse) for side in sides for folder in side
    }
    everywhere = set.intersection(*(set(files) for files in found.values()))
    alone = {folder: near_misses(files.keys() - everywhere) for folder, files in found.items()}
    for files in found.values():
        for name in [name for name in files if name not in everywhere]:
            lacking = next(other for other in found if name not in found[other])
            near = alone[lacking].get(core(name))
            hint = f"; {found[lacking][near].name} there is similar: rename one" if near else ""
            where = f"no partner of that name in {lacking / split}"
            refuse(UserError(f"{files[name]} has {where}{hint}"))
    names = [name for name in found[sides[0][0]] if name in everywhere]
    stacks = [[tuple(found[folder][name] for folder in side) for side in sides] for name in names]
    return [Pair(a[0].stem, a, b) for a, b in stacks]


def folders_of(root: Path, side: str) -> list[Path]:
    """The folder A, or folders A1, A2 ... of inputs whose channels are stacked; B likewise."""
    if (root / side).is_dir():
        return [root / side]
    return sorted(filter(Path.is_dir, root.glob(f"{side}[1-9]*")), key=natural_order)


def find_photos(
    root: Path, split: str, refuse: Callable[[UserError], None] = stop
) -> tuple[str, list[Pair]]:
    """`find_pairs` for photos. Without folders for the splits, every tenth is set aside for val and
    every tenth for test."""
    files = sorted(filter(is_image, root.glob("*")), key=natural_order)
    if not files or (root / "train").is_dir():
        return find_pairs(root, split, refuse)
    if len(files) < 10:
        print(f"{root} has too few images to set some aside; using all of them as {split!r}")
    else:
        aside = {8: "val", 9: "test"}
        files = [file for i, file in enumerate(files) if aside.get(i % 10, "train") == split]
    report_unread([root])
    return split, [Pair(file.stem, (file,)) for file in by_name(files, refuse).values()]


# ---- Reading ----------------------------------------------------------------------------------


def read_pair(
    pair: Pair,
    arrays: tuple[bool, bool] = (False, False),
    nodata: str = "",
    as_rgb: tuple[bool, bool] = (True, True),
) -> tuple[Picture, Picture]:
    """A and B of a pair, of equal size: RGB images; where `arrays`, values as stored, NaN for
    `nodata`; where not `as_rgb`, images as stored, such as class numbers. Raises UserError."""
    kinds = [(array, nodata, False, rgb) for array, rgb in zip(arrays, as_rgb, strict=True)]
    if pair.b:
        a, b = (read_side(files, *kind) for files, kind in zip(pair[1:], kinds, strict=True))
        if size_of(a) != size_of(b):
            sizes = ["{}x{}".format(*size_of(image)) for image in (a, b)]
            other = f"{pair.b[0]} is {sizes[1]}; sizes must be equal"
            advice = "python -m tools.combine --resize makes them so"
            raise UserError(f"{pair.a[0]} is {sizes[0]} but {other} ({advice})")
        return a, b
    images = {kind: read_side(pair.a, *kind) for kind in set(kinds)}
    a, b = (images[kind] for kind in kinds)
    width, _ = size_of(a)
    if width % 2:
        raise UserError(f"{pair.a[0]} is {width} px wide; two equal halves need an even width")
    return half_of(a, "A"), half_of(b, "B")


def read_side(
    files: tuple[Path, ...],
    array: bool,
    nodata: str = "",
    large: bool = False,
    as_rgb: bool = True,
) -> Picture:
    """An image, or an array in which the channels of several files are joined; see `read_array`.
    Images are as in `read_image`."""
    array = array or (not as_rgb and files[0].suffix.lower() == ".npy")
    if not array and len(files) > 1:
        raise UserError(f"{files[0]} and others are stacked; set input_range or target_range")
    if not array:
        return read_image(files[0], large=large, as_rgb=as_rgb)
    arrays = [read_array(file, nodata, large) for file in files]
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
    sides = sides_of(root)
    choose_split(sides, "train")  # or raises
    pairs = match_pairs(sides, "train", lambda error: None)  # the dataset reports bad files
    arrays = (bool(ranges[0]), bool(ranges[1]))
    # Images of the other side are not looked at; they may hold class numbers.
    read = partial(read_pair, arrays=arrays, nodata=nodata, as_rgb=(False, False))
    found = sample_pixels(pairs, read, 100)
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
            images = map(np.atleast_3d, read(pair))
        except UserError as error:
            errors.append(error)
            continue
        pixels = (image.reshape(-1, image.shape[2]) for image in images)
        found.append([some[:: len(some) // 10**5 + 1].copy() for some in pixels])
    if not found:
        raise errors[0]
    return found
