"""Which device is chosen, and what is said of a GPU that stays unused."""

import os

import pytest
import torch

from engine import devices
from engine.cli import UserError
from engine.devices import choose_device, device_of

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]  # of CUDA 13
PASCAL, TURING, ADA, BLACKWELL = (6, 1), (7, 5), (8, 9), (12, 0)


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    for function in (devices.why_gpu_is_unused, devices.warn_once):
        function.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def with_gpus(monkeypatch, *capabilities, available=True, codes=WHEEL, cuda="13.0"):
    """A machine with GPUs and a build of PyTorch."""
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available and cuda is not None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))  # as NVML counts
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: codes)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)


def with_tool(monkeypatch, folder, line: str, code: int = 0):
    """nvidia-smi as it answers on that machine."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{line}'\nexit {code}\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_a_gpu_is_taken_if_this_build_has_code_for_it(monkeypatch):
    for capability in (TURING, ADA, BLACKWELL, (8, 6), (9, 0), (12, 1)):
        with_gpus(monkeypatch, capability)
        assert device_of("auto") == torch.device("cuda:0"), capability
    for capability, codes in {
        PASCAL: ["sm_50", "sm_60", "sm_70"],  # code for 6.0 runs on 6.1
        (10, 3): ["sm_90", "compute_90"],  # the driver compiles
        ADA: [],
        TURING: ["gfx90a", "gfx942"],  # ROCm counts in its own way
    }.items():
        with_gpus(monkeypatch, capability, codes=codes)
        assert device_of("auto") == torch.device("cuda:0"), capability


def test_the_cpu_is_chosen_without_a_look_at_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("a look"))
    assert choose_device("cpu") == torch.device("cpu")


needs_shell = pytest.mark.skipif(os.name == "nt", reason="nvidia-smi is a shell script here")
REASONS = {
    "it is built without CUDA": {"cuda": None},
    "CUDA 13.0 does not run with driver 535.104": {"available": False},
    "it has no code for this GPU": {},
}


@needs_shell
@pytest.mark.parametrize("reason", REASONS)
def test_an_unused_gpu_is_explained_once(monkeypatch, tmp_path, capsys, reason):
    with_gpus(monkeypatch, PASCAL, **REASONS[reason])
    with_tool(monkeypatch, tmp_path, "6.1, 535.104, NVIDIA GeForce GTX 1080 Ti")
    for _ in range(2):
        assert choose_device("auto") == torch.device("cpu")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: this PyTorch does not use the NVIDIA GeForce")
    assert f"GTX 1080 Ti: {reason}" in line
    assert line.endswith("torchvision --index-url https://download.pytorch.org/whl/cu126")
    with pytest.raises(UserError, match=f"^device is 'cuda'; this machine has cpu; .*{reason}"):
        choose_device("cuda")


@needs_shell
def test_the_build_named_is_one_that_has_code_for_the_gpu(monkeypatch, tmp_path, capsys):
    with_gpus(monkeypatch, cuda=None)
    with_tool(monkeypatch, tmp_path, "12.0, 572.16, NVIDIA GeForce RTX 5090")
    choose_device("auto")
    assert capsys.readouterr().err.strip().endswith("/cu128")


@needs_shell
@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_are_left_alone(monkeypatch, tmp_path, capsys, hidden):
    with_gpus(monkeypatch, available=False)
    with_tool(monkeypatch, tmp_path, "8.9, 572.16, NVIDIA L4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert choose_device("auto") == torch.device("cpu")
    assert capsys.readouterr().err == ""


@needs_shell
@pytest.mark.parametrize("answer, code", [("No devices were found", 6), ("NVIDIA-SMI failed", 9)])
def test_a_machine_without_a_gpu_gets_no_advice(monkeypatch, tmp_path, capsys, answer, code):
    with_gpus(monkeypatch, available=False)
    with_tool(monkeypatch, tmp_path, answer, code)
    assert choose_device("auto") == torch.device("cpu")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    devices.why_gpu_is_unused.cache_clear()
    assert choose_device("auto") == torch.device("cpu")
    assert capsys.readouterr().err == ""


def test_another_gpu_of_the_machine_may_fit(monkeypatch):
    with_gpus(monkeypatch, PASCAL, ADA)
    assert device_of("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="device is 'cuda:0'; this machine has cpu, cuda:1"):
        device_of("cuda:0")


def test_several_processes_take_a_gpu_each(monkeypatch):
    with_gpus(monkeypatch, *[ADA] * 4)
    assert [device_of(name).index for name in ("auto", "cuda", "cuda:1")] == [0, 0, 1]
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [device_of(name).index for name in ("auto", "cuda", "cuda:1")] == [3, 3, 3]
    assert device_of("cpu").type == "cpu"
    with pytest.raises(UserError, match=r"device is 'cuda:4'; this machine has cuda, .*cuda:3$"):
        device_of("cuda:4")
