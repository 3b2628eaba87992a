"""Reproduce the paper's tables, and compare what else decides: train and score every row.

    python reproduce.py table1                                 losses, on the demo: a laptop
    python reproduce.py table1 --data_root data/cityscapes     as in the paper: days on a GPU
    python reproduce.py table3 facades --seeds 0 1 2           on another preset, mean ± std
    python reproduce.py table2 --epochs 2 --limit 20           to see it run

table1      losses                              recipes     the paper's and the PyTorch port's
table2      generators                          precision   fp32 and bf16
table3      receptive fields                    sizes       of the generator; in half precision
table6      photo -> labels, the losses again   directions  A -> B and B -> A

Ends with the table, beside the paper's numbers where there are any, and a grid of pictures. The
same command goes on where it was stopped, skips what is finished, and trains but once what several
tables have in common. Without a preset it is that of the data's name, else cityscapes. The labels
are read by a generator that is trained first, or by that of --scorer. (table2 of cityscapes has
batches of 10, as in the paper, and so a folder of its own: there --scorer saves a training.)
"""

from config import one_line_errors, parse_reproduce_arguments

if __name__ == "__main__":  # before the slow imports, so that --help and mistakes answer at once
    with one_line_errors():
        ARGUMENTS = parse_reproduce_arguments(__doc__)

import contextlib
import gc
import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import train
from config import Config, UserError, config_from_dict, continued, nearest
from data.make_demo import DEMO_ROOT, make_demo
from dataset import PairedDataset
from evaluate import LabelReader, evaluate_split
from fast import choose_precision
from files import read_json, replacing
from processes import alone_in, choose_device, command_line
from sharing import WEIGHTS
from tables import markdown, notes, picture_grid
from utils import (
    checkpoint_files,
    export_generator,
    load_checkpoint,
    load_generator,
    save_image,
)

PICTURES = ("1", "2", "3", "4", "50", "100")  # of the test split, in the grid


@dataclass(frozen=True)
class Row:
    """A row of a table: what it sets, and the paper's per-pixel, per-class and IoU for it."""

    name: str
    fields: dict
    paper: tuple[float, float, float] | None = None


# Every row of the paper's tables says all that any of them differ in.
PAPERS = {"generator": "unet", "receptive_field": 70, "direction": "BtoA"}
LOSSES = {
    "L1": {"lambda_l1": 100.0, "gan_weight": 0.0, "conditional": True, **PAPERS},
    "GAN": {"lambda_l1": 0.0, "gan_weight": 1.0, "conditional": False, **PAPERS},
    "cGAN": {"lambda_l1": 0.0, "gan_weight": 1.0, "conditional": True, **PAPERS},
    "L1+GAN": {"lambda_l1": 100.0, "gan_weight": 1.0, "conditional": False, **PAPERS},
    "L1+cGAN": {"lambda_l1": 100.0, "gan_weight": 1.0, "conditional": True, **PAPERS},
}
ENCODER_DECODER = {"generator": "encoder_decoder"}
TO_LABELS = {"direction": "AtoB"}

# The paper's numbers are of cityscapes at 256 px, read by an FCN-8s but in table 6.
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


def rows_of(table: str, base: Config) -> list[Row]:
    """The rows of a table with `base` for all that they leave open."""
    port = {"decay_epochs": base.epochs // 2, "dropout_layers": "port"}
    filters = [base.base_channels // share for share in (1, 2, 4)]
    directions = {"A -> B": "AtoB", "B -> A": "BtoA"}
    rows = ROWS | {
        "recipes": [
            Row("the paper's", {"decay_epochs": 0, "dropout_layers": "paper"}),
            Row("the PyTorch port's", port),
        ],
        "precision": [Row(name, {"precision": name}) for name in ("fp32", "bf16")],
        "sizes": [Row(f"{n} filters", {"base_channels": n}) for n in filters],
        "directions": [Row(name, {"direction": way}) for name, way in directions.items()],
    }
    return rows[table]


# ---- A run ------------------------------------------------------------------------------------


def config_of(base: Config, fields: dict, seed: int) -> Config:
    """The configuration of a run, in a folder named by all that it changes of `base`."""
    changed = {name: value for name, value in fields.items() if value != getattr(base, name)}
    words = [f"{n}_{v:g}" if type(v) is float else f"{n}_{v}" for n, v in changed.items()]
    output = Path(base.output) / ("_".join(words) or "base") / f"seed_{seed}"
    return replace(base, **fields, seed=seed, output=str(output))


def run_once(config: Config, scorer: Path | None = None, half: bool = False) -> dict:
    """Trains and scores a run, or what is left of it to do, while no other process trains in its
    folder. Returns the scores of its test split, what it took, and where and how it was trained.
    With `half` they are those of the generator as it is exported in half precision; the run itself
    has to be finished then.

    row.json in the run's folder says for what they hold. Exits as train.py does if it is stopped by
    a signal. Raises UserError if the folder holds a run that could not become this one.
    """
    folder = Path(config.output)
    with alone_in(folder):
        row = folder / ("row_half.json" if half else "row.json")
        wanted = {"config": asdict(config), "scorer": scorer and identity(scorer)}
        known = told(row)
        result = known.pop("result", None)
        if result and checkpoint_files(folder) and known == {**wanted, "run": identity(folder)}:
            print(f"{folder} is finished{' in half precision' if half else ''}")
            return result
        if not half:
            train_to_the_end(config)
        result = measure(config, scorer, half)
        content = {**wanted, "run": identity(folder), "result": result}
        with replacing(row) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
    return result


def told(row: Path) -> dict:
    """What a row.json says; a broken one is as none."""
    with contextlib.suppress(UserError):
        return read_json(row)
    return {}


def identity(run: Path) -> list:
    """What changes when a run is trained on: its name, and when its checkpoint was written."""
    return [str(run), checkpoint_files(run)[0].stat().st_mtime_ns]


def begun(config: Config) -> dict | None:
    """The checkpoint of a run, if there is one. Raises UserError if it can't become this run."""
    folder = Path(config.output)
    checkpoint = load_checkpoint(folder) if checkpoint_files(folder) else None
    if checkpoint:
        before = config_from_dict(checkpoint["config"])
        train.check_resumable(checkpoint, before, folder)
        try:
            continued(before, {**asdict(config), "output": before.output})
        except UserError as error:
            raise UserError(f"{folder}: {error}, with another --output") from error
        taken = checkpoint["step"] - checkpoint["shift"]
        trained = taken // checkpoint["steps_per_epoch"]
        decays = before.decay_epochs or config.decay_epochs  # then it matters where the end was
        for name, was in (
            ("data_root", before.data_root),
            ("precision", before.precision),
            ("decay_epochs", before.decay_epochs),
            ("epochs", before.epochs if decays else max(trained, config.epochs)),
        ):
            if was != getattr(config, name):
                raise UserError(
                    f"{folder} was trained with {name} {was}, not {getattr(config, name)}; give "
                    "another --output"
                )
    return checkpoint


def train_to_the_end(config: Config) -> None:
    """A run, or what is left of it. Exits and raises as `run_once` says."""
    code = train.train(config, begun(config))
    gc.collect()  # in bf16 a network refers to itself, and would stay in memory
    if code:
        print("the same command goes on from here")
        sys.exit(code)


def measure(config: Config, scorer: Path | None, half: bool) -> dict:
    """The result of a finished run, as `run_once` says."""
    folder = Path(config.output)
    pictures, source = folder / "test", folder
    if half:
        pictures, source = folder / "test_half", folder / "half"
        export_generator(folder, source, half=True)
    generator = load_generator(source, config.device)
    generator.config = config  # an export leaves out where it was trained
    reader = load_generator(scorer, config.device) if scorer else None
    scores = evaluate_split(generator, "test", pictures, scorer=reader)
    weights = sum(weight.nbytes for weight in generator.state_dict().values())
    checkpoint = load_checkpoint(folder)
    seconds = checkpoint.get("seconds", math.nan)  # an earlier version did not count them
    return {
        **scores,
        "training_seed": config.seed,
        "steps": checkpoint["step"],
        "minutes": None if math.isnan(seconds) else seconds / 60,
        "megabytes": ((source / WEIGHTS).stat().st_size if half else weights) / 1e6,
        **checkpoint.get("origin", {"machine": "", "versions": "", "commit": ""}),
    }


# ---- A table ----------------------------------------------------------------------------------


def main(
    table: str,
    base: Config,
    seeds: list[int],
    scorer: str | None = None,
    only: list[str] | None = None,
) -> int:
    """Reproduces a table, or `only` some rows, with `base` for all that they leave open. Returns an
    exit code."""
    folder = Path(base.output)
    if scorer and not checkpoint_files(scorer):
        raise UserError(f"--scorer {scorer} is no run folder and no checkpoint")
    if Path(base.data_root) == DEMO_ROOT and not DEMO_ROOT.exists():
        make_demo(DEMO_ROOT)
    # The same for all rows.
    precision, _ = choose_precision(base.precision, choose_device(base.device))
    palette = base.label_palette()
    base = replace(base, precision=precision, palette=palette or "none")
    names = [pair.name for pair in PairedDataset(replace(base, cache_gb=0.0), "test").pairs]

    # All configurations before the first training, so that a mistake in one is met now.
    rows = rows_of(table, base)
    known = [row.name for row in rows]
    for name in only or ():
        if name not in known:
            hint = nearest(name, known)
            raise UserError(f"{table} has no row {name!r}{hint} (it has {', '.join(known)})")
    rows = [row for row in rows if not only or row.name in only]
    configs = {
        (row.name, seed): config_of(base, row.fields, seed) for row in rows for seed in seeds
    }
    directions = list(dict.fromkeys(config.direction for config in configs.values()))
    read = "read_" if directions == ["BtoA"] else ""
    reads = palette and read and base.in_channels == base.out_channels == 3
    if scorer and not reads:
        print(f"--scorer {scorer} is not used: nothing here makes photos of known labels")
        scorer = None
    needed = list(configs.values())
    if reads and not scorer:
        fields = {**LOSSES["L1"], **TO_LABELS, "batch_size": 1}
        reading = config_of(base, fields, seeds[0])
        needed.insert(0, reading)
    for config in needed:
        if told(Path(config.output) / "row.json").get("config") != asdict(config):
            begun(config)
    if reads and not scorer:
        print(f"\n==== {table}: the scorer, photo -> labels")
        run_once(reading)
        scorer = reading.output
    scorer = scorer and Path(scorer)
    if scorer:  # fits, or it is said now
        LabelReader(load_generator(scorer), next(iter(configs.values())))

    results, pictures = {}, {}
    for (name, seed), config in configs.items():
        print(f"\n==== {table}: {name}, seed {seed}")
        for half in (False, True) if table == "sizes" else (False,):
            title = f"{name}, half precision" if half else name
            results.setdefault(title, []).append(run_once(config, scorer, half))
            shown = Path(config.output) / ("test_half" if half else "test")
            pictures.setdefault((config.direction, title), shown)

    papers = {row.name: row.paper for row in rows}
    content = {
        "table": table,
        "config": asdict(base),
        "seeds": seeds,
        "scorer": scorer and str(scorer),
        "palette": palette,
        "read": read,
        "command": command_line(),
        "rows": [{"name": n, "paper": papers.get(n), "runs": runs} for n, runs in results.items()],
    }
    write_table(content, pictures, names, folder / (f"{table}_rows" if only else table))
    return 0


def write_table(content: dict, pictures: dict, names: list[str], result: Path) -> None:
    """Writes a table as .md and .json, and a grid of the test pictures `names`, and prints it.
    `pictures` holds the folder of each row's, by (direction, name)."""
    text = f"{markdown(content)}\n\n{notes(content)}"
    for ending, lines in {".md": text, ".json": json.dumps(content, indent=2)}.items():
        with replacing(result.with_suffix(ending)) as temporary:
            temporary.write_text(lines + "\n")
    shown = [name for name in names if name in PICTURES] or names[: len(PICTURES)]
    columns = []
    for direction in dict.fromkeys(way for way, _ in pictures):
        outputs = {name: folder for (way, name), folder in pictures.items() if way == direction}
        any_row = next(iter(outputs.values()))
        columns += [("input", any_row / "input")]
        columns += [(name, folder / "output") for name, folder in outputs.items()]
        columns += [("target", any_row / "target")]
    save_image(picture_grid(columns, shown), result.with_suffix(".png"))
    print(f"\n{text}\n")
    print(f"  table     {result}.md  (every seed in {result.name}.json)")
    print(f"  pictures  {result}.png")


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main(*ARGUMENTS))
