"""What a run measures while it trains: its losses, their means, log.csv and TensorBoard events."""

import contextlib
import csv
import re
import time
from collections import deque
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from config import UserError
from processes import Processes
from utils import flush_to_disk, replacing

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
    late, but, with `look(wait=True)`, before anything is written.
    """

    def __init__(self):
        self.waiting = deque()

    def add(self, step: int, losses: Tensor, names: list[str]) -> None:
        arrived = None
        if losses.is_cuda:
            losses, arrived = losses.to("cpu", non_blocking=True), torch.cuda.Event()
            arrived.record()
        self.waiting.append((arrived, step, losses, names))
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
        lines = [",".join(self.COLUMNS) + "\n"]
        if step >= 0 and self.path.exists():
            rows = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            # The last may have been cut off when the process was killed or the disk was full.
            whole = [row for row in rows if re.fullmatch(r"\d+,.*\n", row)]
            lines += [row for row in whole if int(row.partition(",")[0]) <= step]
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

    def write(self, step: int, **values: float) -> None:
        row = {"step": step, **{name: f"{value:.6g}" for name, value in values.items()}}
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
