"""Makes the demo dataset: invented facades, each a label map and its "photo".

    python -m tools.make_demo                     data/demo: 120 train, 20 val, 20 test
    python -m tools.make_demo --output data/big --train 1000 --seed 7

Files are laid out as in the facades dataset, photo left and labels right. A facade is drawn twice
from one list of parts: flat for the label map, and with brick, glass and shadows for the photo. It
follows from the seed, its split and its number alone.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from engine import cli
from engine.cli import UserError
from engine.files import creating_folder
from metrics.palettes import PALETTES, copy_palette

DEMO_ROOT = Path("data/demo")


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = cli.Parser(__doc__, "python -m tools.make_demo [--output FOLDER] [--seed N] ...")
    add = parser.add_argument
    add("--output", dest="root", default=DEMO_ROOT, type=Path, help=f"default: {DEMO_ROOT}")
    for split, pairs in {"train": 120, "val": 20, "test": 20}.items():
        add(f"--{split}", type=int, default=pairs, help=f"pairs (default: {pairs})")
    add("--seed", type=int, default=0, help="default: 0")
    options = parser.parse_args(argv)
    if min(options.train, options.val, options.test) < 1 or options.seed < 0:
        raise UserError("--train, --val and --test must be 1 or more, --seed 0 or more")
    return options


SIZE = 256  # px, of each half
SCALE = 2  # the photo is painted this much larger and then reduced, for smooth edges

LABELS = PALETTES["demo"].classes
Box = tuple[int, int, int, int]  # left, top, right, bottom in px

# How many of the facades have these.
CHANCES = {
    "brick": 0.5, "pillar": 0.35, "molding": 0.5, "blind": 0.4, "deco": 0.4, "balcony": 0.7,
    "shop": 0.55,
}  # fmt: skip

MATERIALS = {  # a facade has each in one of these colors
    "plaster": [(196, 154, 112), (205, 178, 140), (184, 120, 92), (212, 196, 168), (170, 112, 88)],
    "stone": [(232, 224, 208), (222, 208, 184), (240, 236, 226)],
    "tiles": [(126, 66, 50), (142, 78, 56), (112, 60, 50)],
    "paint": [(62, 92, 70), (72, 84, 66), (86, 100, 72)],
    "wood": [(92, 56, 34), (78, 50, 36), (104, 64, 40)],
    "cloth": [(168, 44, 40), (156, 52, 44), (178, 58, 46)],
    "glass": [(88, 106, 122)],
    "iron": [(58, 46, 40)],
    "air": [(150, 184, 220)],
    "concrete": [(158, 152, 146)],
    "asphalt": [(134, 130, 124)],
}

LEDGE = [("shade", 1.08, 0.8), ("shadow",)]

# How the photo shows a part: its material, if any, and methods of Canvas with their arguments.
LOOKS = {
    "sky": ("air", [("shade", 0.92, 1.2), ("speckle", 36, 0.05)]),
    "neighbor": ("concrete", [("joints", 26, SIZE, 0.8), ("speckle", 1, 0.03)]),
    "pavement": ("asphalt", [("joints", 7, 24, 0.82), ("speckle", 2, 0.05)]),
    "roof": ("tiles", [("shade", 1.12, 0.92), ("speckle", 2, 0.07), ("joints", 3, 5, 0.75)]),
    "wall": ("plaster", [("shade", 1.06, 0.9, 1), ("speckle", 1, 0.025), ("speckle", 30, 0.035)]),
    "brick": (None, [("joints", 4, 9, 0.84)]),
    "pillar": ("stone", [("shade", 1.0, 0.74, 1), ("joints", 12, SIZE, 0.8)]),
    "cornice": ("stone", LEDGE),
    "molding": ("stone", LEDGE),
    "deco": ("stone", LEDGE),
    "sill": ("stone", LEDGE),
    "window": ("glass", [("reflect",), ("bars", 2, 3, (236, 232, 222))]),
    "blind": ("paint", [("joints", 2, SIZE, 0.66), ("bars", 1, 1, (60, 70, 70))]),
    "balcony": (None, [("bars", 8, 1, (46, 44, 46))]),
    "door": ("wood", [("speckle", 2, 0.05), ("bars", 2, 2, (54, 34, 24))]),
    "shop": ("iron", []),
    "pane": ("glass", [("reflect",), ("bars", 2, 1, (48, 40, 36))]),
    "awning": ("cloth", LEDGE),
}


def design_facade(random: np.random.Generator) -> list[tuple[str, Box]]:
    """Draws a facade at random: its parts, a key of LOOKS and a box each, back to front."""
    left, right = random.integers(6, 28), SIZE - random.integers(6, 28)
    eaves, ground = random.integers(44, 66), SIZE - random.integers(10, 20)
    floors, columns = random.integers(3, 5), random.integers(3, 6)
    missing = {part for part, chance in CHANCES.items() if random.random() >= chance}
    door_column, balcony_floor = random.integers(columns), random.integers(1, floors - 1)
    pillar = 0 if "pillar" in missing else 8
    floor_height = (ground - eaves - 6) / floors
    column_width = (right - left - 2 * pillar) / columns
    width, height = random.uniform((0.4, 0.5), (0.52, 0.6)) * (column_width, floor_height)
    line = ground - floor_height

    parts = [("sky", (0, 0, SIZE, ground)), ("pavement", (0, ground, SIZE, SIZE))]
    parts += [("neighbor", (0, 84, left, ground)), ("neighbor", (right, 96, SIZE, ground))]
    for row in range(random.integers(8, 12)):  # a hipped roof, a row of tiles at a time
        y, indent = eaves - 3 * row, 2 * row - 3
        parts.append(("roof", (left + indent, y - 3, right - indent, y)))
    parts += [(part, (left, eaves, right, ground)) for part in ("wall", "brick")]
    parts += [("pillar", (x, eaves, x + pillar, ground)) for x in (left, right - pillar)]
    parts.append(("cornice", (left - 4, eaves - 2, right + 4, eaves + 6)))
    parts.append(("cornice", (left, line - 2, right, line + 3)))
    for floor, column in np.ndindex(floors, columns):  # floor 0 is the top one
        top = eaves + 6 + (floor + 0.18) * floor_height
        middle = left + pillar + (column + 0.5) * column_width
        x0, x1 = middle - width / 2, middle + width / 2
        if floor == floors - 1 and column == door_column:
            parts.append(("molding", (x0 - 3, top - 3, x1 + 3, ground)))
            parts.append(("door", (x0, top, x1, ground)))
        elif floor == floors - 1 and "shop" not in missing:
            x0, x1 = middle - 0.41 * column_width, middle + 0.41 * column_width
            parts.append(("shop", (x0, top - 3, x1, ground - 5)))
            parts.append(("pane", (x0 + 2, top + 7, x1 - 2, ground - 8)))
            parts.append(("awning", (x0 - 1, top - 3, x1 + 1, top + 7)))
        else:
            without = set() if floor < floors - 1 else {"blind", "deco"}
            if floor != balcony_floor or column % 2 != columns % 2:
                without.add("balcony")
            window = design_window(x0, top, x1, top + height)
            parts += [part for part in window if part[0] not in without]
    return [(part, tuple(map(round, box))) for part, box in parts if part not in missing]


def design_window(left, top, right, bottom) -> list[tuple[str, tuple]]:
    """A window with all that can be around it."""
    blind = 0.4 * (right - left)
    return [
        ("molding", (left - 3, top - 3, right + 3, bottom + 1)),
        ("blind", (left - blind, top, left, bottom)),
        ("blind", (right, top, right + blind, bottom)),
        ("deco", (left + 1, top - 9, right - 1, top - 3)),
        ("window", (left, top, right, bottom)),
        ("sill", (left - 3, bottom, right + 3, bottom + 4)),
        ("balcony", (left - 6, bottom - 15, right + 6, bottom + 4)),
    ]


class Canvas:
    """Floats in [0, 255], SCALE times the size of the photo. Boxes are in px of the photo."""

    def __init__(self, random: np.random.Generator):
        self.random = random
        self.pixels = np.zeros((SIZE * SCALE, SIZE * SCALE, 3), np.float32)

    def region(self, box) -> np.ndarray:
        left, top, right, bottom = (max(0, round(side * SCALE)) for side in box)
        return self.pixels[top:bottom, left:right]

    def shade(self, box, first: float, last: float, axis: int = 0) -> None:
        """Multiplies by a ramp from `first` to `last`, downwards (axis 0) or rightwards (1)."""
        region = self.region(box)
        ramp = np.linspace(first, last, region.shape[axis], dtype=np.float32)
        region *= ramp[:, None, None] if axis == 0 else ramp[None, :, None]

    def shadow(self, box) -> None:
        """The shadow below a box, as deep as the box is high, at most 7 px."""
        left, top, right, bottom = box
        self.shade((left + 1, bottom, right + 1, bottom + min(7, bottom - top)), 0.55, 1.0)

    def speckle(self, box, grain: int, strength: float) -> None:
        """Multiplies by smooth noise with spots about `grain` px wide."""
        region = self.region(box)
        height, width = region.shape[:2]
        cells = (max(2, height // (grain * SCALE)), max(2, width // (grain * SCALE)))
        noise = Image.fromarray(self.random.standard_normal(cells).astype(np.float32))
        noise = noise.resize((width, height), Image.Resampling.BICUBIC)
        region *= 1 + strength * np.asarray(noise)[:, :, None]

    def joints(self, box, height: int, width: int, strength: float) -> None:
        """Darkens the joints between bricks of this size in px."""
        region = self.region(box)
        y, x = np.ogrid[: region.shape[0], : region.shape[1]]
        row, y = np.divmod(y, height * SCALE)
        x = (x + row % 2 * width * SCALE // 2) % (width * SCALE)
        region[(y == 0) | (x == 0)] *= strength

    def bars(self, box, columns: int, rows: int, color) -> None:
        """A frame and the bars that divide it."""
        left, top, right, bottom = box
        for x in np.linspace(left, right - 1, columns + 1):
            self.region((x, top, x + 1, bottom))[:] = color
        for y in np.linspace(top, bottom - 1, rows + 1):
            self.region((left, y, right, y + 1))[:] = color

    def reflect(self, box) -> None:
        """Glass: sky reflected above, a dark room below, sometimes curtains."""
        left, top, right, bottom = box
        self.shade(box, 1.25, 0.5)
        width = (right - left) / 4 if self.random.random() < 0.4 else 0
        for x in (left, right - width):
            self.region((x, top, x + width, bottom))[:] = (164, 162, 156)
        self.shade((left, top, right, top + 3), 0.45, 0.9)


def draw_photo(parts: list[tuple[str, Box]], random: np.random.Generator) -> Image.Image:
    """The photo of a facade, in colors drawn at random."""
    canvas = Canvas(random)
    colors = {
        material: np.float32(choices[random.integers(len(choices))]) * random.uniform(0.95, 1.05)
        for material, choices in MATERIALS.items()
    }
    for part, box in parts:
        material, steps = LOOKS[part]
        if material:
            canvas.region(box)[:] = colors[material]
        for method, *arguments in steps:
            getattr(canvas, method)(box, *arguments)
    canvas.pixels += 3 * random.standard_normal(canvas.pixels.shape, np.float32)
    pixels = canvas.pixels.clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BOX)


def draw_labels(parts: list[tuple[str, Box]]) -> np.ndarray:
    """The label map in flat colors, uint8 (SIZE, SIZE, 3)."""
    pixels = np.full((SIZE, SIZE, 3), LABELS["background"], np.uint8)
    for part, (left, top, right, bottom) in parts:
        if part in LABELS:
            pixels[top:bottom, left:right] = LABELS[part]
    return pixels


def make_pair(seed: int, split: int, number: int) -> Image.Image:
    """One side-by-side pair, 512x256: photo left, labels right."""
    random = np.random.default_rng([seed, split, number])
    facade = design_facade(random)
    return Image.fromarray(np.hstack([draw_photo(facade, random), draw_labels(facade)]))


def make_demo(root: Path = DEMO_ROOT, train=120, val=20, test=20, seed=0) -> None:
    """Writes so many pairs as PNGs into root/train, root/val and root/test, and root/palette.json:
    all or nothing. Raises UserError if `root` exists."""
    with creating_folder(root) as folder:
        for index, (split, count) in enumerate({"train": train, "val": val, "test": test}.items()):
            (folder / split).mkdir(parents=True)
            for number in tqdm(range(1, count + 1), f"making {root}/{split}", unit="pair"):
                make_pair(seed, index, number).save(folder / split / f"{number}.png")
        copy_palette("demo", folder)


def main(argv=None) -> int:
    make_demo(**vars(parse_arguments(argv)))
    return 0


if __name__ == "__main__":
    cli.run(main)
