"""Pairs the pictures of two folders into side-by-side files, A left and B right.

    python data/combine.py photos labels data/mine             data/mine/train, val and test
    python data/combine.py photos labels data/mine --val 0.2 --test 0

A picture's partner is the one of the same name; the endings may differ. Where A and B have folders
train, val and test, these are kept. Else a tenth each is set aside for val and test, always the
same pictures of the same names. Of folders within folders the names are joined: rome/1.jpg becomes
rome_1.png. OUT appears only when all of it is there, and nothing is ever overwritten.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run by hand, for config.py

from config import Parser, UserError, one_line_errors

if __name__ == "__main__":  # before the slow imports, so that --help and mistakes answer at once
    parser = Parser(__doc__)
    parser.add_argument("a", metavar="A", type=Path, help="folder of what becomes the left half")
    parser.add_argument("b", metavar="B", type=Path, help="folder of the right half")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to be made")
    parser.add_argument("--val", type=float, metavar="SHARE", help="set aside (default: 0.1)")
    parser.add_argument("--test", type=float, metavar="SHARE", help="set aside (default: 0.1)")
    parser.add_argument("--resize", action="store_true", help="B to A's size where they differ")
    parser.add_argument(
        "--nearest", action="store_true", help="the same, without mixing colours, for labels in B"
    )
    with one_line_errors():
        ARGUMENTS = parser.parse_args()

import os
import random
import shlex
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from dataset import ENDINGS, MAX_PIXELS, is_image, natural_order, read_image, stop
from processes import usable_cores
from utils import save_image

SPLITS = ("train", "val", "test")
SHARE = 0.1  # of val, and of test


class Place(NamedTuple):
    """Where a pair goes: OUT/split/name.png. Before it is known the split is empty."""

    split: str
    name: str


def find_places(root: Path, in_splits: bool) -> dict[Place, Path]:
    """All pictures in a folder, however deep, by their places, in natural order.

    Raises UserError if there are none, if two have one place, and of those in splits if one is in
    none of them.
    """
    files = []
    for folder, within, names in os.walk(root, onerror=stop, followlinks=True):
        within[:] = (name for name in within if not name.startswith("."))  # thumbnails and the like
        files += filter(is_image, (Path(folder, name) for name in names))
    found = {}
    for file in sorted(files, key=natural_order):
        *folders, _ = file.relative_to(root).parts
        split = ""
        if in_splits:
            split = folders.pop(0) if folders else ""
            if split not in SPLITS:
                raise UserError(f"{file} is in none of {root}'s folders {', '.join(SPLITS)}")
        place = Place(split, "_".join([*folders, file.stem]))
        if place in found:
            raise UserError(
                f"{file} and {found[place]} would both become {place.name}.png; rename one"
            )
        found[place] = file
    if not found:
        raise UserError(f"{root} holds no pictures ({', '.join(ENDINGS)})")
    return found


def find_partners(a: Path, b: Path, in_splits: bool) -> dict[Place, tuple[Path, Path]]:
    """The pictures of A and B by their common places. Raises UserError if one has no partner."""
    files_a, files_b = (find_places(root, in_splits) for root in (a, b))
    for files, others, other_root in ((files_a, files_b, b), (files_b, files_a, a)):
        alone = [place for place in files if place not in others]
        if alone:
            more = f" ({len(alone)} files lack theirs)" if len(alone) > 1 else ""
            raise UserError(
                f"{files[alone[0]]} has no partner of that name in "
                f"{other_root / alone[0].split}{more}; a pair has one name but for the endings"
            )
    return {place: (file, files_b[place]) for place, file in files_a.items()}


def split_up(places: list[Place], val: float, test: float) -> dict[Place, Place]:
    """The places with their splits. The same names are always split alike."""
    shuffled = places.copy()
    random.Random(0).shuffle(shuffled)
    vals, tests = (round(share * len(places)) for share in (val, test))
    if vals + tests >= len(places):
        raise UserError(f"--val {val} and --test {test} leave nothing of {len(places)} to train on")
    splits = ["val"] * vals + ["test"] * tests + ["train"] * (len(places) - vals - tests)
    return {place: Place(split, place.name) for place, split in zip(shuffled, splits, strict=True)}


def combine(
    a: Path,
    b: Path,
    out: Path,
    val: float | None = None,
    test: float | None = None,
    resample: Image.Resampling | None = None,
) -> Counter:
    """Makes OUT of A and B, all of it or nothing, and returns the number of pairs of each split.

    `val` and `test` are shares, for folders without splits; `resample` is how B gets A's size.
    Raises UserError on anything that isn't a pair, and if OUT is there already.
    """
    for folder in (a, b):
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}")
        if out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{out} is within {folder}; OUT has to be a folder elsewhere")
    if a.resolve() == b.resolve():
        raise UserError(f"A and B are the same folder, {a}")
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} exists already; remove it, or name another OUT")
    unfinished = out.with_name(out.name + ".unfinished")
    if unfinished.exists() or unfinished.is_symlink():
        raise UserError(
            f"{unfinished} exists already, of an attempt that was killed; remove it, or name "
            "another OUT"
        )

    in_splits = any((root / split).is_dir() for root in (a, b) for split in SPLITS)
    for name, share in (("val", val), ("test", test)):
        if share is not None and in_splits:
            raise UserError(f"--{name} is for folders without splits: {a} or {b} has them")
        if share is not None and not 0 <= share < 1:
            raise UserError(f"--{name} is {share}; it has to be from 0 to below 1")
    pairs = find_partners(a, b, in_splits)
    if not in_splits:
        val, test = (SHARE if share is None else share for share in (val, test))
        places = split_up(list(pairs), val, test)
        pairs = {places[place]: pair for place, pair in pairs.items()}

    def write(item: tuple[Place, tuple[Path, Path]]) -> None:
        (split, name), pair = item
        save_image(side_by_side(*pair, resample), unfinished / split / f"{name}.png")

    try:
        with ThreadPoolExecutor(usable_cores()) as pool:
            try:
                for _ in tqdm(
                    pool.map(write, pairs.items()), f"making {out}", len(pairs), unit="pair"
                ):
                    pass
            finally:
                pool.shutdown(cancel_futures=True)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Counter(place.split for place in pairs)


def side_by_side(a: Path, b: Path, resample: Image.Resampling | None) -> Image.Image:
    """One picture of two files, RGB. Raises UserError if a file is bad, or the sizes differ."""
    left, right = read_image(a), read_image(b)
    width, height = left.size
    if right.size != left.size:
        if resample is None:
            raise UserError(
                f"{a} is {width}x{height} but {b} is {right.width}x{right.height}; a pair has one "
                "size (--resize gives B that of A)"
            )
        right = right.resize(left.size, resample)
    if 2 * width * height > MAX_PIXELS:
        raise UserError(
            f"{a} is {width}x{height}; a pair of such would have more than "
            f"{MAX_PIXELS / 1e6:.0f} megapixels"
        )
    pair = Image.new("RGB", (2 * width, height))
    pair.paste(left, (0, 0))
    pair.paste(right, (width, 0))
    return pair


def main() -> None:
    a, b, out = ARGUMENTS.a, ARGUMENTS.b, ARGUMENTS.out
    resample = Image.Resampling.BICUBIC if ARGUMENTS.resize else None
    if ARGUMENTS.nearest:
        resample = Image.Resampling.NEAREST
    counts = combine(a, b, out, ARGUMENTS.val, ARGUMENTS.test, resample)
    in_words = ", ".join(f"{split} {counts[split]}" for split in SPLITS if counts[split])
    print(f"{out} is ready, pairs: {in_words}")
    root, run = shlex.quote(str(out)), shlex.quote(f"runs/{out.name}")
    print(f"next: python train.py --data_root {root} --direction AtoB --output {run}")
    print(f"(AtoB: {a} is given and {b} is to be made; BtoA: the other way)")


if __name__ == "__main__":
    with one_line_errors():
        main()
