"""Finds, reads and augments image pairs (x, y).

    python dataset.py facades --data_root photos     reads every file and lists the bad ones

    from config import PRESETS
    from dataset import PairedDataset

    pairs = PairedDataset(PRESETS["facades"], "train")
    pairs[0]                                 # {"input": (3, 256, 256), "target": ..., "name": ...}

Two layouts are recognized; data/README.md shows both:

    data_root/train/7.jpg                    side by side: A is the left half, B the right
    data_root/A/train/7.jpg, B/train/7.png   two folders, matched by name without extension

Tasks that make their own pairs (tasks/) read photos from such folders, or from one:

    data_root/7.jpg                          a tenth goes to val, a tenth to test
"""

import hashlib
import math
import random
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from config import DEFAULT, PRESETS, Config, UserError, require_data
from engine import cli
from engine.curves import evenly
from engine.devices import choose_device
from engine.fields import parse_preset
from engine.loading import load_batches, map_in_threads
from engine.order import TrainingOrder
from images.nodata import NOWHERE, fill_nodata
from images.pairs import STAND_INS, measure_ranges, size_of
from images.pixels import collate, to_tensor
from tasks import task_of

# ---- Augmentation -----------------------------------------------------------------------------


def augmentation(config: Config):
    """The recipe for training pairs (Section 6.2); edit it here. Returns a transform for x and y
    together, and one for x alone or None. They are seeded for every pair and epoch, so neither the
    number of workers nor a resume changes the result."""
    import albumentations as A  # its import takes over a second

    turns = [A.RandomRotate90(p=1.0), A.VerticalFlip(p=0.5)] if config.rotate else []
    both = A.Compose(
        [
            A.RandomCrop(config.crop_size, config.crop_size),
            A.HorizontalFlip(p=0.5 if config.mirror else 0.0),
            *turns,
        ],
        additional_targets={"target": "image"},
    )
    strength = config.jitter  # of colors; the paper's "jitter" is the crop
    if not strength:
        return both, None
    if config.in_channels in (1, 3):
        return both, A.Compose([A.ColorJitter(strength, strength, strength, hue=0.0, p=1.0)])
    return both, A.Compose([A.RandomBrightnessContrast(strength, strength, p=1.0)])


def augment(
    recipe: tuple, x: np.ndarray, y: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Applies a recipe to x and y with random numbers that follow from the seed."""
    both, input_alone = recipe
    # Not by set_random_seed, which gives each transform the same numbers: flips would then
    # depend on crops.
    both.set_random_state(np.random.default_rng(seed), random.Random(seed))
    pair = both(image=x, target=y)
    x, y = pair["image"], pair["target"]
    if input_alone is None:
        return x, y
    input_alone.set_random_state(both.random_generator, both.py_random)  # continues them
    if x.dtype == np.uint8:
        return input_alone(image=x)["image"], y
    unit = (fill_nodata(x) + 1) / 2  # albumentations takes floats in [0, 1]
    jittered = input_alone(image=unit)["image"] * 2 - 1
    return np.where(np.isnan(x), x, jittered), y


# ---- The dataset ------------------------------------------------------------------------------

STAND_IN_IMAGES = 100  # validated on if a dataset has no val


class PairedDataset(Dataset):
    """The pairs of a split: train, val or test.

    `dataset[index]` is {"input": (C, H, W), "target": (C, H, W), "name": str}, floats in [-1, 1];
    `dataset[epoch, index]` is augmented as in that epoch. Training pairs are resized to
    `load_size`, cropped to `crop_size` and mirrored, x and y alike (Section 6.2). Without
    augmentation (val, test, `augment=False`) they are resized to `crop_size`, or as in training if
    `config.resize` keeps their shape. `validating` keeps `config.validate_images` of them, evenly
    chosen; 0: all of val, or 100 of what stands in for it.

    A bad file ends the run, or is left out if `bad_files` is "skip"; `skipped` then holds the
    reasons. All files are read up front if they fit into `cache_gb` or if bad ones are skipped.
    Raises UserError.
    """

    def __init__(self, config: Config, split: str, augment: bool = True, validating: bool = False):
        if split not in STAND_INS:
            raise UserError(f"split is {split!r}; it must be train, val or test")
        require_data(config)
        self.config = config = resolve_ranges(config)
        self.task = task_of(config)
        self.skipped: list[str] = []
        self.split, self.pairs = self.task.find(split, self.refuse)
        limit = config.limit or len(self.pairs)
        if config.bad_files == "stop" or validating:  # else, read_all counts the good ones
            self.pairs = self.pairs[:limit]
        if validating:
            default = STAND_IN_IMAGES if self.split != split else 0
            self.choose_evenly(config.validate_images or default)
        self.augmented = augment and split == "train"
        self.recipe = augmentation(config) if self.augmented else None
        if self.augmented:
            self.task.check_values(self.pairs)
        if split == "train":
            self.task.check_labels(self.pairs)
        self.size = config.load_size if self.augmented else config.crop_size
        pixels = min(limit, len(self.pairs)) * math.prod(self.check_first_size())
        self.cached = pixels * self.task.bytes_per_pixel <= config.cache_gb * 1e9
        self.cache = []
        if self.cached or config.bad_files == "skip":
            self.read_all(limit)

    def choose_evenly(self, most: int) -> None:
        """Keeps at most `most` pairs, or all if it is 0."""
        if 0 < most < len(self.pairs):
            print(f"validating on {most} of {len(self.pairs)} {self.split} pairs, evenly chosen")
            self.pairs = evenly(self.pairs, most)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Tensor | str]:
        values = self.raw_item(item).items()
        return {k: to_tensor(v) if isinstance(v, np.ndarray) else v for k, v in values}

    def __getitems__(self, items: list) -> list[dict[str, np.ndarray | Tensor | str]]:
        """The items of a batch, for DataLoader. 8-bit pixels stay uint8 until `to_device`."""
        return [self.raw_item(item) for item in items]

    def raw_item(self, item: int | tuple[int, int]) -> dict[str, np.ndarray | Tensor | str]:
        """An item of the dataset: pixels as in `load`, or tensors if a task made the pair."""
        epoch, index = item if isinstance(item, tuple) else (0, range(len(self))[item])
        x, y = self.cache[index] if self.cached else self.load(index)
        seed = np.random.SeedSequence([self.config.seed, epoch, index]).generate_state(1)[0]
        if self.augmented:
            x, y = augment(self.recipe, x, y, int(seed))
        x, y = fill_nodata(x), fill_nodata(y)
        pair = self.task.pair(x, y, np.random.default_rng(seed))
        return {**pair, "name": self.pairs[index].name}

    def nodata(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Where x and y of an item that is not augmented have no data, (H, W, C) bool."""
        if not self.config.nodata:
            return NOWHERE, NOWHERE
        x, y = self.cache[index] if self.cached else self.load(index)
        return np.isnan(x), np.isnan(y)

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads x and y and resizes them, (H, W, C): uint8, or float32 in [-1, 1] for arrays
        (images/arrays.py), NaN where they have no data."""
        images = self.task.read(self.pairs[index])
        x, y = self.task.resize(images, self.new_size(*size_of(images[0])))
        height, width, _ = x.shape
        least, name = (self.config.crop_size, "crop_size") if self.augmented else (16, "16 px")
        if min(height, width) < least:  # the window of SSIM is 11 px
            found = f"{self.pairs[index].a[0]} is {width}x{height}, less than {name}"
            raise UserError(f"{found}; --resize fit enlarges it")
        return x, y

    def new_size(self, width: int, height: int) -> tuple[int, int]:
        """The width and height to which an image is resized."""
        if self.config.resize == "stretch":
            return self.size, self.size
        scale = self.config.load_size / min(width, height) if self.config.resize == "fit" else 1
        return round(width * scale), round(height * scale)

    def check_first_size(self) -> tuple[int, int]:
        """The width and height of the first pair once resized; a square if it cannot be read, which
        is reported where it is used. Warns if training pairs lose their shape."""
        try:
            width, height = size_of(self.task.read(self.pairs[0])[0])
        except (UserError, IndexError):
            return self.size, self.size
        stretched = self.config.task == "pairs" and self.config.resize == "stretch"
        if self.augmented and stretched and max(width, height) > 1.1 * min(width, height):
            print(f"{width}x{height} is stretched to a square; --resize fit keeps its shape")
        return self.new_size(width, height)

    def refuse(self, error: UserError) -> None:
        """Raises the error of a bad file, or records it if these are skipped."""
        if self.config.bad_files == "stop":
            raise UserError(
                f"{error} (python dataset.py lists all such files, --bad_files skip omits them)"
            )
        self.skipped.append(str(error))

    def fingerprint(self) -> str:
        """A hash of the names of the pairs in their order, and of the numbers of the classes."""
        names = [pair.name for pair in self.pairs]
        text = "\n".join([*names, self.task.numbers] if self.task.numbers else names)
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()

    def read_all(self, limit: int) -> None:
        """Reads the pairs in threads, as decoding and resizing release the GIL. Keeps the
        first `limit` good ones, and their pixels if they are to be cached."""

        def try_to_load(index: int) -> tuple[np.ndarray, np.ndarray] | UserError:
            try:
                return self.load(index)
            except UserError as error:
                return error

        good = []
        doing = f"{'reading' if self.cached else 'checking'} {self.split}"
        with closing(map_in_threads(try_to_load, range(len(self)), doing)) as results:
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
            raise NoUsablePairsError(self.split, self.skipped)
        if self.skipped:
            print(f"{self.split}: {len(self.skipped)} files cannot be used")
        self.pairs = good


class NoUsablePairsError(UserError):
    """No file of a split can be used; `skipped` holds the reason for each."""

    def __init__(self, split: str, skipped: list[str]):
        super().__init__(f"none of the pairs can be used; the first: {skipped[0]}")
        self.split, self.skipped = split, skipped


def resolve_ranges(config: Config) -> Config:
    """The configuration with the percentiles in its ranges measured on training pairs. Raises
    UserError."""
    order = 1 if config.direction == "AtoB" else -1  # [::order] maps x, y to A, B and back
    ranges = (config.input_range, config.target_range)[::order]
    channels = (config.in_channels, config.out_channels)[::order]
    x, y = measure_ranges(Path(config.data_root), ranges, channels, config.nodata)[::order]
    return replace(config, input_range=x, target_range=y)


def load_pairs(data: PairedDataset, order: TrainingOrder):
    """Batches {"input": (B, C, H, W), "target": (B, C, H, W), "name": [B]} in `order`, for
    `to_device`. Cached pairs need no processes."""
    workers = data.config.num_workers
    workers = 0 if data.cached and workers < 0 else workers
    pin = choose_device(data.config.device).type == "cuda"
    return load_batches(data, order, workers, pin, collate)


# ---- Checking a dataset -----------------------------------------------------------------------


def parse_arguments(argv=None) -> Config:
    """The configuration whose data are checked. Raises UserError."""
    parser = cli.Parser(__doc__, usage="python dataset.py [PRESET] [--field value ...]")
    _, preset, given = parse_preset(parser, PRESETS, DEFAULT, argv)
    return replace(preset, **given)


def main(argv=None) -> int:
    """Reads every file of every split as training would, and prints a line for each bad one.
    Returns the exit code: 2 if there are any."""
    config = parse_arguments(argv)
    require_data(config)
    bad = 0
    for split in STAND_INS:
        try:
            dataset = PairedDataset(replace(config, bad_files="skip", cache_gb=0.0), split)
            used, problems, good = dataset.split, dataset.skipped, len(dataset)
        except NoUsablePairsError as error:
            used, problems, good = error.split, error.skipped, 0
        except UserError as error:
            if split == "train":
                raise  # the other splits would only repeat it
            used, problems, good = split, [str(error)], 0
        if used != split:
            continue  # it is missing; the split that replaces it is checked by itself
        bad += len(problems)
        print("".join(f"  {problem}\n" for problem in problems), end="")
        print(f"{split}: {good} good, {len(problems)} bad")
    if bad:
        print("fix or remove the bad files, or train without them (--bad_files skip)")
    return 2 if bad else 0


if __name__ == "__main__":
    cli.run(main)
