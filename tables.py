"""How the results of reproduce.py are told: a table, what has to be known of it, pictures.

What a table holds is a dict, NAME.json in the folder of reproduce.py:

    table, config, seeds, command      what was compared, and the command that does it again
    palette, read                      of the labels; "read_" if they were read from photos
    rows                               [{"name", "paper", "runs": [scores, machine, commit ...]}]
"""

import itertools
import math
import statistics
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from scores import PALETTES

PAPER_REAL = (0.80, 0.26, 0.21)  # real photos, read by the FCN-8s

# What the rows of a table are.
TITLES = {
    "table1": "loss",
    "table2": "generator",
    "table3": "receptive field",
    "table6": "loss",
    "recipes": "recipe",
    "precision": "precision",
    "sizes": "generator",
    "directions": "direction",
}

# A column: its title, what it is of a run, and its format.
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
COST_COLUMNS = [("MB", "megabytes", "{:.1f}"), ("minutes", "minutes", "{:.1f}")]


def cell(values: list[float | None], form: str) -> str:
    """Mean ± standard deviation, or the one value there is."""
    if None in values:
        return ""
    mean = form.format(statistics.fmean(values))
    if len(values) == 1 or not all(map(math.isfinite, values)):
        return mean
    return f"{mean} ± {form.format(statistics.stdev(values))}"


def paper_cell(numbers: tuple[float, float, float] | None) -> str:
    return " / ".join(f"{number:.2f}" for number in numbers) if numbers else ""


def label_columns(content: dict) -> list[tuple[str, str, str]]:
    """They are called read_... if labels were read from photos."""
    return [(title, content["read"] + key, form) for title, key, form in LABEL_COLUMNS]


def markdown(content: dict) -> str:
    """The table of what NAME.json holds."""
    rows, read = content["rows"], content["read"]
    known = set.intersection(*(set(run) for row in rows for run in row["runs"]))
    costs = COST_COLUMNS if content["table"] == "sizes" else COST_COLUMNS[1:]
    columns = label_columns(content) + PICTURE_COLUMNS + PHOTO_COLUMNS + costs
    columns = [column for column in columns if column[1] in known]
    table = [[TITLES[content["table"]], *(title for title, *_ in columns), "paper"]]
    table.append(["---"] * len(table[0]))
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
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def orders(content: dict) -> list[str]:
    """A line for each label score: which pairs of rows are ordered as in the paper, which not. By
    their means; of several seeds, also whether each of them agrees."""
    lines, each = [], " (every seed)" if len(content["rows"][0]["runs"]) > 1 else ""
    for place, (title, key, _) in enumerate(label_columns(content)):
        pairs, clear, others = 0, 0, []
        for one, other in itertools.permutations(content["rows"], 2):
            if key not in one["runs"][0] or not one["paper"]:
                continue
            if one["paper"][place] > other["paper"][place]:
                pairs += 1
                runs = zip(one["runs"], other["runs"], strict=True)
                ahead = [first[key] - second[key] for first, second in runs]
                if statistics.fmean(ahead) > 0:
                    clear += min(ahead) > 0
                else:
                    always = each if max(ahead) < 0 else ""
                    others.append(f"{other['name']} over {one['name']}{always}")
        if pairs:
            sure = f", {clear} of them with every seed" if each else ""
            but = f"; but {', '.join(others)}" if others else ""
            as_there = f"{pairs - len(others)} of {pairs} pairs as in the paper"
            lines.append(f"{title}: {as_there}{sure}{but}.")
    return lines


def difference(content: dict) -> list[str]:
    """A line on how far two rows are apart, seed by seed."""
    seeds = len(content["seeds"])
    if content["table"] == "directions" or len(content["rows"]) != 2 or seeds < 2:
        return []
    first, second = content["rows"]
    words = []
    for title, key, form in PICTURE_COLUMNS:
        pairs = zip(first["runs"], second["runs"], strict=True)
        apart = [other[key] - one[key] for one, other in pairs]
        if not all(map(math.isfinite, apart)):  # the PSNR of a picture that equals its target
            continue
        error = statistics.stdev(apart) / math.sqrt(seeds)
        words.append(f"{title} {form.format(statistics.fmean(apart))} ± {form.format(error)}")
    rows = f"{second['name']} less {first['name']}"
    return [f"{rows}, seed by seed, mean ± its standard error: {', '.join(words)}."]


def notes(content: dict) -> str:
    """What has to be known of the table: whose numbers, how, where, and what the labels mean."""
    config, read = content["config"], content["read"]
    runs = [run for row in content["rows"] for run in row["runs"]]

    def all_of(key: str) -> str:
        return ", ".join(dict.fromkeys(str(run[key]) for run in runs if run.get(key)))

    seeds = content["seeds"]
    several = f"seeds {', '.join(map(str, seeds))}, mean ± std" if len(seeds) > 1 else "one seed"
    training = [
        f"{config['epochs']} epoch{'s'[: config['epochs'] > 1]} ({all_of('steps')} steps)",
        f"{config['crop_size']} px",
        f"the learning rate falling over the last {decay}"
        if (decay := config["decay_epochs"])
        else "",
        f"batch {config['batch_size']}",
        f"{config['base_channels']} filters in G" if content["table"] != "sizes" else "",
        f"{config['discriminator_channels']} filters in D",
        config["precision"] if content["table"] != "precision" else "",
    ]
    lines = [
        f"{runs[0]['images']} {runs[0]['split']} pictures of {Path(config['data_root']).name}, "
        f"{several}. {', '.join(filter(None, training))}. "
        f"{all_of('machine')}; {all_of('versions')}; commit {all_of('commit') or 'unknown'}.",
        f"`{content['command']}`",
    ]
    if content["palette"] is None:
        lines.append(
            "The colours of B are of no known palette (--palette), so no classes are scored."
        )
    elif all(read + "classes_present" in run for run in runs):
        present = runs[0][read + "classes_present"]
        known = len(PALETTES[content["palette"]].classes)
        rest = "; the others count 0" if present < known else ""
        lines.append(f"{present} of the {known} classes occur in these pictures{rest}.")
        if read:
            lines.append(
                "The labels were read by a generator photo -> labels, not by the paper's FCN-8s: "
                "compare the rows with each other, not with the paper's."
            )
    lines += orders(content) + difference(content)
    return "\n".join(lines + ([content["note"]] if "note" in content else []))


def picture_grid(columns: list[tuple[str, Path]], names: list[str]) -> Image.Image:
    """Pictures of the folders beside each other, a row for each name, under the columns' titles."""
    pictures = [[Image.open(folder / f"{n}.png") for _, folder in columns] for n in names]
    side, gap = pictures[0][0].width, 4
    titles = [textwrap.wrap(title, max(side // 6, 6)) for title, _ in columns]
    head = 10 + 14 * max(map(len, titles))
    grid = Image.new(
        "RGB", (len(columns) * (side + gap) + gap, head + len(names) * (side + gap)), "white"
    )
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(12)
    for i, lines in enumerate(titles):
        place = (gap + i * (side + gap) + side // 2, head // 2)
        draw.text(place, "\n".join(lines), "black", font, anchor="mm", align="center", spacing=2)
    for j, row in enumerate(pictures):
        for i, picture in enumerate(row):
            grid.paste(picture, (gap + i * (side + gap), head + j * (side + gap)))
    return grid
