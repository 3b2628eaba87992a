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

    python dataset.py facades --data_root photos     reads every file and names each one that is bad
"""

from config import one_line_errors, parse_check_arguments

if __name__ == "__main__":  # before the slow imports, so that --help and mistakes answer at once
    with one_line_errors():
        CONFIG = parse_check_arguments(__doc__)

import hashlib
import os
import random
import re
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or its import asks the network for a new version

import albumentations
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from config import Config, UserError
from files import replacing
from processes import usable_cores
from tasks import task_of
from utils import normalise_mode, to_tensor

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

# What is behind them. Pillow knows many more, some of them programs for other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")

# A file of some bytes can say that it is larger than any memory. Pillow would only warn here.
MAX_PIXELS = 2**26  # 8192 x 8192

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


def stop(error: UserError) -> None:
    raise error


def by_stem(files: list[Path], refuse: Callable[[UserError], None]) -> dict[str, Path]:
    """Files by name without ending. Of two that share one the second is refused."""
    found = {}
    for file in files:
        if file.stem not in found:
            found[file.stem] = file
            continue
        refuse(
            UserError(
                f"{file} and {found[file.stem].name} have the same name but for the ending; "
                "rename or remove one"
            )
        )
    return found


def find_pairs(
    root: Path, split: str, refuse: Callable[[UserError], None] = stop
) -> tuple[str, list[Pair]]:
    """The split that is used for the one asked for, and its pairs in natural order, not opened.

    Prints what stands in where the split is missing. Raises UserError if nothing does, or if a
    folder is empty. `refuse` is called for each file that is no pair, such as one of A without a
    partner in B, and may raise.
    """
    if not root.is_dir():
        raise UserError(
            f"there is no folder {root}; data_root has to name the dataset's folder (python "
            "data/download.py NAME fetches the paper's)"
        )
    two_folders = (root / "A").is_dir() and (root / "B").is_dir()
    base = root / "A" if two_folders else root

    for name in (split, *STAND_INS[split]):
        if (base / name).is_dir():
            break
    else:
        if base.name in STAND_INS and any(map(is_image, base.iterdir())):
            raise UserError(f"{base} is one split; data_root has to name the folder above it")
        raise UserError(
            f"{base} has no folder {split!r}; put pictures of both halves into {base / split}, or "
            "pair two folders by data/combine.py (data/README.md)"
        )
    if name != split:
        print(f"{base} has no {split!r} pictures; using {name!r} for it")

    if not two_folders:
        files = by_stem(find_images(base / name), refuse)
        return name, [Pair(stem, file, None) for stem, file in files.items()]

    a, b = (by_stem(find_images(root / side / name), refuse) for side in "AB")
    for files, others, side in ((a, b, "B"), (b, a, "A")):
        alone = [file for stem, file in files.items() if stem not in others]
        for i, file in enumerate(alone):
            more = f" ({len(alone) - i} files lack theirs)" if len(alone) - i > 1 else ""
            partner = f"partner of that name in {root / side / name}"
            refuse(UserError(f"{file} has no {partner}{more}"))
    return name, [Pair(stem, file, b[stem]) for stem, file in a.items() if stem in b]


def find_photos(
    root: Path, split: str, refuse: Callable[[UserError], None] = stop
) -> tuple[str, list[Pair]]:
    """The same for plain pictures. Without folders for the splits, two of every ten are set aside,
    one to validate and one to test. Raises UserError where there are none."""
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; data_root has to name a folder of pictures")
    files = sorted(filter(is_image, root.iterdir()), key=natural_order)
    if not files or (root / "train").is_dir():
        return find_pairs(root, split, refuse)
    if len(files) < 10:
        print(f"{root} has too few pictures to set some aside; using all of them as {split!r}")
    else:
        aside = {8: "val", 9: "test"}
        files = [file for i, file in enumerate(files) if aside.get(i % 10, "train") == split]
    return split, [Pair(stem, file, None) for stem, file in by_stem(files, refuse).items()]


# ---- Reading them -----------------------------------------------------------------------------


def read_image(path: Path) -> Image.Image:
    """A picture file as upright RGB, whatever its mode. Raises UserError that names the file."""
    try:
        # Opened here: given a name, Pillow maps a TIFF into memory and mixes up its EXIF rotation.
        if not path.is_file():  # a pipe would be waited for
            raise UserError("it is missing, or no plain file")
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                megapixels = f"{width}x{height}, {width * height / 1e6:.0f} megapixels"
                raise UserError(f"it is {megapixels}; {MAX_PIXELS / 1e6:.0f} are the most")
            if image.format == "PNG":  # which has checksums, that Pillow only looks at if asked to
                image.verify()
                image = Image.open(file, formats=("PNG",))
            return normalise_mode(image, channels=3)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except UnidentifiedImageError as error:
        kind = f"no {', '.join(FORMATS)}" if path.stat().st_size else "empty"
        raise UserError(f"{path} can't be read as a picture: it is {kind}") from error
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


def proportions(path: Path) -> float:
    """Width over height, or 0 where a picture can't be read, which is said when it is."""
    try:
        width, height = read_image(path).size
    except UserError:
        return 0.0
    return width / height


def read_masks(
    folder: Path, size: int, refuse: Callable[[UserError], None] = stop
) -> tuple[Tensor, ...]:
    """The masks in a folder as (1, size, size) bool, true where they are white. `refuse` is called
    for each that can't be read."""
    if not folder.is_dir():
        raise UserError(f"mask is {str(folder)!r}; it can be centre, random or a folder of masks")
    masks = []
    for path in find_images(folder):
        try:
            image = read_image(path).convert("L").resize((size, size))
        except UserError as error:
            refuse(error)
        else:
            masks.append(to_tensor(np.asarray(image)) > 0)
    if not masks:
        raise UserError(f"none of the masks in {folder} can be used")
    return tuple(masks)


class NothingUsableError(UserError):
    """No file of a split is good; `skipped` says of each why."""

    def __init__(self, skipped: list[str]):
        super().__init__(f"none of the pairs can be used; the first: {skipped[0]}")
        self.skipped = skipped


def list_skipped(skipped: list[str], folder: Path) -> None:
    """Says at the end which files were left out and why; all of them in skipped.txt."""
    (folder / "skipped.txt").unlink(missing_ok=True)  # of an earlier time
    if not skipped:
        return
    with replacing(folder / "skipped.txt") as temporary:
        temporary.write_text("\n".join(skipped) + "\n", errors="surrogateescape")
    print(f"{len(skipped)} files were left out ({folder / 'skipped.txt'}):")
    for line in skipped[:20]:
        print(f"  {line}")


class PairedDataset(Dataset):
    """The pairs of one split as tensors.

    Training pairs are resized to `load_size`; crop and mirror come anew every epoch and are the
    same for x and y (Section 6.2). Validation and test pairs are resized to `crop_size`, and
    nothing about them is random. `split` is the one that was found, should the one asked for be
    missing. A file that is no pair ends the run or, by `config.bad_files`, is left out; then
    `skipped` says why.

    `dataset[index]`, or `dataset[epoch, index]` for the crop and mirror of that epoch, is
    {"input": (C, H, W), "target": (C, H, W), "name": str}, floats in [-1, 1]. Raises UserError on
    files that are no pairs: at once if the split fits into `cache_gb`, else when one is reached.
    If they are to be skipped, all are read at once in any case.
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
        self.skipped: list[str] = []
        find = find_photos if self.task.plain else find_pairs
        self.split, self.pairs = find(root, split, self.refuse)
        for first in self.pairs[:1]:
            shape = proportions(first.a)
            if self.task.plain and self.part == "whole" and shape == 2:
                print(f"{first.a} is twice as wide as high; of pairs, --part A takes the left")
            if not self.task.plain and not first.b and split == "train" and shape == 1:
                print(f"{first.a} is as wide as high; is its left half A and its right half B?")
        limit = config.limit or len(self.pairs)
        if config.bad_files == "stop":  # else the bad ones don't count
            self.pairs = self.pairs[:limit]
        if config.task == "inpainting" and config.mask not in ("centre", "random"):
            self.task.masks = read_masks(Path(config.mask), config.crop_size, self.refuse)
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
        needed = min(limit, len(self.pairs)) * self.size**2 * channels
        self.cached = needed <= config.cache_gb * 1e9
        self.cache = []
        if self.cached or config.bad_files == "skip":
            self.read_all(limit)

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

    def refuse(self, error: UserError) -> None:
        """What becomes of a file that is no pair."""
        if self.config.bad_files == "stop":
            raise UserError(
                f"{error} (python dataset.py lists all such files, --bad_files skip omits them)"
            )
        self.skipped.append(str(error))

    def fingerprint(self) -> str:
        """Of the pairs and their order, by their names."""
        names = "\n".join(pair.name for pair in self.pairs)
        return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()

    def read_all(self, limit: int) -> None:
        """Reads the pairs, by threads: decoding and resizing run outside Python's lock. Keeps so
        many of the good ones, and their pixels if they are to be cached."""

        def try_to_read(index: int) -> tuple[np.ndarray, np.ndarray] | UserError:
            try:
                return self.read(index)
            except UserError as error:
                return error

        good = []
        doing = f"{'reading' if self.cached else 'checking'} {self.split}"
        with ThreadPoolExecutor(usable_cores()) as pool:
            results = pool.map(try_to_read, range(len(self)))
            try:
                results = tqdm(results, doing, len(self), unit="pair")
                for pair, pixels in zip(self.pairs, results, strict=True):
                    if isinstance(pixels, UserError):
                        self.refuse(pixels)
                        continue
                    good.append(pair)
                    if self.cached:
                        self.cache.append(pixels)
                    if len(good) == limit:
                        break
            finally:
                pool.shutdown(cancel_futures=True)
        if not good:
            raise NothingUsableError(self.skipped)
        if self.skipped:
            print(f"{self.split}: {len(self.skipped)} files can't be used")
        self.pairs = good


# ---- Loading batches --------------------------------------------------------------------------


class TrainingOrder(Sampler):
    """The batches of a whole run from `start` on, each a list of (epoch, index).

    Every epoch is a new permutation that follows from the seed and the epoch alone, so the step
    says all about where a run stands. What is left over of an epoch when no whole batch remains
    is dropped; another permutation drops other pairs. Of several `processes` that train together
    each takes its share of every step, the one of its `rank`. `shift` is the step at which epoch 0
    began; other than 0 it is in a run that has changed its number of processes.
    """

    def __init__(
        self,
        pairs: int,
        config: Config,
        start: int = 0,
        rank: int = 0,
        processes: int = 1,
        shift: int = 0,
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
        self.shift = shift

    @property
    def total_steps(self) -> int:
        return self.shift + self.steps_per_epoch * self.config.epochs

    def position(self, step: int) -> tuple[int, int]:
        """The epoch in which a step lies, and its number there, both counted from 0."""
        return divmod(step - self.shift, self.steps_per_epoch)

    def take_over(self, other: "TrainingOrder") -> None:
        """Goes on where one of another number of processes stopped: in the same epoch and after as
        many of its pairs, but for the rest of a step, which is seen again."""
        epoch, step = other.position(self.start)
        step = min(step * other.processes // self.processes, self.steps_per_epoch)
        self.shift = self.start - epoch * self.steps_per_epoch - step

    def __len__(self) -> int:
        return max(0, self.total_steps - self.start)

    def __iter__(self):
        size = self.config.batch_size
        order, order_epoch = None, None
        for step in range(self.start, self.total_steps):
            epoch, batch = self.position(step)
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


def collate(pairs: list[dict]) -> dict[str, Tensor | list[str]]:
    """A batch of pairs, by NumPy as in `utils.to_tensor`."""
    columns = {key: [pair[key] for pair in pairs] for key in pairs[0]}
    return {
        key: values if key == "name" else torch.from_numpy(np.stack([v.numpy() for v in values]))
        for key, values in columns.items()
    }


def load_batches(dataset: PairedDataset, order: TrainingOrder | None = None) -> DataLoader:
    """Batches {"input": (B, C, H, W), "target": (B, C, H, W), "name": [B]} in the given order, or
    without one each pair once and alone."""
    workers = dataset.config.num_workers
    if workers < 0:
        # Several processes on one machine share its cores, and each loader takes memory.
        cores = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        workers = 0 if dataset.cached else max(1, min(cores, 16))
    return DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=dataset.config.device != "cpu" and torch.cuda.is_available(),
        worker_init_fn=heed_only_the_parent,
        generator=torch.Generator(),  # its own, or each loader would draw from the training's
    )


# ---- Checking a dataset -----------------------------------------------------------------------


def main(config: Config) -> int:
    """Reads every file of every split as training would, and prints a line for each that is bad.

    Returns an exit code: 0 if all are good.
    """
    if not Path(config.data_root).is_dir():
        raise UserError(
            f"there is no folder {config.data_root}; --data_root names another, and python "
            "data/download.py NAME fetches the paper's"
        )
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
                continue  # another stands in for it
            problems, good = dataset.skipped, len(dataset)
        bad += len(problems)
        for problem in problems:
            print(f"  {problem}")
        print(f"{split}: {good} good, {len(problems)} bad")
    if bad:
        print("mend or remove what is bad, or train without it (--bad_files skip)")
    return 2 if bad else 0


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main(CONFIG))
