"""The hardware: devices, cores, random number generators, and the provenance of a measurement."""

import contextlib
import os
import platform
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from engine.cli import UserError, shell_quote


def choose_device(name: str) -> torch.device:
    """The device called `name`; auto is CUDA, else MPS, else the CPU, with a warning if that leaves
    a GPU unused. Raises UserError."""
    if name == "cpu":  # avoids initializing CUDA
        return torch.device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    usable = [index for index in range(count) if has_code_for(index)]
    names = ["cuda"] if 0 in usable else []
    names += ["mps"] if torch.backends.mps.is_available() else []
    names += ["cpu", *(f"cuda:{index}" for index in usable)]
    if name == "auto":
        name = names[0]
        if name == "cpu" and why_gpu_is_unused():
            warn_once(f"warning: {why_gpu_is_unused()}")
    if name not in names:
        known = "; ".join(
            filter(None, [", ".join(names), "cuda" not in names and why_gpu_is_unused()])
        )
        raise UserError(f"device is {name!r}; this machine has {known}")
    return torch.device(name)


warn_once = cache(lambda text: print(text, file=sys.stderr))


def has_code_for(index: int) -> bool:
    """Whether this build of PyTorch has code for a GPU: binaries (sm) of its major version, no
    newer, or PTX (compute), which the driver compiles. Builds for CUDA 13 have none for Pascal and
    Volta."""
    device = torch.cuda.get_device_capability(index)
    codes = re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(torch.cuda.get_arch_list()))
    for kind, *version in codes:
        code = tuple(map(int, version))
        if code <= device and (kind == "compute" or code[0] == device[0]):
            return True
    return not codes  # ROCm, or unknown


@cache
def why_gpu_is_unused() -> str:
    """Why PyTorch cannot use the GPU that nvidia-smi reports, and what to install; else ""."""
    text, words = "", ["nvidia-smi", "--query-gpu=compute_cap,driver_version,name"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # there is no driver
        done = subprocess.run([*words, "--format=csv,noheader"], capture_output=True, timeout=30)
        text = done.stdout.decode(errors="replace")
    found = re.match(r"(\d+)\.\d+, ([\d.]+), (.+)", text)
    if not found or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):  # hidden on purpose
        return ""
    reason = "it has no code for this GPU"
    if torch.version.cuda is None:
        reason = "it is built without CUDA"
    elif not torch.cuda.is_available():
        reason = f"CUDA {torch.version.cuda} does not run with driver {found[2]}"
    index = f"https://download.pytorch.org/whl/{'cu128' if int(found[1]) >= 10 else 'cu126'}"
    how = f"pip install --force-reinstall torch torchvision --index-url {index}"
    return f"this PyTorch does not use the {found[3].strip()}: {reason}; for one that does, {how}"


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
    return " ".join(["python", *map(shell_quote, sys.orig_argv[1:])])


def provenance(device: torch.device) -> dict[str, str]:
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
