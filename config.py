"""Every hyperparameter, the presets of the paper's experiments, and the command line made of them.

Change a default below, or leave the file alone and say it on the command line:

    python train.py facades --epochs 10 --output runs/mine

`Config()` is the demo, small enough for a laptop without a GPU; `PAPER` is the paper's recipe,
and `PRESETS` holds one configuration for each of its experiments. Importing this file does nothing
but define them. Section numbers are those of Isola et al., CVPR 2017 (arXiv 1611.07004).
"""

import argparse
import contextlib
import dataclasses
import difflib
import inspect
import math
import os
import re
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import PurePath


@dataclass(frozen=True)
class Config:
    # The comment after a field is its text in `python train.py --help`. Sizes are in pixels.

    # Data
    data_root: str = "data/demo"  # folder with train/, val/, test/ (or A/train/, B/train/ ...)
    direction: str = "BtoA"  # AtoB: A (left half, folder A) is the input; BtoA: B (right) is
    palette: str = "auto"  # of label pictures in B: demo, facades, cityscapes; auto: by data_root
    in_channels: int = 3  # channels of the input: 3 colour, 1 grey
    out_channels: int = 3  # channels of the target: 3 colour, 1 grey, 2 for colorization
    load_size: int = 143  # side to which training pairs are resized (paper: 286)
    crop_size: int = 128  # side of the random crop of them that is trained on (paper: 256)
    mirror: bool = True  # flip half of the training pairs left to right
    bad_files: str = "stop"  # at a file that can't be used: stop, or skip it and list it at the end
    limit: int = 0  # use only the first so many pictures of each split; 0: all of them
    cache_gb: float = 4.0  # keep the resized training pairs in memory if they take fewer GB
    num_workers: int = -1  # processes that load data; -1: none if cached, else one for each core

    # Tasks that make their own pairs from plain pictures
    task: str = "pairs"  # pairs, colorization, inpainting, super_resolution, edges or style
    part: str = "whole"  # of each picture: whole, or A or B, the left or right half of it
    mask: str = "centre"  # what inpainting hides: centre, random, or a folder of masks (white)
    factor: int = 4  # by which super_resolution enlarges: 2, 4 or 8

    # Networks
    generator: str = "unet"  # unet, or encoder_decoder: the same without skips (Section 4.3)
    base_channels: int = 32  # filters of the generator's first layer (paper: 64)
    depth: int = 7  # halvings down to the bottleneck: 7 for 128, 8 for 256 (paper), 10 for 1024
    dropout: float = 0.5  # noise z: share dropped after some of the decoder's layers (paper: 0.5)
    dropout_layers: str = "paper"  # which: paper, the first 3; port, as in the PyTorch port
    norm: str = "batch"  # batch (paper) or instance; the same thing at batch_size 1
    upsampling: str = "transposed"  # the decoder's convolutions: transposed (paper), or resize
    discriminator_channels: int = 32  # filters of the discriminator's first layer (paper: 64)
    receptive_field: int = 70  # the discriminator's patch: 1, 16, 34, 70, 142, 286 (paper: 70)

    # Optimisation
    lambda_l1: float = 100.0  # weight of the L1 loss (paper: 100); 0: without it
    gan_weight: float = 1.0  # weight of the adversarial loss (paper: 1); 0: no discriminator
    conditional: bool = True  # the discriminator sees x beside y (cGAN); false: y alone (GAN)
    gan_loss: str = "cross_entropy"  # cross_entropy (paper) or least_squares
    learning_rate: float = 2e-4  # of Adam, for both networks (paper: 2e-4)
    beta1: float = 0.5  # Adam's momentum (paper: 0.5)
    beta2: float = 0.999  # Adam's second-moment decay (paper: 0.999)
    batch_size: int = 1  # pairs a step, on each GPU of several (paper: 1 to 10, by experiment)
    epochs: int = 25  # passes over the training pairs (paper: 200 for facades)
    decay_epochs: int = 0  # last epochs, over which the learning rate falls to 0 (paper: none)
    ema_decay: float = 0.0  # of a running mean of the generator, to translate with; 0: none
    seed: int = 0  # of the weights, the order, the crops and the noise

    # The run
    output: str = "runs/demo"  # folder of the run: configuration, log, samples, checkpoints
    device: str = "auto"  # auto, cpu, cuda, cuda:1 ... or mps; auto takes the fastest there is
    precision: str = "auto"  # auto, fp32 or bf16; auto: bf16 where the hardware is made for it
    fast: bool = True  # false: the plain step of train.py without what fast.py does
    log_steps: int = 50  # steps from one row of log.csv to the next
    validate_epochs: int = 5  # epochs from one validation and sample grid to the next
    sample_images: int = 6  # validation pictures in the sample grid
    save_epochs: int = 10  # epochs from one checkpoint to the next
    save_minutes: float = 10.0  # and never more minutes than this
    keep_epochs: int = 0  # also keep a full checkpoint every so many epochs (700 MB each); 0: none

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            fits = isinstance(value, (int, float) if field.type is float else field.type)
            if isinstance(value, bool):
                fits = field.type is bool
            if isinstance(value, int):
                self.check(field.name, abs(value) < 2**63, "is beyond all measure")
            self.check(field.name, fits, f"has to be of type {field.type.__name__}")

        for name in ("data_root", "output"):
            self.check(name, getattr(self, name) != "", "has to name a folder")
        for name, choices in CHOICES.items():
            self.check(name, getattr(self, name) in choices, f"can be {' or '.join(choices)}")
        channels = {"colorization": (1, 2), "style": (3, 3)}.get(self.task)
        for i, name in enumerate(("in_channels", "out_channels")):
            if channels:
                rule = "has to be {} for {} (in_channels {}, out_channels {})"
                rule = rule.format(channels[i], self.task, *channels)
                self.check(name, getattr(self, name) == channels[i], rule)
            else:
                self.check(name, getattr(self, name) in (1, 3), "can be 1 or 3")
        if self.task in ("inpainting", "super_resolution"):
            alike = self.in_channels == self.out_channels
            self.check("in_channels", alike, f"has to be out_channels, {self.out_channels}")
        self.check("mask", self.mask != "", "can be centre, random or a folder")
        self.check("factor", self.factor in (2, 4, 8), "can be 2, 4 or 8")
        if self.task == "super_resolution":
            whole = self.crop_size % self.factor == 0
            self.check("crop_size", whole, f"has to be a multiple of factor, {self.factor}")
        fields = (1, 16, 34, 70, 142, 286)
        self.check("receptive_field", self.receptive_field in fields, f"can be one of {fields}")
        device = re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", self.device)
        self.check("device", device is not None, "can be auto, cpu, cuda, cuda:N or mps")

        at_least_one = ("base_channels", "discriminator_channels", "batch_size", "epochs")
        intervals = ("log_steps", "validate_epochs", "sample_images", "save_epochs")
        for name in at_least_one + intervals:
            self.check(name, getattr(self, name) >= 1, "has to be 1 or more")
        for name in ("base_channels", "discriminator_channels"):
            self.check(name, getattr(self, name) <= 2**16, "can't be more than 65536")
        for name in ("load_size", "crop_size"):
            self.check(name, getattr(self, name) <= 2**14, "can't be more than 16384")
        for name in ("limit", "cache_gb", "decay_epochs", "keep_epochs"):
            self.check(name, getattr(self, name) >= 0, "can't be negative")
        self.check("seed", 0 <= self.seed < 2**63, "has to be from 0 to below 2**63")
        for name in ("lambda_l1", "gan_weight"):
            finite = math.isfinite(getattr(self, name)) and getattr(self, name) >= 0
            self.check(name, finite, "can't be negative or infinite")
        some = self.lambda_l1 + self.gan_weight > 0
        self.check("gan_weight", some, "can't be 0 where lambda_l1 is 0 too: nothing would be left")
        for name in ("dropout", "beta1", "beta2", "ema_decay"):
            self.check(name, 0 <= getattr(self, name) < 1, "has to be from 0 to below 1")
        finite = math.isfinite(self.learning_rate) and self.learning_rate > 0
        self.check("learning_rate", finite, "has to be more than 0 and finite")
        self.check("save_minutes", self.save_minutes > 0, "has to be more than 0")
        self.check("num_workers", -1 <= self.num_workers <= 1024, "has to be from -1 to 1024")
        self.check("depth", 2 <= self.depth <= 12, "has to be from 2 to 12")
        some = self.dropout_layers == "paper" or self.depth >= 6
        self.check("dropout_layers", some, "has a layer from a depth of 6 on")

        multiple = 2**self.depth
        near = max(1, round(self.crop_size / multiple)) * multiple
        self.check(
            "crop_size",
            self.crop_size > 0 and self.crop_size % multiple == 0,
            f"has to be a multiple of 2**depth = {multiple}, such as {near}; or choose another "
            "depth",
        )
        # 16: the window of SSIM is 11 px. The other: the discriminator has to have an output.
        least = max(16, math.ceil((self.receptive_field + 2) / 3))
        self.check(
            "crop_size",
            self.crop_size >= least,
            f"has to be {least} or more with a receptive_field of {self.receptive_field}",
        )
        self.check(
            "load_size",
            self.load_size >= self.crop_size,
            f"can't be less than crop_size, {self.crop_size}",
        )
        self.check(
            "decay_epochs",
            self.decay_epochs <= self.epochs,
            f"can't be more than epochs, {self.epochs}",
        )

    def label_palette(self) -> str | None:
        """The palette of B's pictures, None where they are no labels of known colours."""
        name = PurePath(self.data_root).name if self.palette == "auto" else self.palette
        return name if name in PALETTES and self.task == "pairs" else None

    def check(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise UserError(f"{name} is {getattr(self, name)!r}; it {rule}")


# Datasets whose label pictures, their B, have colours known to scores.py.
PALETTES = ("demo", "facades", "cityscapes")

# What some fields can be; the rules of the others stand in Config.__post_init__.
CHOICES = {
    "direction": ("AtoB", "BtoA"),
    "palette": ("auto", *PALETTES, "none"),
    "task": ("pairs", "colorization", "inpainting", "super_resolution", "edges", "style"),
    "part": ("whole", "A", "B"),
    "bad_files": ("stop", "skip"),
    "generator": ("unet", "encoder_decoder"),
    "dropout_layers": ("paper", "port"),
    "norm": ("batch", "instance"),
    "upsampling": ("transposed", "resize"),
    "gan_loss": ("cross_entropy", "least_squares"),
    "precision": ("auto", "fp32", "bf16"),
}

# Sections 3.3 and 6.2: what all of the paper's experiments share.
PAPER = Config(
    load_size=286,
    crop_size=256,
    base_channels=64,
    depth=8,
    discriminator_channels=64,
    epochs=200,
    validate_epochs=10,
    save_epochs=50,
)

PAPER_EDGES = replace(
    PAPER,
    direction="AtoB",
    load_size=256,  # no jitter
    mirror=False,
    batch_size=4,
    epochs=15,
    validate_epochs=1,
    save_epochs=1,
)

# Section 6.2: mirrored, but without jitter.
PLAIN = replace(PAPER, data_root="data/photos", load_size=256, batch_size=4)

# Section 6.2, an experiment each. The direction is that of the files as the authors released
# them: BtoA where what is to be made, the photo, is in the left half.
PRESETS: dict[str, Config] = {
    "demo": Config(),
    "facades": replace(PAPER, data_root="data/facades", output="runs/facades"),
    "maps": replace(PAPER, data_root="data/maps", direction="AtoB", output="runs/maps"),
    "cityscapes": replace(PAPER, data_root="data/cityscapes", output="runs/cityscapes"),
    "edges2shoes": replace(PAPER_EDGES, data_root="data/edges2shoes", output="runs/edges2shoes"),
    "edges2handbags": replace(
        PAPER_EDGES, data_root="data/edges2handbags", output="runs/edges2handbags"
    ),
    "day2night": replace(
        PAPER,
        data_root="data/night2day",
        batch_size=4,
        epochs=17,
        validate_epochs=1,
        save_epochs=1,
        output="runs/day2night",
    ),
    # From a folder of plain pictures. Colorization and inpainting are the paper's.
    "colorization": replace(
        PLAIN,
        task="colorization",
        in_channels=1,
        out_channels=2,
        epochs=6,
        validate_epochs=1,
        save_epochs=1,
        output="runs/colorization",
    ),
    "inpainting": replace(
        PLAIN, task="inpainting", epochs=25, validate_epochs=5, output="runs/inpainting"
    ),
    "super_resolution": replace(
        PLAIN, task="super_resolution", epochs=100, output="runs/super_resolution"
    ),
    "edges": replace(PLAIN, task="edges", in_channels=1, epochs=100, output="runs/edges"),
    "style": replace(PLAIN, task="style", epochs=100, output="runs/style"),
}

# What may differ between a run and its continuation. All else decides what the run would have
# become, so changing it half way would leave a result that no configuration describes. (So do
# epochs with a decay, for they move it; but then the user asked for it.)
CHANGEABLE = {
    "data_root",
    "palette",
    "bad_files",
    "cache_gb",
    "num_workers",
    "epochs",
    "decay_epochs",
    "device",
    "precision",
    "fast",
    "log_steps",
    "validate_epochs",
    "sample_images",
    "save_epochs",
    "save_minutes",
    "keep_epochs",
}


class UserError(ValueError):
    """A mistake that the user can mend: what is wrong, where, and what to do, in one line."""

    def __init__(self, message: str):
        if message.startswith("Caught "):  # a DataLoader's process has put its traceback before it
            message = message.rpartition("config.UserError: ")[2]
        # Names can be of any length and hold anything.
        line = " ".join(message.splitlines())[:1000]
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))


@contextlib.contextmanager
def one_line_errors():
    """Ends the script with the line of a UserError, or of a file that can't be read or written,
    on stderr and exit code 2, without a traceback. Ctrl-C ends it without one, too, also in the
    imports that follow."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:  # torch has an error of its own for each device
        if not isinstance(error, MemoryError) and not re.search(
            "out of memory|can't allocate memory|not enough memory", str(error)
        ):
            raise
        reason = (str(error).splitlines() or ["no memory is left"])[0]
        print(f"error: {reason} (a smaller batch_size or crop_size needs less)", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def nearest(word: str, known, prefix: str = "") -> str:
    """A hint such as "; did you mean 'facades'?", empty where nothing known comes close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes are UserErrors and name the nearest option."""

    def __init__(self, description: str, usage: str | None = None):
        super().__init__(
            usage=usage,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str):
        raise UserError(f"{message} (see --help)")

    def parse_args(self, args=None, namespace=None):
        known = [name for action in self._actions for name in action.option_strings if name != "-h"]
        words = []
        for word in sys.argv[1:] if args is None else args:
            if word.startswith("--"):
                option, equals, value = word.partition("=")
                option = "--" + option[2:].replace("-", "_")  # --data-root is fine too
                if option not in known:
                    hint = nearest(option[2:], [name[2:] for name in known], prefix="--")
                    raise UserError(f"there is no option {option}{hint} (see --help)")
                word = option + equals + value
            words.append(word)
        return super().parse_args(words, namespace)


def boolean(text: str) -> bool:
    values = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.lower()]


def field_comments() -> dict[str, str]:
    """The comment behind each field of Config, by field name."""
    return dict(re.findall(r"^ +(\w+): \w+ = .*?# *(.*)$", inspect.getsource(Config), re.MULTILINE))


def add_fields(parser: argparse.ArgumentParser, preset: str) -> None:
    """An option for each field of Config; what is not given is absent from the result."""
    fields = parser.add_argument_group(f"fields of config.py, with the defaults of {preset}")
    comments = field_comments()
    for field in dataclasses.fields(Config):
        text = f"{comments.get(field.name, '')} (default: {getattr(PRESETS[preset], field.name)})"
        fields.add_argument(
            f"--{field.name}",
            type=boolean if field.type is bool else field.type,
            default=argparse.SUPPRESS,
            metavar=field.type.__name__.upper(),
            help=text.replace("%", "%%"),
        )


def preset_named(name: str) -> Config:
    """Raises UserError, with the nearest name, if there is none."""
    if name not in PRESETS:
        known = ", ".join(PRESETS)
        raise UserError(f"there is no preset {name!r}{nearest(name, PRESETS)} (there are {known})")
    return PRESETS[name]


def parse_train_arguments(
    description: str,
    argv=None,
    usage: str = "python train.py [PRESET] [--field value ...]",
) -> tuple[Config | None, dict, str | None]:
    """Reads train.py's command line.

    Returns the configuration of a new run or None, the fields given by name, and the run to resume
    or None. Raises UserError.
    """
    parser = Parser(description, usage)
    parser.add_argument(
        "preset", nargs="?", help=f"one of {', '.join(PRESETS)} (default: demo)", metavar="PRESET"
    )
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    words = sys.argv[1:] if argv is None else argv
    shown = next((word for word in words if word in PRESETS), "demo")  # for `facades --help`
    add_fields(parser, shown)
    given = vars(parser.parse_args(argv))
    preset, resume = given.pop("preset"), given.pop("resume")
    if resume == "":
        raise UserError("--resume is empty; it has to name a run folder")
    if resume is not None and preset:
        raise UserError(f"--resume {resume} brings its own configuration; leave out {preset!r}")
    if resume is not None:
        return None, given, resume
    return replace(preset_named(preset or "demo"), **given), given, None


def parse_check_arguments(description: str, argv=None) -> Config:
    """Reads dataset.py's command line: whose data are to be checked. Raises UserError."""
    usage = "python dataset.py [PRESET] [--field value ...]"
    config, _, resume = parse_train_arguments(description, argv, usage)
    if resume is not None:
        raise UserError("--resume is for train.py; --data_root says what is checked here")
    return config


# What the rows of each table of reproduce.py set, and so nothing else can.
COMPARED = dict.fromkeys(
    ("table1", "table2", "table3", "table6"),
    ("direction", "lambda_l1", "gan_weight", "conditional", "generator", "receptive_field"),
)
COMPARED |= {
    "recipes": ("decay_epochs", "dropout_layers"),
    "precision": ("precision",),
    "sizes": (),  # from base_channels on downwards
    "directions": ("direction",),
}


def parse_reproduce_arguments(
    description: str, argv=None
) -> tuple[str, Config, list[int], str | None, list[str] | None]:
    """Reads reproduce.py's command line: the table, what its rows have in common, the seeds, and if
    they are given the run that reads the labels and the only rows. Raises UserError."""
    parser = Parser(description, usage="python reproduce.py TABLE [PRESET] [--field value ...]")
    parser.add_argument("table", choices=COMPARED, help=", ".join(COMPARED), metavar="TABLE")
    pairs = [name for name, preset in PRESETS.items() if preset.task == "pairs"]
    parser.add_argument("preset", nargs="?", help=f"one of {', '.join(pairs)}", metavar="PRESET")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0", metavar="N")
    parser.add_argument(
        "--scorer", metavar="RUN", help="a run photo -> labels; else one is trained"
    )
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows of the table")
    words = sys.argv[1:] if argv is None else argv
    add_fields(parser, next((word for word in words if word in PRESETS), "demo"))
    given = vars(parser.parse_args(argv))
    table, preset, seeds, scorer, rows = (
        given.pop(name) for name in ("table", "preset", "seeds", "scorer", "rows")
    )
    for name in ("seed", "task", *COMPARED[table]):
        if name in given:
            instead = "; give --seeds" if name == "seed" else ""
            raise UserError(f"--{name} is for {table} to choose{instead}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("reproduce.py is for one process; torchrun is for train.py")
    data = PurePath(given.get("data_root", "demo")).name
    if preset is None:
        preset = data if data in pairs else "cityscapes"
    base = preset_named(preset)
    if preset not in pairs:
        raise UserError(f"{preset} makes its own pairs; the tables are of {', '.join(pairs)}")
    if table == "table2" and preset == "cityscapes":
        base = replace(base, batch_size=10)  # the paper's in this comparison
    base = replace(base, **given)
    if table == "sizes" and base.base_channels < 4:
        raise UserError(
            f"base_channels is {base.base_channels}; sizes goes down to a quarter of it"
        )
    if table == "recipes" and (base.depth < 6 or base.epochs < 2):
        raise UserError(
            f"depth is {base.depth} and epochs {base.epochs}; recipes takes 6 and 2 or more"
        )
    if "output" not in given:
        folder = f"runs/reproduce_{PurePath(base.data_root).name}"
        if base.crop_size != PRESETS[preset].crop_size:
            folder += f"_{base.crop_size}px"
        if base.batch_size != PRESETS[preset].batch_size:
            folder += f"_batch_{base.batch_size}"
        base = replace(base, output=folder)
    return table, base, list(dict.fromkeys(seeds)), scorer, rows


def config_from_dict(values: dict) -> Config:
    """The configuration that `dataclasses.asdict` turned into `values`; fields it lacks get their
    defaults. Raises UserError on fields of a newer version."""
    known = {field.name for field in dataclasses.fields(Config)}
    unknown = sorted(map(str, set(values) - known))
    if unknown:
        raise UserError(f"the configuration has fields unknown to this version: {unknown}")
    return Config(**values)


def continued(config: Config, changes: dict) -> Config:
    """The configuration of a resumed run. Raises UserError if `changes` are not its to make."""
    for name, value in changes.items():
        if name not in CHANGEABLE and value != getattr(config, name):
            raise UserError(
                f"{name} was {getattr(config, name)!r} when this run began and can't become "
                f"{value!r}; start a new run for it"
            )
    return replace(config, **changes)
