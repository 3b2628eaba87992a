"""When a run validates, saves and stops. `Run` does so."""

from dataclasses import dataclass
from typing import Any

from engine.cli import plural
from engine.order import TrainingOrder


@dataclass
class Schedule:
    """Answers questions; nothing changes by asking. All processes get the same answers, as `Run`
    keeps the state below equal in all of them."""

    order: TrainingOrder
    config: Any  # has validate_epochs, save_epochs ..., the fields of config.py's last section
    signal: int = 0  # the number of the signal that asked to stop
    save_overdue: bool = False  # save_minutes have passed since the last checkpoint
    waited: int = 0  # validations since the best
    best_step: int = -1  # the step of the newest validation, if it is the best

    def validation_due(self, step: int) -> bool:
        """At the start, every `validate_epochs` and at the end."""
        return self.is_last(step) or self.ends(self.config.validate_epochs, step)

    def checkpoints_due(self, step: int) -> list[str]:
        """The names of the checkpoints to write: latest at the start, every `save_epochs` and
        `save_minutes`, when the run stops and at its end; best after the best validation; one to
        keep every `keep_epochs`."""
        due = []
        if step == self.best_step:
            due.append("best")
        if step and self.ends(self.config.keep_epochs, step):
            due.append(f"epoch_{self.epoch(step):04d}")
        if self.ends(self.config.save_epochs, step) or self.unscheduled_save_due(step):
            due.append("latest")
        return due

    def unscheduled_save_due(self, step: int) -> bool:
        """Whether latest.pt is written and curves.png drawn in any epoch: at the end, when the run
        stops, and after `save_minutes`."""
        return self.is_last(step) or self.stopping or self.save_overdue

    @property
    def stopping(self) -> bool:
        """Whether a signal asked to stop, or the validations no longer get better."""
        return self.signal != 0 or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        return 0 < self.config.patience <= self.waited

    def is_last(self, step: int) -> bool:
        return step == self.order.total_steps

    def epoch(self, step: int) -> int:
        """The epochs that are complete after a step."""
        return self.order.position(step)[0]

    def ends(self, epochs: int, step: int) -> bool:
        """Whether a step ends an epoch that is a multiple of `epochs`."""
        epoch, step_of_epoch = self.order.position(step)
        return step_of_epoch == 0 and epochs > 0 and epoch % epochs == 0

    def why_finished(self) -> str | None:
        """Why a resumed run has nothing left to train; None if it has."""
        if self.stopped_early:
            return "stopped early; --patience N for more"
        if self.order.start >= self.order.total_steps:
            epochs = plural(self.epoch(self.order.start), "epoch")
            return f"is trained for {epochs}; --epochs N for more"
        return None
