"""Tiny configurations, tiny pairs, the scripts as processes, and whether two runs are equal."""

import csv
import os
import subprocess
import sys
from pathlib import Path

# More threads are no faster with networks as tiny, and two processes' threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from PIL import Image

from utils import load_checkpoint

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
    "precision": "bf16",  # the same on every machine; auto would measure
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
    """Equality bit by bit of nested state dicts."""
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
