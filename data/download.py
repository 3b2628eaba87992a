"""Downloads a dataset of the paper from its authors, to where its preset expects it.

    python -m data.download facades              to data/facades
    python -m data.download maps --output /big/disk

An interrupted download resumes, by itself or when the command is repeated; if the archive has
changed meanwhile, it restarts. The archive is not trusted: nothing is written outside of the
dataset's folder, and the folder appears only when it is complete.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from engine import cli
from engine.cli import UserError

SOURCE = "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets"

CITE = "Isola et al., CVPR 2017, arXiv 1611.07004"


class Release(NamedTuple):
    """What an archive holds, under which terms, and what to cite besides the paper."""

    holds: str  # left half | right half, and their origin
    terms: str
    cite: str = ""
    images: dict[str, int] | None = None  # of each split, where the number is known


DATASETS = {
    "facades": Release(
        "photo | labels, from the CMP Facade Database",
        "research only, see https://cmp.felk.cvut.cz/~tylecr1/facade",
        "Tylecek, Sara, GCPR 2013",
        {"train": 400, "val": 100, "test": 106},
    ),
    "maps": Release(
        "aerial photo | map, from Google Maps",
        "research only; the images are Google's, under the terms of Google Maps",
        images={"train": 1096, "val": 1098},
    ),
    "cityscapes": Release(
        "photo | labels, from Cityscapes",
        "no commercial use, no redistribution: https://www.cityscapes-dataset.com/license",
        "Cordts et al., CVPR 2016",
        {"train": 2975, "val": 500},
    ),
    "edges2shoes": Release(
        "edges by HED | photo, from UT Zappos50K",
        "no commercial use: https://vision.cs.utexas.edu/projects/finegrained/utzap50k",
        "Yu, Grauman, CVPR 2014; Xie, Tu (HED), ICCV 2015",
        {"train": 49825, "val": 200},
    ),
    "edges2handbags": Release(
        "edges by HED | photo, handbags at Amazon, from the iGAN project",
        "research only, see https://github.com/junyanz/iGAN",
        "Zhu et al. (iGAN), ECCV 2016; Xie, Tu (HED), ICCV 2015",
    ),
    "night2day": Release(
        "night | day, from Transient Attributes; the preset is day2night",
        "research only, see http://transattr.cs.brown.edu",
        "Laffont et al., SIGGRAPH 2014",
    ),
}


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = cli.Parser(__doc__, "python -m data.download NAME [--output FOLDER] [--source URL]")
    parser.add_argument("name", help=", ".join(DATASETS), metavar="NAME")
    parser.add_argument("--output", default="data", metavar="FOLDER", help="default: data")
    parser.add_argument("--source", default=SOURCE, metavar="URL", help=f"default: {SOURCE}")
    options = parser.parse_args(argv)
    if options.name not in DATASETS:
        hint = cli.nearest(options.name, DATASETS)
        raise UserError(f"unknown dataset {options.name!r}{hint}")
    return options


if __name__ == "__main__":
    cli.early(parse_arguments)

import gzip
import http.client
import shlex
import shutil
import tarfile
import time
import zlib
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from metrics.palettes import PALETTES, write_palette

ATTEMPTS = 5  # in a row that end without a new byte
BLOCK = 2**20
MAX_EXPANSION = 20  # images hardly compress; an archive that expands more is no dataset


def need_space(folder: Path, size: int) -> None:
    """Raises UserError unless `size` bytes are free in a folder."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"it needs {size / 1e6:,.0f} MB in {folder.absolute()}, which has {free / 1e6:,.0f} MB "
            "free; make room or choose another --output"
        )


def download(url: str, path: Path) -> None:
    """Fetches a file, resuming an earlier attempt. Raises UserError."""
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    failures, most = 0, 0
    with tqdm(desc=f"downloading {path.name}", unit="B", unit_scale=True) as bar:
        while True:
            try:
                if fetch_rest(url, part, bar):
                    break
                reason = "the connection broke"
            except (HTTPError, ValueError) as error:  # trying again would not help
                raise UserError(f"{url} cannot be downloaded: {error}") from error
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            failures = 0 if bar.n > most else failures + 1
            most = max(most, bar.n)
            if failures == ATTEMPTS:
                raise UserError(f"{url} cannot be downloaded: {reason}; repeat the command later")
            time.sleep(failures)
    part.replace(path)
    version_file(part).unlink(missing_ok=True)


def version_file(part: Path) -> Path:
    """Beside a partial download: the ETag or date of the file it belongs to."""
    return part.with_name(part.name + ".version")


def fetch_rest(url: str, part: Path, bar: tqdm) -> bool:
    """Appends what `part` lacks until the connection breaks, or starts again if the file has
    changed. Returns whether it is complete. Raises UserError if there is no space for it."""
    have = part.stat().st_size if part.exists() else 0
    version = version_file(part).read_text("utf-8") if version_file(part).exists() else ""
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and version:
        headers["If-Range"] = version  # a changed file is sent from its beginning
    try:
        response = urlopen(Request(url, headers=headers), timeout=60)
    except HTTPError as error:
        if error.code == 416 and have:  # nothing is left
            return True
        raise
    with response, open(part, "ab") as file:
        if response.status != 206:  # sent from the beginning
            have = 0
            file.truncate(0)
            tag, date = (response.headers.get(name, "") for name in ("ETag", "Last-Modified"))
            # A weak ETag is not for ranges.
            version_file(part).write_text(tag if tag.startswith('"') else date, "utf-8")
        length = response.headers.get("Content-Length")
        bar.n, bar.total = have, have + int(length) if length else None
        if length:  # for the archive and, unpacked, about as much again
            need_space(part.parent, int(length) + bar.total)
        while block := response.read(BLOCK):
            file.write(block)
            bar.update(len(block))
    return length is None or bar.n == bar.total


def unpacked_size(archive: Path) -> int:
    """The size of the contents of a .tar.gz. Checks the checksum at its end, which tarfile does
    not. Raises UserError if it expands too much, gzip's errors if it is damaged."""
    size, limit = 0, archive.stat().st_size * MAX_EXPANSION + BLOCK  # tar pads small files
    title = f"checking {archive.name}"
    with gzip.open(archive) as file, tqdm(desc=title, unit="B", unit_scale=True) as bar:
        while block := file.read(BLOCK):
            size += len(block)
            if size > limit:
                raise UserError(f"it would expand to over {MAX_EXPANSION} times its size")
            bar.update(len(block))
    return size


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a .tar.gz that holds one folder, as `folder`: all of it or nothing.

    Raises UserError if it is damaged, reaches out of its folder or does not fit on the disk.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        need_space(archive.parent, unpacked_size(archive))
        with tarfile.open(archive) as tar:
            for member in tqdm(tar, f"unpacking {archive.name}", unit="file"):
                tar.extract(member, unfinished, filter="data")  # nothing outside, no devices
        (unfinished / folder.name).rename(folder)
    except (tarfile.ReadError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        archive.unlink()  # or the next attempt would use it
        raise UserError(f"{archive} was damaged ({error}) and is deleted; try again") from error
    except (tarfile.TarError, ValueError, OSError) as error:
        raise UserError(f"{archive} cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in counts.items())


def main(argv=None) -> int:
    options = parse_arguments(argv)
    name, folder = options.name, Path(options.output, options.name)
    if folder.exists():
        raise UserError(f"{folder} already exists; remove it to download it again")
    holds, terms, cite, expected = DATASETS[name]
    print(f"{name}: {holds}\n  terms  {terms}\n  cite   {CITE}{cite and '; ' + cite}")
    print("(an interrupted download resumes when the command is repeated)", flush=True)
    archive = folder.with_name(f"{name}.tar.gz")
    if not archive.exists():
        download(f"{options.source.rstrip('/')}/{archive.name}", archive)
    unpack(archive, folder)
    archive.unlink()
    if name in PALETTES:
        write_palette(PALETTES[name], folder)
    counts = {split: len(list(folder.glob(f"{split}/[!.]*"))) for split in ("train", "val", "test")}
    counts = {split: count for split, count in counts.items() if count}
    print(f"wrote {folder}: {in_words(counts)} images")
    if expected and counts != expected:
        print(f"warning: the authors' release has {in_words(expected)}; this one differs")
    preset = "day2night" if name == "night2day" else name
    elsewhere = "" if folder == Path("data") / name else f" --data_root {shlex.quote(str(folder))}"
    print(f"next: python train.py {preset}{elsewhere}")
    return 0


if __name__ == "__main__":
    cli.run(main)
