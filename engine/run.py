"""A run: one folder with log.csv, tensorboard/, samples/, curves.png, checkpoints/latest.pt and, as
a fallback, previous.pt. This module writes it; engine/schedule.py says when, engine/resume.py
restores it."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from engine.cli import UserError, plural, shell_quote
from engine.curves import draw_curves, draw_progress, warnings
from engine.devices import provenance, rng_state
from engine.fast import after_overflow
from engine.files import save_image, tensors_of
from engine.log import Log, Meter, read_log
from engine.processes import Processes, StopRequest
from engine.schedule import Schedule
from engine.trackers import Tracker


@dataclass
class Run:
    """Writes the log, samples and checkpoints of a run. The block `with run:` is its training;
    `record_step` follows each step, in every process."""

    folder: Path
    parts: dict  # the networks and Adam optimizers that a checkpoint holds, by name
    schedule: Schedule
    data: str  # a fingerprint of the training data, which must not change
    processes: Processes
    losses: dict[str, str]  # columns of the losses in log.csv, and their names in the progress bar
    columns: list[str]  # all columns of log.csv
    save_checkpoint: Callable  # writes one, called with a path and its contents as keywords

    def __post_init__(self):
        self.order, self.config = self.schedule.order, self.schedule.config
        self.checkpoints = self.folder / "checkpoints"
        self.meter = Meter(list(self.losses), self.processes, after_overflow(self.config.precision))
        self.provenance = provenance(self.processes.device)
        self.seconds = 0.0  # of training before this process
        self.begun = time.monotonic()
        self.resumed = False
        self.scores = []  # of `best_by`, one for each validation
        self.warned = set()

    def __enter__(self):
        self.log = self.open_log() if self.processes.first else None
        if self.log and (self.checkpoints / "best.pt").exists():
            _, scores = read_log(self.folder).get(f"val_{self.config.best_by}", (0, []))
            self.scores = list(scores)
        self.bar = tqdm(
            total=self.order.total_steps * self.order.items_per_step,
            initial=self.order.start * self.order.items_per_step,
            unit="image",
            mininterval=0.2 if sys.stderr.isatty() else 30,  # fewer lines in a log file
            disable=not self.processes.first,
        )
        self.stop = StopRequest()
        self.saved_at = time.monotonic()
        self.meter.restart_clock()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.stop.end()
        self.bar.close()
        if self.log and error is None:
            self.log.close()
            draw_progress(self.folder)
        elif self.log:
            self.log.stop(failed=True)

    def open_log(self) -> Log:
        start = self.order.start if self.resumed else -1
        tracked = self.config.wandb  # first: it may fail, and log.csv stays as it is
        tracker = Tracker(self.folder, self.config, self.resumed) if tracked else None
        return Log(self.folder, self.columns, start, tracker)

    def record_step(
        self, step: int, losses: dict[str, Tensor], images: list[str], **values: float
    ) -> None:
        """Counts a step; every `log_steps`, writes a row with the mean losses and `values`. Agrees
        with the other processes on signals and clocks. Raises UserError if a loss is not finite."""
        self.meter.add(step, losses, images)
        self.bar.update(self.order.items_per_step)
        row_complete = step % self.config.log_steps == 0
        if row_complete or self.schedule.is_last(step):
            self.meter.check(step)
            row = self.meter.row()
            means = [f"{title} {row[name]:.3f}" for name, title in self.losses.items()]
            self.bar.set_postfix_str("  ".join(means), refresh=False)
            self.write(step, **row, **values)
        if row_complete:
            self.meter.reset()
        if step % self.processes.agree_steps == 0:
            late = time.monotonic() - self.saved_at > self.config.save_minutes * 60
            self.schedule.signal, late = self.processes.largest(self.stop.signal, int(late))
            self.schedule.save_overdue = bool(late)

    def write(self, step: int, **values: float) -> None:
        """Adds values to the log's row of a step."""
        if self.log:
            epoch, step_of_epoch = self.order.position(step)
            self.log.write(step, epoch=epoch + step_of_epoch / self.order.steps_per_epoch, **values)

    def add_validation(self, step: int, results: tuple[dict, Image.Image] | None) -> None:
        """Logs and prints mean scores and saves the sample grid, which the first process has; the
        others pass None. Raises UserError if a weight is not finite."""
        if results:
            check_finite(self.state(), step, self.meter.advice)
            self.write_validation(step, *results)
        (self.schedule.waited,) = self.processes.largest(self.validations_since_best())
        if self.config.best_by != "none" and self.schedule.waited == 0:
            self.schedule.best_step = step
        self.meter.restart_clock()

    def write_validation(self, step: int, scores: dict[str, float], grid: Image.Image) -> None:
        epoch = self.schedule.epoch(step)
        path = self.folder / "samples" / f"epoch_{epoch:04d}.png"
        save_image(grid, path)
        self.log.image("samples", grid, step)
        text = "  ".join(f"{name.upper()} {value:#.4g}" for name, value in scores.items())
        tqdm.write(f"epoch {epoch:4d}  step {step:7d}  val {text}  {path}")
        self.write(step, **{f"val_{name}": value for name, value in scores.items()})
        for warning in warnings(self.folder, path) if step else []:
            if warning not in self.warned:
                tqdm.write(f"warning: {warning}")
            self.warned.add(warning)
        if self.config.best_by in scores:
            self.scores.append(float(f"{scores[self.config.best_by]:.6g}"))  # as in the log

    def validations_since_best(self) -> int:
        if not self.scores:
            return 0
        best = min if self.config.best_by == "l1" else max
        return len(self.scores) - 1 - self.scores.index(best(self.scores))

    def save(self, step: int) -> None:
        """Writes the due checkpoints, with everything that resuming needs. Raises UserError if a
        weight is not finite."""
        losses = self.processes.mean(self.meter.losses)
        rng = self.processes.gather(rng_state(self.processes.device))
        if self.processes.first:
            state = self.state()
            check_finite(state, step, self.meter.advice)
            self.log.flush()
            state |= {
                "step": step,
                "steps_per_epoch": self.order.steps_per_epoch,
                "shift": self.order.shift,
                "pairs": self.data,
                "seconds": self.elapsed(),
                "origin": self.provenance,
                "losses": losses,
                "losses_steps": self.meter.steps,
                "waited": self.schedule.waited,
                "rng": rng,
            }
            for name in self.schedule.checkpoints_due(step):
                self.save_checkpoint(self.checkpoints / f"{name}.pt", **state)
            if self.schedule.unscheduled_save_due(step):
                draw_curves(self.folder)
        self.schedule.save_overdue = False
        self.saved_at = time.monotonic()
        self.meter.restart_clock()

    def state(self) -> dict:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def elapsed(self) -> float:
        """Seconds of training, including those before the run was resumed."""
        return self.seconds + time.monotonic() - self.begun


def report(run: Run, step: int) -> int:
    """Prints how a run ended after `step`. Returns the exit code: 0, or 128 + signal."""
    schedule, folder = run.schedule, shell_quote(run.folder)
    if not schedule.is_last(step) and not schedule.stopped_early:
        print(f"stopped after step {step}; resume: python train.py --resume {folder}")
        return 128 + schedule.signal
    seconds, epochs = run.elapsed(), schedule.epoch(step)
    took = "" if math.isnan(seconds) else f" in {timedelta(seconds=round(seconds))}"
    print(f"trained for {plural(epochs, 'epoch')}{took}")
    if schedule.stopped_early:
        count, name = run.config.patience, run.config.best_by
        print(f"  stopped early: {count} validations in a row without a better {name}")
    print(f"  progress  {run.folder / 'progress.gif'}  (samples over the epochs)")
    print(f"  curves    {run.folder / 'curves.png'}  (or: tensorboard --logdir {folder})")
    print(f"next: python evaluate.py {folder}")
    return 0


def check_finite(state: dict, step: int, advice: str) -> None:
    """Raises UserError if a tensor is not finite: a gradient can overflow where the losses do not,
    and the next losses would show it too late."""
    if not all(tensor.isfinite().all() for tensor in tensors_of(state)):
        raise UserError(f"some weights are not finite after step {step}. {advice}")
