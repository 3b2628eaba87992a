"""Every hyperparameter, and a preset for each experiment.

    python train.py                                    trains PRESETS[DEFAULT]
    python train.py facades --epochs 10 --output runs/mine

`Config()` is the paper's recipe, on facades. Add your own experiment to PRESETS, or give fields on
the command line. Section numbers are those of Isola et al., CVPR 2017 (arXiv 1611.07004).
"""

import dataclasses
import math
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from engine.cli import UserError, check_fields, is_range, nearest


@dataclass(frozen=True)
class Config:
    # The comment behind a field is its text in `python train.py --help`. Sizes are in pixels.

    # Data
    data_root: str = "data/facades"  # folder with train/, val/, test/ (or A/train/, B/train/ ...)
    direction: str = "BtoA"  # AtoB: A (left half, folder A) is the input; BtoA: B (right half) is
    palette: str = "auto"  # of B's labels: auto, none, facades, cityscapes, demo or a palette.json
    in_channels: int = 3  # channels of the input: 3 color, 1 gray; any number with an input_range
    out_channels: int = 3  # channels of the target: 3 color, 1 gray, 2 for colorization
    input_range: str = ""  # LOW HIGH, or percentiles such as 1% 99%, of the inputs; empty: 8-bit
    target_range: str = ""  # the same for the targets; empty: 8-bit
    resize: str = "stretch"  # stretch to squares; fit: shorter side to load_size; none: as they are
    load_size: int = 286  # side to which training pairs are resized
    crop_size: int = 256  # side of the random training crop
    mirror: bool = True  # flip training pairs left to right, half of the time
    bad_files: str = "stop"  # on an unusable file: stop, or skip it and list it at the end
    limit: int = 0  # use only the first N images of each split; 0: all
    cache_gb: float = 4.0  # GB per process to keep resized pairs in memory, if all fit; 0: none
    num_workers: int = -1  # processes that load data; -1: none if cached, else one per core

    # Tasks that make their own pairs from photos
    task: str = "pairs"  # pairs, colorization, inpainting, super_resolution, edges or style
    part: str = "whole"  # part of each image to use: whole, A (left half) or B (right half)
    mask: str = "centre"  # hole of inpainting: centre, random, or a folder of masks, white inside
    factor: int = 4  # scale of super_resolution: 2, 4 or 8

    # Networks
    generator: str = "unet"  # unet, or encoder_decoder: the same without skips (Section 4.3)
    base_channels: int = 64  # filters of the generator's first layer
    depth: int = 8  # downsampling layers: 7 for 128 px, 8 for 256 px, 10 for 1024 px
    dropout: float = 0.5  # noise z: dropout after some decoder layers
    dropout_layers: str = "paper"  # paper: the first 3; port: as in the PyTorch port
    norm: str = "batch"  # batch, or instance; identical at batch_size 1
    upsampling: str = "transposed"  # transposed convolutions, or resize: upsample, then convolve
    discriminator_channels: int = 64  # filters of the discriminator's first layer
    receptive_field: int = 70  # the discriminator's patch: 1, 16, 34, 70, 142 or 286
    init: str = ""  # start from these weights: a run, an export, hf://owner/name or the port's .pth

    # Optimization
    lambda_l1: float = 100.0  # weight of the L1 loss; 0 disables it
    gan_weight: float = 1.0  # weight of the adversarial loss; 0: no discriminator
    conditional: bool = True  # the discriminator sees x and y (cGAN); false: y alone (GAN)
    gan_loss: str = "cross_entropy"  # cross_entropy (paper) or least_squares
    learning_rate: float = 2e-4  # Adam's learning rate, for both networks
    beta1: float = 0.5  # Adam's decay of the first moment
    beta2: float = 0.999  # Adam's decay of the second moment
    batch_size: int = 1  # pairs per step, on each GPU
    epochs: int = 200  # passes over the training pairs
    decay_epochs: int = 0  # epochs at the end over which the learning rate decays linearly to 0
    ema_decay: float = 0.0  # decay of an EMA of the generator's weights, for inference; 0: no EMA
    seed: int = 0  # seeds weights, order, crops and noise

    # The run
    output: str = ""  # folder of the run; default: runs/ and the name of the dataset or the task
    device: str = "auto"  # auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1 ... or mps
    precision: str = "auto"  # fp32, bf16, or auto: bf16 where the hardware is fast at it
    fast: bool = True  # false: the textbook step, without engine/fast.py
    log_steps: int = 50  # steps between rows of log.csv
    validate_epochs: int = 10  # epochs between validations, each with a sample grid
    sample_images: int = 6  # validation images in the sample grid
    save_epochs: int = 50  # epochs between checkpoints
    save_minutes: float = 10.0  # also save a checkpoint after this many minutes
    best_by: str = "none"  # also keep best.pt, by validation score: none, l1, psnr or ssim
    patience: int = 0  # stop after so many validations without a better one; 0: never
    keep_epochs: int = 0  # also keep a checkpoint every so many epochs (up to 700 MB); 0: none

    def __post_init__(self):
        check_fields(self, CHOICES, RANGES, RULES)

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        name = os.path.basename(os.path.abspath(self.data_root))  # of "." as well
        name = name if self.task == "pairs" else self.task
        return Path(self.output or PurePath("runs", name))


RANGE_FORM = "must be LOW HIGH, a pair for each channel, or percentiles such as 1% 99%"

CHOICES = {
    "direction": ("AtoB", "BtoA"),
    "resize": ("stretch", "fit", "none"),
    "task": ("pairs", "colorization", "inpainting", "super_resolution", "edges", "style"),
    "part": ("whole", "A", "B"),
    "factor": (2, 4, 8),
    "bad_files": ("stop", "skip"),
    "generator": ("unet", "encoder_decoder"),
    "dropout_layers": ("paper", "port"),
    "norm": ("batch", "instance"),
    "upsampling": ("transposed", "resize"),
    "receptive_field": (1, 16, 34, 70, 142, 286),
    "gan_loss": ("cross_entropy", "least_squares"),
    "precision": ("auto", "fp32", "bf16"),
    "best_by": ("none", "l1", "psnr", "ssim"),
}

# The text of a rule: (minimum, maximum), and the fields it applies to.
LARGEST = sys.float_info.max
RANGES = {
    "1 or more": (
        (1, LARGEST),
        "batch_size epochs log_steps validate_epochs save_epochs sample_images",
    ),
    "0 or more": (
        (0, LARGEST),
        "limit decay_epochs keep_epochs patience seed cache_gb lambda_l1 gan_weight",
    ),
    "a finite number above 0": ((math.nextafter(0, 1), LARGEST), "learning_rate save_minutes"),
    "from 0 to below 1": ((0, math.nextafter(1, 0)), "dropout beta1 beta2 ema_decay"),
    "from 1 to 16384": ((1, 2**14), "base_channels discriminator_channels load_size crop_size"),
    "from 2 to 12": ((2, 12), "depth"),
    "from -1 to 1024": ((-1, 1024), "num_workers"),
}

# Channels of input and target, where the task decides them.
CHANNELS = {"colorization": (1, 2), "style": (3, 3)}

# Other rules: a field, whether a configuration obeys the rule, and the rule.
RULES = [
    ("data_root", lambda c: c.data_root, "must be given"),
    ("mask", lambda c: c.mask, "must be given"),
    ("palette", lambda c: c.palette, "must be given"),
    (
        "device",
        lambda c: re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", c.device),
        "must be auto, cpu, cuda, cuda:N or mps",
    ),
    ("input_range", lambda c: is_range(c.input_range, c.in_channels), RANGE_FORM),
    ("target_range", lambda c: is_range(c.target_range, c.out_channels), RANGE_FORM),
    (
        "task",
        lambda c: c.task == "pairs" or not c.input_range + c.target_range,
        "cannot be combined with an input_range or a target_range",
    ),
    (
        "in_channels",
        lambda c: CHANNELS.get(c.task) in (None, (c.in_channels, c.out_channels)),
        lambda c: "must be {}, and out_channels {}, for {}".format(*CHANNELS[c.task], c.task),
    ),
    (
        "in_channels",
        lambda c: c.task in CHANNELS or c.in_channels in (1, 3) or c.input_range,
        "must be 1 or 3; other numbers need an input_range",
    ),
    (
        "out_channels",
        lambda c: c.task in CHANNELS or c.out_channels in (1, 3) or c.target_range,
        "must be 1 or 3; other numbers need a target_range",
    ),
    (
        "in_channels",
        lambda c: (
            c.task not in ("inpainting", "super_resolution") or c.in_channels == c.out_channels
        ),
        lambda c: f"must equal out_channels, {c.out_channels}, for {c.task}",
    ),
    (
        "crop_size",
        lambda c: c.task != "super_resolution" or c.crop_size % c.factor == 0,
        lambda c: f"must be a multiple of factor, {c.factor}",
    ),
    (
        "crop_size",
        lambda c: c.crop_size % 2**c.depth == 0,
        lambda c: (
            f"must be a multiple of 2**depth = {2**c.depth}, such as "
            f"{max(1, round(c.crop_size / 2**c.depth)) * 2**c.depth}; or choose another depth"
        ),
    ),
    ("crop_size", lambda c: c.crop_size >= 16, "must be 16 or more, for SSIM"),
    (
        "crop_size",  # otherwise D's output would be empty
        lambda c: 3 * c.crop_size >= c.receptive_field + 2,
        lambda c: f"is too small for a receptive_field of {c.receptive_field}",
    ),
    (
        "load_size",
        lambda c: c.load_size >= c.crop_size,
        lambda c: f"must be at least crop_size, {c.crop_size}",
    ),
    (
        "dropout_layers",
        lambda c: c.dropout_layers == "paper" or c.depth >= 6,
        "needs a depth of 6 or more",
    ),
    (
        "gan_weight",
        lambda c: c.lambda_l1 + c.gan_weight > 0,
        "must not be 0 if lambda_l1 is 0: there would be no loss",
    ),
    ("patience", lambda c: not c.patience or c.best_by != "none", "needs best_by"),
    (
        "decay_epochs",
        lambda c: c.decay_epochs <= c.epochs,
        lambda c: f"must be at most epochs, {c.epochs}",
    ),
]

# ---- Presets ----------------------------------------------------------------------------------

EVERY_EPOCH = {"validate_epochs": 1, "save_epochs": 1}  # where an epoch takes hours

# Section 6.2. edges -> photo: no jitter, no mirroring.
EDGES = Config(
    direction="AtoB", load_size=256, mirror=False, batch_size=4, epochs=15, **EVERY_EPOCH
)

# Section 6.2. Colorization and inpainting: mirroring, no jitter.
PHOTOS = Config(data_root="data/photos", load_size=256, batch_size=4)

# What plain `python train.py` trains.
DEFAULT = "demo"

PRESETS: dict[str, Config] = {
    # Small enough for a laptop without a GPU. The data are drawn by data/make_demo.py.
    "demo": Config(
        data_root="data/demo",
        load_size=143,
        crop_size=128,
        depth=7,
        base_channels=32,
        discriminator_channels=32,
        epochs=25,
        validate_epochs=5,
        save_epochs=10,
    ),
    # The paper's experiments. The direction is that of the released files: BtoA if the photo, the
    # target, is the left half.
    "facades": Config(),
    "maps": Config(data_root="data/maps", direction="AtoB"),
    "cityscapes": Config(data_root="data/cityscapes"),
    "edges2shoes": replace(EDGES, data_root="data/edges2shoes"),
    "edges2handbags": replace(EDGES, data_root="data/edges2handbags"),
    "day2night": Config(
        data_root="data/night2day", output="runs/day2night", batch_size=4, epochs=17, **EVERY_EPOCH
    ),
    "colorization": replace(
        PHOTOS, task="colorization", in_channels=1, out_channels=2, epochs=6, **EVERY_EPOCH
    ),
    "inpainting": replace(PHOTOS, task="inpainting", epochs=25, validate_epochs=5),
    # What users ask for beyond the paper.
    "super_resolution": replace(PHOTOS, task="super_resolution", epochs=100),
    "edges": replace(PHOTOS, task="edges", in_channels=1, epochs=100),
    "style": replace(PHOTOS, task="style", epochs=100),
}


def require_data(config: Config) -> None:
    """Raises UserError if the dataset is missing, with the command that makes it."""
    root = Path(config.data_root)
    commands = {p.data_root: "data.download" for p in PRESETS.values() if p.task == "pairs"}
    command = {**commands, "data/demo": "data.make_demo"}.get(root.as_posix())
    if command == "data.download":
        command += f" {root.name}"
    if not root.is_dir():
        beside = [folder.as_posix() for folder in root.parent.glob("*/")]
        other = "it must be a folder of images" + nearest(root.as_posix(), beside)
        how = f"python -m {command} makes it" if command else other
        raise UserError(f"data_root {root} does not exist; {how}")


# ---- Saved configurations ---------------------------------------------------------------------

# What may change when a run resumes. Everything else affects the result and is fixed for a run.
# (With decay_epochs, changing epochs also changes the result; it is allowed.)
# fmt: off
CHANGEABLE = {
    "data_root", "palette", "bad_files", "cache_gb", "num_workers", "epochs", "decay_epochs",
    "device", "precision", "fast", "log_steps", "validate_epochs", "sample_images", "save_epochs",
    "save_minutes", "keep_epochs", "best_by", "patience",
}
# fmt: on


def config_from_dict(values: dict) -> Config:
    """The inverse of `dataclasses.asdict`; missing fields get their defaults. Raises UserError on
    unknown fields, which a newer version may have."""
    known = {field.name for field in dataclasses.fields(Config)}
    unknown = sorted(map(str, set(values) - known))
    if unknown:
        raise UserError(f"the configuration has fields unknown to this version: {unknown}")
    return Config(**values)


def resumed(config: Config, changes: dict) -> Config:
    """The configuration of a resumed run. Raises UserError if `changes` may not be made."""
    for name, value in changes.items():
        if name not in CHANGEABLE and value != getattr(config, name):
            raise UserError(
                f"{name} was {getattr(config, name)!r} when this run began and cannot become "
                f"{value!r}; start a new run"
            )
    return replace(config, **changes)
