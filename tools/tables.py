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
LABEL_COLUMNS = [
    ("per-pixel", "pixel_accuracy", "{:.3f}"),
    ("per-class", "class_accuracy", "{:.3f}"),
    ("IoU", "class_iou", "{:.3f}"),
]
OTHER_COLUMNS = [
    ("L1", "l1", "{:.3f}"),
    ("PSNR", "psnr", "{:.2f}"),
    ("SSIM", "ssim", "{:.3f}"),
    ("sharpness", "sharpness", "{:.2f}"),
    ("minutes", "minutes", "{:.1f}"),
]


def cell(values: list[float | None], form: str) -> str:
    """Mean ± sample standard deviation, or the only value."""
    if None in values:
        return ""
    mean = form.format(statistics.fmean(values))
    if len(values) == 1 or not all(map(math.isfinite, values)):
        return mean
    return f"{mean} ± {form.format(statistics.stdev(values))}"


def paper_cell(numbers: tuple[float, float, float] | None) -> str:
    return " / ".join(f"{number:.2f}" for number in numbers) if numbers else ""


def result_table(content: dict) -> str:
    """The table of a JSON file of tools.reproduce."""
    rows, read = content["rows"], content["read"]  # "read_": labels are read from photos
    known = set.intersection(*(set(run) for row in rows for run in row["runs"]))
    columns = [(title, read + key, form) for title, key, form in LABEL_COLUMNS] + OTHER_COLUMNS
    columns = [column for column in columns if column[1] in known]
    table = [[TITLES.get(content["table"], "run"), *(title for title, *_ in columns), "paper"]]
    for row in rows:
        cells = [cell([run[key] for run in row["runs"]], form) for _, key, form in columns]
        table.append([row["name"], *cells, paper_cell(row["paper"])])
    if read and "real_pixel_accuracy" in known:
        real = rows[0]["runs"][0]
        cells = [
            form.format(real["real_" + key.removeprefix(read)]) if key.startswith(read) else ""
            for _, key, form in columns
        ]
        table.append(["real photos", *cells, paper_cell(PAPER_REAL)])
    if not any(row["paper"] for row in rows):
        table = [line[:-1] for line in table]
    return grid(table)


def result_note(content: dict) -> list[str]:
    """What was trained and scored, on what machine, by what command; what the labels mean."""
    config, seeds, read = content["config"], content["seeds"], content["read"]
    runs = [run for row in content["rows"] for run in row["runs"]]

    def all_of(key: str) -> str:
        return ", ".join(dict.fromkeys(str(run[key]) for run in runs if run.get(key)))

    several = f"seeds {', '.join(map(str, seeds))}, mean ± std" if len(seeds) > 1 else "one seed"
    epochs = config["epochs"]
    training = [f"{epochs} epoch{'s'[: epochs > 1]} ({all_of('steps')} steps)"]
    if config["decay_epochs"]:
        training.append(f"learning-rate decay over the last {config['decay_epochs']}")
    if config["ema_decay"]:
        training.append(f"EMA {config['ema_decay']:g}")
    training += [
        f"{config['crop_size']} px",
        f"batch {config['batch_size']}",
        f"{config['base_channels']} filters in G, {config['discriminator_channels']} in D",
        config["precision"],
    ]
    lines = [
        f"{runs[0]['images']} {runs[0]['split']} images of {Path(config['data_root']).name}, "
        f"{several}. {', '.join(training)}. {all_of('machine')}; {all_of('versions')}; commit "
        f"{all_of('commit') or 'unknown'}.",
        f"`{content['command']}`",
    ]
    if content["palette"] is None:
        lines.append("No segmentation scores: the palette of B is unknown (--palette).")
    elif all(read + "classes_present" in run for run in runs):
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


def step_cells(row: dict) -> list[str]:
    return ["" if row[key] is None else form.format(row[key]) for key, form in STEP_COLUMNS.items()]


def step_note(figures: dict) -> list[str]:
    rates = figures["rates"]
    floor = [f"a large {rates['precision']} matrix product at {rates['TFLOP/s']:.2f} TFLOP/s"]
    floor += [f"a copy at {rates['GB/s']:.0f} GB/s"] if "GB/s" in rates else []
    loading = ", ".join(f"{name} {rate:.0f}" for name, rate in figures["loading"].items())
    return [
        f"{figures['crop_size']} px, random images. Pairs loaded per second: {loading}. Floor: "
        f"{', '.join(floor)}. {figures['machine']}; {figures['versions']}; commit "
        f"{figures['commit'] or 'unknown'}.",
        f"`{figures['command']}`",
    ]


# ---- Pages ------------------------------------------------------------------------------------


def line(cells) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def grid(rows: list[list[str]]) -> str:
    """A Markdown table whose first row is the header."""
    return "\n".join(map(line, [rows[0], ["---"] * len(rows[0]), *rows[1:]]))


def described(content: dict) -> str:
    """The table and the note of a JSON file."""
    if "steps" in content:
        table = grid([list(STEP_COLUMNS), *map(step_cells, content["steps"])])
        note = step_note(content)
    else:
        table, note = result_table(content), result_note(content)
    note += [content["note"]] if "note" in content else []
    return "\n".join([table, "", *(f"- {text}" for text in note)])


def with_tables(page: str, root: Path = ROOT) -> str:
    """The page with its tables as in the files below `root`. Raises UserError on a file that is
    missing or holds no table."""
    from engine.files import read_json  # imports torch, which --help does without

    def table(found: re.Match) -> str:
        begin, name, end = found.groups()
        content = read_json(root / name)
        try:
            return f"{begin}\n{described(content)}\n\n{end}"
        except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
            raise UserError(
                f"{name} is not a table of tools.reproduce or tools.benchmark: {error}"
            ) from error

    if page.count("<!-- results/") > len(BLOCK.findall(page)):
        raise UserError("a table has no <!-- end -->")
    return BLOCK.sub(table, page)


def parse_arguments(argv=None) -> argparse.Namespace:
    return cli.Parser(__doc__, "python -m tools.tables").parse_args(argv)


def main(argv=None, root: Path = ROOT) -> int:
    from engine.files import write_text

    parse_arguments(argv)
    for page in map(root.joinpath, PAGES):
        if page.exists():
            text = with_tables(page.read_text(encoding="utf-8"), root)
            write_text(page, text)
            print(f"{page.relative_to(root)}: {len(BLOCK.findall(text))} tables")
    return 0


if __name__ == "__main__":
    cli.run(main)
