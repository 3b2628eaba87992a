"""Weights of the PyTorch port, pytorch-CycleGAN-and-pix2pix: latest_net_G.pth, latest_net_D.pth.

Its unet generators have our layers, nested, and its discriminators ours, so the order of their
weights is that of ours.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from engine.cli import UserError


def read_weights(path: Path) -> list[Tensor]:
    """The weights of a network in order, float32, without the running statistics of norms: like
    ours, the port uses those of the batch, also at test time. Raises UserError."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        values = [v.float() for k, v in weights.items() if not re.search("running|num_batches", k)]
        if not any(value.ndim == 4 for value in values):
            raise ValueError("it holds no convolutions")
    except Exception as error:  # torch.load raises nearly anything on a bad file
        reason = str(error).partition(". ")[0] or type(error).__name__
        raise UserError(f"{path} cannot be read as weights of the port: {reason}") from error
    return values


def read_generator(path: Path) -> tuple[list[Tensor], dict[str, int]]:
    """The weights of a unet generator in our layout, and the sizes they show, fields of Config. The
    port's decoder sees the skip before what comes from below, ours behind it."""
    values = read_weights(path)
    convolutions = [i for i, value in enumerate(values) if value.ndim == 4]
    depth = len(convolutions) // 2
    for i in convolutions[depth + 1 :]:  # the decoder's, but its first, which sees no skip
        values[i] = torch.cat(values[i].chunk(2)[::-1])
    first, last = values[convolutions[0]], values[convolutions[-1]]
    sizes = {"base_channels": len(first), "in_channels": first.shape[1]}
    return values, {**sizes, "out_channels": last.shape[1], "depth": depth}
