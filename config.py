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
import re
import sys
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Config:
    # The comment after a field is its text in `python train.py --help`. Sizes are in pixels.

    # Data
    data_root: str = "data/demo"  # folder with train/, val/, test/ (or A/train/, B/train/ ...)
    direction: str = "BtoA"  # AtoB: A (left half, folder A) is the input; BtoA: B (right) is
    in_channels: int = 3  # channels of the input: 3 colour, 1 grey
    out_channels: int = 3  # channels of the target: 3 colour, 1 grey
    load_size: int = 143  # side to which training pairs are resized (paper: 286)
    crop_size: int = 128  # side of the random crop of them that is trained on (paper: 256)
    mirror: bool = True  # flip half of the training pairs left to right
    cache_gb: float = 4.0  # keep the resized training pairs in memory if they take fewer GB
    num_workers: int = -1  # processes that load data; -1: none if cached, else up to 8

    # Networks
    generator: str = "unet"  # unet, or encoder_decoder: the same without skips (Section 4.2)
    base_channels: int = 32  # filters of the generator's first layer (paper: 64)
    depth: int = 7  # halvings down to the bottleneck: 7 for 128, 8 for 256 (paper), 10 for 1024
    dropout: float = 0.5  # share dropped after the first three decoder layers: the noise z (0.5)
    discriminator_channels: int = 32  # filters of the discriminator's first layer (paper: 64)
    receptive_field: int = 70  # side of the discriminator's patch: 1, 16, 34, 70, 142, 286 (70)

    # Optimisation
    lambda_l1: float = 100.0  # weight of L1 beside the adversarial loss (paper: 100)
    learning_rate: float = 2e-4  # of Adam, for both networks (paper: 2e-4)
    beta1: float = 0.5  # Adam's momentum (paper: 0.5)
    beta2: float = 0.999  # Adam's second-moment decay (paper: 0.999)
    batch_size: int = 1  # pairs a step (paper: 1 to 10, by experiment)
    epochs: int = 25  # passes over the training pairs (paper: 200 for facades)
    decay_epochs: int = 0  # last epochs, over which the learning rate falls to 0 (paper: none)
    seed: int = 0  # of the weights, the order, the crops and the noise

    # The run
    output: str = "runs/demo"  # folder of the run: configuration, log, samples, checkpoints
    device: str = "auto"  # auto, cpu, cuda, cuda:1 ... or mps; auto takes the fastest there is
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
            if not fits or (isinstance(value, bool) and field.type is not bool):
                self.refuse(field.name, f"has to be of type {field.type.__name__}")

        self.require_choice("direction", ("AtoB", "BtoA"))
        self.require_choice("in_channels", (1, 3))
        self.require_choice("out_channels", (1, 3))
        self.require_choice("generator", ("unet", "encoder_decoder"))
        self.require_choice("receptive_field", (1, 16, 34, 70, 142, 286))
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", self.device):
            self.refuse("device", "can be auto, cpu, cuda, cuda:N or mps")

        self.require_range("depth", 2, 12)
        for name in ("base_channels", "discriminator_channels", "batch_size", "epochs"):
            self.require_range(name, 1)
        for name in ("log_steps", "validate_epochs", "save_epochs", "sample_images"):
            self.require_range(name, 1)
        for name in ("cache_gb", "lambda_l1", "decay_epochs", "keep_epochs", "seed"):
            self.require_range(name, 0)
        self.require_range("num_workers", -1)
        for name in ("dropout", "beta1", "beta2"):
            self.require_range(name, 0, below=1)
        for name in ("learning_rate", "save_minutes"):
            self.require_range(name, above=0)

        multiple = 2**self.depth
        if self.crop_size < 1 or self.crop_size % multiple:
            near = max(1, round(self.crop_size / multiple)) * multiple
            self.refuse(
                "crop_size",
                f"has to be a multiple of 2**depth = {multiple}, such as {near}; or choose "
                "another depth",
            )
        # 16: SSIM's window is 11 px. The other: the discriminator has to have an output.
        least = max(16, -(-(self.receptive_field + 2) // 3))
        if self.crop_size < least:
            self.refuse("crop_size", f"has to be {least} or more at this receptive_field")
        if self.load_size < self.crop_size:
            self.refuse("load_size", f"can't be less than crop_size, {self.crop_size}")
        if self.decay_epochs > self.epochs:
            self.refuse("decay_epochs", f"can't be more than epochs, {self.epochs}")
        for name in ("data_root", "output"):
            if not getattr(self, name):
                self.refuse(name, "has to name a folder")

    def refuse(self, name: str, reason: str):
        raise UserError(f"{name} is {getattr(self, name)!r}; it {reason}")

    def require_choice(self, name: str, choices: tuple):
        if getattr(self, name) not in choices:
            self.refuse(name, f"can be {' or '.join(map(str, choices))}")

    def require_range(self, name: str, least=None, most=None, above=None, below=None):
        value = getattr(self, name)
        bounds = [
            (least, lambda: value >= least, "at least"),
            (most, lambda: value <= most, "at most"),
            (above, lambda: value > above, "more than"),
            (below, lambda: value < below, "less than"),
        ]
        bounds = [bound for bound in bounds if bound[0] is not None]
        if not all(holds() for _, holds, _ in bounds):
            wanted = " and ".join(f"{word} {limit}" for limit, _, word in bounds)
            self.refuse(name, f"has to be {wanted}")


# Section 3.3 and appendix 6.2: what all of the paper's experiments share.
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

# Appendix 6.2, an experiment each. The direction is that of the files as the authors released
# them: `BtoA` where the photo is in the left half.
PRESETS: dict[str, Config] = {
    "demo": Config(),
    "facades": replace(PAPER, data_root="data/facades", output="runs/facades"),
    "maps": replace(PAPER, data_root="data/maps", direction="AtoB", output="runs/maps"),
    "cityscapes": replace(PAPER, data_root="data/cityscapes", output="runs/cityscapes"),
    "edges2shoes": replace(
        PAPER,
        data_root="data/edges2shoes",
        direction="AtoB",
        load_size=256,
        mirror=False,
        batch_size=4,
        epochs=15,
        validate_epochs=1,
        save_epochs=1,
        output="runs/edges2shoes",
    ),
    "edges2handbags": replace(
        PAPER,
        data_root="data/edges2handbags",
        direction="AtoB",
        load_size=256,
        mirror=False,
        batch_size=4,
        epochs=15,
        validate_epochs=1,
        save_epochs=1,
        output="runs/edges2handbags",
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
}

# What may differ between a run and its continuation. All else decides what the run would have
# become, so changing it half way would leave a result that no configuration describes.
CHANGEABLE = {
    "data_root",
    "cache_gb",
    "num_workers",
    "epochs",
    "decay_epochs",
    "device",
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
        # A DataLoader's process hands on its traceback as the message; the last line is ours.
        super().__init__(message.strip().splitlines()[-1].removeprefix("config.UserError: "))


@contextlib.contextmanager
def one_line_errors():
    """Ends the script with a UserError's line on stderr and exit code 2, without a traceback."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def nearest(word: str, known) -> str:
    """A hint such as "; did you mean 'facades'?", empty where nothing known comes close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


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
        known = [name for action in self._actions for name in action.option_strings]
        words = []
        for word in sys.argv[1:] if args is None else args:
            if word.startswith("--"):
                option, equals, value = word.partition("=")
                option = "--" + option[2:].replace("-", "_")  # --data-root is fine too
                if option not in known:
                    hint = nearest(option, known)
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
    lines = re.findall(r"^    (\w+): \w+ = .*?  # (.*)$", inspect.getsource(Config), re.MULTILINE)
    return dict(lines)


def parse_train_arguments(description: str, argv=None) -> tuple[Config | None, dict, str]:
    """Reads train.py's command line.

    Returns the configuration of a new run (None with --resume), the fields given by name, and the
    folder to resume ("" for a new run). Raises UserError.
    """
    parser = Parser(description, usage="python train.py [PRESET] [--field value ...]")
    parser.add_argument(
        "preset", nargs="?", help=f"one of {', '.join(PRESETS)} (default: demo)", metavar="PRESET"
    )
    parser.add_argument(
        "--resume", default="", metavar="RUN", help="go on with the run in this folder"
    )
    fields = parser.add_argument_group("fields of config.py, with the demo's values as defaults")
    comments = field_comments()
    for field in dataclasses.fields(Config):
        fields.add_argument(
            f"--{field.name}",
            type=boolean if field.type is bool else field.type,
            default=argparse.SUPPRESS,
            metavar=field.type.__name__.upper(),
            help=f"{comments[field.name]} (default: {field.default})".replace("%", "%%"),
        )
    given = vars(parser.parse_args(argv))
    preset, resume = given.pop("preset"), given.pop("resume")
    if preset and resume:
        raise UserError(f"--resume {resume} brings its own configuration; leave out {preset!r}")
    if resume:
        return None, given, resume
    if preset and preset not in PRESETS:
        raise UserError(
            f"there is no preset {preset!r}{nearest(preset, PRESETS)} "
            f"(there are {', '.join(PRESETS)})"
        )
    return replace(PRESETS[preset or "demo"], **given), given, ""


def config_from_dict(values: dict) -> Config:
    """The configuration that `dataclasses.asdict` turned into `values`; fields it lacks get their
    defaults. Raises UserError on fields of a newer version."""
    known = {field.name for field in dataclasses.fields(Config)}
    unknown = sorted(set(values) - known)
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
