"""Draws the two figures of data/README.md from pairs of the demo, so that they can be redrawn, and
labels for the trained generator in pretrained/, as anyone could draw them in a paint program.

    python data/make_figures.py
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run by hand, for data/

from PIL import Image, ImageDraw, ImageFont

from config import Parser, one_line_errors
from data.make_demo import SIZE as SIDE
from data.make_demo import make_pair
from scores import PALETTES

WIDTH = 1400  # px; shown half as wide, which is sharp on every screen
INK, GREY, LINE = "#1f2328", "#59636e", "#d0d7de"
COLOURS = {"A": "#b35900", "B": "#0a5bc4"}
LEFT, BELOW, CENTRE = "ls", "ms", "mm"  # what of a text its place is


class Figure:
    """A white canvas with words, pictures and arrows. Places are (x, y) in px."""

    def __init__(self, height: int):
        self.image = Image.new("RGB", (WIDTH, height), "white")
        self.draw = ImageDraw.Draw(self.image)

    def text(self, place, words: str, size: int = 30, colour: str = INK, anchor: str = LEFT):
        font = ImageFont.load_default(size)
        self.draw.multiline_text(place, words, colour, font, anchor=anchor, spacing=size // 2)

    def picture(self, place, image: Image.Image, part: str, side: int, caption: str = ""):
        """Framed in the colour of A or B, with its letter in a corner and a caption below."""
        (x, y), colour = place, COLOURS[part]
        self.draw.rectangle((x - 6, y - 6, x + side + 5, y + side + 5), colour)
        self.image.paste(image.resize((side, side), Image.Resampling.LANCZOS), place)
        self.draw.rectangle((x, y, x + 52, y + 52), colour)
        self.text((x + 24, y + 25), part, 40, "white", CENTRE)
        self.text((x + side // 2, y + side + 46), caption, 30, colour, BELOW)

    def line(self, y: int):
        self.draw.line((40, y, WIDTH - 40, y), LINE, 3)

    def arrow(self, x: int, end: int, y: int, colour: str = INK):
        """To the right."""
        self.draw.line((x, y, end - 10, y), colour, 5)
        self.draw.polygon([(end, y), (end - 20, y - 14), (end - 20, y + 14)], colour)

    def save(self, path: Path):
        # 128 colours of its own are enough, and make it a quarter as large.
        small = self.image.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        path.parent.mkdir(parents=True, exist_ok=True)
        small.save(path, optimize=True)
        print(f"{path} ({path.stat().st_size // 1000} kB)")


def halves(number: int) -> tuple[Image.Image, Image.Image]:
    """Photo and labels of a pair of the demo."""
    pair = make_pair(seed=0, split=0, number=number)
    return pair.crop((0, 0, SIDE, SIDE)), pair.crop((SIDE, 0, 2 * SIDE, SIDE))


def draw_format(path: Path) -> None:
    """The two ways to store a pair: one file of two halves, or two files of one name."""
    figure = Figure(1150)
    photo, labels = halves(1)

    figure.text((40, 66), "Side by side: one file is one pair", 42)
    lines = ((0, "mydata/"), (1, "train/"), (2, "1.png"), (2, "2.png ..."), (1, "val/ ..."))
    for line, (depth, words) in enumerate(lines):
        figure.text((60 + 50 * depth, 160 + 54 * line), words, 34, INK if line == 2 else GREY)
    figure.arrow(275, 700, 257)
    figure.picture((720, 129), photo, "A", SIDE, "left half")
    figure.picture((720 + SIDE + 12, 129), labels, "B", SIDE, "right half")

    figure.line(490)
    figure.text((40, 576), "Two folders: two files of one name are one pair", 42)
    figure.text((60, 664), "mydata/", 34, GREY)
    rows = (
        (718, "A", "1.jpg", photo, "the file in folder A"),
        (960, "B", "1.png", labels, "its partner in folder B"),
    )
    for y, part, name, image, words in rows:
        figure.text((110, y), f"{part}/train/", 34, COLOURS[part])
        figure.text((160, y + 54), name, 34)
        figure.text((160, y + 108), name.replace("1", "2") + " ...", 34, GREY)
        figure.arrow(275, 700, y + 43)
        figure.picture((720, y - 61), image, part, 208)
        figure.text((960, y + 53), words, 30, COLOURS[part])
    figure.save(path)


def draw_direction(path: Path) -> None:
    """What of a file is given and what is to be made, one way and the other."""
    figure = Figure(1240)
    photo, labels = halves(1)

    figure.text((40, 130), "One file,\nwhatever the direction", 42)
    figure.text(
        (40, 246), "A is its left half, here a photo,\nB its right half, here labels", colour=GREY
    )
    figure.picture((1098 - SIDE - 12, 46), photo, "A", SIDE, "left half")
    figure.picture((1098, 46), labels, "B", SIDE, "right half")

    photo, labels = ("A", photo), ("B", labels)
    ways = (
        ("AtoB", photo, labels, "labels of photos"),
        ("BtoA", labels, photo, "photos of labels"),
    )
    for row, (name, (x, given), (y, made), words) in enumerate(ways):
        top = 450 + 410 * row
        middle = top + SIDE // 2
        figure.line(top - 54)
        figure.text((40, middle - 30), f"--direction {name}", 42)
        figure.text((40, middle + 36), f"learns to make {words}:\nfrom {x} to {y}", colour=GREY)
        figure.picture((560, top), given, x, SIDE, f"input x is {x}")
        figure.picture((1098, top), made, y, SIDE, f"target y is {y}")
        figure.draw.rounded_rectangle((908, middle - 40, 1006, middle + 40), 14, "#eaeef2", INK, 3)
        figure.text((957, middle), "G", 40, INK, CENTRE)
        figure.text((957, middle + 84), "generator", 28, GREY, BELOW)
        figure.arrow(834, 894, middle)
        figure.arrow(1020, 1080, middle)
    figure.save(path)


def draw_labels(path: Path) -> None:
    """A house of our own in the colours of the facades dataset, at the size of the generator."""
    colours = PALETTES["facades"].classes
    image = Image.new("RGB", (128, 128), colours["background"])
    draw = ImageDraw.Draw(image)

    def box(label: str, left: int, top: int, width: int, height: int):
        draw.rectangle((left, top, left + width - 1, top + height - 1), colours[label])

    box("facade", 12, 8, 104, 116)
    box("molding", 12, 12, 104, 7)
    for floor, top in enumerate((27, 51, 75)):
        for column, left in enumerate((20, 39, 58, 77, 96)):
            box("cornice", left - 2, top - 4, 16, 3)
            box("window", left, top, 12, 14)
            box("sill", left - 1, top + 14, 14, 2)
            if floor == 1 and 1 <= column <= 3:
                box("balcony", left - 3, top + 8, 18, 9)
    box("molding", 12, 94, 104, 5)
    box("shop", 16, 101, 38, 23)
    box("shop", 74, 101, 38, 23)
    box("door", 58, 102, 12, 22)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True)
    print(path)


def main() -> None:
    Parser(__doc__).parse_args()
    root = Path(__file__).resolve().parent.parent
    draw_labels(root / "pretrained" / "labels.png")
    results = root / "results"
    draw_format(results / "data_format.png")
    draw_direction(results / "data_direction.png")


if __name__ == "__main__":
    with one_line_errors():
        main()
