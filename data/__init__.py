"""Scripts that prepare datasets: download, combine, make_demo. README.md describes the layouts."""

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from engine.cli import UserError


@contextmanager
def creating(folder: Path):
    """Yields a path to make a folder at; it becomes `folder` when it is complete, and is removed
    after an error. Raises UserError if `folder` exists."""
    if folder.exists():
        raise UserError(f"{folder} already exists; remove it or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{folder.name}.unfinished-", dir=folder.parent) as unfinished:
        complete = Path(unfinished, folder.name)
        yield complete
        from engine.files import patiently  # imports torch

        patiently(complete.rename, folder)
