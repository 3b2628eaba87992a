"""A run: one folder with log.csv, tensorboard/, samples/, curves.png, checkpoints/latest.pt and, as
a fallback, previous.pt. When they are written, and how a run resumes."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from engine.cli import UserError, quoted
from engine.curves import draw_curves, draw_progress, warnings
from engine.devices import origin, rng_state, set_rng_state
from engine.files import tensors_of
from engine.images import save_image
from engine.loading import TrainingOrder
from engine.log import Log, Meter, read_log
from engine.processes import Processes, StopRequest


@dataclass
class Run:
    """Writes the log, samples and checkpoints of a run. The block `with run:` is its training."""

    folder: Path
    parts: dict  # the networks and Adam optimizers that a checkpoint holds, by name
    order: TrainingOrder  # its `start` is the step to resume after
    data: str  # a fingerprint of the training data, which must not change
    schedule: Any  # has log_steps, validate_epochs ..., the fields of config.py's last section
    processes: Processes
    losses: dict[str, str]  # columns of the losses in log.csv, and their names in the progress bar
    columns: list[str]  # all columns of log.csv
    save_checkpoint: Callable  # writes one, called with a path and its contents as keywords

    def __post_init__(self):
        self.meter = Meter(list(self.losses), self.processes)
        self.origin = origin(self.processes.device)
        self.seconds = 0.0  # of training before this process
        self.begun = time.monotonic()
        self.resumed = False
        self.latest = self.folder / "checkpoints" / "latest.pt"
        self.best = self.folder / "checkpoints" / "best.pt"
        self.due = [self.latest]  # checkpoints to write next
        if self.schedule.best_by != "none":
            self.due.append(self.best)
        self.drawing = False  # whether curves.png is written with them
        self.signal = 0  # the number of the signal that asked to stop
        self.warned = set()
        self.waited = 0  # validations since the best
        self.stopped_early = 0  # whether these are too many

    def resume(self, checkpoint: dict) -> None:
        """Restores the state that `save` saved. Raises UserError if anything does not fit."""
        step = checkpoint["step"]
        if self.processes.largest(step, -step) != [step, -step]:
            raise UserError("the processes found different checkpoints; start them again")
        if checkpoint.get("pairs", self.data) != self.data:
            raise UserError("the training pairs are not those this run began with; restore them")
        try:
            rng = checkpoint["rng"]
            self.order.resume(step, checkpoint.get("shift", 0), len(rng))
            for name, part in self.parts.items():
                restore(part, checkpoint.pop(name))  # pop frees the memory
            if self.processes.rank < len(rng):
                set_rng_state(rng[self.processes.rank], self.processes.device)
            self.meter.resume(checkpoint["losses"], checkpoint["losses_steps"])
            self.seconds = float(checkpoint.get("seconds", math.nan))  # earlier versions: unknown
            self.waited = int(checkpoint.get("waited", 0))
        except UserError:
            raise
        except Exception as error:  # a damaged checkpoint can hold anything
            raise UserError(f"the checkpoint of {self.folder} does not fit: {error}") from error
        self.stopped_early = int(0 < self.schedule.patience <= self.waited)
        self.resumed = True
        print(f"resuming after step {step} of {self.order.total_steps}")

    def is_over(self) -> bool:
        """Whether nothing is left to train; prints why."""
        if self.stopped_early:
            reason = "stopped early; --patience N"
        elif self.order.start >= self.order.total_steps:
            epochs, _ = self.order.position(self.order.start)
            reason = f"is trained for {epochs} epochs; --epochs N"
        else:
            return False
        print(f"{self.folder} {reason} for more")
        return True

    def __enter__(self):
        start = self.order.start if self.resumed else -1
        self.log = Log(self.folder, self.columns, start) if self.processes.first else None
        if self.log:  # of validations before
            _, scores = read_log(self.folder).get(f"val_{self.schedule.best_by}", (0, []))
            self.scores = list(scores) if self.best.exists() else []
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
            self.log.events.close()  # it has a thread

    def record(
        self, step: int, losses: dict[str, Tensor], images: list[str], **values: float
    ) -> None:
        """Counts a step; every `log_steps`, writes a row with the mean losses and `values`. Raises
        UserError if a loss is not finite."""
        self.meter.add(step, losses, images)
        self.bar.update(self.order.items_per_step)
        logging = step % self.schedule.log_steps == 0
        if logging or step == self.order.total_steps:
            self.meter.check(step)
            row = self.meter.row()
            means = [f"{title} {row[name]:.3f}" for name, title in self.losses.items()]
            self.bar.set_postfix_str("  ".join(means), refresh=False)
            self.write(step, **row, **values)
        if logging:
            self.meter.reset()

    def write(self, step: int, **values: float) -> None:
        """Adds values to the log's row of a step."""
        if self.log:
            epoch, step_of_epoch = self.order.position(step)
            self.log.write(step, epoch=epoch + step_of_epoch / self.order.steps_per_epoch, **values)

    def every(self, epochs: int, step: int) -> bool:
        """Whether a step ends an epoch that is a multiple of `epochs`."""
        epoch, step_of_epoch = self.order.position(step)
        return step_of_epoch == 0 and epochs > 0 and epoch % epochs == 0

    def validation_due(self, step: int) -> bool:
        """At the start, every `validate_epochs` and at the end; in the first process."""
        due = step == self.order.total_steps or self.every(self.schedule.validate_epochs, step)
        if due and self.processes.first:
            check_finite(self.state(), step)
        return due and self.processes.first

    def add_validation(self, step: int, scores: dict[str, float], grid: Image.Image) -> None:
        """Logs and prints mean scores, as val_..., and saves the sample grid."""
        epoch, _ = self.order.position(step)
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
        if self.schedule.best_by in scores:
            self.scores.append(float(f"{scores[self.schedule.best_by]:.6g}"))  # as in the log
        self.meter.restart_clock()

    def validations_since_best(self) -> int:
        best = min if self.schedule.best_by == "l1" else max
        return len(self.scores) - 1 - self.scores.index(best(self.scores))

    @property
    def stopping(self) -> bool:
        return bool(self.signal or self.stopped_early)

    def checkpoint_due(self, step: int) -> bool:
        """Every `save_epochs` and `save_minutes`, at a signal and at the end. All processes must
        call this after each step, as they agree on signals and clocks."""
        last = step == self.order.total_steps
        overdue = 0
        if step % self.processes.agree_steps == 0:
            late = time.monotonic() - self.saved_at > self.schedule.save_minutes * 60
            self.signal, overdue = self.processes.largest(self.stop.signal, int(late))
        self.due = []
        validated = last or self.every(self.schedule.validate_epochs, step)
        if validated and self.schedule.best_by != "none":
            waited = self.validations_since_best() if self.processes.first else 0
            (self.waited,) = self.processes.largest(waited)
            self.stopped_early = int(0 < self.schedule.patience <= self.waited)
            if not self.waited:
                self.due.append(self.best)
        if self.every(self.schedule.keep_epochs, step):
            epoch, _ = self.order.position(step)
            self.due.append(self.latest.with_name(f"epoch_{epoch:04d}.pt"))
        self.drawing = bool(last or self.stopping or overdue)
        if self.drawing or self.every(self.schedule.save_epochs, step):
            self.due.append(self.latest)
        return bool(self.due)

    def save(self, step: int) -> None:
        """Writes the due checkpoints, with everything that resuming needs."""
        losses = self.processes.mean(self.meter.losses)
        rng = self.processes.gather(rng_state(self.processes.device))
        if self.processes.first:
            state = self.state()
            check_finite(state, step)
            self.log.flush()
            state |= {
                "step": step,
                "steps_per_epoch": self.order.steps_per_epoch,
                "shift": self.order.shift,
                "pairs": self.data,
                "seconds": self.elapsed(),
                "origin": self.origin,
                "losses": losses,
                "losses_steps": self.meter.steps,
                "waited": self.waited,
                "rng": rng,
            }
            for path in self.due:
                self.save_checkpoint(path, **state)
            if self.drawing:
                draw_curves(self.folder)
        self.saved_at = time.monotonic()
        self.meter.restart_clock()

    def state(self) -> dict:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def elapsed(self) -> float:
        """Seconds of training, including those before the run was resumed."""
        return self.seconds + time.monotonic() - self.begun

    def report(self, step: int) -> int:
        """Prints how the run ended after `step`. Returns the exit code: 0, or 128 + signal."""
        folder = quoted(self.folder)
        if step < self.order.total_steps and not self.stopped_early:
            print(f"stopped after step {step}; resume: python train.py --resume {folder}")
            return 128 + self.signal
        seconds = self.elapsed()
        took = "" if math.isnan(seconds) else f" in {timedelta(seconds=round(seconds))}"
        epochs, _ = self.order.position(step)
        print(f"trained for {epochs} epoch{'s'[: epochs > 1]}{took}")
        if self.stopped_early:
            count, name = self.schedule.patience, self.schedule.best_by
            print(f"  stopped early: {count} validations in a row without a better {name}")
        print(f"  progress  {self.folder / 'progress.gif'}  (samples over the epochs)")
        print(f"  curves    {self.folder / 'curves.png'}  (or: tensorboard --logdir {folder})")
        print(f"next: python evaluate.py {folder}")
        return 0


def restore(part: torch.nn.Module | Optimizer, state: dict) -> None:
    """Loads a state dict. Of an optimizer's, only the moments, in the memory layout of the weights:
    its options suit the device it was saved on."""
    if not isinstance(part, Optimizer):
        part.load_state_dict(state)
        return
    options = part.state_dict()["param_groups"]
    part.load_state_dict({"state": state["state"], "param_groups": options})
    for parameter, moments in part.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            moments[name] = torch.empty_like(parameter).copy_(moments[name])


def check_finite(state: dict, step: int) -> None:
    """Raises UserError if a tensor is not finite: a gradient can overflow where the losses do not,
    and the next losses would show it too late."""
    if not all(tensor.isfinite().all() for tensor in tensors_of(state)):
        raise UserError(f"some weights are not finite after step {step}; try a lower learning_rate")
