"""Every hyperparameter, and a preset for each experiment.

    python train.py                                    trains PRESETS[DEFAULT]
    python train.py facades --epochs 10 --output runs/mine

`Config()` is the paper's recipe, on facades. Add your own experiment to PRESETS, or give fields on
the command line. Section numbers are those of Isola et al., CVPR 2017 (arXiv 1611.07004).
"""

import dataclasses
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Literal

from engine.cli import UserError, did_you_mean
from engine.fields import check_types
from images.nodata import is_nodata
from images.ranges import is_range

TaskName = Literal["pairs", "colorization", "inpainting", "super_resolution", "edges", "style"]


@dataclass(frozen=True)
class Config:
    # The comment after a field is its text in `python train.py --help`. Sizes are in pixels.

    # Data
    data_root: str = "data/facades"  # folder with train/, val/, test/ (or A/train/, B/train/ ...)
    direction: Literal["AtoB", "BtoA"] = "BtoA"  # AtoB: A (left half, folder A) is the input
    palette: str = "auto"  # of B's labels: auto, none, facades, cityscapes, demo or a palette.json
    in_channels: int = 3  # channels of the input: 3 color, 1 gray; any number with an input_range
    out_channels: int = 3  # channels of the target: 3 color, 1 gray, 2 for colorization
    input_range: str = ""  # LOW HIGH, or percentiles such as 1% 99%, of the inputs; empty: 8-bit
    target_range: str = ""  # the same for the targets; empty: 8-bit
    nodata: str = ""  # value of pixels without data in such files, a number or nan; empty: none
    resize: Literal["stretch", "fit", "none"] = "stretch"  # to squares; fit: the shorter side
    load_size: int = 286  # side to which training pairs are resized
    crop_size: int = 256  # side of the random training crop
    mirror: bool = True  # flip training pairs left to right, half of the time
    inputs: Literal["images", "drawings"] = "images"  # drawings: black lines on white (tools.draw)
    translates: str = ""  # what to what, such as "aerial photo -> map"; tools.draw shows it
    rotate: bool = False  # also turn training pairs by quarters and flip them upside down
    jitter: float = 0.0  # strength of random brightness, contrast, saturation of the inputs: 0.2
    bad_files: Literal["stop", "skip"] = "stop"  # skip: leave them out and list them at the end
    limit: int = 0  # use only the first N images of each split; 0: all
    cache_gb: float = 4.0  # GB per process to keep resized pairs in memory, if all fit; 0: none
    num_workers: int = -1  # processes that load data; -1: none if cached, else one per core

    # Tasks that make their own pairs from photos
    task: TaskName = "pairs"  # pairs: both images are files
    part: Literal["whole", "A", "B"] = "whole"  # of each photo: A is the left half, B the right
    mask: str = "center"  # hole of inpainting: center, random, or a folder of masks, white inside
    factor: Literal[2, 4, 8] = 4  # scale of super_resolution

    # Networks
    generator: Literal["unet", "encoder_decoder"] = "unet"  # the latter has no skips (Section 4.3)
    base_channels: int = 64  # filters of the generator's first layer
    depth: int = 8  # downsampling layers: 7 for 128 px, 8 for 256 px, 10 for 1024 px
    dropout: float = 0.5  # noise z: dropout after some decoder layers
    dropout_layers: Literal["paper", "port"] = "paper"  # the first 3, or as in the PyTorch port
    norm: Literal["batch", "instance"] = "batch"  # identical at batch_size 1
    upsampling: Literal["transposed", "resize"] = "transposed"  # resize: upsample, then convolve
    discriminator_channels: int = 64  # filters of the discriminator's first layer
    receptive_field: Literal[1, 16, 34, 70, 142, 286] = 70  # the discriminator's patch
    init: str = ""  # start from these weights: a run, an export, hf://owner/name or the port's .pth

    # Optimization
    lambda_l1: float = 100.0  # weight of the L1 loss; 0 disables it
    gan_weight: float = 1.0  # weight of the adversarial loss; 0: no discriminator
    conditional: bool = True  # the discriminator sees x and y (cGAN); false: y alone (GAN)
    gan_loss: Literal["cross_entropy", "least_squares"] = "cross_entropy"  # least_squares: LSGAN
    learning_rate: float = 2e-4  # Adam's learning rate, for both networks
    beta1: float = 0.5  # Adam's decay of the first moment
    beta2: float = 0.999  # Adam's decay of the second moment
    batch_size: int = 1  # pairs per step, on each GPU
    epochs: int = 200  # passes over the training pairs
    decay_epochs: int = 0  # epochs at the end over which the learning rate decays linearly toward 0
    ema_decay: float = 0.0  # decay of an EMA of the generator's weights, for inference; 0: no EMA
    seed: int = 0  # seeds weights, order, crops and noise

    # The run
    output: str = ""  # folder of the run; default: runs/ and the name of the dataset or the task
    device: str = "auto"  # auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1 ... or mps
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 if the hardware has it
    fast: bool = True  # false: the textbook step, without engine/fast.py
    log_steps: int = 50  # steps between rows of log.csv
    wandb: str = ""  # also log to this project of Weights & Biases; empty: do not
    validate_epochs: int = 10  # epochs between validations, each with a sample grid
    validate_images: int = 0  # at most so many in a validation, evenly chosen; 0: all of val
    sample_images: int = 6  # validation images in the sample grid
    save_epochs: int = 50  # epochs between checkpoints
    save_minutes: float = 10.0  # also save a checkpoint after this many minutes
    best_by: Literal["none", "l1", "psnr", "ssim"] = "none"  # also keep best.pt, by this score
    patience: int = 0  # stop after so many validations without a better one; 0: never
    keep_epochs: int = 0  # also keep a checkpoint every so many epochs (up to 700 MB); 0: none

    def __post_init__(self):
        check(self)

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        name = os.path.basename(os.path.abspath(self.data_root))  # of "." as well
        name = name if self.task == "pairs" else self.task
        return Path(self.output or PurePath("runs", name))


# Channels of input and target, where the task decides them.
CHANNELS = {"colorization": (1, 2), "style": (3, 3)}


def check(config: Config) -> None:
    """Raises UserError at the first rule that is broken."""
    check_types(config)
    check_bounds(config)
    check_channels(config)
    check_sizes(config)
    check_training(config)


def require(config: Config, holds, field: str, rule: str) -> None:
    if not holds:
        raise UserError(f"{field} is {getattr(config, field)!r}; it {rule}")


def check_bounds(c: Config) -> None:
    for field in ("batch_size", "epochs", "sample_images"):
        require(c, getattr(c, field) >= 1, field, "must be 1 or more")
    for field in ("log_steps", "validate_epochs", "save_epochs"):
        require(c, getattr(c, field) >= 1, field, "must be 1 or more")
    for field in ("limit", "validate_images", "cache_gb", "jitter", "lambda_l1", "gan_weight"):
        require(c, getattr(c, field) >= 0, field, "must be 0 or more")
    for field in ("decay_epochs", "seed", "keep_epochs", "patience"):
        require(c, getattr(c, field) >= 0, field, "must be 0 or more")
    for field in ("learning_rate", "save_minutes"):
        require(c, getattr(c, field) > 0, field, "must be above 0")
    for field in ("dropout", "beta1", "beta2", "ema_decay"):
        require(c, 0 <= getattr(c, field) < 1, field, "must be from 0 to below 1")
    for field in ("base_channels", "discriminator_channels", "load_size", "crop_size"):
        require(c, 1 <= getattr(c, field) <= 2**14, field, "must be from 1 to 16384")
    require(c, 2 <= c.depth <= 12, "depth", "must be from 2 to 12")
    require(c, -1 <= c.num_workers <= 1024, "num_workers", "must be from -1 to 1024")
    for field in ("data_root", "mask", "palette"):
        require(c, getattr(c, field), field, "must be given")
    device = re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", c.device)
    require(c, device, "device", "must be auto, cpu, cuda, cuda:N or mps")


def check_channels(c: Config) -> None:
    form = "must be LOW HIGH, a pair for each channel, or percentiles such as 1% 99%"
    require(c, is_range(c.input_range, c.in_channels), "input_range", form)
    require(c, is_range(c.target_range, c.out_channels), "target_range", form)
    require(c, is_nodata(c.nodata), "nodata", "must be a number or nan")
    arrays = c.input_range or c.target_range
    require(c, not c.nodata or arrays, "nodata", "needs an input_range or a target_range")
    if c.task != "pairs":
        require(c, not arrays, "task", "cannot be combined with an input_range or a target_range")
    if c.task in CHANNELS:
        x, y = CHANNELS[c.task]
        rule = f"must be {x}, and out_channels {y}, for {c.task}"
        require(c, (c.in_channels, c.out_channels) == (x, y), "in_channels", rule)
    else:
        rule = "must be 1 or 3; other numbers need an {}_range"
        require(c, c.in_channels in (1, 3) or c.input_range, "in_channels", rule.format("input"))
        require(
            c, c.out_channels in (1, 3) or c.target_range, "out_channels", rule.format("target")
        )
    if c.task in ("inpainting", "super_resolution"):
        rule = f"must equal out_channels, {c.out_channels}, for {c.task}"
        require(c, c.in_channels == c.out_channels, "in_channels", rule)


def check_sizes(c: Config) -> None:
    if c.task == "super_resolution":
        rule = f"must be a multiple of factor, {c.factor}"
        require(c, c.crop_size % c.factor == 0, "crop_size", rule)
    multiple = 2**c.depth
    near = max(1, round(c.crop_size / multiple)) * multiple
    rule = f"must be a multiple of 2**depth = {multiple}, such as {near}; or choose another depth"
    require(c, c.crop_size % multiple == 0, "crop_size", rule)
    require(c, c.crop_size >= 16, "crop_size", "must be 16 or more, for SSIM")
    rule = f"is too small for a receptive_field of {c.receptive_field}"  # D's output would be empty
    require(c, 3 * c.crop_size >= c.receptive_field + 2, "crop_size", rule)
    require(
        c, c.load_size >= c.crop_size, "load_size", f"must be at least crop_size, {c.crop_size}"
    )
    if c.dropout_layers == "port":
        require(c, c.depth >= 6, "dropout_layers", "needs a depth of 6 or more")


def check_training(c: Config) -> None:
    rule = "must not be 0 if lambda_l1 is 0: there would be no loss"
    require(c, c.lambda_l1 + c.gan_weight > 0, "gan_weight", rule)
    require(c, not c.patience or c.best_by != "none", "patience", "needs best_by")
    rule = f"must be at most epochs, {c.epochs}"
    require(c, c.decay_epochs <= c.epochs, "decay_epochs", rule)
    require(
        c, not c.jitter or c.task == "pairs", "jitter", f"is for pairs of files, not for {c.task}"
    )
    require(c, c.jitter <= 1, "jitter", "must be at most 1")


# ---- Presets ----------------------------------------------------------------------------------

EVERY_EPOCH = {"validate_epochs": 1, "save_epochs": 1}  # where an epoch takes hours

# Section 6.2. Only facades, maps, cityscapes and day2night are cropped; edges are not mirrored.
WHOLE = {"load_size": 256, "batch_size": 4}
EDGES = Config(direction="AtoB", inputs="drawings", mirror=False, epochs=15, **WHOLE, **EVERY_EPOCH)
PHOTOS = Config(data_root="data/photos", **WHOLE)

# What plain `python train.py` trains.
DEFAULT = "demo"

PRESETS: dict[str, Config] = {
    # Small enough for a laptop without a GPU. The data are drawn by tools/make_demo.py.
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
    "maps": Config(data_root="data/maps", direction="AtoB", translates="aerial photo -> map"),
    "cityscapes": Config(data_root="data/cityscapes"),
    "edges2shoes": replace(EDGES, data_root="data/edges2shoes", translates="edges -> shoe"),
    "edges2handbags": replace(EDGES, data_root="data/edges2handbags", translates="edges -> bag"),
    "day2night": Config(
        data_root="data/night2day",
        output="runs/day2night",
        translates="day -> night",
        batch_size=4,
        epochs=17,
        **EVERY_EPOCH,
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
    commands = {p.data_root: "tools.download" for p in PRESETS.values() if p.task == "pairs"}
    command = {**commands, "data/demo": "tools.make_demo"}.get(root.as_posix())
    if command == "tools.download":
        command += f" {root.name}"
    if not root.is_dir():
        beside = [folder.name for folder in root.parent.glob("*/")]
        hint = did_you_mean(root.name, beside, f"{root.parent.as_posix()}/")
        how = f"python -m {command} makes it" if command else f"it must be a folder of images{hint}"
        raise UserError(f"data_root {root} does not exist; {how}")


# ---- Saved configurations ---------------------------------------------------------------------

# What may change when a run resumes. Everything else affects the result and is fixed for a run.
# (With decay_epochs, changing epochs also changes the result; it is allowed.)
# fmt: off
CHANGEABLE = {
    "data_root", "palette", "inputs", "translates", "bad_files", "cache_gb", "num_workers",
    "epochs", "decay_epochs", "device", "precision", "fast", "log_steps", "wandb",
    "validate_epochs", "validate_images", "sample_images", "save_epochs", "save_minutes",
    "keep_epochs", "best_by", "patience",
}
# fmt: on


def config_from_dict(values: dict) -> Config:
    """The inverse of `dataclasses.asdict`; missing fields get their defaults. Raises UserError on
    unknown fields, which a newer version may have."""
    known = {field.name for field in dataclasses.fields(Config)}
    unknown = sorted(map(str, set(values) - known))
    if unknown:
        raise UserError(f"the configuration has fields unknown to this version: {unknown}")
    if values.get("mask") == "centre":  # as earlier versions spelled it
        values = {**values, "mask": "center"}
    return Config(**values)


def resume_config(values: dict, changes: dict) -> Config:
    """The configuration of a run, as `config_from_dict`, resumed with some fields changed. Raises
    UserError if these may not change."""
    config = config_from_dict(values)
    for name, value in changes.items():
        if name not in CHANGEABLE and value != getattr(config, name):
            raise UserError(
                f"{name} was {getattr(config, name)!r} when this run began and cannot become "
                f"{value!r}; start a new run"
            )
    return replace(config, **changes)


def differences(config: Config) -> list[str]:
    """The fields that differ from the paper's recipe, a line each."""
    recipe = Config()
    fields = [field.name for field in dataclasses.fields(Config)]
    return [f"{f:24} {v}" for f in fields if (v := getattr(config, f)) != getattr(recipe, f)]
