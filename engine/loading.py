"""The processes and threads that load batches."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from engine.devices import usable_cores
from engine.order import TrainingOrder


def load_batches(
    dataset: Dataset,
    order: TrainingOrder | None = None,
    workers: int = 0,
    pin: bool = False,
    collate: Callable | None = None,
):
    """Yields batches in the given order, each `collate` of a list of items. Without an order,
    yields each item alone. `workers` are loading processes, 0 a thread; -1: one for each core, up
    to 16, or 4 where processes aren't forked. `pin`: into pinned memory, from which copies to a GPU
    are asynchronous."""
    context = multiprocessing.get_context()  # fork, forkserver or spawn
    forked = context.get_start_method() == "fork"
    if workers < 0:
        # The processes of a machine share its cores. A worker that is not forked takes as much
        # memory as importing PyTorch.
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
        yield from prefetch(iter(loader))
        return
    with stop_requests_waiting(forked):
        batches = iter(loader)
    yield from batches


def prefetch(batches, count: int = 2):
    """Yields the items of an iterator; a thread reads `count` of them ahead."""
    pool = ThreadPoolExecutor(1)
    try:
        taken = deque(pool.submit(next, batches, None) for _ in range(count))
        while (batch := taken.popleft().result()) is not None:
            taken.append(pool.submit(next, batches, None))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


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


def map_in_threads(function, items, title: str):
    """Yields function(item) for each item, in order, with a progress bar. One thread per core:
    for work that releases Python's lock, such as decoding images. Closing it cancels the rest."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            yield from tqdm(pool.map(function, items), title, len(items), unit="pair")
        finally:
            pool.shutdown(cancel_futures=True)
