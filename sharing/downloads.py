"""Files and archives from the web: downloads that resume, archives that are unpacked as a whole."""

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

from engine.cli import UserError
from engine.files import creating_folder

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
