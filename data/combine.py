"""Combines the images of two folders into side-by-side pairs, A left and B right.

    python -m data.combine photos labels data/mine            data/mine/train, val and test
    python -m data.combine photos labels data/mine --val 0.2 --test 0

Images are matched by name without ending. If A and B have folders train, val and test, these are
kept. Otherwise a tenth each is held out for val and test, always the same images for the same
names. Subfolders become part of the name: rome/1.jpg becomes rome_1.png. OUT is created only when
it is complete, and nothing is ever overwritten.
"""

import argparse
from pathlib import Path

from engine import cli
from engine.cli import UserError


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = cli.Parser(__doc__, "python -m data.combine A B OUT [--val SHARE] [--test SHARE] ...")
    parser.add_argument("a", metavar="A", type=Path, help="folder of the left halves")
    parser.add_argument("b", metavar="B", type=Path, help="folder of the right halves")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to create")
    parser.add_argument("--val", type=float, metavar="SHARE", help="held out (default: 0.1)")
    parser.add_argument("--test", type=float, metavar="SHARE", help="held out (default: 0.1)")
    parser.add_argument("--resize", action="store_true", help="resize B to the size of A")
    parser.add_argument("--nearest", action="store_true", help="--resize without blending colors")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.early(parse_arguments)  # --help and mistakes answer before the slow imports

import os
import random
import shlex
import shutil
from collections import Counter

from PIL import Image

from engine.images import ENDINGS, MAX_PIXELS, is_image, natural_order, read_image, save_image
from engine.loading import in_threads
from engine.pairs import stop

SPLITS = ("train", "val", "test")
SHARE = 0.1  # of val, and of test


def find_files(root: Path, in_splits: bool) -> dict[str, Path]:
    """All images below a folder in natural order, by split/name, or by name if not in splits.

    Raises UserError if there are none, if two have one name, or if one is outside of the splits.
    """
    files = []
    for folder, subfolders, names in os.walk(root, onerror=stop, followlinks=True):
        subfolders[:] = (name for name in subfolders if not name.startswith("."))  # thumbnails etc.
        files += filter(is_image, (Path(folder, name) for name in names))
    found = {}
    for file in sorted(files, key=natural_order):
        *folders, _ = file.relative_to(root).parts
        if in_splits and (not folders or folders[0] not in SPLITS):
            raise UserError(f"{file} is in none of {root}'s folders {', '.join(SPLITS)}")
        split = folders.pop(0) + "/" if in_splits else ""
        name = split + "_".join([*folders, file.stem])
        if name in found:
            raise UserError(f"{file} and {found[name]} would both become {name}.png; rename one")
        found[name] = file
    if not found:
        raise UserError(f"{root} holds no images ({', '.join(ENDINGS)})")
    return found


def find_partners(a: Path, b: Path, in_splits: bool) -> dict[str, tuple[Path, Path]]:
    """The images of A and B by their common names. Raises UserError if one has no partner."""
    files_a, files_b = (find_files(root, in_splits) for root in (a, b))
    for files, others, other_root in ((files_a, files_b, b), (files_b, files_a, a)):
        alone = [name for name in files if name not in others]
        if alone:
            more = f" ({len(alone)} files have none)" if len(alone) > 1 else ""
            raise UserError(
                f"{files[alone[0]]} has no partner {alone[0]} in {other_root}{more}; the names of "
                "a pair may differ only in their endings"
            )
    return {name: (file, files_b[name]) for name, file in files_a.items()}


def draw_splits(names: list[str], val: float, test: float) -> dict[str, str]:
    """A split for each name, the same ones for the same names."""
    shuffled = names.copy()
    random.Random(0).shuffle(shuffled)
    vals, tests = (round(share * len(names)) for share in (val, test))
    if vals + tests >= len(names):
        raise UserError(f"--val {val} and --test {test} leave none of {len(names)} to train on")
    splits = ["val"] * vals + ["test"] * tests + ["train"] * (len(names) - vals - tests)
    return dict(zip(shuffled, splits, strict=True))


def plan(
    a: Path, b: Path, out: Path, val: float | None, test: float | None
) -> dict[str, tuple[Path, Path]]:
    """The files of each pair by split/name. Raises UserError if they cannot be combined."""
    for folder in (a, b):
        if not folder.is_dir():
            raise UserError(f"folder {folder} does not exist")
        if out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{out} is inside {folder}; OUT must be outside of A and B")
    if a.resolve() == b.resolve():
        raise UserError(f"A and B are the same folder, {a}")
    for path, origin in ((out, ""), (unfinished(out), ", left by a killed attempt")):
        if path.exists() or path.is_symlink():
            raise UserError(f"{path} already exists{origin}; remove it or choose another OUT")
    in_splits = any((root / split).is_dir() for root in (a, b) for split in SPLITS)
    for name, share in (("val", val), ("test", test)):
        if share is not None and in_splits:
            raise UserError(f"--{name} is for folders without splits, but {a} or {b} has them")
        if share is not None and not 0 <= share < 1:
            raise UserError(f"--{name} is {share}; it must be at least 0 and below 1")
    pairs = find_partners(a, b, in_splits)
    if not in_splits:
        shares = [SHARE if share is None else share for share in (val, test)]
        splits = draw_splits(list(pairs), *shares)
        pairs = {f"{splits[name]}/{name}": files for name, files in pairs.items()}
    return pairs


def unfinished(out: Path) -> Path:
    return Path(f"{out}.unfinished")


def combine(
    a: Path,
    b: Path,
    out: Path,
    val: float | None = None,
    test: float | None = None,
    resample: Image.Resampling | None = None,
) -> Counter:
    """Makes OUT of A and B, all of it or nothing, and returns the number of pairs of each split.

    `val` and `test` are shares, for folders without splits; `resample` is how B is resized to A's
    size. Raises UserError on anything that is no pair, and if OUT exists.
    """
    pairs = plan(a, b, out, val, test)

    def write(name: str) -> None:
        save_image(side_by_side(*pairs[name], resample), unfinished(out) / f"{name}.png")

    try:
        for _ in in_threads(write, pairs, f"writing {out}"):
            pass
        unfinished(out).rename(out)
    finally:
        shutil.rmtree(unfinished(out), ignore_errors=True)
    return Counter(name.partition("/")[0] for name in pairs)


def side_by_side(a: Path, b: Path, resample: Image.Resampling | None) -> Image.Image:
    """Both files as one RGB image. Raises UserError if a file is bad or the sizes differ."""
    left, right = read_image(a), read_image(b)
    (width, height), other = left.size, f"{right.width}x{right.height}"
    if right.size != left.size and resample is None:
        raise UserError(
            f"{a} is {width}x{height} but {b} is {other}; they must have one size (--resize "
            "resizes B)"
        )
    if 2 * width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS / 1e6:.0f} megapixels"
        raise UserError(f"{a} is {width}x{height}; a pair of them would exceed {limit}")
    pair = Image.new("RGB", (2 * width, height))
    pair.paste(left, (0, 0))
    pair.paste(right if right.size == left.size else right.resize(left.size, resample), (width, 0))
    return pair


def main(argv=None) -> int:
    options = parse_arguments(argv)
    resample = Image.Resampling.BICUBIC if options.resize else None
    if options.nearest:
        resample = Image.Resampling.NEAREST
    out = options.out
    counts = combine(options.a, options.b, out, options.val, options.test, resample)
    print(f"wrote {out}: {', '.join(f'{split} {counts[split]}' for split in SPLITS)} pairs")
    print(f"next: python train.py --data_root {shlex.quote(str(out))} --direction AtoB")
    print(f"(AtoB translates {options.a} to {options.b}; BtoA the other way round)")
    return 0


if __name__ == "__main__":
    cli.run(main)
