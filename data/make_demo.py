"""Makes the demo dataset: invented facades, each a label map and its "photo".

    python -m data.make_demo                     data/demo: 120 train, 20 val, 20 test
    python -m data.make_demo --output data/big --train 1000 --seed 7

Files are laid out as in the facades dataset, photo left and labels right. A facade is drawn twice
from one list of parts: flat for the label map, and with brick, glass and shadows for the photo. It
follows from the seed, its split and its number alone.
"""

import argparse
from pathlib import Path

from engine import cli
from engine.cli import UserError

DEMO_ROOT = Path("data/demo")
COUNTS = {"train": 120, "val": 20, "test": 20}


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = cli.Parser(__doc__, "python -m data.make_demo [--output FOLDER] [--seed N] ...")
    parser.add_argument("--output", default=DEMO_ROOT, type=Path, help=f"default: {DEMO_ROOT}")
    for split, count in COUNTS.items():
        parser.add_argument(f"--{split}", type=int, default=count, help=f"pairs (default: {count})")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    options = parser.parse_args(argv)
    for name, least in {**dict.fromkeys(COUNTS, 1), "seed": 0}.items():
        if getattr(options, name) < least:
            raise UserError(f"--{name} is {getattr(options, name)}; it must be {least} or more")
    return options


if __name__ == "__main__":
    cli.early(parse_arguments)  # --help and mistakes answer before the slow imports

import shutil

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from metrics.palettes import PALETTES, write_palette

SIZE = 256  # px, of each half
SCALE = 2  # the photo is painted this much larger and then reduced, for smooth edges

LABELS = PALETTES["demo"].classes
COLORS = {  # of each material; a facade has one of them
    "wall": [(196, 154, 112), (205, 178, 140), (184, 120, 92), (212, 196, 168), (170, 112, 88)],
    "trim": [(232, 224, 208), (222, 208, 184), (240, 236, 226)],
    "roof": [(126, 66, 50), (142, 78, 56), (112, 60, 50), (96, 92, 96)],
    "blind": [(62, 92, 70), (72, 84, 66), (76, 92, 116)],
    "door": [(92, 56, 34), (78, 50, 36), (104, 64, 40)],
    "awning": [(168, 44, 40), (52, 84, 68), (64, 78, 120)],
}
CHANCES = {"pillar": 0.35, "molding": 0.5, "blind": 0.4, "deco": 0.4, "balcony": 0.7, "shop": 0.55}

Box = tuple[int, int, int, int]  # left, top, right, bottom in px


# ---- The layout -------------------------------------------------------------------------------


def design_facade(random: np.random.Generator) -> list[tuple[str, Box]]:
    """Draws the parts of a facade at random: (label, box), back to front."""
    left, right = random.integers(6, 28), SIZE - random.integers(6, 28)
    eaves, ground = random.integers(44, 66), SIZE - random.integers(10, 20)
    floors, columns = random.integers(3, 5), random.integers(3, 6)
    style = {label for label, chance in CHANCES.items() if random.random() < chance}
    pillar = 8 if "pillar" in style else 0
    floor_height = (ground - eaves - 6) / floors
    column_width = (right - left - 2 * pillar) / columns
    width, height = (
        column_width * random.uniform(0.4, 0.52),
        floor_height * random.uniform(0.5, 0.6),
    )
    door_column, balcony_floor = random.integers(columns), random.integers(1, floors)

    parts = []
    for row in range(random.integers(8, 12)):  # a hipped roof, a row of tiles at a time
        y, indent = eaves - 3 * row, 2 * row - 3
        parts.append(("roof", (left + indent, y - 3, right - indent, y)))
    parts.append(("wall", (left, eaves, right, ground)))
    for side in (left, right - pillar) if pillar else ():
        parts.append(("pillar", (side, eaves, side + pillar, ground)))
    parts.append(("cornice", (left - 4, eaves - 2, right + 4, eaves + 6)))
    line = ground - floor_height
    parts.append(("cornice", (left, line - 2, right, line + 3)))
    for floor in range(floors):  # 0 is the top one
        top = eaves + 6 + (floor + 0.18) * floor_height
        for column in range(columns):
            middle = left + pillar + (column + 0.5) * column_width
            x0, x1 = middle - width / 2, middle + width / 2
            if floor < floors - 1:
                at_balcony = floor == balcony_floor and column % 2 == columns % 2
                parts += design_window((x0, top, x1, top + height), style, at_balcony)
            elif column == door_column:
                parts.append(("molding", (x0 - 3, top - 3, x1 + 3, ground)))
                parts.append(("door", (x0, top, x1, ground)))
            elif "shop" in style:
                half = column_width * 0.41
                parts.append(("shop", (middle - half, top - 3, middle + half, ground - 5)))
            else:
                parts += design_window((x0, top, x1, top + height), style & {"molding"}, False)
    return [(label, tuple(int(round(side)) for side in box)) for label, box in parts]


def design_window(box, style: set[str], at_balcony: bool) -> list[tuple[str, tuple]]:
    """A window and what the style puts around it."""
    left, top, right, bottom = box
    blind = 0.4 * (right - left)
    parts = [
        ("molding", (left - 3, top - 3, right + 3, bottom + 1)),
        ("blind", (left - blind, top, left, bottom)),
        ("blind", (right, top, right + blind, bottom)),
        ("deco", (left + 1, top - 9, right - 1, top - 3)),
    ]
    parts = [part for part in parts if part[0] in style] + [("window", box)]
    if at_balcony and "balcony" in style:
        return [*parts, ("balcony", (left - 6, bottom - 15, right + 6, bottom + 4))]
    return [*parts, ("sill", (left - 3, bottom, right + 3, bottom + 4))]


def draw_labels(parts: list[tuple[str, Box]]) -> Image.Image:
    """The label map, in flat colors."""
    image = Image.new("RGB", (SIZE, SIZE), LABELS["background"])
    for label, (left, top, right, bottom) in parts:
        ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=LABELS[label])
    return image


# ---- The photo --------------------------------------------------------------------------------


class Canvas:
    """Floats in [0, 255], SCALE times the size of the photo. Boxes are in px of the photo."""

    def __init__(self, random: np.random.Generator):
        self.random = random
        self.pixels = np.zeros((SIZE * SCALE, SIZE * SCALE, 3), np.float32)

    def region(self, box) -> np.ndarray:
        left, top, right, bottom = (max(0, round(side * SCALE)) for side in box)
        return self.pixels[top:bottom, left:right]

    def fill(self, box, color) -> None:
        self.region(box)[:] = color

    def shade(self, box, first: float, last: float, axis: int = 0) -> None:
        """Multiplies by a ramp from `first` to `last`, downwards (axis 0) or rightwards (1)."""
        region = self.region(box)
        ramp = np.linspace(first, last, region.shape[axis], dtype=np.float32)
        region *= ramp[:, None, None] if axis == 0 else ramp[None, :, None]

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
            self.fill((x, top, x + 1, bottom), color)
        for y in np.linspace(top, bottom - 1, rows + 1):
            self.fill((left, y, right, y + 1), color)


def paint_background(canvas: Canvas, wall: Box) -> None:
    """Sky with clouds, hazy neighboring buildings, the pavement."""
    left, _, right, ground = wall
    sky, pavement = (0, 0, SIZE, ground), (0, ground, SIZE, SIZE)
    canvas.fill(sky, (150, 184, 220))
    canvas.shade(sky, 0.92, 1.2)
    canvas.speckle(sky, 36, 0.05)
    for box in ((0, 84, left, ground), (right, 96, SIZE, ground)):
        canvas.fill(box, (158, 152, 146))
        canvas.joints(box, 26, SIZE, 0.8)
        canvas.speckle(box, 1, 0.03)
    canvas.fill(pavement, (134, 130, 124))
    canvas.speckle(pavement, 2, 0.05)
    canvas.joints(pavement, 7, 24, 0.82)


def paint_roof(canvas: Canvas, box: Box, color) -> None:
    canvas.fill(box, color * canvas.random.uniform(0.92, 1.08))
    canvas.speckle(box, 2, 0.06)
    canvas.joints(box, 3, 5, 0.75)


def paint_plaster(canvas: Canvas, box: Box, color) -> None:
    canvas.fill(box, color)
    canvas.speckle(box, 1, 0.025)
    canvas.speckle(box, 30, 0.035)
    canvas.shade(box, 1.06, 0.9, axis=1)


def paint_brick(canvas: Canvas, box: Box, color) -> None:
    paint_plaster(canvas, box, color)
    canvas.joints(box, 4, 9, 0.84)


def paint_pillar(canvas: Canvas, box: Box, color) -> None:
    canvas.fill(box, color * 0.94)
    canvas.shade(box, 1.06, 0.78, axis=1)
    canvas.joints(box, 12, SIZE, 0.8)


def paint_ledge(canvas: Canvas, box: Box, color) -> None:
    """Bright above, dark below, with a shadow as deep as it is high, at most 7 px."""
    left, top, right, bottom = box
    canvas.fill(box, color)
    canvas.shade(box, 1.08, 0.8)
    canvas.shade((left + 1, bottom, right + 1, bottom + min(7, bottom - top)), 0.55, 1.0)


def paint_glass(canvas: Canvas, box: Box, color) -> None:
    """A pane: sky reflected above, a dark room below, sometimes curtains."""
    left, top, right, bottom = box
    canvas.fill(box, (88, 106, 122))
    canvas.shade(box, 1.25, 0.5)
    if canvas.random.random() < 0.4:
        width = (right - left) * 0.25
        for x in (left, right - width):
            canvas.fill((x, top, x + width, bottom), (164, 162, 156))
    canvas.shade((left, top, right, top + 3), 0.45, 0.9)


def paint_window(canvas: Canvas, box: Box, color) -> None:
    paint_glass(canvas, box, color)
    canvas.bars(box, 2, 3, color)


def paint_blind(canvas: Canvas, box: Box, color) -> None:
    canvas.fill(box, color)
    canvas.joints(box, 2, SIZE, 0.66)
    canvas.bars(box, 1, 1, color * 0.85)


def paint_balcony(canvas: Canvas, box: Box, color) -> None:
    left, top, right, bottom = box
    canvas.bars((left, top, right, bottom - 3), (right - left) // 4, 1, (46, 44, 46))
    paint_ledge(canvas, (left - 1, bottom - 4, right + 1, bottom), color * 0.86)


def paint_door(canvas: Canvas, box: Box, color) -> None:
    left, top, right, bottom = box
    canvas.fill(box, color)
    canvas.speckle(box, 2, 0.05)
    canvas.bars((left, top + 11, right, bottom), 2, 2, color * 0.6)
    paint_glass(canvas, (left + 2, top + 2, right - 2, top + 9), color)


def paint_shop(canvas: Canvas, box: Box, color) -> None:
    left, top, right, bottom = box
    pane = (left + 2, top + 10, right - 2, bottom - 3)
    canvas.fill(box, (58, 46, 40))
    paint_glass(canvas, pane, color)
    canvas.bars(pane, 2, 1, (48, 40, 36))
    paint_ledge(canvas, (left - 1, top, right + 1, top + 10), color)


PAINTERS = {  # label: how it is painted, of what material
    "roof": (paint_roof, "roof"),
    "wall": (paint_plaster, "wall"),
    "pillar": (paint_pillar, "trim"),
    "cornice": (paint_ledge, "trim"),
    "molding": (paint_ledge, "trim"),
    "deco": (paint_ledge, "trim"),
    "sill": (paint_ledge, "trim"),
    "balcony": (paint_balcony, "trim"),
    "window": (paint_window, "trim"),
    "blind": (paint_blind, "blind"),
    "door": (paint_door, "door"),
    "shop": (paint_shop, "awning"),
}


def draw_photo(parts: list[tuple[str, Box]], random: np.random.Generator) -> Image.Image:
    """The photo of a facade, in materials drawn at random."""
    canvas = Canvas(random)
    colors = {
        material: np.float32(choices[random.integers(len(choices))]) * random.uniform(0.95, 1.05)
        for material, choices in COLORS.items()
    }
    painters = PAINTERS | ({"wall": (paint_brick, "wall")} if random.random() < 0.5 else {})
    paint_background(canvas, next(box for label, box in parts if label == "wall"))
    for label, box in parts:
        paint, material = painters[label]
        paint(canvas, box, colors[material])
    canvas.pixels += random.normal(0, 3, canvas.pixels.shape)
    pixels = canvas.pixels.clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BOX)


# ---- The dataset ------------------------------------------------------------------------------


def make_pair(seed: int, split: int, number: int) -> Image.Image:
    """One side-by-side pair, 512x256: photo left, labels right."""
    random = np.random.default_rng([seed, split, number])
    parts = design_facade(random)
    pair = Image.new("RGB", (2 * SIZE, SIZE))
    pair.paste(draw_photo(parts, random), (0, 0))
    pair.paste(draw_labels(parts), (SIZE, 0))
    return pair


def make_demo(root: str | Path = DEMO_ROOT, seed: int = 0, **counts: int) -> None:
    """Writes root/train, root/val and root/test as PNGs, and root/palette.json: all or nothing.

    `counts` are pairs by split, where not those of COUNTS. Raises UserError if `root` exists.
    """
    root = Path(root)
    if root.exists():
        raise UserError(f"{root} already exists; remove it or choose another --output")
    unfinished = root.with_name(root.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    counts = COUNTS | counts
    with tqdm(total=sum(counts.values()), desc=f"making {root}", unit="pair") as bar:
        for index, (split, count) in enumerate(counts.items()):
            (unfinished / split).mkdir(parents=True)
            for number in range(1, count + 1):
                make_pair(seed, index, number).save(unfinished / split / f"{number}.png")
                bar.update()
    write_palette(PALETTES["demo"], unfinished)
    unfinished.rename(root)


def main(argv=None) -> int:
    options = vars(parse_arguments(argv))
    make_demo(options.pop("output"), **options)
    return 0


if __name__ == "__main__":
    cli.run(main)
