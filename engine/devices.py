"""The hardware: devices, cores, random number generators, and the origin of a measurement."""

import contextlib
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from engine.cli import UserError


def choose_device(name: str) -> torch.device:
    """The device called `name`; auto is CUDA, else MPS, else the CPU. Raises UserError."""
    gpus = torch.cuda.device_count()
    names = ["cuda"] if gpus else []
    names += ["mps"] if torch.backends.mps.is_available() else []
    names += ["cpu", *(f"cuda:{i}" for i in range(gpus))]
    name = names[0] if name == "auto" else name
    if name not in names:
        raise UserError(f"device is {name!r}; this machine has {', '.join(names)}")
    return torch.device(name)


def device_of(name: str) -> torch.device:
    """`choose_device` for this process, set as the current device: under torchrun, each process of
    a machine takes its own GPU. Raises UserError."""
    device = choose_device(name)
    if device.type == "cuda":
        device = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', device.index or 0)}")
        torch.cuda.set_device(device)
    return device


def usable_cores() -> int:
    """The cores this process may use; a scheduler may grant fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def command_line() -> str:
    """The command that started this process, ready to be repeated."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def origin(device: torch.device) -> dict[str, str]:
    """What belongs beside every figure: machine, versions, commit (+ if changed since), command."""
    name, commit = platform.machine(), ""
    with contextlib.suppress(OSError, TypeError):  # only Linux has this file
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        name = re.search(r"^model name\s*: *(.*)$", text, re.MULTILINE)[1]
    machine = f"{usable_cores()} cores of {name}, {torch.get_num_threads()} of them used"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    if device.type == "cuda":
        machine = f"{torch.cuda.get_device_name(device)}; {machine}"
        versions += f", CUDA {torch.version.cuda}"
    with contextlib.suppress(OSError):  # no git
        words = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
        folder = Path(__file__).parent
        commit = subprocess.run(words, cwd=folder, capture_output=True, text=True).stdout.strip()
    return {"machine": machine, "versions": versions, "commit": commit, "command": command_line()}


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that training draws from: the CPU's and the device's."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Restores what `rng_state` returned, ignoring other kinds of device."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


@contextlib.contextmanager
def own_randomness(seed: int, device: torch.device):
    """Seeds the generators inside the block and restores their state after it."""
    state = rng_state(device)
    # torch.manual_seed would seed every GPU, including those whose state is not restored.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    try:
        yield
    finally:
        set_rng_state(state, device)
