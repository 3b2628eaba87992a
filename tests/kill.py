"""Kills a training process again and again, and checks that nothing is lost.

    python -m tests.kill                 25 kills
    python -m tests.kill --kills 5 --base_channels 8

A real process trains and saves a checkpoint after every step. SIGKILL ends it at a random moment:
anywhere in its life, while a checkpoint is being written, or soon after it has resumed. Then it is
resumed, and so on. In the end the run is compared with an uninterrupted one: weights,
optimizers, random numbers and log must be equal bit for bit. Exit code 0 if they are.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.conftest import REPOSITORY, TINY, arguments, log_rows, make_pairs, same_training
from utils import checkpoint_files, load_checkpoint

WAYS = ("at any moment", "while a checkpoint is written", "soon after it resumed")


def start(run: Path, fields: dict) -> subprocess.Popen:
    """Starts the run, or resumes it."""
    words = ["--resume", str(run)] if checkpoint_files(run) else arguments(**fields, output=run)
    command = [sys.executable, str(REPOSITORY / "train.py"), *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def half_written(run: Path) -> list[Path]:
    return list((run / "checkpoints").glob(".*.tmp"))


def log_size(run: Path) -> int:
    log = run / "log.csv"
    return log.stat().st_size if log.exists() else 0


def wait_until(condition, process: subprocess.Popen) -> None:
    """Looks every millisecond, until the process has ended at the latest."""
    while process.poll() is None and not condition():
        time.sleep(0.001)


def kill_once(run: Path, fields: dict, way: str) -> str | None:
    """Starts the run and kills it. Returns where that caught it, None if it had ended before."""
    process = start(run, fields)
    if way == "at any moment":
        time.sleep(random.uniform(0, 12))
    elif way == "while a checkpoint is written":
        for _ in range(random.randint(1, 4)):
            wait_until(lambda: not half_written(run), process)
            wait_until(lambda: half_written(run), process)
        time.sleep(random.uniform(0, 0.2))
    else:
        size = log_size(run)
        wait_until(lambda: log_size(run) > size, process)
        time.sleep(random.uniform(0, 2))
    if process.poll() is not None:
        assert process.returncode == 0, process.stderr.read()
        return None
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    if half_written(run):
        return "while a checkpoint was written"
    return "between two checkpoints" if checkpoint_files(run) else "before the first checkpoint"


def compare(folder: Path, kills: int, **fields) -> Counter:
    """Trains in `folder` with and without kills and asserts that the ends are equal. Returns how
    often the kills caught it where."""
    make_pairs(folder / "pairs")
    fields = {**TINY, "data_root": folder / "pairs", "save_minutes": 1e-9, **fields}
    whole, killed = folder / "whole", folder / "killed"
    process = start(whole, fields)
    _, errors = process.communicate()
    assert process.returncode == 0, errors

    caught = Counter()
    for number in range(kills):
        where = kill_once(killed, fields, WAYS[number % len(WAYS)])
        if where is None:
            raise SystemExit(f"the run ended after {number} kills; give it more --epochs")
        caught[where] += 1
        step = load_checkpoint(killed)["step"] if checkpoint_files(killed) else "none"
        print(f"kill {number + 1:3d}  {where:30}  last checkpoint: step {step}", flush=True)
    process = start(killed, fields)
    _, errors = process.communicate()
    assert process.returncode == 0, errors

    assert same_training(whole, killed), "weights, optimizers or random numbers differ"
    for row, expected in zip(log_rows(killed), log_rows(whole), strict=True):
        assert row == expected, f"the logs differ: {row} instead of {expected}"
    assert not half_written(killed)
    return caught


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25, help="how many (default: 25)")
    parser.add_argument("--epochs", type=int, default=60, help="of 6 steps each (default: 60)")
    parser.add_argument(
        "--base_channels", type=int, default=48, help="larger: checkpoints take longer to write"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    given = parser.parse_args()
    random.seed(given.seed)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        caught = compare(
            Path(folder), given.kills, epochs=given.epochs, base_channels=given.base_channels
        )
        (size,) = {file.stat().st_size for file in checkpoint_files(Path(folder) / "whole")[:1]}
    where = ", ".join(f"{count} {name}" for name, count in caught.items())
    print(f"{given.kills} kills survived ({where}) with checkpoints of {size / 1e6:.0f} MB")
    print("weights, optimizers, random numbers and log equal those of an uninterrupted run")
    print(f"it took {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
