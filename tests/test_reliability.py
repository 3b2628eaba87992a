"""Real processes that are killed, stopped, started twice, or run out of disk; and long runs."""

import contextlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import (
    REPOSITORY,
    TINY,
    arguments,
    config_for,
    log_rows,
    run_script,
    same_training,
)

import train
from tests import kill, soak
from utils import load_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]


def wait_for_rows(run: Path, process: subprocess.Popen, rows: int) -> None:
    log, deadline = run / "log.csv", time.monotonic() + 200
    while not log.exists() or len(log.read_text().split()) < rows:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_processes(leader: subprocess.Popen, count: int) -> None:
    """Until a group has as many: trainer, resource tracker, fork server if any, 2 loaders."""
    deadline = time.monotonic() + 200
    while groups().count(str(leader.pid)) < count:
        assert leader.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def groups() -> list[str]:
    """The group of each process."""
    texts = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            texts.append(file.read_text())
    return [text.rpartition(")")[2].split()[2] for text in texts]


# ---- Kills and signals ------------------------------------------------------------------------


def test_kills_at_any_moment_lose_nothing(tmp_path):
    """The short form of `python -m tests.kill`."""
    random.seed(1)
    kill.compare(tmp_path, kills=3, epochs=8, base_channels=32)


@pytest.mark.parametrize(
    ("method", "number", "rows"),
    [
        ("fork", signal.SIGINT, 10),
        ("fork", signal.SIGTERM, 10),
        ("forkserver", signal.SIGTERM, 10),
        ("spawn", signal.SIGTERM, 10),
        ("forkserver", signal.SIGTERM, 0),  # 0: while they still import
        ("spawn", signal.SIGINT, 0),
    ],
)
def test_a_signal_saves_and_the_resumed_run_equals_an_uninterrupted_one(
    pairs, tmp_path, method, number, rows
):
    """Real processes, with data loaded by others that get the signal as well, however they are
    started: fork is the default on Linux up to Python 3.13, then forkserver; elsewhere spawn."""
    site = tmp_path / "site" / "sitecustomize.py"  # which Python imports first
    site.parent.mkdir()
    site.write_text(f"import multiprocessing\nmultiprocessing.set_start_method({method!r})\n")
    settings = {"epochs": 12, "validate_epochs": 12, "cache_gb": 0, "num_workers": 2}
    fields = arguments(data_root=pairs, **{**TINY, **settings})
    run = tmp_path / "runs" / "stopped"
    command = [sys.executable, str(REPOSITORY / "train.py"), *fields, "--output", "runs/stopped"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if rows:
        wait_for_rows(run, process, rows)
    else:
        wait_for_processes(process, 5 if method == "forkserver" else 4)
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 128 + number, errors
    assert "python train.py --resume runs/stopped" in output
    assert "Traceback" not in errors
    stopped_at = load_checkpoint(run)["step"]
    assert max(1, rows - 2) <= stopped_at < 72

    resumed = run_script("train.py", "--resume", "runs/stopped", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "next: python evaluate.py runs/stopped" in resumed.stdout

    whole = tmp_path / "whole"
    config = config_for(pairs, whole, epochs=12, validate_epochs=12)
    assert train.train(config) == 0
    assert same_training(run, whole)
    assert log_rows(run) == log_rows(whole)


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs Linux")
def test_a_killed_trainer_leaves_no_process(pairs, tmp_path):
    """A fork server and its workers keep each other alive, unless the workers watch the trainer."""
    site = tmp_path / "site" / "sitecustomize.py"
    site.parent.mkdir()
    site.write_text("import multiprocessing\nmultiprocessing.set_start_method('forkserver')\n")
    settings = {"epochs": 1000, "validate_epochs": 1000, "cache_gb": 0, "num_workers": 2}
    fields = arguments(data_root=pairs, output=tmp_path / "run", **{**TINY, **settings})
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *fields],
        env={**os.environ, "PYTHONPATH": str(site.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for_rows(tmp_path / "run", process, 10)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while left := session_of(process.pid):
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(left)
        time.sleep(0.5)


def session_of(leader: int) -> list[str]:
    """The processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(stat.with_name("cmdline").read_text().replace("\0", " "))
    return found


STARTING = {
    "train.py": [],
    "evaluate.py": ["run"],
    "tools.reproduce": ["table1"],
    "tools.benchmark": [],
}


@pytest.mark.parametrize("script", STARTING)
def test_ctrl_c_while_it_still_starts_ends_it(script, tmp_path):
    where = [str(REPOSITORY / script)] if script.endswith(".py") else ["-m", script]
    process = subprocess.Popen(
        [sys.executable, *where, *STARTING[script]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    maps, deadline = Path(f"/proc/{process.pid}/maps"), time.monotonic() + 60
    if maps.exists():  # until it imports torch
        while "libtorch" not in maps.read_text() and time.monotonic() < deadline:
            time.sleep(0.005)
    else:
        time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode in (130, -signal.SIGINT)


def hear_ctrl_c() -> None:
    """In a new process: a shell lets those in its background ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_second_process_on_a_run_is_refused_and_harms_nothing(pairs, tmp_path):
    run = tmp_path / "run"
    fields = {**TINY, "data_root": pairs, "epochs": 3000, "output": run}
    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments(**fields)]
    with open(tmp_path / "printed", "w") as printed:
        first = subprocess.Popen(command, stdout=printed, stderr=printed)
    wait_for_rows(run, first, 4)
    with ThreadPoolExecutor() as pool:
        anew, resumed = pool.map(
            lambda words: run_script("train.py", *words, cwd=tmp_path),
            (arguments(**fields), ["--resume", run]),
        )
    for second in (anew, resumed):
        assert second.returncode == 2
        assert f"error: another process is training in {run}" in second.stderr
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    assert first.wait(200) == 128 + signal.SIGTERM
    steps = [int(row["step"]) for row in log_rows(run)]
    assert steps == list(range(len(steps))) and load_checkpoint(run)["step"] == steps[-1]


# ---- Storage ----------------------------------------------------------------------------------


def mounted(options: str, script: str, cwd: Path) -> subprocess.CompletedProcess:
    """Runs a shell script beside a tmpfs at ./small, in a name space of its own."""
    (cwd / "small").mkdir()
    command = f"mount -t tmpfs -o {options} tmpfs small && {{ {script}\n}}"
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", command]
    if not shutil.which("unshare") or subprocess.run([*command[:3], "true"]).returncode:
        pytest.skip("mounting is not allowed here")
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def train_command(pairs: Path, **fields) -> str:
    words = arguments(**{**TINY, "data_root": pairs, "epochs": 3, "save_minutes": 1e-9, **fields})
    return " ".join([sys.executable, str(REPOSITORY / "train.py"), *words])


def test_a_full_disk_stops_the_run_with_its_checkpoints_whole(pairs, tmp_path):
    command = train_command(pairs, output="small/run", base_channels=8)
    # 3.6 MB: room for two checkpoints of 1.4 MB, but not for a third while it is written.
    script = f"{command}; echo code $?; cp -r small/run kept"
    done = mounted("size=3600k", script, tmp_path)
    assert "code 2" in done.stdout, done.stderr
    assert "latest.pt cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert load_checkpoint(tmp_path / "kept")["step"] > 0
    assert not list((tmp_path / "kept" / "checkpoints").glob(".*"))
    # With room again it ends as if nothing had been.
    assert train.main(["--resume", tmp_path / "kept"]) == 0
    whole = tmp_path / "whole"
    train.train(config_for(pairs, whole, base_channels=8))
    assert same_training(tmp_path / "kept", whole)
    assert log_rows(tmp_path / "kept") == log_rows(whole)


def test_a_read_only_folder_is_one_line(pairs, tmp_path):
    done = mounted("ro", train_command(pairs, output="small/run"), tmp_path)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "Read-only file system" in last and "small/run" in last
    assert "Traceback" not in done.stderr


# ---- Long runs --------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux only")
def test_memory_and_open_files_stay_flat(tmp_path):
    """The short form of `python -m tests.soak`."""
    samples = soak.soak(tmp_path, steps=300, every=50)
    memory, files = zip(*samples, strict=True)
    assert max(files[1:]) <= files[1] + 2
    assert memory[-1] < memory[1] + 30e6


def test_a_killed_trainer_has_written_what_it_printed(pairs, tmp_path):
    """Under nohup, output goes to a file, which Python would write 8 KB at a time."""
    words = arguments(data_root=pairs, output=tmp_path / "run", epochs=10**6, **TINY)
    command = [sys.executable, str(REPOSITORY / "train.py"), *words]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    printed = tmp_path / "nohup.out"
    with open(printed, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL, env=environment)
    try:
        kill.wait_until(lambda: (tmp_path / "run" / "samples" / "epoch_0004.png").exists(), process)
    finally:
        process.kill()
        process.wait()
    lines = printed.read_text(encoding="utf-8").splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch ")][:2] == ["0", "2"]


def can_mount() -> bool:
    """Whether this user may mount a small /dev/shm for a process."""
    words = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    return (
        bool(shutil.which("unshare")) and subprocess.run(words, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount")
@pytest.mark.parametrize(
    "kilobytes, line", [(128, "loading with a thread"), (200, "loading with 1 ")]
)
def test_a_small_shared_memory_means_fewer_loading_processes(pairs, tmp_path, kilobytes, line):
    """As in Docker, whose /dev/shm has 64 MB. Batches take 6 * 2 * 3 * 32 * 32 bytes = 37 KB."""
    fields = {**TINY, "load_size": 32, "batch_size": 6, "cache_gb": 0, "num_workers": 3}
    words = arguments(data_root=pairs, output=tmp_path / "run", epochs=2, **fields)
    train = shlex.join([sys.executable, str(REPOSITORY / "train.py"), *words])
    command = f"mount -t tmpfs -o size={kilobytes}k tmpfs /dev/shm && exec {train}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert line in done.stdout and "trained for 2 epochs" in done.stdout, done.stdout
