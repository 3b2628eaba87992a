"""Palettes: the colors of label maps, and the classes they stand for.

A dataset brings its own palette in palette.json, beside its splits:

    {"classes": {"road": [128, 64, 128], "car": [0, 0, 142]}, "void": [[0, 0, 0]]}

Colors are RGB, 0 to 255. Pixels of a void color have no class and are not scored; "void" can be
omitted. known_palettes/ holds those of the demo, facades and cityscapes.
"""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

from config import Config
from engine.cli import UserError

Color = tuple[int, int, int]

FILE = "palette.json"
KNOWN = Path(__file__).parent / "known_palettes"


class Palette(NamedTuple):
    """The colors of label maps: one for each class, and those that are not scored."""

    classes: dict[str, Color]
    void: tuple[Color, ...] = ()


def read_palette(path: Path) -> Palette:
    """Reads a palette.json. Raises UserError."""
    try:
        return to_palette(json.loads(path.read_text(encoding="utf-8")))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        form = '{"classes": {NAME: [r, g, b], ...}, "void": [[r, g, b], ...]}'
        raise UserError(f"{path} is not a palette like {form}: {error}") from error


def to_palette(values: dict) -> Palette:
    """The palette of a dict as in palette.json. Raises one of various errors if it is another."""
    classes = {name: to_color(value) for name, value in values["classes"].items()}
    palette = Palette(classes, tuple(map(to_color, values.get("void", []))))
    colors = [*palette.classes.values(), *palette.void]
    if not classes or len(set(colors)) < len(colors):
        raise ValueError("each class needs one color, used once")
    return palette


def to_color(value) -> Color:
    red, green, blue = value
    if any(type(part) is not int or not 0 <= part <= 255 for part in value):
        raise ValueError(f"{value} is not a color, [r, g, b] from 0 to 255")
    return red, green, blue


PALETTES = {file.stem: read_palette(file) for file in sorted(KNOWN.glob("*.json"))}


def copy_palette(name: str, folder: Path) -> None:
    """Puts a known palette beside the splits of a dataset."""
    shutil.copyfile(KNOWN / f"{name}.json", folder / FILE)


def find_palette(config: Config) -> Palette | None:
    """The palette of the label maps in B, or None if `config` has none. `config.palette` is a known
    name, the path of a palette.json, "none", or "auto": then the palette.json in data_root counts,
    or else the known name that is the name of data_root. Raises UserError."""
    name, own = config.palette, Path(config.data_root, FILE)
    if config.task != "pairs" or name == "none":
        return None
    if name == "auto":
        return read_palette(own) if own.is_file() else PALETTES.get(own.parent.name)
    if name in PALETTES:
        return PALETTES[name]
    if not Path(name).is_file():
        known = ", ".join(["auto", "none", *PALETTES])
        raise UserError(f"palette is {name!r}, which is neither a file nor one of {known}")
    return read_palette(Path(name))


def palette_name(config: Config) -> str:
    """`config.palette`, or the name of the known palette that it stands for, which then no longer
    depends on the name of data_root. Raises UserError as `find_palette`."""
    palette = find_palette(config)
    return next((name for name, known in PALETTES.items() if palette == known), config.palette)


def title_of(palette: Palette) -> str:
    """The name of a known palette, or the names of its classes, for messages."""
    own = f"one of {len(palette.classes)} classes ({', '.join(palette.classes)})"
    return next((name for name, known in PALETTES.items() if palette == known), own)
