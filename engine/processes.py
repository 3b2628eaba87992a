"""The processes of a run: ranks, signals, the lock on its folder."""

import contextlib
import os
import re
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from engine.cli import UserError
from engine.files import retry_while_locked


class Processes:
    """The processes that train a run together: those torchrun started, or this one alone."""

    def __init__(self, device: torch.device):
        self.device = device
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.first = self.rank == 0  # validates and writes for all
        self.agree_steps = 10 if self.size > 1 else 1  # between agreements on clocks and signals
        if self.size > 1:
            nccl = device.type == "cuda" and torch.distributed.is_nccl_available()  # not on Windows
            backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
            # Long, as the others wait while the first validates.
            torch.distributed.init_process_group(backend, timeout=timedelta(hours=2))

    def __str__(self) -> str:
        return f"{self.device}, {self.size} processes" if self.size > 1 else str(self.device)

    def __enter__(self):
        if not self.first:  # the first process prints for all; errors still go to stderr
            sys.stdout = open(os.devnull, "w", encoding="utf-8", errors="replace")
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self.size == 1:
            return
        if error is None:  # after an error, the others may never arrive
            self.wait()  # gloo may hang if a process leaves while another still works
            torch.distributed.destroy_process_group()
            return
        # torchrun ends all processes once one has ended; this one first reports why.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        lost = re.search("gloo|nccl|connection", str(error), re.IGNORECASE)
        if isinstance(error, RuntimeError) and lost:
            message = f"process {self.rank} of {self.size} lost the others; continue with --resume"
            raise UserError(message) from error

    def data_parallel(self, network):
        """A network whose gradients are averaged over the processes. None stays None."""
        if self.size == 1 or network is None:
            return network
        return torch.nn.parallel.DistributedDataParallel(network)

    def seed_noise(self, seed: int) -> None:
        """Gives every process but the first a noise of its own."""
        if not self.first:
            torch.manual_seed(seed + self.rank)

    def mean(self, tensor: Tensor) -> Tensor:
        if self.size > 1:
            tensor = tensor.clone()
            torch.distributed.all_reduce(tensor)
        return tensor / self.size

    def largest(self, *numbers: int) -> list[int]:
        """The maximum of each number over the processes."""
        if self.size == 1:
            return list(numbers)
        tensor = torch.tensor(numbers)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
        return tensor.tolist()

    def gather(self, state) -> list:
        """The `state` of each process, ordered by rank."""
        states = [state] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(states, state)
        return states

    def wait(self) -> None:
        if self.size > 1:
            torch.distributed.barrier()


class StopRequest:
    """Catches the first Ctrl-C or SIGTERM, so that the loop can save; the next one stops at once,
    except under torchrun, which may pass on the same one. `signal` is its number, or 0."""

    def __init__(self):
        self.signal = 0
        in_main = threading.current_thread() is threading.main_thread()  # others get no signals
        numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
        self.handlers = {number: signal.signal(number, self.note) for number in numbers}

    def end(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def note(self, number: int, frame) -> None:
        self.signal = number
        if "RANK" not in os.environ:
            self.end()
        # print() is not reentrant: the signal may have interrupted another print.
        if os.environ.get("RANK", "0") == "0":
            os.write(2, b"\nstopping: saving a checkpoint after this step\n")


@contextlib.contextmanager
def lock_run(folder: Path):
    """Locks a run's folder against other runs and removes half-written files of killed ones. Of
    several processes, the first does so for all. Raises UserError if the folder is in use."""
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Wait: data loading processes outlive a killed trainer by seconds and hold its lock.
    lock = FileLock(folder / ".lock", timeout=10)
    try:
        lock.acquire(poll_interval=0.1)
    except Timeout as error:
        message = f"another process is training in {folder}; wait, or give another --output"
        raise UserError(message) from error
    except NotImplementedError:
        print(f"the file system of {folder} has no locks: make sure nothing else trains in it")
    try:
        for place in (folder, folder / "samples", folder / "checkpoints"):
            for left in place.glob(".*.[0-9]*.tmp"):  # named by files.replacing
                retry_while_locked(left.unlink)
        yield
    finally:
        lock.release()
