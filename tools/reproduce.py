"""Reproduces a table of the paper: trains and scores every row.

    python -m tools.reproduce table1                             losses, on the demo: a laptop
    python -m tools.reproduce table1 cityscapes                  as in the paper: days on a GPU
    python -m tools.reproduce table3 facades --seeds 0 1 2       another preset, mean ± std
    python -m tools.reproduce table2 --epochs 2 --limit 20       a quick look

table1   losses                  table3   receptive fields
table2   generators              table6   losses, photo -> labels

Writes the table, beside the paper's numbers, its JSON file and a grid of images. The same command
resumes where it was stopped and skips what is finished; with more --epochs, it trains on. Scores of
the labels in photos need a label reader (tools.reader), which is given or trained first.
"""

import argparse
import contextlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import train
from config import CHANGEABLE, DEFAULT, PRESETS, Config, config_from_dict
from dataset import resolve_ranges
from engine import cli
from engine.cli import UserError
from engine.curves import evenly
from engine.devices import choose_device, command_line
from engine.fast import choose_precision
from engine.fields import parse_preset
from engine.files import read_json, save_image, write_text
from engine.processes import lock_run
from evaluate import evaluate_split
from images.grids import image_grid
from images.reading import find_images, read_image
from metrics.palettes import find_palette, palette_name
from metrics.reader import BACKBONE, check_fit, load_reader, reader_file
from tools.reader import reader_config, trained_reader
from tools.tables import described
from utils import checkpoint_files, load_checkpoint, load_generator

# What rows change in a preset, whose losses and networks are those of L1+cGAN.
L1 = {"gan_weight": 0}
CGAN = {"lambda_l1": 0}
ENCODER_DECODER = {"generator": "encoder_decoder"}
TO_LABELS = {"direction": "AtoB"}


# What the rows of each table differ in.
TITLES = {"table1": "loss", "table2": "generator", "table3": "receptive field", "table6": "loss"}

# The rows: name, what it changes, and the paper's per-pixel, per-class and IoU for cityscapes at
# 256 px, by an FCN-8s except in table 6.
ROWS: dict[str, list[tuple]] = {
    "table1": [
        ("L1", L1, (0.42, 0.15, 0.11)),
        ("GAN", CGAN | {"conditional": False}, (0.22, 0.05, 0.01)),
        ("cGAN", CGAN, (0.57, 0.22, 0.16)),
        ("L1+GAN", {"conditional": False}, (0.64, 0.20, 0.15)),
        ("L1+cGAN", {}, (0.66, 0.23, 0.17)),
    ],
    "table2": [
        ("Encoder-decoder (L1)", L1 | ENCODER_DECODER, (0.35, 0.12, 0.08)),
        ("Encoder-decoder (L1+cGAN)", ENCODER_DECODER, (0.29, 0.09, 0.05)),
        ("U-Net (L1)", L1, (0.48, 0.18, 0.13)),
        ("U-Net (L1+cGAN)", {}, (0.55, 0.20, 0.14)),
    ],
    "table3": [
        ("1x1", {"receptive_field": 1}, (0.39, 0.15, 0.10)),
        ("16x16", {"receptive_field": 16}, (0.65, 0.21, 0.17)),
        ("70x70", {}, (0.66, 0.23, 0.17)),
        ("286x286", {"receptive_field": 286}, (0.42, 0.16, 0.11)),
    ],
    "table6": [
        ("L1", L1 | TO_LABELS, (0.86, 0.42, 0.35)),
        ("cGAN", CGAN | TO_LABELS, (0.74, 0.28, 0.22)),
        ("L1+cGAN", TO_LABELS, (0.83, 0.36, 0.29)),
    ],
}


def parse_arguments(argv=None) -> argparse.Namespace:
    """Returns table, rows, seeds, scorer, and `base`: what all runs have in common."""
    parser = cli.Parser(__doc__, "python -m tools.reproduce TABLE [PRESET] [--field value ...]")
    add = parser.add_argument
    add("table", choices=ROWS, help=", ".join(ROWS), metavar="TABLE")
    add("--seeds", type=int, nargs="+", default=[0], help="default: 0", metavar="N")
    add("--scorer", metavar="READER", help="folder of a label reader (default: trains one)")
    options, preset, fields = parse_preset(parser, PRESETS, DEFAULT, argv)
    if options.table == "table2" and options.preset == "cityscapes":
        fields = {"batch_size": 10, **fields}  # as in the paper's comparison
    base = replace(preset, **fields)
    options.rows = ROWS[options.table]
    compared = {"seed"}.union(*(changes for _, changes, _ in options.rows))
    for name in compared & fields.keys():
        raise UserError(f"--{name} is set by the rows of {options.table} or by --seeds")
    words = ("runs/reproduce", base.folder.name, f"{base.crop_size}px", f"batch_{base.batch_size}")
    options.base = replace(base, output=base.output or "_".join(words))
    options.seeds = list(dict.fromkeys(options.seeds))
    return options


def config_of(base: Config, changes: dict, seed: int) -> Config:
    """The configuration of a run. Its folder is named after what it changes in `base`."""
    words = [f"{name}_{value}" for name, value in changes.items() if value != getattr(base, name)]
    output = Path(base.output, "_".join(words) or "base", f"seed_{seed}")
    config = replace(base, **changes, seed=seed, output=str(output))
    return resolve_ranges(config)


def run_once(config: Config, scorer: str | None = None) -> dict:
    """Trains and scores a run, or does what is left to do. Returns its test scores, cost and
    origin, kept in row.json together with what they depend on. Exits as train.py does if a signal
    stops it. Raises UserError if the folder holds another run."""
    file = config.folder / "row.json"
    read_by = [reader_file(scorer).stat().st_mtime_ns] if scorer else []
    depends_on = [asdict(config), scorer, read_by]
    print(f"\n==== {config.folder}")
    with lock_run(config.folder):
        with contextlib.suppress(UserError):  # there is none, or it is damaged
            row = read_json(file)
            if row["depends_on"] == depends_on:
                print("is finished")
                return row["result"]
        code = train.train(config, checkpoint_of(config))
        if code:
            sys.exit(code)
        row = {"depends_on": depends_on, "result": measure(config, scorer)}
        write_text(file, json.dumps(row, indent=2) + "\n")
    return row["result"]


def checkpoint_of(config: Config) -> dict | None:
    """The checkpoint of a run, if there is one. Raises UserError if it is of another run. With a
    constant learning rate, its epochs may be fewer."""
    if not checkpoint_files(config.folder):
        return None
    checkpoint = load_checkpoint(config.folder)
    old, new = asdict(config_from_dict(checkpoint["config"])), asdict(config)
    if old["epochs"] < config.epochs and not config.decay_epochs:
        old["epochs"] = config.epochs
    for name in new.keys() - CHANGEABLE - {"output"} | {"precision", "epochs", "decay_epochs"}:
        if old[name] != new[name]:
            found = f"{config.folder} was trained with {name} {old[name]}, not {new[name]}"
            raise UserError(f"{found}; give another --output")
    return checkpoint


def measure(config: Config, scorer: str | None) -> dict:
    """The result of a finished run."""
    generator = load_generator(config.folder, config.device)
    generator.config = config
    reader = load_reader(scorer, config.device) if scorer else None
    scores = evaluate_split(generator, "test", config.folder / "test", reader=reader)
    checkpoint = load_checkpoint(config.folder)
    seconds = checkpoint.get("seconds")  # unknown in old checkpoints
    cost = {"steps": checkpoint["step"], "minutes": seconds and seconds / 60}
    return {**scores, **cost, **checkpoint.get("origin", {})}


def main(argv=None) -> int:
    options = parse_arguments(argv)
    precision, _ = choose_precision(options.base.precision, choose_device(options.base.device))
    base = replace(options.base, precision=precision, palette=palette_name(options.base))
    configs = {
        name: [config_of(base, changes, seed) for seed in options.seeds]
        for name, changes, _ in options.rows
    }
    first, scorer = next(iter(configs.values()))[0], options.scorer
    to_photos = first.direction == "BtoA" and base.in_channels == base.out_channels == 3
    if scorer:
        check_fit(load_reader(scorer), first)
    elif to_photos and find_palette(base):
        config = replace(reader_config(base), output=str(base.folder / "reader"))
        scorer = str(trained_reader(config))

    content = {
        "table": options.table,
        "title": TITLES[options.table],
        "config": asdict(base),
        "seeds": options.seeds,
        "reader": BACKBONE if scorer else None,
        "command": command_line(),
        "rows": [
            {"name": name, "paper": paper, "runs": [run_once(run, scorer) for run in configs[name]]}
            for name, _, paper in options.rows
        ],
    }
    text, result = described(content), base.folder / options.table
    write_text(result.with_suffix(".md"), text + "\n")
    write_text(result.with_suffix(".json"), json.dumps(content, indent=2) + "\n")
    test = first.folder / "test"
    outputs = {name: runs[0].folder / "test" / "output" for name, runs in configs.items()}
    columns = {"input": test / "input", **outputs, "target": test / "target"}
    shown = evenly(find_images(test / "input"), 6)
    grid = [[read_image(folder / file.name) for folder in columns.values()] for file in shown]
    save_image(image_grid(grid, list(columns)), result.with_suffix(".png"))
    print(f"\n{text}\n")
    print(f"  table   {result}.md  (every seed in {result.name}.json)")
    print(f"  images  {result}.png")
    return 0


if __name__ == "__main__":
    cli.run(main)
