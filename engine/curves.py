"""Figures of a run: curves.png of its log, progress.gif of its samples."""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.files import read_json, replacing
from engine.log import read_log

# The panels of curves.png: title, and the label of each column of log.csv in it.
PANELS = {
    "adversarial losses": {"loss_d": "discriminator", "loss_g_gan": "generator"},
    "L1": {"loss_g_l1": "training", "val_l1": "validation"},
    "validation PSNR (dB)": {"val_psnr": "validation"},
    "validation SSIM": {"val_ssim": "validation"},
}

# The loss of a discriminator that answers 1/2 to everything.
CHANCE = {"cross_entropy": math.log(2), "least_squares": 0.25}

ROWS_LOST = 40  # of the log, by default 2,000 steps, for which D's loss must stay near 0

GAP = 4  # px around each image of a sample grid

FRAMES, ROWS, SIDE, TITLE = 40, 4, 160, 24  # of progress.gif; the last two in px


def draw_curves(run: str | Path) -> Path | None:
    """Draws curves.png into a run folder: losses, their moving averages and validation scores.
    Returns the path, or None if nothing was logged. Raises UserError if there is no log."""
    from matplotlib.figure import Figure  # its import takes a second; pyplot would need a display

    measures = read_log(run)
    panels = [panel for panel in PANELS.items() if panel[1].keys() & measures.keys()]
    if not panels:
        return None
    rows = math.ceil(len(panels) / 2)
    figure = Figure(figsize=(10, 3.2 * rows), layout="tight")
    figure.suptitle(str(run), parse_math=False)  # it may hold $
    for number, (title, curves) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, 2, number, title=title, xlabel="epoch")
        for color, (name, label) in zip(("tab:blue", "tab:orange"), curves.items(), strict=False):
            if name not in measures:
                continue
            epochs, values = measures[name]
            marker = "." if len(values) < 30 else ""
            if name.startswith("loss_"):
                axes.plot(epochs, values, color=color, alpha=0.25, linewidth=0.7)
                window = max(1, len(values) // 30)
                values = np.convolve(values, np.ones(window) / window, mode="valid")
                epochs = epochs[window // 2 :][: len(values)]
            axes.plot(epochs, values, color=color, label=label, marker=marker)
        axes.grid(alpha=0.3)
        axes.legend()
    path = Path(run) / "curves.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return path


def warnings(run: str | Path, samples: Path) -> list[str]:
    """What looks wrong in a run's log and its newest sample grid."""
    found = []
    losses = read_log(run).get("loss_d", ([], []))[1][-ROWS_LOST:]
    gan_loss = read_json(Path(run) / "config.json").get("gan_loss", "cross_entropy")
    if len(losses) == ROWS_LOST and losses.max() < CHANCE[gan_loss] / 20:
        found.append(
            "the discriminator's loss stays near 0, so the generator learns from L1 alone; see "
            "'The discriminator's loss falls to 0' in docs/faq.md"
        )
    rows = [[contrast(image) for image in row] for row in sample_rows(samples)]
    # The masks of some images can be empty, and others have few pixels.
    varied = [(output, target) for _, output, target in rows if target > 2]
    if varied and all(output < min(2, target / 8) for output, target in varied):
        found.append("the outputs have one color; see 'Outputs are blurry or gray' in docs/faq.md")
    return found


def contrast(image: Image.Image) -> float:
    """The largest standard deviation of a channel, of 255."""
    return float(np.std(image, axis=(0, 1)).max())


def draw_progress(run: str | Path) -> Path | None:
    """Draws the samples over the epochs, progress.gif, into a run folder. Returns its path, or None
    if there are no samples."""
    files = sorted((Path(run) / "samples").glob("epoch_[0-9]*.png"), key=epoch_of)
    if not files:
        return None
    frames = [progress_frame(file) for file in evenly(files, FRAMES)]
    height = min(frame.height for frame in frames)  # of a resumed run with other sample_images
    frames = [frame.crop((0, 0, frame.width, height)) for frame in frames]
    # One palette for all frames: faster, and unchanged pixels take no space.
    palette = frames[-1].quantize(256)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    duration = [400] * (len(frames) - 1) + [2500]  # ms
    film = {"save_all": True, "append_images": frames[1:], "duration": duration, "loop": 0}
    path = Path(run) / "progress.gif"
    with replacing(path) as temporary:
        frames[0].save(temporary, format="GIF", **film)
    return path


def progress_frame(file: Path) -> Image.Image:
    """The first rows of a sample grid, with titles above."""
    rows, pitch = sample_rows(file)[:ROWS], SIDE + GAP
    frame = Image.new("RGB", (GAP + 3 * pitch, TITLE + GAP + len(rows) * pitch), "white")
    draw, font = ImageDraw.Draw(frame), ImageFont.load_default(size=14)
    for column, title in enumerate(("input", f"epoch {epoch_of(file)}", "target")):
        place = (GAP / 2 + (column + 0.5) * pitch, TITLE / 2)
        draw.text(place, title, "black", font, anchor="mm")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            place = (GAP + x * pitch, TITLE + GAP + y * pitch)
            frame.paste(image.resize((SIDE, SIDE)), place)
    return frame


def epoch_of(file: Path) -> int:
    return int(file.stem.removeprefix("epoch_"))


def sample_rows(file: Path) -> list[list[Image.Image]]:
    """The rows of a sample grid, each input, output and target."""
    with Image.open(file) as image:
        grid = image.convert("RGB")
    pitch = (grid.width - GAP) // 3
    rows = []
    for top in range(GAP, grid.height - GAP, pitch):
        lefts = (GAP, GAP + pitch, GAP + 2 * pitch)
        rows.append([grid.crop((x, top, x + pitch - GAP, top + pitch - GAP)) for x in lefts])
    return rows


def evenly(items: list, count: int) -> list:
    """At most `count` of the items, evenly spread, including the first and the last."""
    places = np.linspace(0, len(items) - 1, min(count, len(items)))
    return [items[round(place)] for place in places]
