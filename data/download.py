"""Downloads a dataset of the paper from its authors and puts it where its preset looks for it.

    python data/download.py facades              into data/facades
    python data/download.py maps --output /big/disk

A download that breaks off goes on where it stopped, at once or when the command is given again; if
the archive has changed since, it begins anew. The archive comes from the network, so it is not
trusted: nothing in it gets out of its folder, and the folder appears only when all of it is there.
"""

import gzip
import http.client
import shlex
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run by hand, for config.py

from tqdm import tqdm

from config import Parser, UserError, nearest, one_line_errors

SOURCE = "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets"

CITE = "Isola et al.: Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017"
HED = "Xie, Tu: Holistically-Nested Edge Detection, ICCV 2015"


class Release(NamedTuple):
    """What an archive holds, whose terms hold for it, and what is to be cited beside pix2pix."""

    holds: str  # left half | right half, and where they are from
    terms: str
    cite: tuple[str, ...] = ()
    pictures: dict[str, int] | None = None  # of each split, where that is known for sure


DATASETS = {
    "facades": Release(
        "photo | labels, of the CMP Facade Database",
        "for research, as its authors say at https://cmp.felk.cvut.cz/~tylecr1/facade",
        (
            "Tylecek, Sara: Spatial Pattern Templates for Recognition of Objects with Regular "
            "Structure, GCPR 2013",
        ),
        {"train": 400, "val": 100, "test": 106},
    ),
    "maps": Release(
        "aerial photo | map, of Google Maps",
        "for research; the pictures are Google's, and the terms of Google Maps hold",
        pictures={"train": 1096, "val": 1098},
    ),
    "cityscapes": Release(
        "photo | labels, of Cityscapes",
        "not for commerce, not to be passed on: https://www.cityscapes-dataset.com/license",
        (
            "Cordts et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding, "
            "CVPR 2016",
        ),
        {"train": 2975, "val": 500},
    ),
    "edges2shoes": Release(
        "edges by HED | photo, of UT Zappos50K",
        "not for commerce: https://vision.cs.utexas.edu/projects/finegrained/utzap50k",
        ("Yu, Grauman: Fine-Grained Visual Comparisons with Local Learning, CVPR 2014", HED),
        {"train": 49825, "val": 200},
    ),
    "edges2handbags": Release(
        "edges by HED | photo, of handbags at Amazon, from the iGAN project",
        "for research, as its authors say at https://github.com/junyanz/iGAN",
        (
            "Zhu et al.: Generative Visual Manipulation on the Natural Image Manifold, ECCV 2016",
            HED,
        ),
    ),
    "night2day": Release(
        "night | day, of the Transient Attributes; the preset is day2night",
        "for research, as its authors say at http://transattr.cs.brown.edu",
        (
            "Laffont et al.: Transient Attributes for High-Level Understanding and Editing of "
            "Outdoor Scenes, SIGGRAPH 2014",
        ),
    ),
}

ATTEMPTS = 5  # to get on after the connection broke, one after the other without a byte of progress
BLOCK = 2**20
# Pictures are compressed already; what unpacks to more than so many times its size is no dataset.
MOST_GROWTH = 20


def introduction(name: str) -> str:
    """What is about to be downloaded, under which terms, and how to cite it."""
    release = DATASETS[name]
    lines = [f"{name}: {release.holds}", f"  terms  {release.terms}"]
    lines += [f"  cite   {work}" for work in (CITE, *release.cite)]
    return "\n".join(lines)


def need_space(folder: Path, size: int, what: str) -> None:
    """Raises UserError unless so many bytes are free where the folder is."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{what} needs {size / 1e6:,.0f} MB in {folder.absolute()}, where {free / 1e6:,.0f} MB "
            "are free; make room or give another --output"
        )


def download(url: str, path: Path) -> None:
    """Fetches a file, from where an earlier attempt stopped. Raises UserError."""
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    with tqdm(desc=f"downloading {path.name}", unit="B", unit_scale=True) as bar:
        while True:
            before = size_of(part)
            try:
                if fetch_rest(url, part, bar):
                    break
                reason = "the connection broke"
            except UserError:
                raise
            except urllib.error.HTTPError as error:
                raise UserError(f"{url} answers {error.code} {error.reason}") from error
            except (OSError, ValueError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            failures = 0 if size_of(part) > before else failures + 1
            if failures == ATTEMPTS:
                raise UserError(f"{url} can't be downloaded ({reason}); try the same command later")
            time.sleep(min(failures, 5))
    part.replace(path)
    version_file(part).unlink(missing_ok=True)


def fetch_rest(url: str, part: Path, bar: tqdm) -> bool:
    """Appends to `part` what it lacks, as far as the connection lasts. Returns whether that is
    all of it. Raises UserError if there is no room for it."""
    have, version = size_of(part), read_version(part)
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and version:
        headers["If-Range"] = version  # else all of it is sent
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)
    except urllib.error.HTTPError as error:
        size = error.headers.get("Content-Range", "").rpartition("/")[2]
        if error.code == 416 and size == str(have):  # nothing is left of it
            return True
        if error.code == 416 and have:  # it was longer once
            part.unlink()
            return False
        raise
    with response, open(part, "ab") as file:
        if response.status == 206:
            # Not every server minds If-Range, or the range.
            kind = "ETag" if version.startswith('"') else "Last-Modified"
            changed = version and response.headers.get(kind, version) != version
            begin = response.headers.get("Content-Range", "").partition("-")[0]
            if changed or begin != f"bytes {have}":
                file.truncate(0)
                return False
        else:  # the server begins anew, and so does this
            file.truncate(0)
            if have and version:
                bar.write(f"{url} has changed since the download began; all of it is fetched")
            have = 0
            # Before the first byte of the new version, so that it never stands for an older one.
            version_file(part).write_text(version_of(response.headers), encoding="latin-1")
        length = response.headers.get("Content-Length")
        bar.total = have + int(length) if length else None
        bar.n = have
        if length:  # the archive, and as much again unpacked: pictures hardly compress
            need_space(part.parent, int(length) + bar.total, f"{url}, to be fetched and unpacked,")
        while block := response.read(BLOCK):
            file.write(block)
            bar.update(len(block))
        return length is None or bar.n == bar.total


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def version_file(part: Path) -> Path:
    """Beside a partial download: which version of the file it is a part of."""
    return part.with_name(part.name + ".version")


def read_version(part: Path) -> str:
    """Empty where it is not known."""
    file = version_file(part)
    version = file.read_text(encoding="latin-1") if file.exists() else ""
    return version if version.isprintable() else ""


def version_of(headers) -> str:
    """The ETag of an answer, unless a weak one, which promises no equal bytes; else its date."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def check(archive: Path) -> int:
    """Reads a .tar.gz to the checksum at its end, which tarfile does not. Returns its unpacked
    size. Raises UserError if it grows without measure, and gzip's errors if it is broken."""
    left = most = archive.stat().st_size * MOST_GROWTH + BLOCK  # tar fills up what is small
    with (
        gzip.open(archive) as file,
        tqdm(desc=f"checking {archive.name}", unit="B", unit_scale=True) as bar,
    ):
        while block := file.read(BLOCK):
            left -= len(block)
            if left < 0:
                raise UserError(f"{archive} would grow to {MOST_GROWTH} times its size")
            bar.update(len(block))
    return most - left


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a .tar.gz that holds one folder, as `folder`: all of it or nothing.

    Raises UserError on anything but plain files and folders within it, on an archive that is
    broken, on one that would grow without measure, and where there is no room.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        need_space(archive.parent, check(archive), f"unpacking {archive}")
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


def count_pictures(folder: Path) -> dict[str, int]:
    """How many files each split has."""
    splits = [folder / name for name in ("train", "val", "test") if (folder / name).is_dir()]
    return {
        split.name: sum(not file.name.startswith(".") for file in split.iterdir())
        for split in splits
    }


def in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in counts.items())


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
    print(introduction(name))
    print("(a download that is stopped goes on when the same command is given again)", flush=True)
    if not archive.exists():
        download(f"{arguments.source.rstrip('/')}/{archive.name}", archive)
    unpack(archive, folder)
    archive.unlink()
    counts, expected = count_pictures(folder), DATASETS[name].pictures
    print(f"{folder} is ready, pictures: {in_words(counts) or 'none'}")
    if expected and counts != expected:
        print(f"warning: the authors' release has {in_words(expected)}; this is another one")
    preset = {"night2day": "day2night"}.get(name, name)
    elsewhere = "" if folder == Path("data") / name else f" --data_root {shlex.quote(str(folder))}"
    print(f"next: python train.py {preset}{elsewhere}")


if __name__ == "__main__":
    with one_line_errors():
        main()
