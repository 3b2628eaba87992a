"""Trains for thousands of tiny steps and watches memory and open files.

    python -m tests.soak                 10000 steps
    python -m tests.soak --steps 1000

Every epoch is validated, sampled and saved, so that a leak in any of these shows. Linux only. Exit
code 0 if neither grows.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import REPOSITORY, TINY, arguments, make_pairs

STEPS_PER_EPOCH = 6  # pairs in the training split


def memory_and_files(process: int) -> tuple[int, int]:
    """Resident bytes and open files of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096, len(list(Path(f"/proc/{process}/fd").iterdir()))


def last_step(run: Path) -> int:
    log = run / "log.csv"
    if not log.exists():
        return -1
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 300))
        rows = file.read().split(b"\n")[:-1]
    number = rows[-1].partition(b",")[0] if rows else b""
    return int(number) if number.isdigit() else -1


def soak(folder: Path, steps: int, every: int, report=lambda *row: None) -> list[tuple[int, int]]:
    """(memory, open files) each `every` steps of a run of so many."""
    make_pairs(folder / "pairs")
    fields = {
        **TINY,
        "data_root": folder / "pairs",
        "epochs": -(-steps // STEPS_PER_EPOCH),
        "validate_epochs": 1,
        "save_epochs": 1,
        "ema_decay": 0.9,
        "output": folder / "run",
    }
    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments(**fields)]
    samples, due = [], 0
    with open(folder / "printed", "w") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=printed)
        while process.poll() is None:
            step = last_step(folder / "run")
            if step >= due:
                try:
                    samples.append(memory_and_files(process.pid))
                except (FileNotFoundError, IndexError, ProcessLookupError):
                    break  # it has just ended
                report(step, *samples[-1])
                due += every
            time.sleep(0.002)
    assert process.wait() == 0, (folder / "printed").read_text()[-2000:]
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    given = parser.parse_args()

    def report(step: int, memory: int, files: int) -> None:
        print(f"step {step:6d}  {memory / 1e6:7.1f} MB  {files} open files", flush=True)

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        samples = soak(Path(folder), given.steps, max(1, given.steps // 20), report)
    # From a tenth of the run on: the first epochs still fill caches.
    memory, files = zip(*samples[2:], strict=True)
    growth = memory[-1] - memory[0]
    seconds, opened = time.monotonic() - started, files[-1] - files[0]
    print(
        f"{given.steps} steps in {seconds:.0f} s. After the first tenth memory changed by ", end=""
    )
    print(f"{growth / 1e6:+.1f} MB, open files by {opened:+d}")
    sys.exit(growth > 20e6 or opened > 1)  # one is open now and then, as an image is written


if __name__ == "__main__":
    main()
