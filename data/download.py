"""Downloads a dataset of the paper from its authors and puts it where its preset looks for it.

    python data/download.py facades              into data/facades
    python data/download.py maps --output /big/disk

A download that breaks off goes on where it stopped, at once or when the command is given again.
The archive comes from the network, so it is not trusted: nothing in it gets out of its folder, and
the folder appears only when all of it is there.
"""

import gzip
import http.client
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run by hand, for config.py

from tqdm import tqdm

from config import Parser, UserError, nearest, one_line_errors

SOURCE = "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets"

# What each is made of, and whose terms hold. All are for research; cite pix2pix and these.
DATASETS = {
    "facades": "CMP Facade Database, Tylecek and Sara, GCPR 2013; cmp.felk.cvut.cz/~tylecr1/facade",
    "maps": "aerial views and maps of Google Maps, whose terms hold",
    "cityscapes": "Cityscapes, Cordts et al., CVPR 2016; its licence: www.cityscapes-dataset.com",
    "edges2shoes": "UT Zappos50K, Yu and Grauman, CVPR 2014; edges by HED, Xie and Tu, ICCV 2015",
    "edges2handbags": "iGAN, Zhu et al., ECCV 2016; edges by HED, Xie and Tu, ICCV 2015",
    "night2day": "Transient Attributes, Laffont et al., SIGGRAPH 2014; the preset is day2night",
}

ATTEMPTS = 5  # to get on after the connection broke, one after the other without a byte of progress
BLOCK = 2**20
# Pictures are compressed already; what unpacks to more than so many times its size is no dataset.
MOST_GROWTH = 20


def download(url: str, path: Path) -> None:
    """Fetches a file, from where an earlier attempt stopped. Raises UserError."""
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    with tqdm(desc=f"downloading {path.name}", unit="B", unit_scale=True) as bar:
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                if fetch_rest(url, part, bar):
                    break
                reason = "the connection broke"
            except urllib.error.HTTPError as error:
                raise UserError(f"{url} answers {error.code} {error.reason}") from error
            except (OSError, ValueError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            progress = part.exists() and part.stat().st_size > before
            failures = 0 if progress else failures + 1
            if failures == ATTEMPTS:
                raise UserError(f"{url} can't be downloaded ({reason}); try the same command later")
            time.sleep(min(failures, 5))
    part.replace(path)


def fetch_rest(url: str, part: Path, bar: tqdm) -> bool:
    """Appends to `part` what it lacks, as far as the connection lasts. Returns whether that is
    all of it."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        size = error.headers.get("Content-Range", "").rpartition("/")[2]
        if error.code == 416 and size == str(have):  # nothing is left of it
            return True
        if error.code == 416 and have:  # it was longer once
            part.unlink()
            return False
        raise
    with response, open(part, "ab") as file:
        rest = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status != 206 or not rest:  # the server begins anew, and so does this
            file.truncate(0)
            have = 0
        length = response.headers.get("Content-Length")
        bar.total = have + int(length) if length else None
        bar.n = have
        while block := response.read(BLOCK):
            file.write(block)
            bar.update(len(block))
        return length is None or bar.n == bar.total


def check(archive: Path) -> None:
    """Reads a .tar.gz to the checksum at its end, which tarfile does not. Raises UserError if it
    is broken, or grows without measure."""
    left = archive.stat().st_size * MOST_GROWTH + BLOCK  # tar fills up what is small
    with (
        gzip.open(archive) as file,
        tqdm(desc=f"checking {archive.name}", unit="B", unit_scale=True) as bar,
    ):
        while block := file.read(BLOCK):
            left -= len(block)
            if left < 0:
                raise UserError(f"{archive} would grow to {MOST_GROWTH} times its size")
            bar.update(len(block))


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a .tar.gz that holds one folder, as `folder`: all of it or nothing.

    Raises UserError on anything but plain files and folders within it, on an archive that is
    broken, and on one that would grow without measure.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        check(archive)
        with tarfile.open(archive) as tar:
            for member in tqdm(tar, f"unpacking {archive.name}", unit="file"):
                if not (member.isfile() or member.isdir()):
                    raise UserError(f"{archive}: {member.name!r} is neither a file nor a folder")
                # Not by tar.extract: its own guard is missing in many a Python still in use.
                goal = (unfinished / member.name).resolve()
                if not goal.is_relative_to(unfinished.resolve()):
                    raise UserError(f"{archive}: {member.name!r} would get out of its folder")
                if member.isdir():
                    goal.mkdir(parents=True, exist_ok=True)
                    continue
                goal.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, open(goal, "xb") as target:
                    shutil.copyfileobj(source, target)
        inside = unfinished / folder.name
        if not inside.is_dir():
            raise UserError(f"{archive} holds no folder {folder.name!r}")
        inside.rename(folder)
    except UserError:
        raise
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        archive.unlink()  # it would stand in the way of another download
        raise UserError(f"{archive} was broken ({error}) and is removed; try again") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{archive} can't be unpacked: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("name", help=", ".join(DATASETS), metavar="NAME")
    parser.add_argument("--output", default="data", help="folder to put it into (default: data)")
    parser.add_argument("--source", default=SOURCE, help=f"address of the archives ({SOURCE})")
    arguments = parser.parse_args()
    name = arguments.name
    if name not in DATASETS:
        raise UserError(f"there is no dataset {name!r}{nearest(name, DATASETS)}")
    if not arguments.source.startswith(("http://", "https://")):
        raise UserError(
            f"--source is {arguments.source!r}; it has to begin with http:// or https://"
        )
    folder = Path(arguments.output) / name
    if folder.exists():
        raise UserError(f"{folder} is there already; remove it to download it again")
    archive = folder.with_name(f"{name}.tar.gz")
    print(f"{name}: {DATASETS[name]}")
    print("(a download that is stopped goes on when the same command is given again)")
    if not archive.exists():
        download(f"{arguments.source.rstrip('/')}/{archive.name}", archive)
    unpack(archive, folder)
    archive.unlink()
    preset = {"night2day": "day2night"}.get(name, name)
    print(f"{folder} is ready; next: python train.py {preset}")


if __name__ == "__main__":
    with one_line_errors():
        main()
