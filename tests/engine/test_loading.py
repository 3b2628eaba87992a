"""The order of batches over a run, and what makes them: a thread, or processes."""

import os
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
import torch

from engine import loading
from engine.cli import UserError
from engine.loading import TrainingOrder, load_batches, prefetch
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
    assert list(load_batches([], workers=asked)) == []
    assert options["num_workers"] == found and options["multiprocessing_context"] is context


SLOW = [pytest.param(method, marks=pytest.mark.slow) for method in ("forkserver", "spawn")]


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="only Linux says who sent a signal")
@pytest.mark.parametrize("method", ["fork", *SLOW])
def test_a_worker_heeds_the_sigterm_of_its_trainer_alone(monkeypatch, method):
    context = loading.multiprocessing.get_context(method)
    monkeypatch.setattr(loading.multiprocessing, "get_context", lambda: context)
    items = [{"name": str(number)} for number in range(40)]
    loaded = load_batches(items, workers=1)
    first = next(loaded)
    (worker,) = context.active_children()
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    assert [first, *loaded] == items  # more than its queue holds
    loaded = load_batches(items, workers=1)
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
