"""Downloads a dataset of the paper from its authors, to where its preset expects it.

    python -m tools.download facades              to data/facades
    python -m tools.download maps --output /big/disk

An interrupted download resumes, by itself or when the command is repeated. Nothing is written
outside of the dataset's folder, which appears only when it is complete.
"""

import argparse
import gzip
import shutil
import tarfile
import time
import zlib
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from engine import cli
from engine.cli import UserError
from engine.files import creating_folder
from metrics.palettes import PALETTES, copy_palette

SOURCE = "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets"

DATASETS = {  # and their terms; README.md has their origin and what to cite
    "facades": "research only: https://cmp.felk.cvut.cz/~tylecr1/facade",
    "maps": "research only, under the terms of Google Maps",
    "cityscapes": "no commercial use, no redistribution: https://www.cityscapes-dataset.com/license",
    "edges2shoes": "no commercial use: https://vision.cs.utexas.edu/projects/finegrained/utzap50k",
    "edges2handbags": "research only: https://github.com/junyanz/iGAN",
    "night2day": "research only: http://transattr.cs.brown.edu",
}


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = cli.Parser(__doc__, "python -m tools.download NAME [--output FOLDER] [--source URL]")
    parser.add_argument("name", help=", ".join(DATASETS), metavar="NAME")
    parser.add_argument("--output", default="data", metavar="FOLDER", help="default: data")
    parser.add_argument("--source", default=SOURCE, metavar="URL", help=f"default: {SOURCE}")
    options = parser.parse_args(argv)
    if options.name not in DATASETS:
        hint = cli.did_you_mean(options.name, DATASETS)
        raise UserError(f"unknown dataset {options.name!r}{hint}")
    return options


ATTEMPTS = 5  # in a row that end without a new byte
BLOCK = 2**20


def download(url: str, path: Path) -> None:
    """Fetches a file, resuming an earlier attempt. Raises UserError."""
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    failures = 0
    while True:
        have = part.stat().st_size
        try:
            fetch_rest(url, part)
            break
        except (HTTPError, ValueError) as error:  # trying again would not help
            raise UserError(f"{url} cannot be downloaded: {error}") from error
        except (OSError, HTTPException) as error:
            failures = 0 if part.stat().st_size > have else failures + 1
            if failures == ATTEMPTS:
                raise UserError(f"{url} cannot be downloaded: {error}; try again later") from error
            time.sleep(failures)
    part.replace(path)


def fetch_rest(url: str, part: Path) -> None:
    """Appends what `part` lacks. Raises OSError if the connection breaks."""
    have = part.stat().st_size
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        response = urlopen(Request(url, headers=headers), timeout=60)
    except HTTPError as error:
        if error.code == 416 and have:  # nothing is left
            return
        raise
    with response, open(part, "ab") as file:
        if response.status != 206:  # sent from the beginning
            have = 0
            file.truncate(0)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with tqdm.wrapattr(file, "write", total, initial=have, desc=part.stem) as out:
            shutil.copyfileobj(response, out, BLOCK)
    if total and part.stat().st_size < total:
        raise OSError("the connection broke")


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a .tar.gz that holds one folder, as `folder`: all of it or nothing. Raises
    UserError, and deletes the archive if it is damaged."""
    try:
        with (
            creating_folder(folder) as unfinished,
            gzip.open(archive) as file,
            tarfile.TarFile(fileobj=file) as tar,
        ):
            for member in tqdm(tar, f"unpacking {archive.name}", unit="file"):
                tar.extract(member, unfinished.parent, filter="data")  # nothing outside, no devices
            file.read()  # the checksum at its end is compared, which tarfile does not reach
    except (tarfile.ReadError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        archive.unlink()  # or the next attempt would use it
        raise UserError(f"{archive} was damaged ({error}) and is deleted; try again") from error
    except (tarfile.TarError, ValueError, OSError) as error:
        raise UserError(f"{archive} cannot be unpacked: {error}") from error


def main(argv=None) -> int:
    options = parse_arguments(argv)
    name, folder = options.name, Path(options.output, options.name)
    if folder.exists():
        raise UserError(f"{folder} already exists; remove it to download it again")
    print(f"{name}: {DATASETS[name]} (origin and citation: data/README.md)", flush=True)
    archive = folder.with_name(f"{name}.tar.gz")
    if not archive.exists():
        download(f"{options.source.rstrip('/')}/{archive.name}", archive)
    unpack(archive, folder)
    archive.unlink()
    if name in PALETTES:
        copy_palette(name, folder)
    counts = {split: len(list(folder.glob(f"{split}/*"))) for split in ("train", "val", "test")}
    found = ", ".join(f"{split} {count}" for split, count in counts.items() if count)
    print(f"wrote {folder}: {found} images")
    preset = "day2night" if name == "night2day" else name
    elsewhere = "" if folder == Path("data") / name else f" --data_root {cli.shell_quote(folder)}"
    print(f"next: python train.py {preset}{elsewhere}")
    return 0


if __name__ == "__main__":
    cli.run(main)
