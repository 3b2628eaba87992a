"""Pairs of pictures, x and y, from files.

    from config import PRESETS
    from dataset import PairedDataset

    pairs = PairedDataset(PRESETS["facades"], "train")
    pairs[0]                                 # {"input": (3, 256, 256), "target": ..., "name": ...}

Two layouts are found by themselves; data/README.md shows both:

    data_root/train/7.jpg                    side by side: A is the left half, B the right
    data_root/A/train/7.jpg, B/train/7.png   two folders, matched by name without its ending

and for the tasks that make their own pairs (tasks.py) plain pictures, in such folders or in one:

    data_root/train/7.jpg                    or data_root/7.jpg, a tenth each for val and test
"""

import os
import random
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or its import asks the network for a new version

import albumentations
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from config import Config, UserError
from tasks import task_of
from utils import normalise_mode, to_tensor

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

# What stands in for a split that a dataset lacks, in order of preference.
STAND_INS = {"train": (), "val": ("test", "train"), "test": ("val", "train")}


# ---- Finding the files ------------------------------------------------------------------------


class Pair(NamedTuple):
    """One pair: a side-by-side file (`b` is None), or a file each."""

    name: str
    a: Path
    b: Path | None


def natural_order(path: Path) -> list:
    """A sorting key that puts 2.jpg before 10.jpg."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if part.isdecimal() else part for part in parts]


def is_image(path: Path) -> bool:
    """Whether the name is that of a picture; hidden files such as macOS's ._1.jpg are none."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def find_images(folder: Path) -> list[Path]:
    """The pictures directly in a folder, in natural order. Raises UserError if there are none."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    files = sorted(filter(is_image, folder.iterdir()), key=natural_order)
    if not files:
        raise UserError(f"{folder} holds no pictures ({', '.join(ENDINGS)})")
    return files


def by_stem(files: list[Path]) -> dict[str, Path]:
    """Files by name without ending. Raises UserError if two share one."""
    found = {}
    for file in files:
        if file.stem in found:
            raise UserError(
                f"{file} and {found[file.stem].name} have the same name but for the ending; "
                "rename or remove one"
            )
        found[file.stem] = file
    return found


def find_pairs(root: Path, split: str) -> tuple[str, list[Pair]]:
    """The split that is used for the one asked for, and its pairs in natural order, not opened.

    Prints what stands in where the split is missing. Raises UserError if nothing does, if a folder
    is empty, or if a file in A or B has no partner.
    """
    if not root.is_dir():
        raise UserError(
            f"there is no folder {root}; data_root has to name the dataset's folder "
            "(data/README.md says where to get the paper's)"
        )
    two_folders = (root / "A").is_dir() and (root / "B").is_dir()
    base = root / "A" if two_folders else root

    for name in (split, *STAND_INS[split]):
        if (base / name).is_dir():
            break
    else:
        raise UserError(
            f"{base} has no folder {split!r}; put the pictures into {base / split} (data/README.md)"
        )
    if name != split:
        print(f"{base} has no {split!r} pictures; using {name!r} for it")

    if not two_folders:
        files = by_stem(find_images(base / name))
        return name, [Pair(stem, file, None) for stem, file in files.items()]

    a, b = (by_stem(find_images(root / side / name)) for side in "AB")
    alone = [file for stem, file in a.items() if stem not in b]
    alone += [file for stem, file in b.items() if stem not in a]
    if alone:
        side = "B" if alone[0].is_relative_to(root / "A") else "A"
        more = f" ({len(alone)} files lack theirs)" if len(alone) > 1 else ""
        raise UserError(f"{alone[0]} has no partner of that name in {root / side / name}{more}")
    return name, [Pair(stem, file, b[stem]) for stem, file in a.items()]


def find_photos(root: Path, split: str) -> tuple[str, list[Pair]]:
    """The same for plain pictures. Without folders for the splits, two of every ten are set aside,
    one to validate and one to test. Raises UserError where there are none."""
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; data_root has to name a folder of pictures")
    files = sorted(filter(is_image, root.iterdir()), key=natural_order)
    if not files or (root / "train").is_dir():
        return find_pairs(root, split)
    if len(files) < 10:
        print(f"{root} has too few pictures to set some aside; using all of them as {split!r}")
    else:
        aside = {8: "val", 9: "test"}
        files = [file for i, file in enumerate(files) if aside.get(i % 10, "train") == split]
    return split, [Pair(stem, file, None) for stem, file in by_stem(files).items()]


# ---- Reading them -----------------------------------------------------------------------------


def read_image(path: Path) -> Image.Image:
    """A picture file as upright RGB, whatever its mode. Raises UserError that names the file."""
    try:
        # Opened here: given a name, Pillow maps a TIFF into memory and mixes up its EXIF rotation.
        with open(path, "rb") as file, Image.open(file) as image:
            return normalise_mode(image, channels=3)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # Pillow's readers raise nearly anything on a damaged file
        raise UserError(f"{path} can't be read as a picture: {error}") from error


def read_pair(pair: Pair) -> tuple[Image.Image, Image.Image]:
    """A and B of a pair, of equal size. Raises UserError if they can't be."""
    if pair.b is None:
        image = read_image(pair.a)
        width, height = image.size
        if width % 2:
            raise UserError(
                f"{pair.a} is {width} px wide; a side-by-side pair has two halves of equal width"
            )
        half = width // 2
        return image.crop((0, 0, half, height)), image.crop((half, 0, width, height))
    a, b = read_image(pair.a), read_image(pair.b)
    if a.size != b.size:
        sizes = [f"{image.width}x{image.height}" for image in (a, b)]
        raise UserError(f"{pair.a} is {sizes[0]} but {pair.b} is {sizes[1]}; a pair has one size")
    return a, b


def looks_like_a_pair(path: Path) -> bool:
    width, height = read_image(path).size
    return width == 2 * height


def read_masks(folder: Path, size: int) -> tuple[Tensor, ...]:
    """The masks in a folder as (1, size, size) bool, true where they are white."""
    if not folder.is_dir():
        raise UserError(f"mask is {str(folder)!r}; it can be centre, random or a folder of masks")
    images = [read_image(path).convert("L").resize((size, size)) for path in find_images(folder)]
    return tuple(to_tensor(np.asarray(image)) > 0 for image in images)


class PairedDataset(Dataset):
    """The pairs of one split as tensors.

    Training pairs are resized to `load_size`; crop and mirror come anew every epoch and are the
    same for x and y (Section 6.2). Validation and test pairs are resized to `crop_size`, and
    nothing about them is random. `split` is the one that was found, should the one asked for be
    missing.

    `dataset[index]`, or `dataset[epoch, index]` for the crop and mirror of that epoch, is
    {"input": (C, H, W), "target": (C, H, W), "name": str}, floats in [-1, 1]. Raises UserError on
    files that are no pairs: at once if the split fits into `cache_gb`, else when one is reached.
    """

    def __init__(self, config: Config, split: str):
        if split not in STAND_INS:
            raise UserError(f"split is {split!r}; it can be {', '.join(STAND_INS)}")
        self.config = config
        self.task = task_of(config)
        root, self.part = Path(config.data_root), config.part
        if self.task.plain and (root / self.part).is_dir():  # halves in folders of their own
            root, self.part = root / self.part, "whole"
        elif self.task.plain and (root / "A").is_dir():
            raise UserError(f"{root} has folders A and B; --part A or --part B takes one of them")
        find = find_photos if self.task.plain else find_pairs
        self.split, self.pairs = find(root, split)
        if self.task.plain and self.part == "whole" and looks_like_a_pair(self.pairs[0].a):
            print(f"{self.pairs[0].a} is twice as wide as high; of pairs, --part A takes the left")
        self.pairs = self.pairs[: config.limit or None]
        if config.task == "inpainting" and config.mask not in ("centre", "random"):
            self.task.masks = read_masks(Path(config.mask), config.crop_size)
        self.augmented = split == "train"
        self.size = config.load_size if self.augmented else config.crop_size
        self.augment = albumentations.Compose(
            [
                albumentations.RandomCrop(config.crop_size, config.crop_size),
                albumentations.HorizontalFlip(p=0.5 if config.mirror else 0.0),
            ],
            additional_targets={"target": "image"},
        )
        channels = config.in_channels + config.out_channels
        if self.task.plain and config.task != "style":
            channels = 3  # x and y are made of one picture
        needed = len(self.pairs) * self.size**2 * channels
        self.cached = needed <= config.cache_gb * 1e9
        self.cache = self.read_all(split) if self.cached else []

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Tensor | str]:
        epoch, index = item if isinstance(item, tuple) else (0, item)
        x, y = self.cache[index] if self.cached else self.read(index)
        # Seeded by seed, epoch and index alone, so neither the number of workers nor a resume
        # changes a crop. One state for both transforms: seeding each of them alike would tie the
        # mirror to the place of the crop.
        key = np.random.SeedSequence([self.config.seed, epoch, index]).generate_state(1)[0]
        generator = np.random.default_rng(key)
        if self.augmented:
            self.augment.set_random_state(generator, random.Random(int(key)))
            pair = self.augment(image=x, target=y)
            x, y = pair["image"], pair["target"]
        pair = self.task.pair(to_tensor(x), to_tensor(y), generator)
        return {**pair, "name": self.pairs[index].name}

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The two pictures that `augment` takes, as uint8 (size, size, C)."""
        if self.task.plain:
            photo = self.read_photo(self.pairs[index].a)
            return photo, self.task.target(photo)
        pair = read_pair(self.pairs[index])
        if self.config.direction == "BtoA":
            pair = pair[::-1]
        pixels = []
        for image, channels in zip(
            pair, (self.config.in_channels, self.config.out_channels), strict=True
        ):
            image = image.convert("L" if channels == 1 else "RGB")
            image = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
            pixels.append(np.asarray(image).reshape(self.size, self.size, channels))
        return pixels[0], pixels[1]

    def read_photo(self, path: Path) -> np.ndarray:
        """The middle square of a plain picture, or of the half of it that is `config.part`."""
        image = read_image(path)
        if self.part != "whole":
            half = image.width // 2
            left = 0 if self.part == "A" else half
            image = image.crop((left, 0, left + half, image.height))
        channels = 1 if self.config.task != "colorization" and self.config.out_channels == 1 else 3
        image = image.convert("L" if channels == 1 else "RGB")
        image = ImageOps.fit(image, (self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(image).reshape(self.size, self.size, channels)

    def read_all(self, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Every pair, read by threads: decoding and resizing run outside Python's lock."""
        with ThreadPoolExecutor(usable_cores()) as pool:
            read = pool.map(self.read, range(len(self)))
            try:
                return list(tqdm(read, f"reading {split}", len(self), unit="pair"))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


# ---- Loading batches --------------------------------------------------------------------------


class TrainingOrder(Sampler):
    """The batches of a whole run from `start` on, each a list of (epoch, index).

    Every epoch is a new permutation that follows from the seed and the epoch alone, so the step
    says all about where a run stands. What is left over of an epoch when no whole batch remains
    is dropped; another permutation drops other pairs. Of several `processes` that train together
    each takes its share of every step, the one of its `rank`.
    """

    def __init__(
        self, pairs: int, config: Config, start: int = 0, rank: int = 0, processes: int = 1
    ):
        if pairs < config.batch_size * processes:
            together = f" for each of {processes} processes" if processes > 1 else ""
            raise UserError(
                f"batch_size is {config.batch_size}{together}; {config.data_root} has only {pairs} "
                "training pairs"
            )
        self.pairs = pairs
        self.config = config
        self.start = start
        self.rank = rank
        self.processes = processes
        self.steps_per_epoch = pairs // (config.batch_size * processes)
        self.total_steps = self.steps_per_epoch * config.epochs

    def __len__(self) -> int:
        return max(0, self.total_steps - self.start)

    def __iter__(self):
        size = self.config.batch_size
        order, order_epoch = None, None
        for step in range(self.start, self.total_steps):
            epoch, batch = divmod(step, self.steps_per_epoch)
            if epoch != order_epoch:
                order = np.random.default_rng([self.config.seed, epoch]).permutation(self.pairs)
                order_epoch = epoch
            first = (batch * self.processes + self.rank) * size
            yield [(epoch, int(index)) for index in order[first : first + size]]


def heed_only_the_parent(worker: int) -> None:
    """Keeps a loading process at work when a stop is asked of the whole job.

    Ctrl-C and a scheduler's SIGTERM reach every process, but only the trainer knows what to do:
    it still has a step to end and a checkpoint to write. Its own SIGTERM ends this process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux; elsewhere no scheduler sends one
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=exit_at_parents_sigterm, daemon=True).start()


def exit_at_parents_sigterm() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def usable_cores() -> int:
    """Those of this process; a scheduler may have given it fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def load_batches(dataset: PairedDataset, order: TrainingOrder | None = None) -> DataLoader:
    """Batches {"input": (B, C, H, W), "target": (B, C, H, W), "name": [B]} in the given order, or
    without one each pair once and alone."""
    workers = dataset.config.num_workers
    if workers < 0:
        # Several processes on one machine share its cores.
        cores = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        workers = 0 if dataset.cached else max(1, cores)
    return DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        pin_memory=dataset.config.device != "cpu" and torch.cuda.is_available(),
        worker_init_fn=heed_only_the_parent,
        generator=torch.Generator(),  # its own, or each loader would draw from the training's
    )
