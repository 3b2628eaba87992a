"""Combines the images of two folders into side-by-side pairs, A left and B right.

    python -m tools.combine photos labels data/mine            data/mine/train, val and test
    python -m tools.combine photos labels data/mine --val 0.2 --test 0

Images are matched by name without ending. If A and B have folders train, val and test, these are
kept. Otherwise a tenth each is held out for val and test, always the same images for the same
names. Subfolders become part of the name: rome/1.jpg becomes rome_1.png. OUT is created only when
it is complete, and nothing is ever overwritten.
"""

import argparse
import random
from collections import Counter
from glob import glob
from pathlib import Path

import numpy as np
from PIL import Image

from engine import cli
from engine.cli import UserError
from engine.files import creating_folder, reporting_write_errors
from engine.loading import map_in_threads
from images.names import core, name_of, near_misses
from images.reading import (
    MAX_PIXELS,
    is_image,
    natural_order,
    no_images,
    read_image,
    report,
)

SPLITS = ("train", "val", "test")
SHARE = 0.1  # of val, and of test


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = cli.Parser(__doc__, "python -m tools.combine A B OUT [--val SHARE] [--test SHARE] ...")
    add = parser.add_argument
    add("a", metavar="A", type=Path, help="folder of the left halves")
    add("b", metavar="B", type=Path, help="folder of the right halves")
    add("out", metavar="OUT", type=Path, help="folder to create")
    held_out = {"type": float, "default": SHARE, "metavar": "SHARE"}
    add("--val", **held_out, help=f"share held out, unless A and B have splits (default: {SHARE})")
    add("--test", **held_out, help="the same for test")
    resize = {"dest": "resample", "action": "store_const"}
    add("--resize", **resize, const="BICUBIC", help="resize B to the size of A")
    add("--nearest", **resize, const="NEAREST", help="the same without blending colors, for labels")
    return parser.parse_args(argv)


def find_files(root: Path, in_splits: bool) -> dict[str, Path]:
    """All images below a folder in natural order, by split/name, or by name if not in splits."""
    if not root.is_dir():
        raise UserError(f"folder {root} does not exist")
    files = [Path(name) for name in glob("**", root_dir=root, recursive=True)]  # no hidden ones
    paths = [root / file for file in files if not (root / file).is_dir()]
    found = {}
    for file in sorted(filter(is_image, files), key=natural_order):
        *folders, _ = file.parts
        if in_splits and (not folders or folders[0] not in SPLITS):
            raise UserError(f"{root / file} is in none of {root}'s folders {', '.join(SPLITS)}")
        split = folders.pop(0) + "/" if in_splits else ""
        name = split + "_".join([*folders, name_of(file)])
        if name in found:
            raise UserError(f"{root / file} and {found[name]} would both become {name}.png")
        found[name] = root / file
    if not found:
        raise no_images(root, paths)
    report(root, paths)
    return found


def find_partners(a: Path, b: Path, in_splits: bool) -> dict[str, tuple[Path, Path]]:
    """The files of each pair by name. Raises UserError if an image has no partner."""
    files_a, files_b = (find_files(root, in_splits) for root in (a, b))
    if alone := files_a.keys() ^ files_b.keys():
        name = min(alone)
        others, folder = (files_b, b) if name in files_a else (files_a, a)
        near = near_misses(others.keys() & alone).get(core(name))
        hint = f"; {others[near].name} is similar: rename one" if near else ""
        raise UserError(
            f"{(files_a | files_b)[name]} has no partner {name} in {folder}; names may differ only "
            f"in their endings{hint} (files without a partner: {len(alone)})"
        )
    return {name: (file, files_b[name]) for name, file in files_a.items()}


def draw_splits(names, val: float, test: float) -> dict[str, str]:
    """Maps each name to train, val or test, always the same. Raises UserError."""
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise UserError(f"--val {val} and --test {test} must be 0 or more and below 1 in total")
    names, count = list(names), len(names)
    random.Random(0).shuffle(names)
    splits = ["val"] * round(val * count) + ["test"] * round(test * count)
    if len(splits) >= count:
        raise UserError(f"--val {val} and --test {test} leave none of the {count} pairs for train")
    return dict(zip(names, splits + ["train"] * count, strict=False))


def side_by_side(a: Path, b: Path, resample: str | None) -> Image.Image:
    """Both files as one RGB image. Raises UserError if a file is bad or the sizes differ."""
    left, right = read_image(a), read_image(b)
    if right.size != left.size:
        if resample is None:
            sizes = ["{}x{}".format(*image.size) for image in (left, right)]
            raise UserError(f"{a} is {sizes[0]} but {b} is {sizes[1]} (--resize resizes B)")
        right = right.resize(left.size, Image.Resampling[resample])
    if 2 * left.width * left.height > MAX_PIXELS:
        limit = (
            f"{MAX_PIXELS // 10**6} megapixels, too many to be read; use folders A and B instead"
        )
        raise UserError(f"{a} and its partner have together over {limit}")
    return Image.fromarray(np.hstack([left, right]))


def combine(a: Path, b: Path, out: Path, val=SHARE, test=SHARE, resample=None) -> Counter:
    """Makes OUT of A and B, all of it or nothing, and returns the number of pairs of each split.

    `resample` is how B is resized to A's size: BICUBIC, NEAREST or None, not at all. Raises
    UserError at the first file that is no pair, and if OUT exists.
    """
    in_splits = any((root / split).is_dir() for root in (a, b) for split in SPLITS)
    pairs = find_partners(a, b, in_splits)
    if not in_splits:
        split_of = draw_splits(pairs, val, test)
        pairs = {f"{split_of[name]}/{name}": files for name, files in pairs.items()}
    with creating_folder(out) as unfinished:

        def write(name: str) -> None:
            pair, path = side_by_side(*pairs[name], resample), unfinished / f"{name}.png"
            with reporting_write_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                pair.save(path)  # OUT is whole or absent; waiting for the disk each time takes long

        list(map_in_threads(write, pairs, f"writing {out}"))
    return Counter(name.partition("/")[0] for name in pairs)


def main(argv=None) -> int:
    options = parse_arguments(argv)
    counts, out = combine(**vars(options)), options.out
    print(f"wrote {out}: {', '.join(f'{split} {counts[split]}' for split in SPLITS)} pairs")
    print(f"next: python train.py --data_root {cli.shell_quote(out)} --direction AtoB")
    print(f"(AtoB translates {options.a} to {options.b}; BtoA the other way round)")
    return 0


if __name__ == "__main__":
    cli.run(main)
