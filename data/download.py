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
    name, source = options.name, options.source
    if name not in DATASETS:
        raise UserError(f"unknown dataset {name!r}{cli.nearest(name, DATASETS)}")
    if not source.startswith(("http://", "https://")):
        raise UserError(f"--source is {source!r}; it must begin with http:// or https://")
    return options


if __name__ == "__main__":
    cli.early(parse_arguments)

import gzip
import http.client
import shlex
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib

from tqdm import tqdm

from metrics.palettes import PALETTES, write_palette

ATTEMPTS = 5  # in a row that end without a new byte
BLOCK = 2**20
# Images hardly compress; an archive that expands more than this is no dataset.
MAX_EXPANSION = 20


def introduction(name: str) -> str:
    """What will be downloaded, under which terms, and what to cite."""
    holds, terms, cite, _ = DATASETS[name]
    cite = "; ".join(filter(None, (CITE, cite)))
    return f"{name}: {holds}\n  terms  {terms}\n  cite   {cite}"


def need_space(folder: Path, size: int, purpose: str) -> None:
    """Raises UserError unless `size` bytes are free in a folder."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{purpose} needs {size / 1e6:,.0f} MB in {folder.absolute()}, which has "
            f"{free / 1e6:,.0f} MB free; make room or choose another --output"
        )


# ---- The download -----------------------------------------------------------------------------


def download(url: str, path: Path) -> None:
    """Fetches a file, resuming an earlier attempt. Raises UserError."""
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
                raise UserError(f"{url} cannot be downloaded ({reason}); repeat the command later")
            time.sleep(min(failures, 5))
    part.replace(path)
    version_file(part).unlink(missing_ok=True)


def fetch_rest(url: str, part: Path, bar: tqdm) -> bool:
    """Appends what `part` lacks until the connection breaks. Returns whether the file is complete.
    Raises UserError if there is no space for it."""
    have, version = size_of(part), read_version(part)
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and version:
        headers["If-Range"] = version  # a changed file is sent from its beginning
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)
    except urllib.error.HTTPError as error:
        size = error.headers.get("Content-Range", "").rpartition("/")[2]
        if error.code == 416 and size == str(have):  # it was complete already
            return True
        if error.code == 416 and have:  # the file has become shorter
            part.unlink()
            return False
        raise
    with response, open(part, "ab") as file:
        if response.status == 206:
            # Some servers ignore If-Range or the range itself.
            kind = "ETag" if version.startswith('"') else "Last-Modified"
            changed = version and response.headers.get(kind, version) != version
            begin = response.headers.get("Content-Range", "").partition("-")[0]
            if changed or begin != f"bytes {have}":
                file.truncate(0)
                return False
        else:  # sent from the beginning
            file.truncate(0)
            if have and version:
                bar.write(f"{url} has changed since the download began; restarting it")
            have = 0
            # Before the first byte of the new version, so that it never describes an older one.
            version_file(part).write_text(version_of(response.headers), encoding="latin-1")
        length = response.headers.get("Content-Length")
        bar.total = have + int(length) if length else None
        bar.n = have
        if length:  # for the archive and, unpacked, about as much again
            need_space(part.parent, int(length) + bar.total, f"downloading and unpacking {url}")
        while block := response.read(BLOCK):
            file.write(block)
            bar.update(len(block))
        return length is None or bar.n == bar.total


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def version_file(part: Path) -> Path:
    """Beside a partial download: the version of the file it belongs to."""
    return part.with_name(part.name + ".version")


def read_version(part: Path) -> str:
    """Empty if unknown."""
    file = version_file(part)
    version = file.read_text(encoding="latin-1") if file.exists() else ""
    return version if version.isprintable() else ""


def version_of(headers) -> str:
    """The ETag, or the date if the ETag is weak, which does not promise equal bytes."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


# ---- The archive ------------------------------------------------------------------------------


def unpacked_size(archive: Path) -> int:
    """The size of the contents of a .tar.gz. Checks the checksum at its end, which tarfile does
    not. Raises UserError if it expands too much, gzip's errors if it is damaged."""
    size, limit = 0, archive.stat().st_size * MAX_EXPANSION + BLOCK  # tar pads small files
    title = f"checking {archive.name}"
    with gzip.open(archive) as file, tqdm(desc=title, unit="B", unit_scale=True) as bar:
        while block := file.read(BLOCK):
            size += len(block)
            if size > limit:
                raise UserError(f"{archive} would expand to over {MAX_EXPANSION} times its size")
            bar.update(len(block))
    return size


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a .tar.gz that holds one folder, as `folder`: all of it or nothing.

    Raises UserError on anything but regular files and folders inside of it, on an archive that is
    damaged or expands too much, and if there is no space.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        need_space(archive.parent, unpacked_size(archive), f"unpacking {archive}")
        with tarfile.open(archive) as tar:
            for member in tqdm(tar, f"unpacking {archive.name}", unit="file"):
                if not (member.isfile() or member.isdir()):
                    raise UserError(f"{archive}: {member.name!r} is neither a file nor a folder")
                # Not by tar.extract, whose filters older Pythons lack.
                path = (unfinished / member.name).resolve()
                if not path.is_relative_to(unfinished.resolve()):
                    raise UserError(f"{archive}: {member.name!r} is outside of its folder")
                (path if member.isdir() else path.parent).mkdir(parents=True, exist_ok=True)
                if member.isfile():
                    with tar.extractfile(member) as source, open(path, "xb") as target:
                        shutil.copyfileobj(source, target)
        inside = unfinished / folder.name
        if not inside.is_dir():
            raise UserError(f"{archive} holds no folder {folder.name!r}")
        inside.rename(folder)
    except UserError:
        raise
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        archive.unlink()  # or the next attempt would use it
        raise UserError(f"{archive} was damaged ({error}) and is deleted; try again") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{archive} cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def count_images(folder: Path) -> dict[str, int]:
    """The number of files in each split."""
    splits = [folder / name for name in ("train", "val", "test") if (folder / name).is_dir()]
    return {s.name: sum(not file.name.startswith(".") for file in s.iterdir()) for s in splits}


def in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in counts.items()) or "no"


def main(argv=None) -> int:
    options = parse_arguments(argv)
    name, folder = options.name, Path(options.output, options.name)
    if folder.exists():
        raise UserError(f"{folder} already exists; remove it to download it again")
    archive = folder.with_name(f"{name}.tar.gz")
    print(introduction(name))
    print("(an interrupted download resumes when the command is repeated)", flush=True)
    if not archive.exists():
        download(f"{options.source.rstrip('/')}/{archive.name}", archive)
    unpack(archive, folder)
    archive.unlink()
    if name in PALETTES:
        write_palette(PALETTES[name], folder)
    counts, expected = count_images(folder), DATASETS[name].images
    print(f"wrote {folder}: {in_words(counts)} images")
    if expected and counts != expected:
        print(f"warning: the authors' release has {in_words(expected)}; this one differs")
    preset = {"night2day": "day2night"}.get(name, name)
    elsewhere = "" if folder == Path("data") / name else f" --data_root {shlex.quote(str(folder))}"
    print(f"next: python train.py {preset}{elsewhere}")
    return 0


if __name__ == "__main__":
    cli.run(main)
