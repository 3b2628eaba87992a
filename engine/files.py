"""Files that are written whole or not at all, and files from strangers, checked before use."""

import contextlib
import json
import os
import threading
import time
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torch import Tensor, nn

from engine.cli import UserError


def flush_to_disk(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def retry_while_locked(function, *arguments):
    """Calls a function and returns its result. Retries for 20 seconds after a PermissionError,
    which Windows raises while a virus scanner, Excel or evaluate.py has the file open."""
    for _ in range(100):
        with contextlib.suppress(PermissionError):
            return function(*arguments)
        time.sleep(0.2)
    return function(*arguments)


@contextlib.contextmanager
def reporting_write_errors(path: Path):
    """Turns a failure to write inside the block into a UserError that names the file."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # as torch.save has it
        if not isinstance(cause, OSError):
            raise
        raise UserError(f"{path} cannot be written: {cause.strerror or cause}") from error


@contextlib.contextmanager
def replacing(path: str | Path, durable: bool = True):
    """Yields a temporary path to write to; it replaces `path` once it is complete and, if
    `durable`, on disk. Until then `path` is unchanged, whatever happens. Raises UserError if it
    cannot be written."""
    path = Path(path)
    # Cut, as a name can have 255 bytes; the thread tells it from others that begin alike.
    name = f"{path.name[:40]}-{threading.get_ident()}"
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
    try:
        with reporting_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if durable:
                retry_while_locked(flush_to_disk, temporary)
            retry_while_locked(os.replace, temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8, atomically. Bytes of file names that are no text pass through unchanged."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


def save_image(image: Image.Image, path: Path) -> None:
    """Writes a PNG, atomically, and creates its folder."""
    with replacing(path, durable=False) as temporary:  # it can be made again
        image.save(temporary, format="PNG", compress_level=1)  # 3 times faster, 6 to 20 % larger


@contextlib.contextmanager
def creating_folder(folder: Path):
    """Yields a path to make a folder at; it becomes `folder` when it is complete, and is removed
    after an error. Raises UserError if `folder` exists."""
    if folder.exists():
        raise UserError(f"{folder} already exists; remove it or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{folder.name}.unfinished-", dir=folder.parent) as unfinished:
        complete = Path(unfinished, folder.name)
        yield complete
        retry_while_locked(complete.rename, folder)


def report_skipped(skipped: list[str], folder: Path) -> None:
    """Prints which files were left out, and writes all reasons to skipped.txt."""
    (folder / "skipped.txt").unlink(missing_ok=True)  # of an earlier run
    skipped = list(dict.fromkeys(skipped))
    if skipped:
        write_text(folder / "skipped.txt", "\n".join(skipped) + "\n")
        print(f"{len(skipped)} files were left out ({folder / 'skipped.txt'}):")
        print(*(f"  {line}" for line in skipped[:20]), sep="\n")


def read_json(path: Path) -> dict:
    """Reads a JSON file that holds an object. Raises UserError."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read as JSON: {reason}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object")
    return values


def find_damage(path: Path) -> str | None:
    """Returns what is wrong with a file written by torch.save, or None: compares its contents with
    their checksums, which torch.load ignores."""
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.save never compresses; a small compressed file could expand without limit.
            if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                return "it is compressed"
            broken = archive.testzip()
    except Exception as error:  # zipfile has no common error for damaged files
        return str(error) or type(error).__name__
    return f"its part {broken!r} does not match its checksum" if broken else None


class DamagedError(UserError):
    """A file that is incomplete or was changed after it was written."""


def load_tensors(path: Path) -> dict:
    """Reads a dict that torch.save wrote, on the CPU, without running code from it. Raises
    DamagedError, or UserError if it is none or declares more tensors than it holds."""
    reason = find_damage(path)
    if reason:
        raise DamagedError(f"{path} cannot be read as a checkpoint: {reason}")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no common error for bad files
        reason = str(error).partition(". ")[0] or type(error).__name__
        raise DamagedError(f"{path} cannot be read as a checkpoint: {reason}") from error
    tensors = list(tensors_of(values))
    plain = not any(tensor.is_meta or tensor.layout != torch.strided for tensor in tensors)
    # A small file can declare tensors of any size, all views of one value.
    fits = plain and sum(tensor.nbytes for tensor in tensors) <= path.stat().st_size
    if not isinstance(values, dict) or not fits:
        raise UserError(f"{path} is not a checkpoint of this project")
    return values


def tensors_of(state):
    """Yields all tensors in nested containers. Each container is visited once."""
    seen, waiting = set(), [state]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value


def misfit(network: nn.Module, weights: dict | None) -> str | None:
    """Says why weights are not those of a network, by name and shape; None if they are."""
    if not isinstance(weights, dict):
        return "there are no weights"
    expected = network.state_dict()
    for name in expected.keys() ^ weights.keys():
        return f"{name} is {'missing' if name in expected else 'not part of it'}"
    for name, weight in expected.items():
        found = weights[name].shape if isinstance(weights[name], Tensor) else None
        if found != weight.shape:
            return f"{name} has the shape {found and list(found)}, not {list(weight.shape)}"
    return None
