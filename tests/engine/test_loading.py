"""The order of batches over a run, and what makes them: a thread, or processes."""

import os
import signal
import subprocess
import threading
import time
from functools import partial
from operator import itemgetter

import numpy as np
import pytest
import torch

from engine import loading
from engine.cli import UserError
from engine.loading import (
    TrainingOrder,
    attempt,
    choose_overlap,
    load_batches,
    overlap,
    overlap_on_cores,
    prefetch,
)
from images.pixels import collate, to_device, to_tensor


def test_every_epoch_is_another_permutation():
    order = list(TrainingOrder(20, batch_size=1, epochs=3, seed=0))
    epochs = [[index for [(epoch, index)] in order if epoch == e] for e in range(3)]
    assert all(sorted(indices) == list(range(20)) for indices in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_larger_than_the_dataset_is_refused():
    with pytest.raises(UserError, match=r"takes 8 .* only 6; lower batch_size"):
        TrainingOrder(6, batch_size=8, epochs=1, seed=0)
    with pytest.raises(UserError, match=r"takes 8 .* only 6; lower batch_size"):
        TrainingOrder(6, batch_size=4, epochs=1, seed=0, processes=2)


# ---- Pixels -----------------------------------------------------------------------------------

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_pixels_become_the_same_floats_on_every_device(device, kind):
    every = np.arange(4 * 8 * 16 * 3).reshape(4, 8, 16, 3).astype(np.uint8)  # all 256 values
    images = list(every if kind is np.uint8 else (every / np.float32(200) - 1).astype(kind))
    batch = collate([{"input": image, "name": "1"} for image in images])["input"]
    assert batch.shape == (4, 3, 8, 16) and batch.element_size() == np.dtype(kind).itemsize
    found = to_device(batch, torch.device(device))
    assert found.dtype == torch.float32 and found.is_contiguous()
    assert torch.equal(found.cpu(), torch.stack([to_tensor(image) for image in images]))


# ---- The thread -------------------------------------------------------------------------------


def test_batches_are_made_in_advance_and_in_order():
    made, threads = [], threading.active_count()

    def batches():
        for number in range(1, 6):
            made.append(number)
            yield number

    taken = prefetch(batches())
    assert made == [] and next(taken) == 1
    time.sleep(0.2)
    assert made == [1, 2, 3]  # two more than are used
    assert list(taken) == [2, 3, 4, 5]
    assert threading.active_count() == threads

    taken = prefetch(batches())
    next(taken)
    taken.close()
    assert threading.active_count() == threads


def test_an_error_arrives_at_its_place_with_its_type():
    def batches():
        yield 1
        yield 2
        raise UserError("3.png is bad")

    taken, threads = prefetch(batches()), threading.active_count()
    assert [next(taken), next(taken)] == [1, 2]
    with pytest.raises(UserError, match=r"^3\.png is bad$"):
        next(taken)
    assert threading.active_count() == threads


def test_ctrl_c_ends_the_wait_for_a_batch(monkeypatch):
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)

    def batches():
        yield 1
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        yield 2

    try:
        with pytest.raises(KeyboardInterrupt):
            list(prefetch(batches()))
    finally:
        signal.signal(signal.SIGINT, previous)


# ---- Reading, computing and writing at the same time -------------------------------------------


def test_results_come_in_order_and_only_the_network_runs_in_this_thread():
    threads = {"read": set(), "compute": set(), "finish": set()}

    def step(name, delay):
        def run(value):
            threads[name].add(threading.get_ident())
            time.sleep(delay * (value % 3))
            return value + 1

        return run

    steps = step("read", 0.01), step("compute", 0), step("finish", 0.01)
    assert list(overlap(range(20), *steps)) == list(range(3, 23))
    assert threads["compute"] == {threading.get_ident()}
    assert threads["compute"].isdisjoint(threads["read"] | threads["finish"])
    assert list(overlap([], *steps)) == []


def test_on_a_cpu_each_core_translates_an_image_in_the_precision_of_this_thread():
    before = torch.get_num_threads()
    with torch.autocast("cpu", torch.bfloat16):
        ones = torch.ones(8, 8)
        steps = (
            lambda item: item,
            lambda item: ones @ ones,
            lambda y: (y.dtype, torch.get_num_threads()),
        )
        assert set(overlap_on_cores(range(9), *steps)) == {(torch.bfloat16, 1)}
    assert list(overlap_on_cores(range(9), lambda item: item, lambda item: -item, abs)) == [
        *range(9)
    ]
    assert torch.get_num_threads() == before
    with pytest.raises(UserError, match="5 is bad"):
        list(overlap_on_cores(range(9), bad_five, lambda item: item, lambda item: item))
    assert torch.get_num_threads() == before


def bad_five(item: int) -> int:
    if item == 5:
        raise UserError("5 is bad")
    return item


def test_large_images_and_gpus_take_one_at_a_time():
    cpu, gpu = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1, device="meta")
    assert choose_overlap(cpu, items=2, pixels=256**2) is overlap_on_cores
    assert choose_overlap(cpu, items=1, pixels=256**2) is overlap
    assert choose_overlap(cpu, items=2, pixels=4000**2) is overlap
    assert choose_overlap(gpu, items=2, pixels=256**2) is overlap


def test_few_items_are_in_memory_at_a_time():
    held, most = [], []

    def read(item):
        held.append(item)
        most.append(len(held))
        return item

    def compute(item):
        time.sleep(0.001)
        return item

    for item in overlap(range(50), read, compute, lambda item: item, ahead=2):
        held.remove(item)
    assert max(most) <= 2 + 1 + 3  # read ahead, in the network, finishing


@pytest.mark.parametrize("name", ["read", "compute", "finish"])
def test_everything_before_an_error_is_finished(name):
    finished = []

    def step(which):
        def run(item):
            if which == name and item == 5:
                raise UserError("the disk is full")
            if which == "finish":
                time.sleep(0.01)
                finished.append(item)
            return item

        return run

    with pytest.raises(UserError, match="the disk is full"):
        list(overlap(range(99), step("read"), step("compute"), step("finish"), ahead=3))
    assert set(range(5)) <= set(finished) and len(finished) < 20


def test_a_bad_item_takes_its_own_place_only():
    def read(item):
        if item % 2:
            raise UserError(f"{item} is odd")
        return item

    read, compute = partial(attempt, read), partial(attempt, lambda item: -item)
    results = list(overlap(range(4), read, compute, lambda item: item))
    assert [results[0], results[2]] == [0, -2]
    assert [str(results[1]), str(results[3])] == ["1 is odd", "3 is odd"]


# ---- The processes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "asked", "found"), [("fork", -1, 16), ("spawn", -1, 4), ("spawn", 9, 9)]
)
def test_fewer_processes_where_each_imports_everything(monkeypatch, method, asked, found):
    context = loading.multiprocessing.get_context(method)
    monkeypatch.setattr(loading.multiprocessing, "get_context", lambda: context)
    monkeypatch.setattr(loading, "usable_cores", lambda: 32)
    options = {}
    monkeypatch.setattr(loading, "DataLoader", lambda data, **given: options.update(given) or [])
    assert list(load_batches([], order=[], workers=asked)) == []
    assert options["num_workers"] == found and options["multiprocessing_context"] is context


class Items(list):
    """A dataset as `load_batches` takes it."""

    def __getitems__(self, items: list[tuple[int, int]]) -> list[dict]:
        return [self[item if isinstance(item, int) else item[1]] for item in items]


SLOW = [pytest.param(method, marks=pytest.mark.slow) for method in ("forkserver", "spawn")]


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="only Linux says who sent a signal")
@pytest.mark.parametrize("method", ["fork", *SLOW])
def test_a_worker_heeds_the_sigterm_of_its_trainer_alone(monkeypatch, method):
    context = loading.multiprocessing.get_context(method)
    monkeypatch.setattr(loading.multiprocessing, "get_context", lambda: context)
    items = Items({"name": str(number)} for number in range(40))
    order = TrainingOrder(len(items), batch_size=1, epochs=1, seed=0)
    expected = [items[index] for [(_, index)] in order]
    start = partial(load_batches, items, order, workers=1, collate=itemgetter(0))
    loaded = start()
    first = next(loaded)
    (worker,) = context.active_children()
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    assert [first, *loaded] == expected  # more than its queue holds
    loaded = start()
    next(loaded)
    (worker,) = context.active_children()
    worker.terminate()
    worker.join(60)
    assert worker.exitcode == 0
    loaded.close()


def test_signals_are_as_before_once_the_processes_have_started():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with loading.stop_requests_waiting(forked=True):
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert blocked - before == {signal.SIGINT, signal.SIGTERM}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
