"""Counts the GPU memory that training a preset takes, without a GPU.

    python -m tools.memory                       the paper's networks at batch size 1
    python -m tools.memory edges2shoes           another preset
    python -m tools.memory --batch_size 16 --ema_decay 0.999

Takes one step on the CPU and counts what PyTorch keeps for the backward pass. Not counted: CUDA
itself, cuDNN's workspaces and tensors that live for one operation.
"""

import argparse
import weakref
from dataclasses import replace

import torch
from torch import Tensor

from config import PRESETS, Config
from engine import cli
from engine.fields import parse_preset
from tools.benchmark import random_batch
from train import Model, build_model, train_step

PRECISIONS = {"fp32": "fp32", "bf16": "bf16 or fp16"}


class Activations:
    """A context that counts the bytes kept for backward passes: `peak` at once. Each block of
    memory counts once, and those of `others`, which are there anyway, do not."""

    def __init__(self, others: list[Tensor]):
        self.peak = self.bytes = 0
        self.users = {}  # of each block
        self.others = {block(tensor) for tensor in others}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.keep, lambda kept: kept.tensor)

    def __enter__(self):
        self.hooks.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.hooks.__exit__(*error)

    def keep(self, tensor: Tensor) -> "Kept":
        kept = Kept(tensor)
        if block(tensor) not in self.others:
            size = tensor.untyped_storage().nbytes()
            self.add(block(tensor), size)
            weakref.finalize(kept, self.remove, block(tensor), size)
        return kept

    def add(self, address: int, size: int) -> None:
        self.users[address] = self.users.get(address, 0) + 1
        if self.users[address] == 1:
            self.bytes += size
            self.peak = max(self.peak, self.bytes)

    def remove(self, address: int, size: int) -> None:
        self.users[address] -= 1
        if self.users[address] == 0:
            self.bytes -= size


class Kept:
    """A tensor that the backward pass needs; gone once it has passed."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


def block(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def count_memory(config: Config) -> dict[str, float]:
    """GB of each kind of memory in a training step, and their sum. Gradients and activations of the
    generator count in full, although the former come as the latter go."""
    device = torch.device("cpu")
    model = build_model(config, device)
    x, y = random_batch(config, device)
    weights = weights_of(model)
    with Activations([*weights, x, y]) as activations:
        train_step(model, x, y, config)
    size = sum(weight.nbytes for weight in weights) / 1e9
    parts = {"weights": size, "gradients": size, "Adam": 2 * size}
    if model.average:
        parts["EMA"] = sum(weight.nbytes for weight in model.average.parameters()) / 1e9
    parts["activations"] = activations.peak / 1e9
    return {**parts, "sum": sum(parts.values())}


def weights_of(model: Model) -> list[Tensor]:
    return [weight for network in filter(None, model[:2]) for weight in network.parameters()]


def parse_arguments(argv=None) -> argparse.Namespace:
    """Returns `config`."""
    parser = cli.Parser(__doc__, "python -m tools.memory [PRESET] [--field value ...]")
    options, preset, fields = parse_preset(parser, PRESETS, "facades", argv)
    options.config = replace(preset, **fields)
    return options


def main(argv=None) -> int:
    config = parse_arguments(argv).config
    rows = {}
    for precision, title in PRECISIONS.items():
        rows[title] = count_memory(replace(config, precision=precision, fast=False))
    print(f"GB at batch size {config.batch_size}, {config.crop_size} px:\n")
    print(f"| precision | {' | '.join(rows['fp32'])} |")
    print("| --- " * (1 + len(rows["fp32"])) + "|")
    for title, parts in rows.items():
        print(f"| {title} | {' | '.join(f'{part:.2f}' for part in parts.values())} |")
    return 0


if __name__ == "__main__":
    cli.run(main)
