"""What a run measures: mean losses and speed, log.csv, TensorBoard and a tracker."""

import contextlib
import csv
import re
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.cli import UserError
from engine.files import flush_to_disk, reporting_write_errors, retry_while_locked, write_text
from engine.processes import Processes
from engine.trackers import Tracker


class Meter:
    """Mean losses and speed since the last row of the log, over all processes."""

    def __init__(self, names: list[str], processes: Processes, advice: str):
        self.names = names
        self.processes = processes
        self.advice = advice  # what to try when losses are not finite
        self.losses = torch.zeros(len(names), device=processes.device)  # sums
        self.steps = 0
        self.recent = []  # images since the losses were last checked
        self.check_steps = 1 if processes.device.type == "cpu" else 10  # a GPU waits for each
        self.restart_clock()

    def resume(self, losses: Tensor, steps: int) -> None:
        # An earlier version also saved the losses that a run without D lacks.
        self.losses = losses[-len(self.names) :].to(self.losses)
        self.steps = torch.tensor(steps).item()  # raises on what is no 64-bit number

    def restart_clock(self) -> None:
        """After work other than training, which must not count as slow steps."""
        self.since, self.images = time.perf_counter(), 0

    def add(self, step: int, losses: dict[str, Tensor], images: list[str]) -> None:
        """Adds the losses of a step. Raises UserError if they are not finite; on a GPU, up to 10
        steps late."""
        self.losses = self.losses + torch.stack([losses[name] for name in self.names])
        self.steps += 1
        self.images += len(images) * self.processes.size
        self.recent += images
        if step % self.check_steps == 0:
            self.check(step)

    def check(self, step: int) -> None:
        if not self.losses.isfinite().all():
            raise UserError(
                f"the losses are not finite at step {step}; its images were "
                f"{', '.join(self.recent)}. {self.advice}"
            )
        self.recent = []

    def reset(self) -> None:
        self.losses, self.steps = torch.zeros_like(self.losses), 0
        self.restart_clock()

    def row(self) -> dict[str, float]:
        means = (self.processes.mean(self.losses) / self.steps).tolist()
        rate = self.images / (time.perf_counter() - self.since)
        return {**dict(zip(self.names, means, strict=True)), "images_per_second": rate}


class Log:
    """log.csv, the TensorBoard events and perhaps a tracker of a run. A row holds what was measured
    at its step; the other columns are empty. A run that resumes after `step` drops later rows,
    which it will write again; a new run, after step -1, all of them. Raises UserError if they
    cannot be written."""

    def __init__(self, folder: Path, columns: list[str], step: int, tracker: Tracker | None = None):
        from torch.utils.tensorboard import SummaryWriter  # its import takes half a second

        self.path = folder / "log.csv"
        self.tracker = tracker
        self.columns = columns
        self.pending = {}  # the row of the current step
        self.lines = ""  # whole rows that log.csv lacks
        rows = read_rows(self.path) if step >= 0 and self.path.exists() else []
        lines = [self.line(row) for row in rows if row["step"] <= step]
        write_text(self.path, ",".join(columns) + "\n" + "".join(lines))
        self.events = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def line(self, row: dict[str, float]) -> str:
        text = {name: f"{value:.6g}" for name, value in row.items()}
        text["step"] = f"{row['step']:.0f}"
        return ",".join(text.get(name, "") for name in self.columns) + "\n"

    def write(self, step: int, **values: float) -> None:
        """Adds values to the row of a step. It is written when the next begins, or by `flush`."""
        self.begin(step)
        self.pending |= {"step": step, **values}

    def begin(self, step: int) -> None:
        if self.pending.get("step", step) != step:
            self.write_row()

    def write_row(self) -> None:
        row, self.pending = self.pending, {}
        self.lines += self.line(row) if row else ""
        with reporting_write_errors(self.path):
            with contextlib.suppress(PermissionError):  # they are written with the next row
                self.append()
            step = row.pop("step", 0)
            # Both group by what precedes a slash.
            titled = {re.sub("^(loss|val)_", r"\1/", name): value for name, value in row.items()}
            for title, value in titled.items():
                self.events.add_scalar(title, value, step)
        if self.tracker and titled:
            self.tracker.log(step, titled)

    def append(self) -> None:
        """Windows refuses it while another program, such as Excel, has log.csv open."""
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            file.write(self.lines)
        self.lines = ""

    def image(self, name: str, image: Image.Image, step: int) -> None:
        self.begin(step)  # a tracker takes steps in order
        if self.tracker:
            self.tracker.image(step, name, image)
        self.events.add_image(name, np.asarray(image), step, dataformats="HWC")

    def flush(self) -> None:
        """Syncs to disk, so that no checkpoint is ahead of the log; not while log.csv is locked."""
        self.write_row()
        with reporting_write_errors(self.path), contextlib.suppress(PermissionError):
            self.events.flush()
            flush_to_disk(self.path)

    def close(self) -> None:
        self.write_row()
        self.stop(failed=False)
        with reporting_write_errors(self.path):
            retry_while_locked(self.append)

    def stop(self, failed: bool) -> None:
        """Ends the threads of TensorBoard and the tracker."""
        self.events.close()
        if self.tracker:
            self.tracker.close(failed)


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a log.csv, without empty values. Garbled rows are left out, and a last one that
    was cut off when the process was killed or the disk was full."""
    text = path.read_text(encoding="utf-8", errors="replace").replace("\0", "")
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    rows = []
    for row in csv.DictReader(lines):
        with contextlib.suppress(TypeError, ValueError):
            rows.append({name: float(value) for name, value in row.items() if value})
    return [row for row in rows if row.keys() >= {"step", "epoch"}]


def read_log(run: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each column of a run's log.csv as (epochs, values), where it has values. Raises UserError if
    there is no log."""
    try:
        rows = read_rows(Path(run) / "log.csv")
    except OSError as error:
        raise UserError(f"{run} has no log.csv; it must be a run folder") from error
    measures = {}
    for name in set().union(*rows) - {"step", "epoch"}:
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        measures[name] = tuple(np.array(points).T)
    return measures
