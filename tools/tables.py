"""Renders the JSON files of tools.reproduce and tools.benchmark as Markdown tables.

    python -m tools.tables        rewrites the tables in README.md and docs/

A page has a block for each file, from `<!-- results/NAME.json -->` to `<!-- end -->`.
"""

import argparse
import math
import re
import statistics
from pathlib import Path

from engine import cli
from engine.cli import UserError


def parse_arguments(argv=None) -> argparse.Namespace:
    return cli.Parser(__doc__, "python -m tools.tables").parse_args(argv)


if __name__ == "__main__":
    cli.early(parse_arguments)  # --help and mistakes answer before the slow imports

from engine.files import read_json, write_text
from metrics.palettes import PALETTES

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/results.md", "docs/performance.md")
BLOCK = re.compile(
    r"(<!-- (results/[\w.]+\.json) -->\n)(?:(?!<!-- results/).)*?(<!-- end -->)", re.DOTALL
)

# ---- tools.reproduce --------------------------------------------------------------------------

PAPER_REAL = (0.80, 0.26, 0.21)  # real photos, scored by the paper's FCN-8s

# The title of the first column.
TITLES = {
    "table1": "loss",
    "table2": "generator",
    "table3": "receptive field",
    "table6": "loss",
    "recipes": "recipe",
}

# The other columns: title, key of a run, format.
COLUMNS = [
    ("per-pixel", "pixel_accuracy", "{:.3f}"),
    ("per-class", "class_accuracy", "{:.3f}"),
    ("IoU", "class_iou", "{:.3f}"),
    ("L1", "l1", "{:.3f}"),
    ("PSNR", "psnr", "{:.2f}"),
    ("SSIM", "ssim", "{:.3f}"),
    ("sharpness", "sharpness", "{:.2f}"),
    ("minutes", "minutes", "{:.1f}"),
]


def cell(runs: list[dict], key: str, form: str) -> str:
    """Mean ± sample standard deviation of a score, or its only value; empty if it is unknown."""
    if any(run.get(key) is None for run in runs):
        return ""
    values = [run[key] for run in runs]
    mean = form.format(statistics.fmean(values))
    if len(values) == 1 or not all(map(math.isfinite, values)):
        return mean
    return f"{mean} ± {form.format(statistics.stdev(values))}"


def result_table(content: dict) -> list[list[str]]:
    """The rows of the table in a JSON file of tools.reproduce, the header first."""
    rows, read = content["rows"], content["read"]  # "read_": labels are read from photos
    run = rows[0]["runs"][0]
    has_paper = any(row["paper"] for row in rows)
    if read and "real_pixel_accuracy" in run:
        real = {key.replace("real_", "read_"): run[key] for key in run if key.startswith("real_")}
        rows = [*rows, {"name": "real photos", "paper": PAPER_REAL, "runs": [real]}]
    columns = [(title, read + key if read + key in run else key, f) for title, key, f in COLUMNS]
    columns = [column for column in columns if column[1] in run]
    table = [[TITLES.get(content["table"], "run"), *(title for title, *_ in columns), "paper"]]
    for row in rows:
        paper = " / ".join(f"{number:.2f}" for number in row["paper"] or ())
        scores = [cell(row["runs"], key, form) for _, key, form in columns]
        table.append([row["name"], *scores, paper])
    return table if has_paper else [cells[:-1] for cells in table]


def result_note(content: dict) -> list[str]:
    """What was trained and scored, on what machine, by what command; what the labels mean."""
    config, seeds, read = content["config"], content["seeds"], content["read"]
    runs = [run for row in content["rows"] for run in row["runs"]]

    def all_of(key: str) -> str:
        return ", ".join(dict.fromkeys(str(run[key]) for run in runs if run.get(key)))

    several = f"seeds {', '.join(map(str, seeds))}, mean ± std" if len(seeds) > 1 else "one seed"
    decay, ema = config["decay_epochs"], config["ema_decay"]
    facts = [
        f"{config['epochs']} epoch{'s'[: config['epochs'] > 1]} ({all_of('steps')} steps)",
        decay and f"learning-rate decay over the last {decay}",
        ema and f"EMA {ema:g}",
        f"{config['crop_size']} px, batch {config['batch_size']}",
        f"{config['base_channels']} filters in G, {config['discriminator_channels']} in D",
        config["precision"],
    ]
    lines = [
        f"{runs[0]['images']} {runs[0]['split']} images of {Path(config['data_root']).name}, "
        f"{several}. {', '.join(filter(None, facts))}. {all_of('machine')}; "
        f"{all_of('versions')}; commit {all_of('commit') or 'unknown'}.",
        f"`{content['command']}`",
    ]
    if content["palette"] is None:
        lines.append("No segmentation scores: the palette of B is unknown (--palette).")
    elif read + "classes_present" in runs[0]:
        count = content.get("classes") or len(PALETTES[content["palette"]].classes)
        reader = "Segmentation scores by a label reader, a stand-in for FCN-8s; " if read else ""
        present = runs[0][read + "classes_present"]
        lines.append(f"{reader}{present} of the {count} classes occur.")
    return lines


# ---- tools.benchmark --------------------------------------------------------------------------

STEP_COLUMNS = {
    "batch": "{}",
    "variant": "{}",
    "ms/step": "{:.1f}",
    "images/s": "{:.1f}",
    "TFLOP/s": "{:.2f}",
    "of floor": "{:.0%}",
    "peak GB": "{:.2f}",
    "speed": "{:.2f}x",
}


def step_table(content: dict) -> list[list[str]]:
    """The rows of the table in a JSON file of tools.benchmark, the header first."""
    rows = [[(form, row[key]) for key, form in STEP_COLUMNS.items()] for row in content["steps"]]
    cells = [["" if value is None else form.format(value) for form, value in row] for row in rows]
    return [list(STEP_COLUMNS), *cells]


def step_note(content: dict) -> list[str]:
    rates = content["rates"]
    copy = f", a copy at {rates['GB/s']:.0f} GB/s" if "GB/s" in rates else ""
    loading = ", ".join(f"{name} {rate:.0f}" for name, rate in content["loading"].items())
    return [
        f"{content['crop_size']} px, random images. Pairs loaded per second: {loading}. Floor: "
        f"a large {rates['precision']} matrix product at {rates['TFLOP/s']:.2f} TFLOP/s{copy}. "
        f"{content['machine']}; {content['versions']}; commit {content['commit'] or 'unknown'}.",
        f"`{content['command']}`",
    ]


# ---- Pages ------------------------------------------------------------------------------------


def described(content: dict) -> str:
    """The table of a JSON file and a note of its origin, in Markdown."""
    steps = "steps" in content
    header, *rows = step_table(content) if steps else result_table(content)
    note = step_note(content) if steps else result_note(content)
    note += [content["note"]] if "note" in content else []
    lines = [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join([*lines, "", *(f"- {text}" for text in note)])


def with_tables(page: str, root: Path = ROOT) -> str:
    """The page with its tables as in the files below `root`. Raises UserError."""
    if page.count("<!-- results/") > len(BLOCK.findall(page)):
        raise UserError("a table has no <!-- end -->")

    def table(block: re.Match) -> str:
        content = read_json(root / block[2])
        try:
            return f"{block[1]}\n{described(content)}\n\n{block[3]}"
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{block[2]} holds no table of these tools: {error}") from error

    return BLOCK.sub(table, page)


def main(argv=None, root: Path = ROOT) -> int:
    parse_arguments(argv)
    for page in map(root.joinpath, PAGES):
        text = with_tables(page.read_text(encoding="utf-8"), root)
        write_text(page, text)
        print(f"{page.relative_to(root)}: {len(BLOCK.findall(text))} tables")
    return 0


if __name__ == "__main__":
    cli.run(main)
