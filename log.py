"""What a run measures while it trains, and the pictures drawn of it.

    python log.py runs/mine        draws them anew, also while it trains

    curves.png                     losses and validation scores over the epochs
    progress.png, progress.gif     the first samples over the epochs, as a strip and as a film

By itself train.py draws them in the end, and the curves every 10 minutes.
"""

from config import Parser, UserError, one_line_errors

if __name__ == "__main__":  # before the slow imports, so that --help and mistakes answer at once
    PARSER = Parser(__doc__)
    PARSER.add_argument("run", metavar="RUN", help="a run folder")
    with one_line_errors():
        ARGUMENTS = PARSER.parse_args()

import contextlib
import csv
import json
import math
import re
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from files import flush_to_disk, replacing
from processes import Processes
from utils import save_image

# What train.train_step returns, by the names of the log and of the progress bar.
LOSSES = {"loss_d": "D", "loss_g_gan": "G", "loss_g_l1": "L1"}


class Meter:
    """The mean losses and the speed since the log's last row, over all processes."""

    def __init__(self, losses: Tensor, steps: int, processes: Processes):
        self.losses = losses  # (3,) sums, kept on the device so that no step waits for them
        self.steps = steps
        self.processes = processes
        self.restart_clock()

    def restart_clock(self) -> None:
        """After work that is no training, which must not count as slow steps."""
        self.since, self.images = time.perf_counter(), 0

    def add(self, losses: Tensor, images: int) -> None:
        self.losses = self.losses + losses
        self.steps += 1
        self.images += images

    def reset(self) -> None:
        self.losses, self.steps = torch.zeros_like(self.losses), 0
        self.restart_clock()

    def sums(self) -> Tensor:
        """(3,) The losses since the last row."""
        return self.processes.mean(self.losses)

    def row(self, adversarial: bool) -> dict[str, float]:
        """For the log; without the adversarial losses where there are none."""
        means = dict(zip(LOSSES, (self.sums() / self.steps).tolist(), strict=True))
        if not adversarial:
            means = {"loss_g_l1": means["loss_g_l1"]}
        return {**means, "images_per_second": self.images / (time.perf_counter() - self.since)}


class Watch:
    """Raises UserError for the first step whose losses are not finite.

    On a GPU they are looked at when they have arrived, so that no step waits for them: a few steps
    late, but, with `look(wait=True)`, before anything is written. Nor does the GPU get more than
    `ahead` steps to do, for the batches of all of them are kept in pinned memory.
    """

    ahead = 16

    def __init__(self):
        self.waiting = deque()

    def add(self, step: int, losses: Tensor, names: list[str]) -> None:
        arrived = None
        if losses.is_cuda:
            losses, arrived = losses.to("cpu", non_blocking=True), torch.cuda.Event()
            arrived.record()
        self.waiting.append((arrived, step, losses, names))
        if arrived and len(self.waiting) > self.ahead:
            self.waiting[0][0].synchronize()
        self.look()

    def look(self, wait: bool = False) -> None:
        while self.waiting:
            arrived, step, losses, names = self.waiting[0]
            if arrived and wait:
                arrived.synchronize()
            if arrived and not arrived.query():
                return
            self.waiting.popleft()
            if not losses.isfinite().all():
                values = zip(LOSSES.values(), losses.tolist(), strict=True)
                raise UserError(
                    f"step {step} ended in losses that are not finite: "
                    f"{', '.join(f'{name} {value:g}' for name, value in values)}; its pairs were "
                    f"{', '.join(names)}. The last checkpoint is from before it; a new run with a "
                    "lower learning_rate may help"
                )


class Log:
    """log.csv and TensorBoard events of a run.

    A row holds what was measured at its step, and is empty where nothing was. A run that goes on
    after `step` forgets the later rows, which it is about to write again; a new one, after step -1,
    all of them. Raises UserError where they can't be written.
    """

    COLUMNS = (
        "step",
        "epoch",
        "loss_d",
        "loss_g_gan",
        "loss_g_l1",
        "val_l1",
        "val_psnr",
        "val_ssim",
        "learning_rate",
        "images_per_second",
    )

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter  # half a second of imports

        self.path = folder / "log.csv"
        self.scores = {}  # of the last validation
        lines = [",".join(self.COLUMNS) + "\n"]
        if step >= 0 and self.path.exists():
            rows = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            # The last may have been cut off when the process was killed or the disk was full.
            whole = [row for row in rows if re.fullmatch(r"\d+,.*\n", row)]
            lines += [row for row in whole if int(row.partition(",")[0]) <= step]
        for row in numbers_of(lines):
            self.keep_scores(row)
        with replacing(self.path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
        with self.naming_errors():
            self.events = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    @contextlib.contextmanager
    def naming_errors(self):
        """Errors of writing don't name the file themselves."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"the log beside {self.path} can't be written: {reason}") from error

    def keep_scores(self, row: dict[str, float]) -> None:
        scores = {name: value for name, value in row.items() if name.startswith("val_")}
        self.scores = scores or self.scores

    def write(self, step: int, **values: float) -> None:
        row = {"step": step, **{name: f"{value:.6g}" for name, value in values.items()}}
        self.keep_scores(values)
        with self.naming_errors():
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.COLUMNS, lineterminator="\n").writerow(row)
            for name, value in values.items():
                grouped = name.startswith(("loss_", "val_"))  # TensorBoard groups by them
                name = name.replace("_", "/", 1) if grouped else name
                self.events.add_scalar(name, value, step)

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        with self.naming_errors():
            self.events.add_image(name, np.asarray(image), step, dataformats="HWC")

    def flush(self) -> None:
        """Onto the disk: no checkpoint may know of more than the log."""
        with self.naming_errors():
            self.events.flush()
            with open(self.path, "rb+") as file:
                flush_to_disk(file)

    def close(self) -> None:
        with self.naming_errors():
            self.events.close()


# ---- Pictures of a run ------------------------------------------------------------------------

# The panels of curves.png, and what of the log is in each by what name.
PANELS = {
    "adversarial losses": {"loss_d": "discriminator", "loss_g_gan": "generator"},
    "L1": {"loss_g_l1": "training", "val_l1": "validation"},
    "PSNR of the validation in dB": {"val_psnr": "validation"},
    "SSIM of the validation": {"val_ssim": "validation"},
}

STRIP_ROWS = 4
STRIP_EPOCHS = 6
FILM_FRAMES = 40
FILM_SIDE = 160  # px, of each picture in the film


def read_log(run: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each measure of a run's log.csv as (epochs, values), as far as it was taken.

    Raises UserError if there is no log.
    """
    path = Path(run) / "log.csv"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"{run} has no log.csv; it has to be a run folder") from error
    points = {}
    for row in numbers_of(lines):
        epoch = row.pop("epoch", None)
        for name in row.keys() - {"step"}:
            points.setdefault(name, []).append((epoch, row[name]))
    return {name: tuple(np.array(values, float).T) for name, values in points.items()}


def numbers_of(lines: list[str]):
    """The rows of a log.csv, without what is garbled or just being written."""
    whole = [line.replace("\0", "") for line in lines if line.endswith("\n")]
    for row in csv.DictReader(whole):
        with contextlib.suppress(TypeError, ValueError):
            yield {name: float(value) for name, value in row.items() if value}


def loss_of_guessing(run: str | Path) -> float | None:
    """The discriminator's loss, were it to say 1/2 to everything; None if config.json is lost."""
    try:
        config = json.loads((Path(run) / "config.json").read_text())
        return {"cross_entropy": math.log(2), "least_squares": 0.25}.get(config["gan_loss"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def draw_curves(run: str | Path) -> Path | None:
    """Draws curves.png into a run folder: losses and validation scores over the epochs.

    A loss is drawn as it is logged, faint, and as its running mean. Returns the picture's path;
    None, and draws nothing, where nothing was logged. Raises UserError if there is no log.
    """
    from matplotlib.figure import Figure  # a second of imports; and no pyplot: it wants a display

    measures = read_log(run)
    guess = loss_of_guessing(run)
    panels = {title: curves for title, curves in PANELS.items() if curves.keys() & measures.keys()}
    if not panels:
        return None
    end = max(epochs[-1] for epochs, _ in measures.values())
    rows = math.ceil(len(panels) / 2)
    height = 3.2 * rows  # inches, as the margins
    figure = Figure(figsize=(10, height))
    figure.suptitle(str(run), y=1 - 0.2 / height)
    for number, (title, curves) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, 2, number)
        for colour, (name, label) in zip(("tab:blue", "tab:orange"), curves.items(), strict=False):
            if name not in measures:
                continue
            epochs, values = measures[name]
            style = {"color": colour, "label": label, "marker": "." if len(values) < 30 else ""}
            if name.startswith("loss_") and len(values) >= 30:
                axes.plot(epochs, values, color=colour, alpha=0.25, linewidth=0.7)
                window = max(5, len(values) // 30)
                mean = np.convolve(values, np.ones(window) / window, mode="valid")
                epochs, values = epochs[window // 2 :][: len(mean)], mean
            axes.plot(epochs, values, **style)
        if "loss_d" in curves and guess:
            axes.axhline(guess, color="grey", linestyle=":", label=f"D that guesses: {guess:.2f}")
        axes.set(title=title, xlabel="epoch", xlim=(-0.02 * (end or 1), 1.02 * (end or 1)))
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.margins(y=0.22)  # above the curves there is room for their names
            axes.legend(loc="upper right", ncols=3, fontsize="small")
    # Not by one of the layouts that find the margins: these take longer than the drawing.
    figure.subplots_adjust(0.06, 0.5 / height, 0.985, 1 - 0.7 / height, hspace=0.45, wspace=0.14)
    path = Path(run) / "curves.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return path


def sample_grids(run: str | Path) -> dict[int, Path]:
    """The sample grids of a run by epoch, in order."""
    files = (Path(run) / "samples").glob("epoch_*.png")
    found = {re.fullmatch(r"epoch_(\d+)", file.stem): file for file in files}
    return dict(sorted((int(match[1]), file) for match, file in found.items() if match))


def sample_rows(path: Path) -> list[list[Image.Image]]:
    """The first rows of a sample grid: input, output and target each. A file that can't be
    read has none, which is said."""
    try:
        with Image.open(path) as picture:
            picture = picture.convert("RGB")
    except Exception as error:  # Pillow's readers raise nearly anything on a damaged file
        print(f"{path} can't be read as a picture and is left out: {error}", file=sys.stderr)
        return []
    # As utils.sample_grid lays them out: 4 px around each square picture, three in a row.
    pitch = max(5, (picture.width - 4) // 3)
    count = min(STRIP_ROWS, (picture.height - 4) // pitch)
    corners = [[(4 + x * pitch, 4 + y * pitch) for x in range(3)] for y in range(count)]
    return [[picture.crop((x, y, x + pitch - 4, y + pitch - 4)) for x, y in row] for row in corners]


def titled_grid(titles: list[str], rows: list[list[Image.Image]]) -> Image.Image:
    """Pictures of one size in rows, with a title above each column."""
    width, height = (side + 4 for side in rows[0][0].size)
    top = 24
    grid = Image.new("RGB", (len(titles) * width + 4, top + len(rows) * height), "white")
    write = ImageDraw.Draw(grid)
    font = ImageFont.load_default(size=14)
    for column, title in enumerate(titles):
        place = (4 + column * width + (width - 4) / 2, top / 2)
        write.text(place, title, fill="black", font=font, anchor="mm")
        for row, pictures in enumerate(rows):
            grid.paste(pictures[column], (4 + column * width, top + row * height))
    return grid


def evenly(items: list, count: int) -> list:
    """At most `count` of them, spread evenly, the first and the last among them."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def draw_progress(run: str | Path) -> Path | None:
    """Draws how the samples came about, progress.png and progress.gif, into a run folder.

    Returns the path of the first; None, and draws nothing, where there are no samples.
    """
    grids = sample_grids(run)
    columns = {epoch: sample_rows(grids[epoch]) for epoch in evenly(list(grids), STRIP_EPOCHS)}
    columns = {epoch: column for epoch, column in columns.items() if column}
    if not columns:
        return None
    last = columns[max(columns)]
    rows = [
        [last[row][0], *(column[row][1] for column in columns.values()), last[row][2]]
        for row in range(min(map(len, columns.values())))
    ]
    path = Path(run) / "progress.png"
    titles = [f"epoch {epoch}" for epoch in columns]
    save_image(titled_grid(["input", *titles, "target"], rows), path)

    frames = []
    for epoch in evenly(list(grids), FILM_FRAMES):
        small = [
            [picture.resize((FILM_SIDE, FILM_SIDE)) for picture in pictures]
            for pictures in sample_rows(grids[epoch])[: len(rows)]
        ]
        if len(small) < len(rows):
            continue
        frames.append(titled_grid(["input", f"epoch {epoch}", "target"], small))
    # Colours of the last for all, which is faster, and what does not change takes no room.
    last_frame = frames[-1].quantize(256)
    frames = [frame.quantize(palette=last_frame, dither=Image.Dither.NONE) for frame in frames]
    with replacing(path.with_suffix(".gif")) as temporary:
        frames[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=[400] * (len(frames) - 1) + [2500],  # ms
            loop=0,
        )
    return path


if __name__ == "__main__":
    with one_line_errors():
        drawn = [draw(ARGUMENTS.run) for draw in (draw_curves, draw_progress)]
        if not any(drawn):
            raise UserError(f"{ARGUMENTS.run} has logged nothing yet")
        for picture in filter(None, drawn):
            print(picture)
