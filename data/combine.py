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

SPLITS = ("train", "val", "test")
SHARE = 0.1  # of val, and of test


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = cli.Parser(__doc__, "python -m data.combine A B OUT [--val SHARE] [--test SHARE] ...")
    parser.add_argument("a", metavar="A", type=Path, help="folder of the left halves")
    parser.add_argument("b", metavar="B", type=Path, help="folder of the right halves")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to create")
    for split in ("val", "test"):
        text = "share held out, if A and B have no splits (default: 0.1)"
        parser.add_argument(f"--{split}", type=float, metavar="SHARE", help=text)
    for name, filter_, text in (
        ("--resize", "BICUBIC", "resize B to the size of A"),
        ("--nearest", "NEAREST", "the same without blending colors, for labels"),
    ):
        parser.add_argument(name, dest="resample", action="store_const", const=filter_, help=text)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.early(parse_arguments)  # --help and mistakes answer before the slow imports

import os
import random
import shlex
from collections import Counter
from contextlib import closing
from tempfile import TemporaryDirectory

from PIL import Image

from engine.images import ENDINGS, MAX_PIXELS, is_image, natural_order, read_image, save_image
from engine.loading import in_threads


def find_files(root: Path, in_splits: bool) -> dict[str, Path]:
    """All images below a folder in natural order, by split/name, or by name if not in splits."""
    walk = os.walk(root, followlinks=True)
    files = [Path(folder, name) for folder, _, names in walk for name in names]
    found = {}
    for file in sorted(filter(is_image, files), key=natural_order):
        *folders, _ = file.relative_to(root).parts
        if any(folder.startswith(".") for folder in folders):  # thumbnails etc.
            continue
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


def find_partners(
    a: Path, b: Path, val: float | None, test: float | None
) -> dict[str, tuple[Path, Path]]:
    """The files of each pair by split/name. Without splits, draws the same ones every time."""
    in_splits = any((root / split).is_dir() for root in (a, b) for split in SPLITS)
    files_a, files_b = (find_files(root, in_splits) for root in (a, b))
    alone = list(files_a.keys() ^ files_b.keys())
    if alone:
        name = min(alone)
        raise UserError(
            f"{(files_a | files_b)[name]} has no partner {name} in {b if name in files_a else a}; "
            f"names may differ only in their endings (files without a partner: {len(alone)})"
        )
    pairs = {name: (file, files_b[name]) for name, file in files_a.items()}
    if in_splits:
        if val is not None or test is not None:
            raise UserError(f"--val and --test are for folders without splits, unlike {a} and {b}")
        return pairs
    val, test = (SHARE if share is None else share for share in (val, test))
    count = len(pairs)
    shares_fit = 0 <= val < 1 and 0 <= test < 1
    if not shares_fit or round(val * count) + round(test * count) >= count:
        raise UserError(
            f"--val {val} and --test {test} must be 0 or more and leave some of {count} pairs for "
            "training"
        )
    names = list(pairs)
    random.Random(0).shuffle(names)
    splits = ["val"] * round(val * count) + ["test"] * round(test * count) + ["train"] * count
    split_of = dict(zip(names, splits, strict=False))
    return {f"{split_of[name]}/{name}": files for name, files in pairs.items()}


def side_by_side(a: Path, b: Path, resample: str | None) -> Image.Image:
    """Both files as one RGB image. Raises UserError if a file is bad or the sizes differ."""
    left, right = read_image(a), read_image(b)
    (width, height), other = left.size, f"{right.width}x{right.height}"
    if 2 * width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS / 1e6:.0f} megapixels"
        raise UserError(f"{a} is {width}x{height}; a pair of them would exceed {limit}")
    if right.size != left.size:
        if resample is None:
            sizes = f"{a} is {width}x{height} but {b} is {other}"
            raise UserError(f"{sizes}; they must have one size (--resize resizes B)")
        right = right.resize(left.size, Image.Resampling[resample])
    pair = Image.new("RGB", (2 * width, height))
    pair.paste(left, (0, 0))
    pair.paste(right, (width, 0))
    return pair


def combine(a: Path, b: Path, out: Path, val=None, test=None, resample=None) -> Counter:
    """Makes OUT of A and B, all of it or nothing, and returns the number of pairs of each split.

    `resample` is how B is resized to A's size: BICUBIC, NEAREST or None, not at all. Raises
    UserError at the first file that is no pair, and if OUT exists.
    """
    for folder in (a, b):
        if not folder.is_dir():
            raise UserError(f"folder {folder} does not exist")
        if out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{out} is inside {folder}; OUT must be outside of A and B")
    if a.resolve() == b.resolve():
        raise UserError(f"A and B are the same folder, {a}")
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} already exists; remove it or choose another OUT")
    pairs = find_partners(a, b, val, test)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{out.name}.unfinished-", dir=out.parent) as unfinished:
        complete = Path(unfinished, "complete")

        def write(name: str) -> None:
            save_image(side_by_side(*pairs[name], resample), complete / f"{name}.png")

        with closing(in_threads(write, pairs, f"writing {out}")) as written:
            for _ in written:
                pass
        complete.rename(out)
    return Counter(name.partition("/")[0] for name in pairs)


def main(argv=None) -> int:
    options = parse_arguments(argv)
    counts, out = combine(**vars(options)), options.out
    print(f"wrote {out}: {', '.join(f'{split} {counts[split]}' for split in SPLITS)} pairs")
    print(f"next: python train.py --data_root {shlex.quote(str(out))} --direction AtoB")
    print(f"(AtoB translates {options.a} to {options.b}; BtoA the other way round)")
    return 0


if __name__ == "__main__":
    cli.run(main)
