"""The order of training: which items each step of a run takes."""

from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from engine.cli import UserError


@dataclass
class TrainingOrder(Sampler):
    """The batches of a whole run from step `start` on, each a list of (epoch, index). Every epoch
    is a permutation that depends on the seed and the epoch alone; what is left over without a full
    batch is dropped. Process `rank` of `processes` takes its share of every step."""

    items: int
    batch_size: int
    epochs: int
    seed: int
    start: int = 0
    rank: int = 0
    processes: int = 1
    shift: int = 0  # the step at which epoch 0 began; not 0 if the number of processes has changed

    def __post_init__(self):
        if not self.steps_per_epoch:
            taken = f"a step takes {self.items_per_step} training pairs"
            raise UserError(f"{taken}, but there are only {self.items}; lower batch_size")

    @property
    def items_per_step(self) -> int:
        return self.batch_size * self.processes

    @property
    def steps_per_epoch(self) -> int:
        return self.items // self.items_per_step

    @property
    def total_steps(self) -> int:
        return self.shift + self.steps_per_epoch * self.epochs

    def position(self, step: int) -> tuple[int, int]:
        """The epoch of a step and its number within it, both counted from 0."""
        return divmod(step - self.shift, self.steps_per_epoch)

    def resume(self, start: int, shift: int, processes: int) -> None:
        """Continues at step `start` of a run saved with these values. With another number of
        processes, skips the items that this epoch has seen; a partial step is repeated."""
        epoch, step = divmod(start - shift, self.items // (self.batch_size * processes))
        self.start, self.shift = start, shift
        if processes != self.processes:
            step = min(step * processes // self.processes, self.steps_per_epoch)
            self.shift = start - epoch * self.steps_per_epoch - step
            print(f"{self.processes} processes instead of {processes}: the result will differ")

    def __len__(self) -> int:
        return max(0, self.total_steps - self.start)

    def __iter__(self):
        order = None
        for step in range(self.start, self.total_steps):
            epoch, batch = self.position(step)
            if order is None or batch == 0:
                order = np.random.default_rng([self.seed, epoch]).permutation(self.items)
            first = (batch * self.processes + self.rank) * self.batch_size
            yield [(epoch, int(index)) for index in order[first : first + self.batch_size]]
