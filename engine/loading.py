"""The processes and threads that load batches."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, get_worker_info
from tqdm import tqdm

from engine.cli import UserError, plural
from engine.devices import usable_cores
from engine.order import TrainingOrder

PREFETCHED = 2  # batches each loading process prepares ahead


def load_batches(
    dataset: Dataset,
    order: TrainingOrder,
    workers: int = 0,
    pin: bool = False,
    collate: Callable | None = None,
):
    """Yields batches in the given order, each `collate` of a list of items. `workers` are loading
    processes, 0 a thread; -1: one for each core, up to 16, or 4 where processes aren't forked.
    `pin`: into pinned memory, from which copies to a GPU are asynchronous."""
    context = multiprocessing.get_context()  # fork, forkserver or spawn
    forked = context.get_start_method() == "fork"
    if workers < 0:
        # The processes of a machine share its cores. A worker that is not forked takes as much
        # memory as importing PyTorch.
        cores = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        workers = max(1, min(cores, 16 if forked else 4))
    if workers and len(dataset):
        item = dataset.__getitems__([0])[0]
        item_bytes = sum(getattr(value, "nbytes", 0) for value in item.values())
        workers = fit_shared_memory(workers, item_bytes * order.batch_size)
    loader = DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        prefetch_factor=PREFETCHED if workers else None,
        collate_fn=partial(in_shared_memory, collate=collate),
        pin_memory=pin,
        worker_init_fn=ignore_stop_requests,
        multiprocessing_context=context if workers else None,
        generator=torch.Generator(),  # the default one would consume the training's random numbers
    )
    if not workers:
        yield from prefetch(iter(loader))
        return
    with stop_requests_waiting(forked):
        batches = iter(loader)
    yield from batches


def fit_shared_memory(workers: int, batch_bytes: int) -> int:
    """The number of loading processes whose batches fit into shared memory, at most `workers`. A
    container often has 64 MB of it."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return workers
    free = shutil.disk_usage(folder).free
    batches = int(0.9 * free / max(1, batch_bytes)) - 2  # two are in use
    fitting = max(0, batches // PREFETCHED)
    if fitting >= workers:
        return workers
    how = plural(fitting, "process", "processes") if fitting else "a thread"
    reason = f"{folder} has {free / 1e6:.3g} MB free (docker run --shm-size=8g gives more)"
    print(f"loading with {how}, not {workers} processes: {reason}")
    return fitting


def in_shared_memory(items, collate: Callable | None) -> dict:
    """The batch of a loading process. DataLoader would put it into shared memory in a thread, where
    a full /dev/shm makes training wait for ever."""
    batch = collate(items) if collate else items
    if get_worker_info():
        for value in batch.values():
            if isinstance(value, Tensor):
                value.share_memory_()
    return batch


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


AHEAD = min(8, usable_cores())  # items that `overlap` reads ahead, and finishes at the same time

SMALL = 2**20  # pixels of an image of which each core may translate one
LARGE_IMAGE = threading.Lock()  # held by the only larger one that is translated


def choose_overlap(network: nn.Module, items: int, pixels: int):
    """How a network translates so many items, the first of which has so many pixels."""
    on_cpu = next(network.parameters()).device.type == "cpu"
    return overlap_on_cores if on_cpu and items > 1 and pixels <= SMALL else overlap


def overlap(items, read, compute, finish, ahead: int = AHEAD):
    """Yields finish(compute(read(item))) for each item, in order. `compute`, the network, runs in
    this thread; the others run in threads beside it. About `ahead` items wait on each side. An
    error is raised once everything before it is finished."""
    with ThreadPoolExecutor(2 * ahead) as pool:
        values = map_ahead(pool, read, items, ahead)
        yield from map_ahead(pool, finish, map(compute, values), ahead)


def overlap_on_cores(items, read, compute, finish):
    """`overlap` for a network on a CPU: each core takes an item from its start to its end. Many
    small images take a third less time than one after the other on all cores."""
    enabled, kind = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def run(item):
        with torch.autocast("cpu", kind, enabled, cache_enabled=False):  # a setting of each thread
            return finish(compute(read(item)))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(usable_cores()) as pool:
            items = iter(items)
            yield from map(run, islice(items, 1))  # alone: what it prints does not depend on others
            yield from map_ahead(pool, run, items, usable_cores())
    finally:
        torch.set_num_threads(threads)


def one_at_a_time(pixels: int):
    """A context for an image that takes much memory if it has so many pixels."""
    return LARGE_IMAGE if pixels > SMALL else contextlib.nullcontext()


def map_ahead(pool: ThreadPoolExecutor, function, items, ahead: int):
    """Yields function(item) for each item, in order, computed by a pool `ahead` items early."""
    waiting = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    for result in waiting:
        yield result.result()


def attempt(step, value):
    """step(value), or a UserError that it raises; passes on one that is given."""
    if isinstance(value, UserError):
        return value
    try:
        return step(value)
    except UserError as error:
        return error


def map_in_threads(function, items, title: str):
    """Yields function(item) for each item, in order, with a progress bar. One thread per core:
    for work that releases the GIL, such as decoding images. Closing it cancels the rest."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            yield from tqdm(pool.map(function, items), title, len(items), unit="pair")
        finally:
            pool.shutdown(cancel_futures=True)
