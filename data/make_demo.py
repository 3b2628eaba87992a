"""Makes the demo dataset: invented facades, each a label map and its "photo".

    python -m data.make_demo                     data/demo: 120 train, 20 val, 20 test
    python -m data.make_demo --output data/big --train 1000 --seed 7

Files are laid out as in the facades dataset, photo left and labels right. A facade is drawn twice
from one description, a list of (label, box): flat for the label map, and with brick, glass and
shadows for the photo, with the sun at the upper left. It follows from the seed, its split and its
number alone.
"""

import argparse
from pathlib import Path

from engine import cli
from engine.cli import UserError

DEMO_ROOT = Path("data/demo")


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = cli.Parser(__doc__, "python -m data.make_demo [--output FOLDER] [--seed N] ...")
    parser.add_argument("--output", default=DEMO_ROOT, type=Path, help=f"default: {DEMO_ROOT}")
    parser.add_argument("--train", type=int, default=120, help="pairs (default: 120)")
    parser.add_argument("--val", type=int, default=20, help="pairs (default: 20)")
    parser.add_argument("--test", type=int, default=20, help="pairs (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    options = parser.parse_args(argv)
    for name, least in {"train": 1, "val": 1, "test": 1, "seed": 0}.items():
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
WALLS = [(196, 154, 112), (205, 178, 140), (184, 120, 92), (212, 196, 168), (170, 112, 88)]
TRIMS = [(232, 224, 208), (222, 208, 184), (240, 236, 226)]
ROOFS = [(126, 66, 50), (142, 78, 56), (112, 60, 50)]
BLINDS = [(62, 92, 70), (72, 84, 66), (86, 100, 72)]
DOORS = [(92, 56, 34), (78, 50, 36), (104, 64, 40)]
AWNINGS = [(168, 44, 40), (156, 52, 44), (178, 58, 46)]


# ---- The layout -------------------------------------------------------------------------------


def design_facade(random: np.random.Generator) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Draws a facade at random: (label, (left, top, right, bottom)) in px, back to front."""
    left, right = int(random.integers(6, 28)), SIZE - int(random.integers(6, 28))
    eaves, ground = int(random.integers(44, 66)), SIZE - int(random.integers(10, 20))
    floors, columns = int(random.integers(3, 5)), int(random.integers(3, 6))
    has_blinds, has_pillars = random.random() < 0.4, random.random() < 0.35
    has_moldings, has_deco = random.random() < 0.5, random.random() < 0.4
    is_shop = random.random() < 0.55
    balcony_floor = int(random.integers(1, floors)) if random.random() < 0.7 else None

    facade = [("roof", (left - 3, eaves - int(random.integers(24, 38)), right + 3, eaves))]
    facade.append(("wall", (left, eaves, right, ground)))
    pillar = 8 if has_pillars else 0
    if has_pillars:
        facade.append(("pillar", (left, eaves, left + pillar, ground)))
        facade.append(("pillar", (right - pillar, eaves, right, ground)))
    facade.append(("cornice", (left - 4, eaves - 2, right + 4, eaves + 6)))

    floor_height = (ground - eaves - 6) / floors
    column_width = (right - left - 2 * pillar) / columns
    window_width = int(column_width * random.uniform(0.40, 0.52))
    window_height = int(floor_height * random.uniform(0.52, 0.62))

    for floor in range(floors):  # 0 is the top one
        top = int(eaves + 6 + floor * floor_height + floor_height * 0.18)
        bottom = top + window_height
        is_ground = floor == floors - 1
        if is_ground:
            line = int(eaves + 6 + floor * floor_height)
            facade.append(("cornice", (left, line - 2, right, line + 3)))
        door_column = int(random.integers(columns)) if is_ground else None
        for column in range(columns):
            middle = int(left + pillar + (column + 0.5) * column_width)
            x0, x1 = middle - window_width // 2, middle + window_width // 2
            if column == door_column:
                facade.append(("molding", (x0 - 3, top - 3, x1 + 3, ground)))
                facade.append(("door", (x0, top, x1, ground)))
                continue
            if is_ground and is_shop:
                width = int(column_width * 0.41)
                facade.append(("shop", (middle - width, top - 3, middle + width, ground - 5)))
                continue
            if has_moldings:
                facade.append(("molding", (x0 - 3, top - 3, x1 + 3, bottom + 1)))
            if has_blinds and not is_ground:
                width = min(window_width // 2, int((column_width - window_width) / 2) - 2)
                facade.append(("blind", (x0 - width, top, x0, bottom)))
                facade.append(("blind", (x1, top, x1 + width, bottom)))
            if has_deco and not is_ground:
                facade.append(("deco", (x0 + 1, top - 9, x1 - 1, top - 3)))
            facade.append(("window", (x0, top, x1, bottom)))
            if floor == balcony_floor and not is_ground and column % 2 == columns % 2:
                facade.append(("balcony", (x0 - 6, bottom - 15, x1 + 6, bottom + 4)))
            else:
                facade.append(("sill", (x0 - 3, bottom, x1 + 3, bottom + 4)))

    for dormer in range(int(random.integers(0, 3))):
        middle = int(left + (right - left) * (dormer + 1) / 3)
        facade.append(("window", (middle - 7, eaves - 19, middle + 7, eaves - 5)))
    return facade


def roof_outline(box: tuple[int, int, int, int], scale: int = 1) -> list[tuple[int, int]]:
    """The corners of a hipped roof, the only part that does not fill its box."""
    left, top, right, bottom = (scale * side for side in box)
    slope = (bottom - top) // 2
    return [(left, bottom), (left + slope, top), (right - slope, top), (right, bottom)]


def draw_labels(facade: list) -> Image.Image:
    """The label map, in flat colors."""
    image = Image.new("RGB", (SIZE, SIZE), LABELS["background"])
    draw = ImageDraw.Draw(image)
    for label, (left, top, right, bottom) in facade:
        if label == "roof":
            draw.polygon(roof_outline((left, top, right, bottom)), fill=LABELS["roof"])
        else:
            draw.rectangle((left, top, right - 1, bottom - 1), fill=LABELS[label])
    return image


# ---- The photo --------------------------------------------------------------------------------


class Painter:
    """A canvas of floats in [0, 255], SCALE times the size of the photo. Boxes are in px."""

    def __init__(self, random: np.random.Generator):
        self.random = random
        self.canvas = np.zeros((SIZE * SCALE, SIZE * SCALE, 3), np.float32)

    def region(self, box) -> np.ndarray:
        left, top, right, bottom = (max(0, round(side * SCALE)) for side in box)
        return self.canvas[top:bottom, left:right]

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
        noise = self.random.standard_normal(cells).astype(np.float32)
        noise = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        region *= 1 + strength * np.asarray(noise)[:, :, None]

    def rows(self, box, height: float, strength: float, shift: float = 0.0) -> None:
        """Darkens lines `height` px apart; with a shift, vertical ones as well, as in bricks."""
        left, top, right, bottom = box
        for row, y in enumerate(np.arange(top, bottom, height)):
            self.shade((left, y, right, min(y + 0.5, bottom)), strength, strength)
            if shift:
                for x in np.arange(left + (row % 2) * shift / 2, right, shift):
                    self.shade((x, y, x + 0.5, min(y + height, bottom)), strength, strength)

    def shadow(self, box, depth: float, strength: float = 0.55) -> None:
        """Shades what is below a box that stands out, and slightly to the right."""
        left, _, right, bottom = box
        self.shade((left + 1, bottom, right + 1, bottom + depth), strength, 1.0)

    def ledge(self, box, color, depth: float) -> None:
        """A ledge: bright above, dark below, with its shadow."""
        left, _, right, bottom = box
        self.fill(box, color)
        self.shade(box, 1.08, 0.82)
        self.shade((left, bottom - 1, right, bottom), 0.7, 0.7)
        self.shadow(box, depth)

    def glass(self, box) -> None:
        """A pane: sky reflected above, a dark room below, sometimes curtains."""
        left, top, right, bottom = box
        self.fill(box, (88, 106, 122))
        self.shade(box, 1.25, 0.5)
        self.shade(box, 0.9, 1.1, axis=1)
        if self.random.random() < 0.4:
            width = (right - left) * 0.22
            for side in ((left, top, left + width, bottom), (right - width, top, right, bottom)):
                self.region(side)[:] = 0.35 * self.region(side) + 0.65 * np.float32((206, 200, 188))
        self.shade((left, top, right, top + 2), 0.45, 0.8)
        self.shade((left, top, left + 1.5, bottom), 0.6, 0.6)

    def bars(self, box, columns: int, rows: int, color, width: float = 1.0) -> None:
        """The frame of a box and the bars that divide it."""
        left, top, right, bottom = box
        for x in np.linspace(left, right - width, columns + 1):
            self.fill((x, top, x + width, bottom), color)
        for y in np.linspace(top, bottom - width, rows + 1):
            self.fill((left, y, right, y + width), color)


def paint_background(painter: Painter, facade: list) -> None:
    """Sky with clouds, hazy neighboring buildings, the pavement."""
    horizon = next(box[3] for label, box in facade if label == "wall")
    everything = (0, 0, SIZE, SIZE)
    painter.fill(everything, (150, 184, 220))
    painter.shade(everything, 0.92, 1.2)
    painter.speckle((0, 0, SIZE, horizon), 36, 0.05)
    left, right = next((box[0], box[2]) for label, box in facade if label == "wall")
    for box in ((0, 84, left, horizon), (right, 96, SIZE, horizon)):
        painter.fill(box, (158, 152, 146))
        painter.rows(box, 26, 0.8)
        painter.speckle(box, 1, 0.03)
    painter.fill((0, horizon, SIZE, SIZE), (134, 130, 124))
    painter.speckle((0, horizon, SIZE, SIZE), 2, 0.05)
    painter.rows((0, horizon, SIZE, SIZE), 7, 0.82)


def paint_roof(painter: Painter, box, color) -> None:
    left, top, right, bottom = box
    behind = painter.region(box).copy()
    painter.fill(box, color)
    painter.shade(box, 1.18, 0.86)
    painter.rows(box, 4, 0.72, shift=6)
    painter.speckle(box, 3, 0.06)
    painter.shade((left, top, right, top + 1.5), 1.3, 1.3)
    mask = Image.new("L", behind.shape[1::-1], 0)
    outline = roof_outline((0, 0, right - left, bottom - top), SCALE)
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    outside = np.asarray(mask) == 0
    painter.region(box)[outside] = behind[outside]


def paint_wall(painter: Painter, box, color, is_brick: bool) -> None:
    painter.fill(box, color)
    if is_brick:
        painter.rows(box, 4, 0.84, shift=9)
    painter.speckle(box, 1, 0.025)
    painter.speckle(box, 30, 0.035)
    painter.shade(box, 1.06, 0.9, axis=1)
    painter.shade(box, 1.04, 0.94)


def paint_shop(painter: Painter, box, color) -> None:
    left, top, right, bottom = box
    painter.fill(box, (58, 46, 40))
    painter.glass((left + 2, top + 12, right - 2, bottom - 3))
    painter.bars((left + 2, top + 12, right - 2, bottom - 3), 2, 1, (48, 40, 36), 1.5)
    awning = (left - 1, top, right + 1, top + 10)
    painter.fill(awning, (228, 220, 206))
    for x in np.arange(left - 1, right + 1, 6):
        painter.fill((x, top, min(x + 3, right + 1), top + 10), color)
    painter.shade(awning, 1.12, 0.84)
    painter.shadow(awning, 6, 0.4)


def paint_door(painter: Painter, box, color) -> None:
    left, top, right, bottom = box
    painter.fill(box, color)
    painter.speckle(box, 2, 0.05)
    painter.glass((left + 2, top + 2, right - 2, top + 9))
    middle = (left + right) / 2
    for x0, x1 in ((left + 2, middle - 1), (middle + 1, right - 2)):
        for y0, y1 in ((top + 12, bottom - 15), (bottom - 13, bottom - 3)):
            if y1 > y0:
                painter.shade((x0, y0, x1, y1), 0.72, 0.92)
                painter.shade((x0, y1 - 1, x1, y1), 1.35, 1.35)
    painter.shade((middle - 0.5, top + 10, middle + 0.5, bottom), 0.5, 0.5)
    painter.shade((left, top, right, top + 3), 0.5, 0.9)
    painter.shade((left, top, left + 2, bottom), 0.65, 0.65)


def paint_balcony(painter: Painter, box) -> None:
    left, top, right, bottom = box
    iron = (46, 44, 46)
    painter.bars((left, top, right, bottom - 3), max(2, (right - left) // 4), 1, iron)
    painter.ledge((left - 1, bottom - 4, right + 1, bottom), (198, 188, 172), 9)


def draw_photo(facade: list, random: np.random.Generator) -> Image.Image:
    """The photo of a facade, in colors drawn at random."""
    painter = Painter(random)
    wall, trim, roof, blind, door, awning = (
        np.float32(palette[random.integers(len(palette))]) * random.uniform(0.95, 1.05)
        for palette in (WALLS, TRIMS, ROOFS, BLINDS, DOORS, AWNINGS)
    )
    is_brick = random.random() < 0.5
    paint_background(painter, facade)
    for label, box in facade:
        left, top, right, bottom = box
        if label == "roof":
            paint_roof(painter, box, roof)
        elif label == "wall":
            paint_wall(painter, box, wall, is_brick)
        elif label == "pillar":
            painter.fill(box, trim * 0.94)
            painter.shade(box, 1.06, 0.78, axis=1)
            painter.rows(box, 12, 0.8)
            painter.shade((right, top, right + 4, bottom), 0.65, 1.0, axis=1)
        elif label == "cornice":
            painter.ledge(box, trim, 7)
        elif label == "molding":
            painter.fill(box, trim)
            painter.shade(box, 1.04, 0.88)
            painter.shadow(box, 2, 0.7)
        elif label == "deco":
            painter.ledge(box, trim * 0.96, 2)
            painter.shade(
                ((left + right) / 2 - 2, top + 1, (left + right) / 2 + 2, bottom), 0.8, 0.6
            )
        elif label == "window":
            painter.glass(box)
            painter.bars(box, 2, 3 if bottom - top > 20 else 2, (236, 232, 222), 1.2)
        elif label == "sill":
            painter.ledge(box, trim, 4)
        elif label == "blind":
            painter.fill(box, blind)
            painter.rows(box, 2, 0.66)
            painter.bars(box, 1, 1, blind * 0.85)
            painter.shade((right, top, right + 1.5, bottom), 0.7, 0.9, axis=1)
        elif label == "door":
            paint_door(painter, box, door)
        elif label == "shop":
            paint_shop(painter, box, awning)
        elif label == "balcony":
            paint_balcony(painter, box)
    painter.canvas += random.normal(0, 3, painter.canvas.shape).astype(np.float32)
    pixels = painter.canvas.clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BOX)


# ---- The dataset ------------------------------------------------------------------------------


def make_pair(seed: int, split: int, number: int) -> Image.Image:
    """One side-by-side pair, 512x256: photo left, labels right."""
    random = np.random.default_rng([seed, split, number])
    facade = design_facade(random)
    pair = Image.new("RGB", (2 * SIZE, SIZE))
    pair.paste(draw_photo(facade, random), (0, 0))
    pair.paste(draw_labels(facade), (SIZE, 0))
    return pair


def make_demo(
    root: str | Path = DEMO_ROOT, train: int = 120, val: int = 20, test: int = 20, seed: int = 0
) -> None:
    """Writes root/train, root/val and root/test as PNGs, and root/palette.json: all or nothing.

    Raises UserError if `root` exists.
    """
    root = Path(root)
    if root.exists():
        raise UserError(f"{root} already exists; remove it or choose another --output")
    unfinished = root.with_name(root.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    counts = {"train": train, "val": val, "test": test}
    with tqdm(total=sum(counts.values()), desc=f"making {root}", unit="pair") as bar:
        for index, (split, count) in enumerate(counts.items()):
            (unfinished / split).mkdir(parents=True)
            for number in range(1, count + 1):
                make_pair(seed, index, number).save(unfinished / split / f"{number}.png")
                bar.update()
    write_palette(PALETTES["demo"], unfinished)
    unfinished.rename(root)


def main(argv=None) -> int:
    options = parse_arguments(argv)
    make_demo(options.output, options.train, options.val, options.test, options.seed)
    return 0


if __name__ == "__main__":
    cli.run(main)
