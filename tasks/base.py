"""The interface of a task: where pairs come from, and how an image of any size is translated.

Images are (C, H, W) floats in [-1, 1], C 1 or 3, unless a task says otherwise.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from config import Config
from engine.cli import UserError
from engine.curves import evenly
from images.nodata import stray_value
from images.outputs import Files
from images.pairs import (
    Pair,
    Picture,
    find_pairs,
    find_photos,
    half_of,
    read_pair,
    read_side,
    sample_pixels,
)
from images.pixels import resize, resize_with_nodata, to_tensor
from images.ranges import to_unit
from images.reading import is_large, read_image
from metrics.class_numbers import paint, paint_file, suggest_palette
from metrics.palettes import FILE, find_palette, is_content, to_values

Refuse = Callable[[UserError], None]  # called for each bad file; stops, or notes it
SAMPLE = 20  # files in which class numbers are looked for


BYTES = 13  # of memory per pixel and channel of a translation in tiles; 10 for 8-bit images


class Task:
    """Pairs whose x and y are both files."""

    tile = 0  # side of the tiles in which images are translated; 0: whole

    def __init__(self, config: Config):
        self.config = config
        self.channels = config.in_channels  # of an image passed to `translate`
        self.ranges = (config.input_range, config.target_range)  # of x and y
        values = 4 if any(self.ranges) else 1  # bytes of each
        self.bytes_per_pixel = (config.in_channels + config.out_channels) * values
        self.order = 1 if config.direction == "AtoB" else -1  # of A and B, for x and y
        # A run keeps its palette of class numbers, so that it needs no dataset.
        self.palette = find_palette(config) if is_content(config.palette) else None

    @property
    def numbers(self) -> str:
        """The palette of the class numbers in B, as text; empty if there are none."""
        numbered = self.palette and self.palette.numbers
        return json.dumps(to_values(self.palette)) if numbered else ""

    def find(self, split: str, refuse: Refuse) -> tuple[str, list[Pair]]:
        """The pairs of a split, and the split that was used. Raises UserError."""
        self.palette = find_palette(self.config)
        return find_pairs(Path(self.config.data_root), split, refuse)

    def read(self, pair: Pair) -> list[Picture]:
        """x and y as in their files, class numbers as their colors. Raises UserError."""
        a, b = self.ranges[:: self.order]
        arrays, as_rgb = (bool(a), bool(b)), (True, not self.numbers)
        left, right = read_pair(pair, arrays, self.config.nodata, as_rgb)
        if self.numbers:
            right = paint_file(right, self.palette, (pair.b or pair.a)[0])
        images = [left, right][:: self.order]
        wanted = (self.config.in_channels, self.config.out_channels)
        found = tuple(
            image.shape[2] if isinstance(image, np.ndarray) else count
            for image, count in zip(images, wanted, strict=True)
        )
        if found != wanted:
            counts = "{} channels of input and {} of target".format(*found)
            fields = "in_channels and out_channels are {} and {}".format(*wanted)
            raise UserError(f"{pair.a[0]} has {counts}; {fields}")
        return images

    def check_values(self, pairs: list[Pair]) -> None:
        """Warns if one value of arrays probably stands for pixels without data."""
        if self.config.nodata or not any(self.ranges):
            return
        try:
            samples = zip(*sample_pixels(pairs, self.read, 10), strict=True)
        except UserError:
            return  # it is reported where the pair is used
        for side, has_range, sample in zip("xy", self.ranges, samples, strict=True):
            for values in np.concatenate(sample).T if has_range else ():
                value = stray_value(values)
                if value is not None:
                    share = f"{(values == value).mean():.1%} of the values of {side}"
                    print(
                        f"warning: {share} are {value:.7g}, far from all others; if it means no "
                        f"data, give --nodata {value:.7g}"
                    )
                    return

    def read_input(self, files: Files, large: bool = False) -> Picture:
        """An image for `translate`, class numbers as their colors; `large` is as in `check_pixels`.
        Raises UserError."""
        numbers = self.order == -1 and self.numbers
        is_array = bool(self.ranges[0])
        image = read_side(files, is_array, self.config.nodata, large, as_rgb=not numbers)
        return paint_file(image, self.palette, files[0]) if numbers else image

    def to_colors(self, image: Image.Image) -> Image.Image:
        """An input in class numbers as its colors; other inputs as they are. Raises UserError."""
        return paint(image, self.palette) if self.order == -1 and self.numbers else image

    def resize(self, images: list[Picture], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """x and y as arrays of a width and height; see `fit`. Target labels are not blended, as the
        result could be the colors of other classes; nor are inputs in grays, where it would be."""
        labels, to_labels = self.palette is not None, self.order == 1
        grays = bool(self.numbers) and self.config.in_channels == 1
        x = fit(images[0], size, self.config.in_channels, self.ranges[0], not to_labels and grays)
        y = fit(images[1], size, self.config.out_channels, self.ranges[1], to_labels and labels)
        return x, y

    def check_labels(self, pairs: list[Pair]) -> None:
        """Prints a line if files look like class numbers and no palette says so."""
        if self.palette or self.config.palette == "none":
            return
        for side, has_range in zip("BA", self.ranges[:: -self.order], strict=True):
            images = stored(evenly(pairs, SAMPLE), side)
            found = None if has_range else suggest_palette(images, indices=side == "B")
            if found:
                how, content = found
                swap = "" if side == "B" else ", after exchanging the folders (labels must be B)"
                file = Path(self.config.data_root, FILE)
                print(
                    f"the files of {side} look like class numbers but are read as {how}; put the "
                    f"following into {file}{swap}, or give --palette none: {content}"
                )
                return

    def check_input(self, files: list[Path]) -> str | None:
        """What is wrong if files to translate look like class numbers but the run takes colors."""
        reads_numbers = self.order == -1 and self.numbers
        if reads_numbers or self.ranges[0] or self.config.palette == "none":
            return None
        pairs = [Pair(file.name, (file,), (file,)) for file in evenly(files, SAMPLE)]
        found = suggest_palette(stored(pairs, "A"), indices=False)
        if not found:
            return None
        how, content = found
        needed = f"class numbers need a run trained with a {FILE} such as {content}"
        return f"{files[0]} looks like class numbers but is read as {how}; {needed}"

    def pair(
        self, x: np.ndarray, y: np.ndarray, random: np.random.Generator
    ) -> dict[str, np.ndarray | Tensor]:
        """{"input", "target"} of both images after crop and flip."""
        return {"input": x, "target": y}

    def show(self, pair: dict[str, Tensor], y: Tensor) -> Tensor:
        """The image, 1 or 3 channels, for y: `pair["target"]` or the generator's output."""
        return y

    def translate(
        self, image: Tensor, run: Callable[[Tensor], Tensor], mask: Tensor | None = None
    ) -> Tensor:
        """Translates an image of any size, on the CPU. `run` is the generator, for any size."""
        return run(image)

    def hint(self, width: int, height: int, tiled: bool) -> str | None:
        """What may be wrong with an image to be translated, or how much memory it takes."""
        config = self.config
        if tiled and is_large(width, height):
            memory = BYTES * (config.in_channels + config.out_channels) * width * height
            return f"is {width}x{height}, which takes about {memory / 1e9:.1f} GB of memory"
        if tiled:
            return None
        if config.resize == "none" or config.task not in ("pairs", "style", "edges"):
            return None  # its scale does not matter, or the task changes it
        if config.task == "pairs" and width == 2 * height:
            return "is twice as wide as tall; if it is a side-by-side pair, give the input alone"
        if not config.crop_size / 2 <= (width * height) ** 0.5 <= config.crop_size * 2:
            return (
                f"is {width}x{height}, but training saw whole images at {config.load_size} px; "
                "objects should have about that scale; try it resized, or a large one in tiles "
                "(--tile)"
            )
        return None


def stored(pairs: list[Pair], side: str) -> Iterator[Picture]:
    """The images of A or B with the values in their files; without those that cannot be read, which
    is reported where they are used."""
    for pair in pairs:
        files = pair.b if side == "B" and pair.b else pair.a
        with contextlib.suppress(UserError):
            image = read_side(files, array=False, as_rgb=False)
            yield image if pair.b else half_of(image, side)


class PhotoTask(Task):
    """Makes x, y or both from photos. Tasks override what differs: `prepare`, `target`,
    `make_pair`, `show` and `translate`."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.part = config.part
        self.photo_channels = 1 if config.out_channels == 1 else 3  # that a photo is read with
        self.bytes_per_pixel = self.photo_channels  # x and y are one image until `make_pair`

    def find(self, split, refuse):
        self.prepare(refuse)
        root = Path(self.config.data_root)
        if (root / self.part).is_dir():  # A and B in their own folders
            root, self.part = root / self.part, "whole"
        elif (root / "A").is_dir():
            raise UserError(f"{root} has folders A and B; choose one with --part A or --part B")
        return find_photos(root, split, refuse)

    def read(self, pair):
        return [half_of(read_image(pair.a[0]), self.part)]

    def check_labels(self, pairs):
        pass

    def check_input(self, files):
        return None

    def resize(self, images, size):
        """The photo, of which a square takes the center, and the target for it."""
        image = images[0].convert("L" if self.photo_channels == 1 else "RGB")
        if self.config.resize == "stretch":
            image = ImageOps.fit(image, size, Image.Resampling.BICUBIC)
        photo = fit(image, size, self.photo_channels)
        return photo, self.target(photo)

    def pair(self, x, y, random):
        return self.make_pair(to_tensor(x), to_tensor(y), random)

    def prepare(self, refuse: Refuse) -> None:
        """Reads what training needs besides the photos."""

    def target(self, photo: np.ndarray) -> np.ndarray:
        """Makes the target for a photo, uint8 (S, S, C); both then get the same crop and flip."""
        return photo

    def make_pair(self, x: Tensor, y: Tensor, random: np.random.Generator) -> dict[str, Tensor]:
        """{"input", "target"} of the photo x and its target y after crop and flip, on the CPU."""
        return {"input": x, "target": y}


def fit(
    image: Picture,
    size: tuple[int, int],
    channels: int,
    value_range: str = "",
    nearest: bool = False,
) -> np.ndarray:
    """An image or an array, resized to a width and height, (H, W, channels): uint8, or float32 in
    [-1, 1] if it is an array, whose values are in `value_range`; NaN where it has no data."""
    if isinstance(image, np.ndarray):
        tensor = to_tensor(to_unit(image, value_range))
        return resize_with_nodata(tensor, size[::-1]).permute(1, 2, 0).numpy()
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    image = image.convert("L" if channels == 1 else "RGB").resize(size, how)
    return np.asarray(image).reshape(image.height, image.width, channels)


def at_training_size(image: Tensor, side: int) -> Tensor:
    """Resizes the shorter side to `side` px, as in training, and the longer to at most 4 * side."""
    height, width = image.shape[-2:]
    scale = min(side / min(height, width), 4 * side / max(height, width))
    return resize(image, [round(height * scale), round(width * scale)])
