"""Batches: their order over a whole run, and the processes that load them."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from engine.cli import UserError
from engine.devices import usable_cores


@dataclass
class TrainingOrder(Sampler):
    """The batches of a whole run from step `start` on, each a list of (epoch, index). Every epoch
    is a permutation that depends on the seed and the epoch alone; what is left over without a full
    batch is dropped. Each of several `processes` takes the share of its `rank` of every step."""

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
        processes: in the same epoch after as many of its items; a partial step is seen again."""
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


def load_batches(
    dataset: Dataset, order: TrainingOrder | None = None, workers: int = 0, pin: bool = False
) -> DataLoader:
    """Batches of dicts of tensors (C, H, W) and strings in the given order, or without one each
    item alone. `workers` are loading processes; -1: one for each core, up to 16. `pin`: into pinned
    memory, from which copies to a GPU are asynchronous."""
    if workers < 0:
        # The processes of a machine share its cores, and each worker takes memory.
        cores = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        workers = max(1, min(cores, 16))
    return DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=ignore_stop_requests,
        generator=torch.Generator(),  # the default one would draw from the training's
    )


def collate(items: list[dict]) -> dict[str, Tensor | list[str]]:
    """Stacks tensors in NumPy, on one thread, as `images.to_tensor`; lists strings."""
    batch = {key: [item[key] for item in items] for key in items[0]}
    for key, values in batch.items():
        if isinstance(values[0], Tensor):
            batch[key] = torch.from_numpy(np.stack(values))
    return batch


def ignore_stop_requests(worker: int) -> None:
    """Keeps a worker loading when the whole job is asked to stop. Ctrl-C and a scheduler's SIGTERM
    reach every process, but the trainer still has a step to finish and a checkpoint to write. A
    SIGTERM of the trainer itself ends the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux; elsewhere, no scheduler sends one
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=exit_at_parents_sigterm, daemon=True).start()


def exit_at_parents_sigterm() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def in_threads(function, items, title: str):
    """Yields function(item) for each item, in order, with a progress bar. One thread per core:
    for work that releases Python's lock, such as decoding images. Closing it cancels the rest."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            yield from tqdm(pool.map(function, items), title, len(items), unit="pair")
        finally:
            pool.shutdown(cancel_futures=True)
