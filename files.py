"""Files that are written whole or not at all, and files from strangers, read with care."""

import contextlib
import json
import os
import pickletools
import zipfile
from pathlib import Path

from torch import Tensor

from config import UserError

# All that the tensors, dicts and numbers of a checkpoint are made by when it is read.
STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte")
CHECKPOINT_PARTS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in STORAGES),
}


def flush_to_disk(file) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: str | Path):
    """A temporary name to write to; it becomes `path` once all of it is on the disk.

    Until then `path` is as it was, whatever happens. Raises UserError where it can't be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            flush_to_disk(file)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch.save tells of a full disk by an error of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        reason = cause.strerror or cause
        raise UserError(f"{path} can't be written: {reason}; what was there is kept") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint as a file, None if nothing is.

    Compares all of it with the checksums that torch.save puts into it and torch.load passes over.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # Never so by torch.save: a small file could grow without limit.
            if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                return "it is compressed"
            broken = archive.testzip()
    except Exception as error:  # zipfile raises nearly anything on a damaged file
        return str(error) or type(error).__name__
    return f"its part {broken!r} does not match its checksum" if broken else None


def strange_parts(path: Path) -> list[str]:
    """The names in a checkpoint file that are not needed to make its contents. torch.load with
    `weights_only` runs no code, but makes some objects of any size of a few bytes."""
    found = set()
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                for operation, argument, _ in pickletools.genops(archive.read(name)):
                    if operation.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                        found.add(argument or operation.name)
    return sorted(found - CHECKPOINT_PARTS)


def tensors_of(state):
    """All tensors in nested containers, each of which is looked at once, whatever refers to it."""
    seen, waiting = set(), [state]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value


def check_fits(found, expected, name: str) -> None:
    """Raises UserError unless `found`, called `name`, is of the same make as `expected`: the same
    keys, shapes and types all through. `expected` needs no values and can be on the device meta."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected.keys() - found.keys():
            raise UserError(f"{name} lacks {key!r}")
        for key in found.keys() - expected.keys():
            raise UserError(f"{name} has {key!r}, which is not expected")
        for key, value in expected.items():
            check_fits(found[key], value, f"{name} {key}")
    elif make_of(found) != make_of(expected):
        raise UserError(f"{name} is {make_of(found)}, not {make_of(expected)}")


def make_of(value) -> str:
    """Such as `64x3x4x4 float32`, or the name of a type."""
    if isinstance(value, Tensor):
        shape = "x".join(map(str, value.shape)) or "scalar"
        return f"{shape} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def read_json(file: Path) -> dict:
    """A JSON file that holds an object. Raises UserError."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file} can't be read as JSON: {reason}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} holds no JSON object")
    return values
