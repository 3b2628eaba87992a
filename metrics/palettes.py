"""Palettes: the colors of label maps, and the classes they stand for.

A dataset brings its own palette in palette.json, beside its splits:

    {"classes": {"road": [128, 64, 128], "car": [0, 0, 142]}, "void": [[0, 0, 0]]}

Colors are RGB, 0 to 255. Pixels of a void color have no class and are not scored; "void" can be
omitted.
"""

import json
from pathlib import Path
from typing import NamedTuple

from config import Config
from engine.cli import UserError, nearest

Color = tuple[int, int, int]

FILE = "palette.json"


class Palette(NamedTuple):
    """The colors of label maps: one for each class, and those that are not scored."""

    classes: dict[str, Color]
    void: tuple[Color, ...] = ()


# fmt: off
PALETTES: dict[str, Palette] = {
    # The colors of the CMP facade labels; roof is an addition, CMP labels it background.
    "demo": Palette({
        "background": (0, 0, 170), "wall": (0, 0, 255), "window": (0, 85, 255),
        "door": (0, 170, 255), "cornice": (0, 255, 255), "sill": (85, 255, 170),
        "balcony": (170, 255, 85), "blind": (255, 255, 0), "deco": (255, 170, 0),
        "molding": (255, 85, 0), "pillar": (255, 0, 0), "shop": (170, 0, 0),
        "roof": (85, 0, 85),
    }),
    # The colors of the authors' release, which differ from those of the CMP dataset itself.
    "facades": Palette({
        "background": (0, 0, 222), "facade": (0, 48, 255), "window": (0, 128, 255),
        "door": (0, 207, 255), "cornice": (32, 255, 224), "sill": (112, 255, 143),
        "balcony": (192, 255, 63), "blind": (255, 239, 0), "deco": (255, 159, 0),
        "molding": (255, 80, 0), "pillar": (255, 0, 0), "shop": (174, 0, 0),
    }),
    "cityscapes": Palette({
        "road": (128, 64, 128), "sidewalk": (244, 35, 232), "building": (70, 70, 70),
        "wall": (102, 102, 156), "fence": (190, 153, 153), "pole": (153, 153, 153),
        "traffic light": (250, 170, 30), "traffic sign": (220, 220, 0),
        "vegetation": (107, 142, 35), "terrain": (152, 251, 152), "sky": (70, 130, 180),
        "person": (220, 20, 60), "rider": (255, 0, 0), "car": (0, 0, 142), "truck": (0, 0, 70),
        "bus": (0, 60, 100), "train": (0, 80, 100), "motorcycle": (0, 0, 230),
        "bicycle": (119, 11, 32),
    }, void=(
        # Ignored by the benchmark. Its polegroup and license plate share colors with pole and car.
        (0, 0, 0),  # unlabeled, static, ego vehicle, border
        (111, 74, 0), (81, 0, 81), (250, 170, 160),  # dynamic, ground, parking
        (230, 150, 140), (180, 165, 180), (150, 100, 100),  # rail track, guard rail, bridge
        (150, 120, 90), (0, 0, 90), (0, 0, 110),  # tunnel, caravan, trailer
    )),
}
# fmt: on


def find_palette(config: Config) -> Palette | None:
    """The palette of the label maps in B, or None if `config` has none. `config.palette` is a known
    name, the path of a palette.json, "none", or "auto": then the palette.json in data_root counts,
    or else the known name that is the name of data_root. Raises UserError on a file or name that
    does not exist, and on a file that is no palette."""
    name = config.palette
    if config.task != "pairs" or name == "none":
        return None
    if name == "auto":
        own = Path(config.data_root, FILE)
        return read_palette(own) if own.is_file() else PALETTES.get(Path(config.data_root).name)
    if name in PALETTES:
        return PALETTES[name]
    if not Path(name).is_file():
        known = ["auto", "none", *PALETTES]
        raise UserError(
            f"palette is {name!r}, which is neither a file nor one of {', '.join(known)}"
            f"{nearest(name, known)}"
        )
    return read_palette(Path(name))


def palette_name(config: Config) -> str:
    """`config.palette`, or the name of the known palette that it stands for, which then no longer
    depends on the name of data_root. Raises UserError as `find_palette`."""
    palette = find_palette(config)
    return next((name for name, known in PALETTES.items() if palette == known), config.palette)


def read_palette(path: Path) -> Palette:
    """Reads a palette.json. Raises UserError."""
    from engine.files import read_json  # imports torch, which data/make_demo.py does without

    values = read_json(path)
    try:
        classes = {name: to_color(value) for name, value in values["classes"].items()}
        palette = Palette(classes, tuple(map(to_color, values.get("void", []))))
        colors = [*palette.classes.values(), *palette.void]
        if not classes or len(set(colors)) < len(colors) or values.keys() - {"classes", "void"}:
            raise ValueError("it needs one color, used once, for each class, and nothing else")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        form = '{"classes": {NAME: [r, g, b], ...}, "void": [[r, g, b], ...]}'
        raise UserError(f"{path} is not a palette like {form}: {error}") from error
    return palette


def to_color(value) -> Color:
    red, green, blue = value
    if any(type(part) is not int or not 0 <= part <= 255 for part in value):
        raise ValueError(f"{value} is not a color, [r, g, b] from 0 to 255")
    return red, green, blue


def write_palette(palette: Palette, folder: str | Path) -> None:
    """Writes folder/palette.json, a line for each class."""
    classes = [f"    {json.dumps(name)}: {list(color)}" for name, color in palette.classes.items()]
    text = '{\n  "classes": {\n' + ",\n".join(classes) + "\n  },\n"
    text += f'  "void": {json.dumps(palette.void)}\n}}\n'
    Path(folder, FILE).write_text(text, encoding="utf-8")
