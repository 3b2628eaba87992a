"""Writes the tables of README.md from the figures in this folder, so that none is typed by hand.

    python results/write_tables.py

What stands between `<!-- results/NAME.json -->` and `<!-- end -->` is replaced by that file's table
and notes. NAME.json is what reproduce.py left in its folder as TABLE.json, or what
`benchmark.py --output NAME.json` wrote.
"""

import re
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import benchmark
import tables
from config import Parser, UserError, one_line_errors
from files import read_json, replacing

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(<!-- (results/[\w.]+\.json) -->\n)(?:(?!<!-- results/).)*?(<!-- end -->)", re.DOTALL
)


def described(figures: dict) -> str:
    """A table and what has to be known of it, of what either script wrote."""
    script = benchmark if "steps" in figures else tables
    notes = [f"- {note}" for note in script.notes(figures).splitlines()]
    return "\n".join([script.markdown(figures), "", *notes])


def with_tables(page: str, root: Path = ROOT) -> str:
    """The page with its tables as the files have them. Raises UserError if one is missing or is
    none."""

    def table(found: re.Match) -> str:
        begin, name, end = found.groups()
        figures = read_json(root / name)
        try:
            return f"{begin}\n{described(figures)}\n\n{end}"
        except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
            raise UserError(
                f"{name} is no table of reproduce.py or benchmark.py: {error}"
            ) from error

    if page.count("<!-- results/") > len(BLOCK.findall(page)):
        raise UserError("a table lacks its <!-- end -->")
    return BLOCK.sub(table, page)


def main() -> None:
    Parser(__doc__).parse_args()
    readme = ROOT / "README.md"
    page = with_tables(readme.read_text(encoding="utf-8"))
    with replacing(readme) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"{readme.name}: {len(BLOCK.findall(page))} tables")


if __name__ == "__main__":
    with one_line_errors():
        main()
