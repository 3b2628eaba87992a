"""The process that trains: its machine, the others beside it, signals, and its hold on the run."""

import contextlib
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.distributed
from filelock import FileLock, Timeout
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from config import Config, UserError


def choose_device(name: str) -> torch.device:
    """The device of `config.device`; auto is CUDA, else MPS, else the CPU. Raises UserError."""
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device is {name!r}; it can be auto, cpu, cuda, cuda:N or mps") from error
    no_cuda = device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    no_mps = device.type == "mps" and not torch.backends.mps.is_available()
    if no_cuda or no_mps:
        raise UserError(f"device is {name!r}; torch finds none on this machine")
    return device


def device_of(config: Config) -> torch.device:
    """The device of this process, set as PyTorch's current one: by default, of several on a machine
    each has a GPU of its own. Raises UserError."""
    if config.device.startswith("cuda:") and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"device is {config.device!r}, but each of several processes needs a GPU of its own; "
            "leave it at auto"
        )
    device = choose_device(config.device)
    if device.type == "cuda":
        if device.index is None:
            device = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(device)
    return device


def usable_cores() -> int:
    """Those of this process; a scheduler may have given it fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def command_line() -> str:
    """The command that started this process, as it can be given again."""
    return shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])


def origin(device: torch.device) -> dict[str, str]:
    """What has to stand beside every figure that this process measures: the machine, the versions,
    the commit of the code (with a + if it was changed since) and the command."""
    names = [platform.processor() or platform.machine()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = re.findall(r"^model name\s*: *(.*)$", cpuinfo.read_text(), re.MULTILINE)
        names = models or names
    threads = f"{torch.get_num_threads()} of them used"
    machine = f"{usable_cores()} cores of {names[0]}, {threads}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    if device.type == "cuda":
        machine = f"{torch.cuda.get_device_name(device)}; {machine}"
        versions += f", CUDA {torch.version.cuda}"
    commit = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # no git, or no repository
        words = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
        folder = Path(__file__).parent
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
        commit = done.stdout.strip()
    return {
        "machine": machine,
        "versions": versions,
        "commit": commit,
        "command": command_line(),
    }


class Processes:
    """Those that train a run together: as many as torchrun started, or this one alone."""

    def __init__(self, device: torch.device):
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.first = self.rank == 0  # it alone validates and writes
        # Steps from one agreement to the next about what clocks and signals ask for.
        self.agree_steps = 10 if self.size > 1 else 1
        if self.size > 1:
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            torch.distributed.init_process_group(backend)

    def __enter__(self):
        if not self.first:  # one line for all is enough; errors go to stderr
            self.stdout, sys.stdout = sys.stdout, open(os.devnull, "w")
        return self

    def __exit__(self, kind, error, trace) -> None:
        if not self.first:
            sys.stdout.close()
            sys.stdout = self.stdout
        if self.size > 1 and error is None:  # after an error the others may never come
            self.wait()  # gloo may hang where one leaves while another still works
            torch.distributed.destroy_process_group()
        lost = re.search("gloo|nccl|connection", str(error), re.IGNORECASE)
        if self.size > 1 and isinstance(error, RuntimeError) and lost:
            raise UserError(
                f"process {self.rank} of {self.size} lost the others, one of which has ended; the "
                "last checkpoint is whole, and --resume goes on from it"
            ) from error

    def share(self, model):
        """The `train.Model` with gradients that are means over the processes."""
        if self.size == 1:
            return model
        discriminator = model.discriminator and DistributedDataParallel(model.discriminator)
        generator = DistributedDataParallel(model.generator)
        return model._replace(generator=generator, discriminator=discriminator)

    def mean(self, tensor: Tensor) -> Tensor:
        if self.size > 1:
            tensor = tensor.clone()
            torch.distributed.all_reduce(tensor)
        return tensor / self.size

    def largest(self, *numbers: int) -> list[int]:
        """Of each number the largest that a process has."""
        if self.size == 1:
            return list(numbers)
        tensor = torch.tensor(numbers)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
        return tensor.tolist()

    def gather(self, state) -> list:
        """What each process has, in the order of their ranks."""
        states = [state] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(states, state)
        return states

    def wait(self) -> None:
        if self.size > 1:
            torch.distributed.barrier()


class StopRequest:
    """Notes Ctrl-C and SIGTERM, so that the loop can stop after a step; a second one stops at once.

    `signal` is the number of the one that came, or 0.
    """

    def __enter__(self):
        self.signal = 0
        numbers = (signal.SIGINT, signal.SIGTERM)
        self.handlers = {number: signal.signal(number, self.note) for number in numbers}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def note(self, number: int, frame) -> None:
        self.signal = number
        self.__exit__()
        # print() could meet itself here, when the signal came in the middle of another print.
        if os.environ.get("RANK", "0") == "0":
            os.write(2, b"\nstopping: saving a checkpoint after this step\n")


@contextlib.contextmanager
def alone_in(folder: Path):
    """Keeps other runs from training in a folder meanwhile, and removes what one that was killed
    left half written. Of several processes of a run the first does so for all. Raises UserError if
    another run is at it."""
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Not at once: loading processes outlive a killed trainer by seconds and hold its lock.
    lock = FileLock(folder / ".lock", timeout=10)
    try:
        lock.acquire(poll_interval=0.1)
    except Timeout as error:
        raise UserError(
            f"another process is training in {folder}; wait for it, or give another --output"
        ) from error
    except NotImplementedError:
        print(f"{folder} is on a file system without locks: nothing else may train in it")
    try:
        for place in (folder, folder / "samples", folder / "checkpoints"):
            for left in place.glob(".*.tmp"):
                if re.search(r"\.\d+\.tmp$", left.name):  # named by utils.replacing
                    left.unlink()
        yield
    finally:
        lock.release()


class Background:
    """Does one thing at a time in a thread. What goes wrong there is raised by the next call.

    At its end as a context nothing is left to be done, after an error as well.
    """

    def __init__(self):
        self.pool = ThreadPoolExecutor(1)
        self.task = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.pool.shutdown()
        if error is None:
            self.wait()

    def do(self, function, *arguments, **options) -> None:
        """Begins it, once what was begun before is done."""
        self.wait()
        self.task = self.pool.submit(function, *arguments, **options)

    def wait(self) -> None:
        task, self.task = self.task, None
        if task:
            task.result()
