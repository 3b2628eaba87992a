"""Palettes: the colors of label maps, and the classes they stand for.

A dataset brings its own palette in palette.json, beside its splits:

    {"classes": {"road": [128, 64, 128], "car": [0, 0, 142]}, "void": [[0, 0, 0]]}

Colors are RGB, 0 to 255. Pixels of a void color have no class and are not scored; "void" can be
omitted. Files that hold class numbers have numbers in place of colors:

    {"classes": {"background": 0, "road": 1}, "void": [255]}

The network sees a color, or a gray, for each of them. known_palettes/ holds the palettes of the
demo, facades and cityscapes.
"""

import json
import shutil
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from config import Config
from engine.cli import UserError

Color = tuple[int, int, int]

FILE = "palette.json"
KNOWN = Path(__file__).parent / "known_palettes"
MAX_CLASSES = 1024


class Palette(NamedTuple):
    """The colors of label maps: one for each class, and those that are not scored. `numbers` are
    the class numbers that these colors, in this order, stand for; none if the files hold colors."""

    classes: dict[str, Color]
    void: tuple[Color, ...] = ()
    numbers: tuple[int, ...] = ()


def read_palette(path: Path) -> Palette:
    """Reads a palette.json. Raises UserError."""
    try:
        return parse_palette(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a palette: {error}") from error


def parse_palette(text: str, source: str) -> Palette:
    """The palette in the text of a palette.json, which comes from `source`. Raises UserError."""
    try:
        return to_palette(json.loads(text))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        form = '{"classes": {NAME: [r, g, b], ...}, "void": [[r, g, b], ...]}'
        also = "or with a number for each [r, g, b]"
        raise UserError(f"{source} is not a palette like {form} {also}: {error}") from error


def to_palette(values: dict) -> Palette:
    """The palette of a dict as in palette.json. Raises one of various errors if it is another."""
    names, void = list(values["classes"].keys()), list(values.get("void", []))
    entries = [*values["classes"].values(), *void]
    numbered = any(type(entry) is int for entry in entries)
    entries = list(map(to_number if numbered else to_color, entries))
    if not names or len(set(entries)) < len(entries):
        raise ValueError("each class needs one color, or one number, used once")
    if len(entries) > MAX_CLASSES:
        raise ValueError(f"it has {len(entries)} classes, more than {MAX_CLASSES}")
    colors = spread_colors(entries) if numbered else entries
    classes = dict(zip(names, colors[: len(names)], strict=True))
    return Palette(classes, tuple(colors[len(names) :]), tuple(entries) if numbered else ())


def to_values(palette: Palette) -> dict:
    """The inverse of `to_palette`: a dict as in palette.json."""
    entries = palette.numbers or (*palette.classes.values(), *palette.void)
    count = len(palette.classes)
    classes = dict(zip(palette.classes, entries[:count], strict=True))
    return {"classes": classes, **({"void": entries[count:]} if palette.void else {})}


def to_number(value) -> int:
    if type(value) is not int or not 0 <= value < 2**16:
        raise ValueError(f"{value} is not a class number, from 0 to 65535")
    return value


def spread_colors(numbers: list[int]) -> list[Color]:
    """A color for each class number: the lowest black, each next one as far as possible from those
    before it, on a lattice of RGB with as few levels as possible."""
    levels = 2
    while levels**3 < len(numbers):
        levels += 1
    steps = np.linspace(0, 255, levels).round().astype(int)
    lattice = np.array([color[::-1] for color in product(steps, repeat=3)])  # red changes first
    colors, distance = [], np.full(len(lattice), np.inf)
    place = 0  # black
    for _ in numbers:
        colors.append(tuple(map(int, lattice[place])))
        distance = np.minimum(distance, ((lattice - lattice[place]) ** 2).sum(1))
        place = distance.argmax()
    by_number = dict(zip(sorted(numbers), colors, strict=True))
    return [by_number[number] for number in numbers]


def in_grays(palette: Palette) -> Palette:
    """The palette of a network with one channel: class numbers become evenly spaced grays, colors
    their luminance. Raises UserError if a class shares its gray."""
    if palette.numbers:
        order, last = sorted(palette.numbers), max(1, len(palette.numbers) - 1)
        grays = [round(255 * order.index(number) / last) for number in palette.numbers]
    else:
        colors = np.array([[*palette.classes.values(), *palette.void]], np.uint8)
        grays = np.asarray(Image.fromarray(colors).convert("L"))[0].tolist()
    for name, gray in zip(palette.classes, grays, strict=False):
        if grays.count(gray) > 1:
            shared = f"in one channel, class {name!r} of the palette has the gray of another"
            raise UserError(f"{shared}; use 3 channels, or --palette none")
    colors = [(gray, gray, gray) for gray in grays]
    count = len(palette.classes)
    classes = dict(zip(palette.classes, colors[:count], strict=True))
    return Palette(classes, tuple(colors[count:]), palette.numbers)


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
    """The palette of the label maps in B, or None if `config` has none or B holds arrays: the
    colors, or with one channel the grays, that the network sees. Raises UserError."""
    palette, to_labels = look_up(config), config.direction == "AtoB"
    if palette is None or (config.target_range if to_labels else config.input_range):
        return None
    channels = config.out_channels if to_labels else config.in_channels
    return in_grays(palette) if channels == 1 and (to_labels or palette.numbers) else palette


def look_up(config: Config) -> Palette | None:
    """What `config.palette` stands for. It is a known name, the path of a palette.json or its
    content, "none", or "auto": then the palette.json in data_root counts, or else the known name
    that is the name of data_root. Raises UserError."""
    name, own = config.palette, Path(config.data_root, FILE)
    if config.task != "pairs" or name == "none":
        return None
    if is_content(name):
        return parse_palette(name, "palette")
    if name == "auto":
        return read_palette(own) if own.is_file() else PALETTES.get(own.parent.name)
    if name in PALETTES:
        return PALETTES[name]
    if not Path(name).is_file():
        known = ", ".join(["auto", "none", *PALETTES])
        raise UserError(f"palette is {name!r}, which is neither a file nor one of {known}")
    return read_palette(Path(name))


def is_content(palette: str) -> bool:
    """Whether `Config.palette` is the content of a palette.json."""
    return palette.startswith("{")


def palette_name(config: Config) -> str:
    """`config.palette` as a run keeps it: the name of the known palette that it stands for, which
    then no longer depends on the name of data_root, or the content of a palette of class numbers,
    without which the generator cannot be used. Raises UserError as `find_palette`."""
    palette = look_up(config)
    if palette and palette.numbers:
        return json.dumps(to_values(palette))
    return next((name for name, known in PALETTES.items() if palette == known), config.palette)


def trained_palette(config: Config) -> Palette | None:
    """`find_palette` for a trained generator. Raises UserError if the data hold class numbers with
    which it was not trained: it has learned other colors."""
    palette = find_palette(config)
    if palette and palette.numbers and not is_content(config.palette):
        raise UserError(
            f"the palette of {config.data_root} has class numbers, but this run was trained "
            "without; train again, or give --palette none"
        )
    return palette


def title_of(palette: Palette) -> str:
    """The name of a known palette, or the names of its classes, for messages."""
    own = f"one of {len(palette.classes)} classes ({', '.join(palette.classes)})"
    return next((name for name, known in PALETTES.items() if palette == known), own)
