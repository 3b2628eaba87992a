"""Trains a label reader on the real pairs of a dataset, to score generated photos with.

    python -m tools.reader facades                              into runs/reader
    python -m tools.reader cityscapes --epochs 3 --output runs/reader_cityscapes
    python evaluate.py runs/facades --scorer runs/reader        scores photos by their labels

B must hold label maps of a known palette (data/README.md). The reader, see metrics/reader.py, is
not the paper's FCN-8s: its scores compare generators that were scored by the same reader. Prints
how well it reads the real photos of the test split, which no generator should surpass.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from config import DEFAULT, PRESETS, Config
from dataset import PairedDataset, load_pairs
from engine import cli
from engine.cli import UserError
from engine.devices import choose_device, provenance
from engine.fields import parse_preset
from engine.files import read_json, report_skipped, write_text
from engine.order import TrainingOrder
from engine.processes import lock_run
from images.pixels import to_device
from metrics.labels import class_scores, confusion, read_classes
from metrics.palettes import find_palette
from metrics.reader import WEIGHTS, LabelReader, save_reader, segmentation_loss

RECORD = "reader.json"

# The fields of config.py that a reader takes from a preset, and those of its own recipe.
DATA = ("data_root", "palette", "resize", "load_size", "crop_size", "mirror", "limit", "seed")
LOADING = ("bad_files", "cache_gb", "num_workers", "device")
RECIPE = {"batch_size": 8, "learning_rate": 2e-3, "epochs": 10, "output": "runs/reader"}


def reader_config(base: Config) -> Config:
    """The configuration of a reader of the photos that `base` generates."""
    taken = {name: getattr(base, name) for name in (*DATA, *LOADING)}
    no_network = {"depth": 2, "receptive_field": 1}  # so that they don't restrict crop_size
    return Config(**taken, **RECIPE, **no_network, direction="AtoB")


READERS = {name: reader_config(base) for name, base in PRESETS.items() if base.task == "pairs"}


def parse_arguments(argv=None) -> argparse.Namespace:
    """Returns `config`. Raises UserError."""
    parser = cli.Parser(__doc__, "python -m tools.reader [PRESET] [--field value ...]")
    options, preset, fields = parse_preset(parser, READERS, DEFAULT, argv)
    for name in fields.keys() - {*DATA, *LOADING, *RECIPE}:
        raise UserError(f"--{name} is not a field of a label reader")
    if "crop_size" in fields and "load_size" not in fields:  # the same share is cropped
        share = preset.load_size / preset.crop_size
        fields["load_size"] = round(fields["crop_size"] * share)
    options.config = replace(preset, **fields)
    return options


def train_reader(config: Config) -> None:
    """Trains a label reader, and writes reader.pt and reader.json into `config.folder`. Raises
    UserError, also if the folder holds one."""
    palette = find_palette(config)
    if palette is None:
        where = f"B of {config.data_root} has no known palette"
        raise UserError(f"{where}; a label reader needs one: --palette NAME or palette.json")
    folder = config.folder
    if (folder / WEIGHTS).exists():
        raise UserError(f"{folder} already holds a label reader; give another --output")
    device = choose_device(config.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        reader = LabelReader(palette, config.crop_size).to(device)
    with lock_run(folder):
        start, begun = time.monotonic(), provenance(device)
        photos = PairedDataset(config, "train")
        test = PairedDataset(config, "test", augment=False)  # now, so that it can't fail later
        learn(reader, photos, config)
        minutes = (time.monotonic() - start) / 60
        result = {"split": test.split, "images": len(test), **score_photos(reader, test)}
        fields = {name: getattr(config, name) for name in (*DATA, *LOADING, *RECIPE)}
        result |= {"trained_on": len(photos), "minutes": minutes, "config": fields}
        write_text(folder / RECORD, json.dumps(result | begun, indent=2) + "\n")
        save_reader(reader, folder)
        report_skipped(photos.skipped + test.skipped, folder)
    report(result, folder)


def learn(reader: LabelReader, photos: PairedDataset, config: Config) -> None:
    """Cross-entropy by AdamW, whose learning rate rises to `learning_rate` and falls to 0."""
    device, palette = reader.mean.device, reader.palette
    batch_size = min(config.batch_size, len(photos))
    order = TrainingOrder(len(photos), batch_size, config.epochs, config.seed)
    optimizer = torch.optim.AdamW(reader.pyramid.parameters(), config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=order.total_steps
    )
    print(f"training a label reader (not FCN-8s) on {len(photos)} photos of {config.data_root}")
    reader.train()
    bar = tqdm(load_pairs(photos, order), "training", len(order), unit="step")
    for batch in bar:
        x, y = (to_device(batch[name], device) for name in ("input", "target"))
        true = torch.stack([read_classes(labels, palette) for labels in y])
        loss = segmentation_loss(reader(x), true, palette)
        if not loss.isfinite():
            raise UserError(f"the loss is {loss.item()}; lower --learning_rate")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def score_photos(reader: LabelReader, dataset: PairedDataset) -> dict[str, float]:
    """The `class_scores` of the labels that the reader sees in real photos."""
    reader.eval()
    matrix = 0
    for index in tqdm(range(len(dataset)), "reading", unit="photo"):
        pair = dataset[index]
        true = read_classes(pair["target"], reader.palette)
        matrix += confusion(true, reader.read(pair["input"]), reader.palette)
    return class_scores(matrix)


def report(result: dict, folder: Path) -> None:
    root = result["config"]["data_root"]
    print(f"labels read from {result['images']} real {result['split']} photos of {root}:")
    line = "per-pixel {pixel_accuracy:.3f}   per-class {class_accuracy:.3f}   IoU {class_iou:.3f}"
    print("  " + line.format(**result) + f"   ({result['classes_present']} classes present)")
    print(f"  reader    {folder / WEIGHTS}  (scores in {RECORD})")
    print(f"  use it    python evaluate.py RUN --scorer {cli.shell_quote(folder)}")


def trained_reader(config: Config) -> Path:
    """The folder of the reader of a configuration, which is trained first if there is none. Raises
    UserError if the folder holds another one."""
    folder = config.folder
    print(f"\n==== {folder}")
    if not (folder / WEIGHTS).exists():
        train_reader(config)
        return folder
    before = read_json(folder / RECORD).get("config", {})
    for name in (*DATA, *RECIPE):
        old, new = before.get(name), getattr(config, name)
        if name not in ("data_root", "output") and old != new:
            found = f"{folder} was trained with {name} {old}, not {new}"
            raise UserError(f"{found}; give another --output")
    print("is finished")
    return folder


def main(argv=None) -> int:
    train_reader(parse_arguments(argv).config)
    return 0


if __name__ == "__main__":
    cli.run(main)
