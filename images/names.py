"""Names of files that belong together."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from engine.cli import UserError


def composed(text: str) -> str:
    """The text with composed accents, which macOS and some archives write decomposed."""
    return unicodedata.normalize("NFC", text)


def name_of(file: Path) -> str:
    """The name by which a file is matched with others: without ending, accents composed."""
    return composed(file.stem)


def by_name(files: list[Path], refuse: Callable[[UserError], None]) -> dict[str, Path]:
    """Files by name without ending. Refuses the second of two with the same."""
    found = {}
    for file in files:
        other = found.setdefault(name_of(file), file)
        if other != file:
            refuse(UserError(f"{file} and {other.name} differ only in the ending; rename one"))
    return found


def near_miss(name: str, others: Iterable[str]) -> str | None:
    """The one of other names that differs in case, in a word at the start or the end (7_img and
    7_mask, img7 and 7) or in zeros before numbers; None if there is not exactly one."""
    near = [other for other in others if core(other) == core(name)]
    return near[0] if len(near) == 1 else None


def core(name: str) -> str:
    name = unicodedata.normalize("NFKC", name).casefold()
    name = re.sub(r"(?<!\d)0+(?=\d)", "", name)
    return re.sub(r"^[a-z]+[ _.-]?(?=\d)|(?<=.)[ _.-][a-z]+$|(?<=\d)[a-z]+$", "", name)
