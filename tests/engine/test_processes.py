"""The lock on a run's folder, files left behind, and how several processes begin."""

import shutil
import signal
import threading
import time
from datetime import timedelta

import filelock
import pytest
import torch
from conftest import config_for, refusal

import train
from engine import processes
from engine.cli import UserError
from engine.files import replacing
from engine.processes import lock_run


def test_a_second_run_in_a_folder_is_refused(pairs, copied, capsys, monkeypatch):
    monkeypatch.setattr(
        processes, "FileLock", lambda path, timeout: filelock.FileLock(path, timeout=0.2)
    )
    before = (copied / "log.csv").read_text()
    with lock_run(copied):
        line = refusal(capsys, train.main, "--resume", copied, "--epochs", 4)
        assert f"another process is training in {copied}" in line
        line = refusal(capsys, train.main, config_for(pairs, copied))
        assert f"another process is training in {copied}" in line
    assert (copied / "log.csv").read_text() == before


def test_who_resumes_waits_for_the_last_checkpoint_of_the_one_before(
    pairs, copied, tmp_path, capsys, undrawn
):
    """A scheduler may start the successor while the one before still saves."""
    run, locked = tmp_path / "run", threading.Event()
    train.train(config_for(pairs, run, epochs=1))

    def one_before():
        with lock_run(run):
            locked.set()
            time.sleep(0.5)
            shutil.copytree(copied, run, dirs_exist_ok=True)  # saves after step 18

    other = threading.Thread(target=one_before)
    other.start()
    locked.wait(10)
    capsys.readouterr()
    assert train.main(["--resume", run, "--epochs", "4"]) == 0
    other.join()
    assert "resuming after step 18 of 24" in capsys.readouterr().out


@pytest.mark.parametrize("rank", [None, "1"])
def test_a_second_signal_stops_at_once_unless_torchrun_may_have_passed_it_on(rank, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    if rank:
        monkeypatch.setenv("RANK", rank)
    before = signal.signal(signal.SIGTERM, lambda *_: ends.append(1))
    ends = []
    try:
        stop = processes.StopRequest()
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        assert ends == ([] if rank else [1])
        stop.end()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    left = tmp_path / "checkpoints" / ".latest.pt.123.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    (tmp_path / ".mine.tmp").write_text("mine")
    with lock_run(tmp_path):
        assert not left.exists()
    assert (tmp_path / ".mine.tmp").exists()


def test_writing_to_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be written"), replacing(tmp_path / "file" / "x"):
        pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("device, nccl, backend", [
    ("cpu", True, "gloo"), ("cuda", True, "cpu:gloo,cuda:nccl"), ("cuda", False, "gloo"),
])  # fmt: skip
def test_processes_meet_by_what_this_build_has_and_wait_for_a_validation(
    monkeypatch, device, nccl, backend
):
    begun = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: nccl)
    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda name, **options: begun.update(options, name=name),
    )
    processes.Processes(torch.device(device))
    assert begun == {"name": backend, "timeout": timedelta(hours=2)}


def test_training_runs_in_a_thread(pairs, tmp_path, undrawn):
    """A server or a notebook may start it there; only the main thread gets signals."""
    codes = []
    config = config_for(pairs, tmp_path / "run", epochs=1)
    thread = threading.Thread(target=lambda: codes.append(train.train(config)))
    thread.start()
    thread.join()
    assert codes == [0]
