"""Renders the JSON files of tools.reproduce and tools.benchmark as Markdown tables.

    python -m tools.tables        rewrites the tables in README.md and docs/

A page has a block for each file, from `<!-- results/NAME.json -->` to `<!-- end -->`.
"""

import argparse
import re
from pathlib import Path

import numpy as np

from engine import cli
from engine.files import read_json, write_text

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/results.md", "docs/performance.md")
BLOCK = re.compile(r"(<!-- (results/\w+\.json) -->\n).*?(<!-- end -->)", re.DOTALL)

PAPER_REAL = (0.80, 0.26, 0.21)  # real photos, scored by the paper's FCN-8s

# The columns with what was measured: title, key, format. "read_": of labels read from photos.
COLUMNS = [
    ("per-pixel", "pixel_accuracy", "{:.3f}"),
    ("per-class", "class_accuracy", "{:.3f}"),
    ("IoU", "class_iou", "{:.3f}"),
    ("per-pixel", "read_pixel_accuracy", "{:.3f}"),
    ("per-class", "read_class_accuracy", "{:.3f}"),
    ("IoU", "read_class_iou", "{:.3f}"),
    ("L1", "l1", "{:.3f}"),
    ("MAE", "mae", "{:.4g}"),
    ("PSNR", "psnr", "{:.2f}"),
    ("SSIM", "ssim", "{:.3f}"),
    ("sharpness", "sharpness", "{:.2f}"),
    ("hist. L", "histogram_l", "{:.2f}"),
    ("hist. a", "histogram_a", "{:.2f}"),
    ("hist. b", "histogram_b", "{:.2f}"),
    ("minutes", "minutes", "{:.1f}"),
    ("ms/step", "ms/step", "{:.1f}"),
    ("seconds", "seconds", "{:.1f}"),
    ("CPU seconds", "CPU seconds", "{:.1f}"),
    ("images/s", "images/s", "{:.1f}"),
    ("TFLOP/s", "TFLOP/s", "{:.2f}"),
    ("of floor", "of floor", "{:.0%}"),
    ("peak GB", "peak GB", "{:.2f}"),
    ("speed", "speed", "{:.2f}x"),
]


def table_of(titles: list[str], rows: list[tuple[list[str], list[dict]]]) -> list[list[str]]:
    """A table, header first. Rows are their first cells, with `titles`, and the measured runs."""
    columns = [column for column in COLUMNS if column[1] in rows[0][1][0]]
    table = [[*titles, *(title for title, _, _ in columns)]]
    for cells, runs in rows:
        table.append([*cells, *(cell(runs, key, form) for _, key, form in columns)])
    return table


def cell(runs: list[dict], key: str, form: str) -> str:
    """Mean ± sample standard deviation of a score, or its only value; empty if it is unknown."""
    values = np.array([run.get(key) for run in runs], float)  # None becomes nan
    if np.isnan(values).any():
        return ""
    mean = form.format(values.mean())
    return mean if len(values) == 1 else f"{mean} ± {form.format(values.std(ddof=1))}"


def results(content: dict) -> tuple[list[list[str]], str]:
    """The table of a JSON file of tools.reproduce; and what was trained and scored, and where."""
    config, seeds = content["config"], content["seeds"]
    rows = [([row["name"]], row["runs"]) for row in content["rows"]]
    papers = [row["paper"] for row in content["rows"]]
    runs = [run for _, runs in rows for run in runs]
    first = runs[0]
    several = f"seeds {', '.join(map(str, seeds))}, mean ± std" if len(seeds) > 1 else "one seed"
    facts = (
        f"{first['images']} {first['split']} images of {Path(config['data_root']).name}, "
        f"{several}. {cli.plural(config['epochs'], 'epoch')} "
        f"({first['steps']} steps), {config['crop_size']} px, batch {config['batch_size']}, "
        f"{config['base_channels']} filters in G, {config['discriminator_channels']} in D, "
        f"{config['precision']}. {origins(runs)}"
    )
    if "real_pixel_accuracy" in first:
        real = {key.replace("real", "read"): first[key] for key in first if key.startswith("real")}
        rows.append((["real photos"], [real]))
        papers.append(PAPER_REAL)
        # Before there was a backbone, the reader was a generator trained with L1.
        backbone = content.get("reader")
        kind = f" on {backbone} features, not FCN-8s" if backbone else ", a stand-in for FCN-8s"
        facts += f" Segmentation scores by a label reader{kind}."
    table = table_of([content.get("title", "run")], rows)
    if papers[0] and "per-pixel" in table[0]:
        table[0].append("paper (Cityscapes)")
        for cells, numbers in zip(table[1:], papers, strict=True):
            cells.append(" / ".join(f"{number:.2f}" for number in numbers))
    return table, facts


def origins(measured: list[dict]) -> str:
    """The machines, versions and commits of some measurements."""
    machines, versions, commits = (
        ", ".join(dict.fromkeys(one[key] for one in measured if one.get(key)))
        for key in ("machine", "versions", "commit")
    )
    return f"{machines}; {versions}; commit {commits or 'unknown'}."


def speeds(content: dict) -> tuple[list[list[str]], str]:
    """The table of a JSON file of tools.benchmark; and what else was measured, and where."""
    rows = [([str(step["batch"]), step["variant"]], [step]) for step in content["steps"]]
    rates = content["rates"]
    copy = f", a copy at {rates['GB/s']:.0f} GB/s" if "GB/s" in rates else ""
    loading = ", ".join(f"{name} {rate:.0f}" for name, rate in content["loading"].items())
    more = ""
    if "translating" in content:  # earlier files lack it
        more = f" Images translated per second: {content['translating']:.3g}."
    return table_of(["batch", "variant"], rows), (
        f"{content['crop_size']} px, random images. Pairs loaded per second: {loading}.{more} "
        f"Floor: a large {rates['precision']} matrix product at {rates['TFLOP/s']:.2f} TFLOP/s"
        f"{copy}. {origins([content])}"
    )


def translations(content: dict) -> tuple[list[list[str]], str]:
    """The table of a JSON file of tools.benchmark --translate; and what was measured, and where."""
    rows = [([row["task"], row["variant"]], [row]) for row in content["translations"]]
    return table_of(["task", "variant"], rows), (
        f"{content['images']} images at {content['crop_size']} px, {content['base_channels']} "
        f"filters, batch 1, whole programs from start to end. {origins([content])}"
    )


def described(content: dict) -> str:
    """The table of a JSON file and notes of its origin, in Markdown."""
    kinds = {"steps": speeds, "translations": translations}
    describe = next((kinds[key] for key in kinds if key in content), results)
    table, facts = describe(content)
    table.insert(1, ["---"] * len(table[0]))
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    lines += ["", f"- {facts}", f"- `{content['command']}`"]
    if "note" in content:
        lines.append(f"- {content['note']}")
    return "\n".join(lines)


def with_tables(page: str, root: Path = ROOT) -> str:
    """The page with its tables as in the files below `root`. Raises UserError."""
    return BLOCK.sub(lambda b: f"{b[1]}\n{described(read_json(root / b[2]))}\n\n{b[3]}", page)


def parse_arguments(argv=None) -> argparse.Namespace:
    return cli.Parser(__doc__, "python -m tools.tables").parse_args(argv)


def main(argv=None, root: Path = ROOT) -> int:
    parse_arguments(argv)
    for page in PAGES:
        text = (root / page).read_text(encoding="utf-8")
        write_text(root / page, with_tables(text, root))
        print(f"{page}: {len(BLOCK.findall(text))} tables")
    return 0


if __name__ == "__main__":
    cli.run(main)
