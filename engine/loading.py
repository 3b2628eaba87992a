"""Batches: their order over a whole run, and the processes that load them."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from engine.cli import UserError
from engine.devices import usable_cores
from engine.images import to_tensor


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


def load_batches(
    dataset: Dataset, order: TrainingOrder | None = None, workers: int = 0, pin: bool = False
):
    """Yields batches in the given order: dicts of tensors (B, C, H, W) and lists of strings; see
    `to_device`. Without an order, each item alone. `workers` are loading processes, 0 a thread; -1:
    one for each core, up to 16, or 4 where processes aren't forked. `pin`: into pinned memory, from
    which copies to a GPU are asynchronous."""
    context = multiprocessing.get_context()  # fork, forkserver or spawn
    forked = context.get_start_method() == "fork"
    if workers < 0:
        # The processes of a machine share its cores, and each worker takes memory; unless it is
        # forked, all that PyTorch takes.
        cores = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        workers = max(1, min(cores, 16 if forked else 4))
    alone = order is None
    loader = DataLoader(
        dataset,
        batch_size=None if alone else 1,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=None if alone else collate,
        pin_memory=pin,
        worker_init_fn=ignore_stop_requests,
        multiprocessing_context=context if workers else None,
        generator=torch.Generator(),  # the default one would draw from the training's
    )
    if not workers:
        yield from in_advance(iter(loader))
        return
    with stop_requests_waiting(forked):
        batches = iter(loader)
    yield from batches


def in_advance(batches, count: int = 2):
    """Yields the items of an iterator; a thread reads `count` of them ahead."""
    pool = ThreadPoolExecutor(1)
    try:
        taken = deque(pool.submit(next, batches, None) for _ in range(count))
        while (batch := taken.popleft().result()) is not None:
            taken.append(pool.submit(next, batches, None))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def collate(items: list[dict]) -> dict[str, Tensor | list[str]]:
    """Stacks pixels (H, W, C), as (B, C, H, W), and tensors in NumPy, on one thread, as
    `images.to_tensor`; lists strings."""
    batch = {key: [item[key] for item in items] for key in items[0]}
    for key, values in batch.items():
        if isinstance(values[0], Tensor):
            batch[key] = torch.from_numpy(np.stack(values))
        elif isinstance(values[0], np.ndarray):
            batch[key] = torch.from_numpy(np.stack(values)).permute(0, 3, 1, 2)
    return batch


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """(B, C, H, W), uint8 or float32 -> the floats of `to_tensor`, equal bit by bit, on the device.
    Bytes travel as such: they are a quarter of their floats."""
    if device.type == "cpu":
        return to_tensor(images.movedim(1, -1).numpy())
    images = images.to(device, non_blocking=device.type == "cuda")
    floats = images.to(torch.float32, memory_format=torch.contiguous_format)
    if images.dtype == torch.uint8:
        # A GPU would multiply by a number's reciprocal, which rounds differently.
        floats.div_(torch.full((), 127.5, device=device)).sub_(1)
    return floats


# SIGTERM only where a worker can tell who sent it: on Linux. Elsewhere, no scheduler sends one.
STOP_REQUESTS = {signal.SIGINT, *([signal.SIGTERM] if hasattr(signal, "sigwaitinfo") else [])}


@contextlib.contextmanager
def stop_requests_waiting(forked: bool):
    """Blocks Ctrl-C and SIGTERM. Processes started in the block inherit this: workers, which need
    seconds until they can ignore signals, and their fork server, which must outlive them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    if not forked:
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # its start would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_requests(worker: int) -> None:
    """Keeps a worker loading when the whole job is asked to stop. Ctrl-C and a scheduler's SIGTERM
    reach every process, but the trainer still has a step to finish and a checkpoint to write. A
    SIGTERM of the trainer itself ends the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if signal.SIGTERM in STOP_REQUESTS:  # it is blocked
        threading.Thread(target=exit_at_trainers_sigterm, daemon=True).start()


def exit_at_trainers_sigterm() -> None:
    trainer = multiprocessing.parent_process()  # getppid() is the fork server's, if there is one
    while trainer.is_alive():  # a server outlives a killed trainer as long as its workers do
        if (sent := signal.sigtimedwait({signal.SIGTERM}, 5)) and sent.si_pid == trainer.pid:
            break
    os._exit(0)


def in_threads(function, items, title: str):
    """Yields function(item) for each item, in order, with a progress bar. One thread per core:
    for work that releases Python's lock, such as decoding images. Closing it cancels the rest."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            yield from tqdm(pool.map(function, items), title, len(items), unit="pair")
        finally:
            pool.shutdown(cancel_futures=True)
