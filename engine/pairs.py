"""The image pairs of a split, found in one of the layouts of data/README.md."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from engine.cli import UserError
from engine.images import find_images, is_image, natural_order

# What replaces a split that a dataset lacks, in order of preference.
STAND_INS = {"train": (), "val": ("test", "train"), "test": ("val", "train")}


class Pair(NamedTuple):
    """A side-by-side file or a photo (`b` is None), or a file for each image."""

    name: str
    a: Path
    b: Path | None


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
        raise UserError(f"data_root {root} does not exist (python -m data.download fetches some)")
    two_folders = (root / "A").is_dir() and (root / "B").is_dir()
    base = root / "A" if two_folders else root
    used = next((name for name in (split, *STAND_INS[split]) if (base / name).is_dir()), None)
    if used is None:
        raise UserError(
            f"{base} has no folder {split!r}; data_root must name the folder above the splits "
            "(python -m data.combine makes pairs of two folders, see data/README.md)"
        )
    if used != split:
        print(f"{base} has no split {split!r}; using {used!r}")

    if not two_folders:
        files = by_stem(find_images(base / used), refuse)
        return used, [Pair(stem, file, None) for stem, file in files.items()]
    a, b = (by_stem(find_images(root / side / used), refuse) for side in "AB")
    for files, others, side in ((a, b, "B"), (b, a, "A")):
        for file in [file for stem, file in files.items() if stem not in others]:
            refuse(UserError(f"{file} has no partner of that name in {root / side / used}"))
    return used, [Pair(stem, file, b[stem]) for stem, file in a.items() if stem in b]


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
    return split, [Pair(stem, file, None) for stem, file in by_stem(files, refuse).items()]
