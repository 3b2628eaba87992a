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


def near_misses(names: Iterable[str]) -> dict[str, str]:
    """Maps each `core` that only one name has to that name: the near miss of a name without a
    partner is the one at its own core."""
    found, twice = {}, set()
    for name in names:
        if found.setdefault(core(name), name) != name:
            twice.add(core(name))
    return {key: name for key, name in found.items() if key not in twice}


def core(name: str) -> str:
    """The name without what often differs between partners: case, a word at the start or the end
    (7_img and 7_mask, img7 and 7) and zeros before numbers."""
    name = unicodedata.normalize("NFKC", name).casefold()
    name = re.sub(r"(?<!\d)0+(?=\d)", "", name)
    return re.sub(r"^[a-z]+[ _.-]?(?=\d)|(?<=.)[ _.-][a-z]+$|(?<=\d)[a-z]+$", "", name)
