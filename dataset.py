"""Image pairs x and y from files: found, split, cropped and mirrored together.

    python dataset.py facades --data_root photos     reads every file and lists the bad ones

    from config import PRESETS
    from dataset import PairedDataset

    pairs = PairedDataset(PRESETS["facades"], "train")
    pairs[0]                                 # {"input": (3, 256, 256), "target": ..., "name": ...}

Two layouts are recognized; data/README.md shows both:

    data_root/train/7.jpg                    side by side: A is the left half, B the right
    data_root/A/train/7.jpg, B/train/7.png   two folders, matched by name without its ending

Tasks that make their own pairs (tasks/) read photos from such folders, or from one:

    data_root/7.jpg                          a tenth each is set aside for val and test
"""

from dataclasses import replace

from config import DEFAULT, PRESETS, Config, UserError, require_data
from engine import cli


def parse_arguments(argv=None) -> Config:
    """The configuration whose data are checked. Raises UserError."""
    parser = cli.Parser(__doc__, usage="python dataset.py [PRESET] [--field value ...]")
    _, preset, given = cli.parse_preset(parser, PRESETS, DEFAULT, argv)
    return replace(preset, **given)


if __name__ == "__main__":
    cli.early(parse_arguments)  # --help and mistakes answer before the slow imports

import hashlib
import math
import random
from contextlib import closing, suppress
from pathlib import Path

import albumentations
import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from engine.arrays import to_unit
from engine.devices import choose_device
from engine.images import read_image, resize, to_tensor
from engine.loading import TrainingOrder, in_threads, load_batches
from engine.pairs import (
    STAND_INS,
    Picture,
    find_pairs,
    find_photos,
    half_of,
    measured_ranges,
    read_pair,
    size_of,
)
from metrics.palettes import find_palette
from tasks import task_of


class NothingUsableError(UserError):
    """No file of a split can be used; `skipped` holds the reason for each."""

    def __init__(self, skipped: list[str]):
        super().__init__(f"none of the pairs can be used; the first: {skipped[0]}")
        self.skipped = skipped


# ---- The dataset ------------------------------------------------------------------------------


class PairedDataset(Dataset):
    """The pairs of a split: train, val or test.

    `dataset[index]` is {"input": (C, H, W), "target": (C, H, W), "name": str}, floats in [-1, 1];
    `dataset[epoch, index]` has the crop and flip of that epoch. Training pairs are resized to
    `load_size`, cropped to `crop_size` and mirrored, x and y alike (Section 6.2). Without
    augmentation (val, test, `augment=False`) they are resized to `crop_size`, or as in training if
    `config.resize` keeps their shape. Target label maps of a known palette are resized to the
    nearest pixel, as blended colors would be those of other classes.

    A bad file ends the run, or is left out if `bad_files` is "skip"; `skipped` then holds the
    reasons. All files are read up front if they fit into `cache_gb` or if bad ones are skipped.
    Raises UserError.
    """

    def __init__(self, config: Config, split: str, augment: bool = True):
        if split not in STAND_INS:
            raise UserError(f"split is {split!r}; it must be train, val or test")
        require_data(config)
        self.config = config = with_measured_ranges(config)
        self.task = task_of(config)
        self.skipped: list[str] = []
        root, self.part = Path(config.data_root), config.part
        if self.task.from_photos and (root / self.part).is_dir():  # A and B in their own folders
            root, self.part = root / self.part, "whole"
        elif self.task.from_photos and (root / "A").is_dir():
            raise UserError(f"{root} has folders A and B; choose one with --part A or --part B")
        find = find_photos if self.task.from_photos else find_pairs
        self.split, self.pairs = find(root, split, self.refuse)
        limit = config.limit or len(self.pairs)
        if config.bad_files == "stop":  # otherwise, bad files do not count
            self.pairs = self.pairs[:limit]
        self.task.prepare(self.refuse)
        self.labels = find_palette(config) is not None
        self.augmented = augment and split == "train"
        self.size = config.load_size if self.augmented else config.crop_size
        self.crop = albumentations.RandomCrop(config.crop_size, config.crop_size)
        self.flip = albumentations.HorizontalFlip(p=0.5 if config.mirror else 0.0)
        self.ranges = (config.input_range, config.target_range)  # of x and y
        size = (self.size, self.size)
        with suppress(UserError, IndexError):  # bad or no files are reported by what reads them
            size = self.new_size(*size_of(self.open(0)[0]), warn=self.augmented)
        values = 4 if any(self.ranges) else 1  # bytes of each
        needed = min(limit, len(self.pairs)) * math.prod(size) * self.task.cached_channels * values
        self.cached = needed <= config.cache_gb * 1e9
        self.cache = []
        if self.cached or config.bad_files == "skip":
            self.read_all(limit)

    def new_size(self, width: int, height: int, warn: bool = False) -> tuple[int, int]:
        """The width and height to which an image is resized. Warns if it loses its shape."""
        if self.config.resize == "stretch":
            skewed = max(width, height) > 1.1 * min(width, height)
            if warn and skewed and not self.task.from_photos:
                print(f"{width}x{height} is stretched to a square; --resize fit keeps its shape")
            return self.size, self.size
        scale = self.config.load_size / min(width, height) if self.config.resize == "fit" else 1
        return round(width * scale), round(height * scale)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Tensor | str]:
        pair = self.pixels(item).items()
        return {k: to_tensor(v) if isinstance(v, np.ndarray) else v for k, v in pair}

    def __getitems__(self, items: list) -> list[dict[str, np.ndarray | Tensor | str]]:
        """The items of a batch, for DataLoader. 8-bit pixels stay uint8 until `to_device`."""
        return [self.pixels(item) for item in items]

    def pixels(self, item: int | tuple[int, int]) -> dict[str, np.ndarray | Tensor | str]:
        """An item cropped and flipped: pixels as in `read`, or tensors if the task makes pairs."""
        epoch, index = item if isinstance(item, tuple) else (0, range(len(self))[item])
        x, y = self.cache[index] if self.cached else self.read(index)
        # Seeded by these alone: neither the number of workers nor a resume changes a crop.
        key = np.random.SeedSequence([self.config.seed, epoch, index]).generate_state(1)[0]
        if self.augmented:
            numbers = random.Random(int(key))
            numbers.random()  # same draws as Compose, which is avoided: its copies double the time
            for transform in (self.crop, self.flip):
                transform.set_random_state(None, numbers)
            place = self.crop.get_params_dependent_on_data({"shape": x.shape}, {})
            x, y = (self.crop.apply(image, **place) for image in (x, y))
            if self.flip.should_apply():
                x, y = self.flip.apply(x), self.flip.apply(y)
        pair = {"input": x, "target": y}
        if self.task.from_photos:
            pair = self.task.pair(to_tensor(x), to_tensor(y), np.random.default_rng(key))
        return {**pair, "name": self.pairs[index].name}

    def open(self, index: int) -> list[Picture]:
        """x and y as in their files; of a task that makes its pairs, the photo alone."""
        if self.task.from_photos:
            return [half_of(read_image(self.pairs[index].a[0]), self.part)]
        order = 1 if self.config.direction == "AtoB" else -1
        a, b = self.ranges[::order]
        return list(read_pair(self.pairs[index], (bool(a), bool(b))))[::order]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """x and y before crop and flip, (H, W, C): uint8, or float32 in [-1, 1] if arrays."""
        images, config = self.open(index), self.config
        if self.task.from_photos:
            x = self.fit(images[0], self.task.photo_channels)
            y = self.task.target(x)
        else:
            wanted = (config.in_channels, config.out_channels)
            sides = zip(images, wanted, strict=True)
            found = tuple(i.shape[2] if isinstance(i, np.ndarray) else n for i, n in sides)
            if found != wanted:
                fields = "in_channels and out_channels are {} and {}".format(*wanted)
                counts = "{} channels of input and {} of target".format(*found)
                raise UserError(f"{self.pairs[index].a[0]} has {counts}; {fields}")
            to_labels = self.labels and config.direction == "AtoB"
            x = self.fit(images[0], config.in_channels, self.ranges[0])
            y = self.fit(images[1], config.out_channels, self.ranges[1], nearest=to_labels)
        height, width, _ = x.shape
        if min(height, width) < (config.crop_size if self.augmented else 16):  # SSIM needs 11
            size = f"{width}x{height}, less than {'crop_size' if self.augmented else '16 px'}"
            raise UserError(f"{self.pairs[index].a[0]} is {size}; --resize fit enlarges it")
        return x, y

    def fit(self, image: Picture, channels: int, value_range: str = "", nearest: bool = False):
        """The image as an array with `channels` channels, resized as config.resize says."""
        size = self.new_size(*size_of(image))
        if isinstance(image, np.ndarray):
            tensor = to_tensor(to_unit(image, value_range))
            return resize(tensor, size[::-1]).permute(1, 2, 0).numpy()
        image = image.convert("L" if channels == 1 else "RGB")
        how = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
        squared = self.task.from_photos and self.config.resize == "stretch"
        image = (ImageOps.fit if squared else Image.Image.resize)(image, size, how)
        return np.asarray(image).reshape(image.height, image.width, channels)

    def refuse(self, error: UserError) -> None:
        """Stops at a bad file, or notes it."""
        if self.config.bad_files == "stop":
            raise UserError(
                f"{error} (python dataset.py lists all such files, --bad_files skip omits them)"
            )
        self.skipped.append(str(error))

    def fingerprint(self) -> str:
        """A hash of the names of the pairs in their order."""
        names = "\n".join(pair.name for pair in self.pairs)
        return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()

    def read_all(self, limit: int) -> None:
        """Reads the pairs in threads, as decoding and resizing release Python's lock. Keeps the
        first `limit` good ones, and their pixels if they are to be cached."""

        def try_to_read(index: int) -> tuple[np.ndarray, np.ndarray] | UserError:
            try:
                return self.read(index)
            except UserError as error:
                return error

        good = []
        doing = f"{'reading' if self.cached else 'checking'} {self.split}"
        with closing(in_threads(try_to_read, range(len(self)), doing)) as results:
            for pixels, pair in zip(results, self.pairs, strict=True):
                if len(good) == limit:
                    break
                if isinstance(pixels, UserError):
                    self.refuse(pixels)
                    continue
                good.append(pair)
                if self.cached:
                    self.cache.append(pixels)
        if not good:
            raise NothingUsableError(self.skipped)
        if self.skipped:
            print(f"{self.split}: {len(self.skipped)} files cannot be used")
        self.pairs = good


def with_measured_ranges(config: Config) -> Config:
    """The configuration with percentiles in its ranges replaced by their values in training.
    Raises UserError."""
    order = 1 if config.direction == "AtoB" else -1
    ranges = (config.input_range, config.target_range)[::order]
    channels = (config.in_channels, config.out_channels)[::order]
    x, y = measured_ranges(Path(config.data_root), ranges, channels)[::order]
    return replace(config, input_range=x, target_range=y)


def load_pairs(data: PairedDataset, order: TrainingOrder | None = None):
    """Batches {"input": (B, C, H, W), "target": (B, C, H, W), "name": [B]} in `order`, for
    `to_device`; without one, each item alone, as data[i]. Cached pairs need no processes."""
    workers = data.config.num_workers
    workers = 0 if data.cached and workers < 0 else workers
    pin = order is not None and choose_device(data.config.device).type == "cuda"
    return load_batches(data, order, workers, pin)


# ---- Checking a dataset -----------------------------------------------------------------------


def main(argv=None) -> int:
    """Reads every file of every split as training would, and prints a line for each bad one.
    Returns the exit code: 2 if there are any."""
    config = parse_arguments(argv)
    require_data(config)
    bad = 0
    for split in STAND_INS:
        try:
            dataset = PairedDataset(replace(config, bad_files="skip", cache_gb=0.0), split)
        except NothingUsableError as error:
            problems, good = error.skipped, 0
        except UserError as error:
            problems, good = [str(error)], 0
        else:
            if dataset.split != split:
                continue  # it is missing; the split that replaces it is checked by itself
            problems, good = dataset.skipped, len(dataset)
        bad += len(problems)
        print(*(f"  {problem}" for problem in problems), sep="\n", end="\n" if problems else "")
        print(f"{split}: {good} good, {len(problems)} bad")
    if bad:
        print("fix or remove the bad files, or train without them (--bad_files skip)")
    return 2 if bad else 0


if __name__ == "__main__":
    cli.run(main)
