"""Reproduces a table of the paper: trains and scores every row.

    python -m tools.reproduce table1                             losses, on the demo: a laptop
    python -m tools.reproduce table1 cityscapes                  as in the paper: days on a GPU
    python -m tools.reproduce table3 facades --seeds 0 1 2       another preset, mean ± std
    python -m tools.reproduce table2 --epochs 2 --limit 20       a quick look

table1   losses                  table6    losses, photo -> labels
table2   generators              recipes   the paper's and the PyTorch port's
table3   receptive fields

Writes the table, beside the paper's numbers, its JSON file and a grid of images. The same command
resumes where it was stopped and skips what is finished; runs that tables share are trained once.
Segmentation scores of photos need a label reader: a generator photo -> labels, trained first or
given by --scorer.
"""

import argparse
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath

from config import CHANGEABLE, DEFAULT, PRESETS, Config, config_from_dict, preset_named
from engine import cli
from engine.cli import UserError


@dataclass(frozen=True)
class Row:
    """A row of a table: the fields it sets, and the paper's per-pixel, per-class and IoU."""

    name: str
    fields: dict
    paper: tuple[float, float, float] | None = None


# Each row of the paper's tables sets every field in which any of them differ.
COMMON = {"generator": "unet", "receptive_field": 70, "direction": "BtoA"}
LOSSES = {
    "L1": {"lambda_l1": 100.0, "gan_weight": 0.0, "conditional": True, **COMMON},
    "GAN": {"lambda_l1": 0.0, "gan_weight": 1.0, "conditional": False, **COMMON},
    "cGAN": {"lambda_l1": 0.0, "gan_weight": 1.0, "conditional": True, **COMMON},
    "L1+GAN": {"lambda_l1": 100.0, "gan_weight": 1.0, "conditional": False, **COMMON},
    "L1+cGAN": {"lambda_l1": 100.0, "gan_weight": 1.0, "conditional": True, **COMMON},
}
ENCODER_DECODER = {"generator": "encoder_decoder"}
TO_LABELS = {"direction": "AtoB"}

# The paper's numbers are for cityscapes at 256 px, scored by an FCN-8s except in table 6.
ROWS = {
    "table1": [
        Row("L1", LOSSES["L1"], (0.42, 0.15, 0.11)),
        Row("GAN", LOSSES["GAN"], (0.22, 0.05, 0.01)),
        Row("cGAN", LOSSES["cGAN"], (0.57, 0.22, 0.16)),
        Row("L1+GAN", LOSSES["L1+GAN"], (0.64, 0.20, 0.15)),
        Row("L1+cGAN", LOSSES["L1+cGAN"], (0.66, 0.23, 0.17)),
    ],
    "table2": [
        Row("Encoder-decoder (L1)", LOSSES["L1"] | ENCODER_DECODER, (0.35, 0.12, 0.08)),
        Row("Encoder-decoder (L1+cGAN)", LOSSES["L1+cGAN"] | ENCODER_DECODER, (0.29, 0.09, 0.05)),
        Row("U-Net (L1)", LOSSES["L1"], (0.48, 0.18, 0.13)),
        Row("U-Net (L1+cGAN)", LOSSES["L1+cGAN"], (0.55, 0.20, 0.14)),
    ],
    "table3": [
        Row("1x1", LOSSES["L1+cGAN"] | {"receptive_field": 1}, (0.39, 0.15, 0.10)),
        Row("16x16", LOSSES["L1+cGAN"] | {"receptive_field": 16}, (0.65, 0.21, 0.17)),
        Row("70x70", LOSSES["L1+cGAN"] | {"receptive_field": 70}, (0.66, 0.23, 0.17)),
        Row("286x286", LOSSES["L1+cGAN"] | {"receptive_field": 286}, (0.42, 0.16, 0.11)),
    ],
    "table6": [
        Row("L1", LOSSES["L1"] | TO_LABELS, (0.86, 0.42, 0.35)),
        Row("cGAN", LOSSES["cGAN"] | TO_LABELS, (0.74, 0.28, 0.22)),
        Row("L1+cGAN", LOSSES["L1+cGAN"] | TO_LABELS, (0.83, 0.36, 0.29)),
    ],
}

# The fields each table compares, which the command line cannot set.
COMPARED = dict.fromkeys(ROWS, tuple(LOSSES["L1"])) | {
    "recipes": ("decay_epochs", "dropout_layers")
}


def rows_of(table: str, base: Config) -> list[Row]:
    if table != "recipes":
        return ROWS[table]
    port = {"decay_epochs": base.epochs // 2, "dropout_layers": "port"}
    paper = {"decay_epochs": 0, "dropout_layers": "paper"}
    return [Row("the paper's", paper), Row("the PyTorch port's", port)]


def parse_arguments(argv=None) -> argparse.Namespace:
    """Returns table, seeds, scorer, rows, and base: the configuration that the rows share."""
    parser = cli.Parser(__doc__, "python -m tools.reproduce TABLE [PRESET] [--field value ...]")
    add = parser.add_argument
    add("table", choices=COMPARED, help=", ".join(COMPARED), metavar="TABLE")
    add("--seeds", type=int, nargs="+", default=[0], help="default: 0", metavar="N")
    add("--scorer", metavar="RUN", help="the label reader; by default, one is trained")
    add("--rows", nargs="+", metavar="NAME", help="only these rows of the table")
    options, fields = cli.parse_preset(parser, PRESETS, DEFAULT, argv)
    options.seeds = list(dict.fromkeys(options.seeds))
    table, preset = options.table, preset_named(options.preset or DEFAULT)
    for name in ("seed", "task", *COMPARED[table]):
        if name in fields:
            instead = "; give --seeds" if name == "seed" else ""
            raise UserError(f"--{name} is set by {table}{instead}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("tools.reproduce runs in one process; torchrun is for train.py")
    if preset.task != "pairs":
        raise UserError(f"{options.preset} makes its own pairs; tables need a dataset of pairs")
    if table == "table2" and options.preset == "cityscapes":
        fields = {"batch_size": 10, **fields}  # as in the paper's comparison
    base = replace(preset, **fields)
    if table == "recipes" and (base.depth < 6 or base.epochs < 2):
        raise UserError(
            f"depth is {base.depth} and epochs {base.epochs}; recipes needs at least 6 and 2"
        )
    if not base.output:
        folder = f"runs/reproduce_{PurePath(base.data_root).name}"
        for name, ending in (("crop_size", "_{}px"), ("batch_size", "_batch_{}")):
            value = getattr(base, name)
            folder += ending.format(value) if value != getattr(preset, name) else ""
        base = replace(base, output=folder)
    options.base = base
    return options


if __name__ == "__main__":
    cli.early(parse_arguments)  # --help and mistakes answer before the slow imports

import contextlib
import gc
import json
import math

import train
from data.make_demo import DEMO_ROOT, make_demo
from dataset import PairedDataset
from engine.devices import choose_device, command_line
from engine.fast import choose_precision
from engine.files import read_json, write_text
from engine.images import image_grid, read_image, save_image
from engine.processes import alone_in
from evaluate import evaluate_split, label_reader
from metrics.palettes import find_palette, palette_name
from tools.tables import described
from utils import checkpoint_files, load_checkpoint, load_generator

IMAGES = ("1", "2", "3", "4", "50", "100")  # of the test split, in the grid


# ---- A run ------------------------------------------------------------------------------------


def config_of(base: Config, fields: dict, seed: int) -> Config:
    """The configuration of a run. Its folder is named after what it changes in `base`."""
    changed = {name: value for name, value in fields.items() if value != getattr(base, name)}
    words = [f"{n}_{v:g}" if type(v) is float else f"{n}_{v}" for n, v in changed.items()]
    output = Path(base.output) / ("_".join(words) or "base") / f"seed_{seed}"
    return replace(base, **fields, seed=seed, output=str(output))


def run_once(config: Config, scorer: Path | None = None) -> dict:
    """Trains and scores a run, or does what is left to do, alone in its folder.

    Returns its test scores, cost and origin, kept in row.json together with what they depend on.
    Exits as train.py does if a signal stops it. Raises UserError if the folder holds another run.
    """
    folder = config.folder
    with alone_in(folder):
        wanted = {"config": asdict(config), "scorer": scorer and identity(scorer)}
        known = saved_row(folder)
        result = known.pop("result", None)
        if result and checkpoint_files(folder) and known == {**wanted, "run": identity(folder)}:
            print(f"{folder} is finished")
            return result
        code = train.train(config, checkpoint_of(config))
        gc.collect()  # a network in bf16 refers to itself, and would stay in memory
        if code:
            print("the same command resumes from here")
            sys.exit(code)
        result = measure(config, scorer)
        content = {**wanted, "run": identity(folder), "result": result}
        write_text(folder / "row.json", json.dumps(content, indent=2) + "\n")
    return result


def saved_row(folder: Path) -> dict:
    """The content of a run's row.json, {} if there is none or it is damaged."""
    with contextlib.suppress(UserError):
        return read_json(folder / "row.json")
    return {}


def identity(run: Path) -> list:
    """Changes when a run is trained further: its path, and when its checkpoint was written."""
    return [str(run), checkpoint_files(run)[0].stat().st_mtime_ns]


def checkpoint_of(config: Config) -> dict | None:
    """The checkpoint of a run, if there is one. Raises UserError if it cannot become this run."""
    folder = config.folder
    if not checkpoint_files(folder):
        return None
    checkpoint = load_checkpoint(folder)
    before = config_from_dict(checkpoint["config"])
    if "steps_per_epoch" not in checkpoint:
        raise UserError(f"{folder}: the checkpoint cannot be resumed; give another --output")
    trained = (checkpoint["step"] - checkpoint.get("shift", 0)) // checkpoint["steps_per_epoch"]
    free = {"output", *CHANGEABLE} - {"data_root", "precision", "decay_epochs"}
    if before.decay_epochs or trained > config.epochs:  # a decay depends on the last epoch
        free.remove("epochs")
    for name, wanted in asdict(config).items():
        was = getattr(before, name)
        if was != wanted and name not in free:
            raise UserError(
                f"{folder} was trained with {name} {was}, not {wanted}; give another --output"
            )
    return checkpoint


def measure(config: Config, scorer: Path | None) -> dict:
    """The result of a finished run."""
    folder = config.folder
    generator = load_generator(folder, config.device)
    generator.config = config
    reader = load_generator(scorer, config.device) if scorer else None
    scores = evaluate_split(generator, "test", folder / "test", scorer=reader)
    checkpoint = load_checkpoint(folder)
    seconds = checkpoint.get("seconds", math.nan)  # missing in old checkpoints
    return {
        **scores,
        "training_seed": config.seed,
        "steps": checkpoint["step"],
        "minutes": None if math.isnan(seconds) else seconds / 60,
        **checkpoint.get("origin", {"machine": "", "versions": "", "commit": ""}),
    }


# ---- A table ----------------------------------------------------------------------------------


def main(argv=None) -> int:
    options = parse_arguments(argv)
    table, base = options.table, options.base
    rows = selected(rows_of(table, base), options)
    if options.scorer and not checkpoint_files(options.scorer):
        raise UserError(f"--scorer {options.scorer} is neither a run folder nor a checkpoint")
    if Path(base.data_root) == DEMO_ROOT and not DEMO_ROOT.exists():
        make_demo(DEMO_ROOT)
    precision, _ = choose_precision(base.precision, choose_device(base.device))
    base = replace(base, precision=precision, palette=palette_name(base))  # same for all rows
    keys = [(row, seed) for row in rows for seed in options.seeds]
    configs = {(row.name, seed): config_of(base, row.fields, seed) for row, seed in keys}
    scorer = train_scorer(options, base, list(configs.values()))

    results = {row.name: [] for row in rows}
    for (name, seed), config in configs.items():
        print(f"\n==== {table}: {name}, seed {seed}")
        results[name].append(run_once(config, scorer))
    palette = find_palette(base)
    content = {
        "table": table,
        "config": asdict(base),
        "seeds": options.seeds,
        "scorer": scorer and str(scorer),
        "palette": base.palette if palette else None,
        "classes": palette and len(palette.classes),
        "read": "read_" if makes_photos(configs[rows[0].name, options.seeds[0]]) else "",
        "command": command_line(),
        "rows": [{"name": r.name, "paper": r.paper, "runs": results[r.name]} for r in rows],
    }
    folders = {row.name: configs[row.name, options.seeds[0]].folder / "test" for row in rows}
    names = [pair.name for pair in PairedDataset(replace(base, cache_gb=0.0), "test").pairs]
    write_table(content, folders, names, base.folder / (f"{table}_rows" if options.rows else table))
    return 0


def selected(rows: list[Row], options: argparse.Namespace) -> list[Row]:
    """Those of --rows, or all. Raises UserError."""
    known = [row.name for row in rows]
    for name in options.rows or ():
        if name not in known:
            raise UserError(
                f"{options.table} has no row {name!r}{cli.nearest(name, known)} (it has "
                f"{', '.join(known)})"
            )
    return [row for row in rows if not options.rows or row.name in options.rows]


def makes_photos(config: Config) -> bool:
    return config.direction == "BtoA"


def train_scorer(options: argparse.Namespace, base: Config, configs: list[Config]) -> Path | None:
    """The label reader of a table, trained if there is none yet; None if the table needs none.

    Checks all runs before it trains anything, so that no mistake shows up after hours.
    """
    scorer, reader = options.scorer, None
    in_color = base.in_channels == base.out_channels == 3
    if not (makes_photos(configs[0]) and in_color and find_palette(base)):
        if scorer:
            print(f"--scorer {scorer} is not used: no row translates labels of a known palette")
        scorer = None
    elif not scorer:
        fields = {**LOSSES["L1"], **TO_LABELS, "batch_size": 1}
        reader = config_of(base, fields, options.seeds[0])
    for config in filter(None, (reader, *configs)):
        if saved_row(config.folder).get("config") != asdict(config):
            checkpoint_of(config)
    if reader:
        print(f"\n==== {options.table}: the label reader, photo -> labels")
        run_once(reader)
        scorer = reader.folder
    if scorer:
        label_reader(load_generator(scorer), configs[0])  # raises if it does not fit
    return scorer and Path(scorer)


def write_table(content: dict, folders: dict[str, Path], names: list[str], result: Path) -> None:
    """Writes a table as .md and .json and its grid of test images as .png, and prints it.

    `folders` holds the folder of each row's images, `names` are those of the test images.
    """
    text = described(content)
    write_text(result.with_suffix(".md"), text + "\n")
    write_text(result.with_suffix(".json"), json.dumps(content, indent=2) + "\n")
    first = next(iter(folders.values()))
    columns = {
        "input": first / "input",
        **{name: folder / "output" for name, folder in folders.items()},
        "target": first / "target",
    }
    shown = [name for name in names if name in IMAGES] or names[: len(IMAGES)]
    images = [[read_image(folder / f"{name}.png") for folder in columns.values()] for name in shown]
    save_image(image_grid(images, list(columns)), result.with_suffix(".png"))
    print(f"\n{text}\n")
    print(f"  table   {result}.md  (every seed in {result.name}.json)")
    print(f"  images  {result}.png")


if __name__ == "__main__":
    cli.run(main)
