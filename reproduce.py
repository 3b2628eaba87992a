"""Reproduce the paper's tables: train and score every row, and print it beside the paper's.

    python reproduce.py table1                                 losses, on the demo: a laptop
    python reproduce.py table1 --data_root data/cityscapes     as in the paper: days on a GPU
    python reproduce.py table3 facades --seeds 0 1 2           on another preset, mean ± std
    python reproduce.py table2 --epochs 2 --limit 20           to see it run

table1: losses. table2: generators. table3: receptive fields. table6: photo -> labels, the losses
again. The same command goes on where it was stopped, and skips what is finished. Without a preset
it is that of the data's name, else cityscapes. The labels are read by a generator that is trained
first; --scorer takes that of another table, such as runs/table1_demo/scorer.
"""

from config import one_line_errors, parse_reproduce_arguments

if __name__ == "__main__":  # before the slow imports, so that --help and mistakes answer at once
    with one_line_errors():
        ARGUMENTS = parse_reproduce_arguments(__doc__)

import contextlib
import json
import re
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import train
from config import Config, UserError, config_from_dict, continued
from data.make_demo import DEMO_ROOT, make_demo
from dataset import PairedDataset
from evaluate import LabelReader, evaluate_split
from fast import choose_precision
from files import replacing
from processes import alone_in, choose_device
from scores import PALETTES
from utils import checkpoint_files, load_checkpoint, load_generator, save_image

GRID_ROWS = 4  # test pictures in the grid


@dataclass(frozen=True)
class Row:
    """A row of a table: what it changes, and the paper's per-pixel, per-class and IoU for it."""

    name: str
    fields: dict
    paper: tuple[float, float, float]


# Every row says all that the rows of any table differ in.
PAPERS = {"generator": "unet", "receptive_field": 70}
LOSSES = {
    "L1": {"lambda_l1": 100.0, "gan_weight": 0.0, "conditional": True, **PAPERS},
    "GAN": {"lambda_l1": 0.0, "gan_weight": 1.0, "conditional": False, **PAPERS},
    "cGAN": {"lambda_l1": 0.0, "gan_weight": 1.0, "conditional": True, **PAPERS},
    "L1+GAN": {"lambda_l1": 100.0, "gan_weight": 1.0, "conditional": False, **PAPERS},
    "L1+cGAN": {"lambda_l1": 100.0, "gan_weight": 1.0, "conditional": True, **PAPERS},
}
ENCODER_DECODER = {"generator": "encoder_decoder"}

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
        Row("L1", LOSSES["L1"], (0.86, 0.42, 0.35)),
        Row("cGAN", LOSSES["cGAN"], (0.74, 0.28, 0.22)),
        Row("L1+cGAN", LOSSES["L1+cGAN"], (0.83, 0.36, 0.29)),
    ],
}
PAPER_REAL = (0.80, 0.26, 0.21)  # real photos, read by the FCN-8s

# A column: its title, the score in scores.json, and its format.
PICTURE_COLUMNS = [("L1", "l1", "{:.3f}"), ("PSNR", "psnr", "{:.2f}"), ("SSIM", "ssim", "{:.3f}")]
PHOTO_COLUMNS = [
    ("sharpness", "sharpness", "{:.2f}"),
    ("colour a", "histogram_a", "{:.2f}"),
    ("colour b", "histogram_b", "{:.2f}"),
]
LABEL_COLUMNS = [
    ("per-pixel", "pixel_accuracy", "{:.3f}"),
    ("per-class", "class_accuracy", "{:.3f}"),
    ("IoU", "class_iou", "{:.3f}"),
]


def run_once(config: Config, scorer: Path | None = None) -> dict:
    """`run_alone`, while no other process trains in the run's folder."""
    with alone_in(Path(config.output)):
        return run_alone(config, scorer)


def run_alone(config: Config, scorer: Path | None) -> dict:
    """Trains and scores a run, or what is left of it to do; returns the scores of its test split.

    row.json in its folder says for what they hold. Exits as train.py does if it is stopped by a
    signal. Raises UserError if the folder holds a run that could not become this one.
    """
    folder = Path(config.output)
    row, begun = folder / "row.json", bool(checkpoint_files(folder))
    wanted = {"config": asdict(config)}
    if scorer:
        modified = [file.stat().st_mtime_ns for file in checkpoint_files(scorer)[:1]]
        wanted["scorer"] = [str(scorer), *modified]
    if row.exists():
        with contextlib.suppress(ValueError, AttributeError):  # a broken one is as none
            result = json.loads(row.read_text())
            scores = result.pop("scores", None)
            if begun and scores and result == wanted:
                print(f"{folder} is finished")
                return scores

    checkpoint = load_checkpoint(folder) if begun else None
    if checkpoint:
        before = config_from_dict(checkpoint["config"])
        train.check_resumable(checkpoint, before, folder)
        try:
            continued(before, {**asdict(config), "output": before.output})
        except UserError as error:
            raise UserError(f"{folder}: {error}, with another --output") from error
        taken = checkpoint["step"] - checkpoint["shift"]
        trained = taken // checkpoint["steps_per_epoch"]
        for name, was in (
            ("data_root", before.data_root),
            ("precision", before.precision),
            ("epochs", max(trained, config.epochs)),
        ):
            if was != getattr(config, name):
                raise UserError(
                    f"{folder} was trained with {name} {was}, not {getattr(config, name)}; give "
                    "another --output"
                )
    row.unlink(missing_ok=True)
    code = train.train(config, checkpoint)
    if code:
        print("the same command goes on from here")
        sys.exit(code)

    generator = load_generator(folder, config.device)
    generator.config = config
    reader = load_generator(scorer, config.device) if scorer else None
    scores = evaluate_split(generator, "test", folder / "test", scorer=reader)
    with replacing(row) as temporary:
        temporary.write_text(json.dumps({**wanted, "scores": scores}, indent=2) + "\n")
    return scores


def cell(values: list[float], form: str) -> str:
    """Mean ± standard deviation, or the one value there is."""
    mean = form.format(statistics.fmean(values))
    return f"{mean} ± {form.format(statistics.stdev(values))}" if len(values) > 1 else mean


def markdown(title: str, results: dict[str, list[dict]], rows: list[Row], read: str) -> str:
    """The table. `results` holds the scores of each row, one for each seed; `read` is what stands
    before the names of the label scores, "read_" if they were read from photos."""
    known = next(iter(results.values()))[0]
    labels = [(name, read + key, form) for name, key, form in LABEL_COLUMNS]
    columns = [c for c in labels + PICTURE_COLUMNS + PHOTO_COLUMNS if c[1] in known]
    lines = [
        " | ".join([title, *(column[0] for column in columns), "paper"]),
        " | ".join(["---"] * (len(columns) + 2)),
    ]
    for row in rows:
        cells = [cell([r[key] for r in results[row.name]], form) for _, key, form in columns]
        lines.append(" | ".join([row.name, *cells, paper_cell(row.paper)]))
    if read and "real_pixel_accuracy" in known:
        cells = [
            form.format(known["real_" + key.removeprefix(read)]) if key.startswith(read) else ""
            for _, key, form in columns
        ]
        lines.append(" | ".join(["real photos", *cells, paper_cell(PAPER_REAL)]))
    return "\n".join(f"| {line} |" for line in lines)


def paper_cell(numbers: tuple[float, float, float]) -> str:
    return " / ".join(f"{number:.2f}" for number in numbers)


def picture_grid(columns: dict[str, Path], names: list[str]) -> Image.Image:
    """Pictures of the folders beside each other, a row for each name, under the columns' titles."""
    pictures = [[Image.open(folder / f"{n}.png") for folder in columns.values()] for n in names]
    side, gap, head = pictures[0][0].width, 4, 24
    grid = Image.new(
        "RGB", (len(columns) * (side + gap) + gap, head + len(names) * (side + gap)), "white"
    )
    draw = ImageDraw.Draw(grid)
    for i, title in enumerate(columns):
        place = (gap + i * (side + gap) + side // 2, head // 2)
        size = min(14, int(1.7 * side / len(title)))
        draw.text(place, title, "black", ImageFont.load_default(size), anchor="mm")
    for j, row in enumerate(pictures):
        for i, picture in enumerate(row):
            grid.paste(picture, (gap + i * (side + gap), head + j * (side + gap)))
    return grid


def notes(scores: dict, read: str, palette: str | None) -> str:
    """What has to be known of the label scores."""
    if palette is None:
        return "The labels have no known palette (--palette): they are not scored."
    present, known = scores[read + "classes_present"], len(PALETTES[palette].classes)
    rest = "; the others count 0" if present < known else ""
    lines = [f"{present} of the {known} classes occur in the test pictures{rest}."]
    if read:
        lines.append(
            "The labels were read by a generator photo -> labels, not by the paper's FCN-8s: "
            "compare the rows with each other, not with the paper's."
        )
    return "\n".join(lines)


def main(table: str, base: Config, seeds: list[int], scorer: str | None = None) -> int:
    """Reproduces a table with `base` for all that its rows leave open. Returns an exit code."""
    folder = Path(base.output)
    if Path(base.data_root) == DEMO_ROOT and not DEMO_ROOT.exists():
        make_demo(DEMO_ROOT)
    # The same for all rows.
    precision, _ = choose_precision(base.precision, choose_device(base.device))
    palette = base.label_palette()
    base = replace(base, precision=precision, palette=palette or "none")
    names = [pair.name for pair in PairedDataset(replace(base, cache_gb=0.0), "test").pairs]

    # All configurations before the first training, so that a mistake in one is met now.
    to_labels = table == "table6"
    read = "" if to_labels else "read_"
    configs = {
        (row.name, seed): replace(
            base,
            **row.fields,
            direction="AtoB" if to_labels else "BtoA",
            seed=seed,
            output=str(folder / re.sub(r"\W+", "_", row.name.lower()).strip("_") / f"seed_{seed}"),
        )
        for row in ROWS[table]
        for seed in seeds
    }
    if palette is None or to_labels:
        scorer = None
    elif scorer is None:
        print(f"\n==== {table}: the scorer, photo -> labels")
        scorer = str(folder / "scorer")
        fields = {**LOSSES["L1"], "direction": "AtoB", "seed": seeds[0], "batch_size": 1}
        run_once(replace(base, **fields, output=scorer))

    if scorer:  # fits, or it is said now
        LabelReader(load_generator(scorer), next(iter(configs.values())))

    results = {}
    for (name, seed), config in configs.items():
        print(f"\n==== {table}: {name}, seed {seed}")
        results.setdefault(name, []).append(run_once(config, scorer and Path(scorer)))

    first = {row.name: Path(configs[row.name, seeds[0]].output) / "test" for row in ROWS[table]}
    any_row = next(iter(first.values()))
    columns = {"input": any_row / "input"}
    columns |= {name: run / "output" for name, run in first.items()}
    columns["target"] = any_row / "target"
    save_image(picture_grid(columns, names[:GRID_ROWS]), folder / "grid.png")
    text = markdown(table, results, ROWS[table], read)
    text += "\n\n" + notes(next(iter(results.values()))[0], read, palette)
    content = {"config": asdict(base), "seeds": seeds, "scorer": scorer, "rows": results}
    for name, lines in {"table.md": text, "table.json": json.dumps(content, indent=2)}.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(lines + "\n")
    print(f"\n{text}\n")
    print(f"  table     {folder / 'table.md'}  (every seed in table.json)")
    print(f"  pictures  {folder / 'grid.png'}")
    return 0


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main(*ARGUMENTS))
