"""Weights of the well-known PyTorch port, junyanz's pytorch-CycleGAN-and-pix2pix: latest_net_G.pth
and latest_net_D.pth.

Its unet generators have our layers, nested, and its discriminators ours, so the order of their
weights is that of ours.
"""

import dataclasses
import re
from pathlib import Path

import torch
from torch import Tensor

from config import Config
from discriminator import PatchDiscriminator
from engine.cli import UserError
from generator import UNetGenerator

SOURCE = "http://efrosgans.eecs.berkeley.edu/pix2pix/models-pytorch"
FILE = "latest_net_G.pth"
GENERATORS = {  # on that server, and what each is given and makes
    "facades_label2photo": "label maps -> photos of facades",
    "map2sat": "maps -> aerial photos",
    "sat2map": "aerial photos -> maps",
    "edges2shoes": "edges -> photos of shoes",
    "day2night": "photos by day -> by night",
}


def refuse_address(path: str | Path) -> None:
    """Raises UserError if `path` is the address of a file, rather than a file."""
    if not re.match("https?:/", str(path)):
        return
    name = str(path).rpartition("/")[2].removesuffix(".pth")
    how = "download it and name the file"
    if name in GENERATORS:
        how = f"python -m tools.download {name} --weights fetches it"
    raise UserError(f"{path} is no file; {how}")


def read_checkpoint(path: Path) -> dict:
    """A latest_net_G.pth as a checkpoint of this project, with the latest_net_D.pth beside it if
    there is one. Raises UserError if it is not a unet generator with batch norm."""
    weights = reorder_skips(read_weights(path))
    convolutions = [weight for weight in weights if weight.ndim == 4]
    first, last = convolutions[0], convolutions[-1]
    sizes = {
        "in_channels": first.shape[1],
        "out_channels": last.shape[1],
        "base_channels": len(first),
        "depth": len(convolutions) // 2,
    }
    unfit = UserError(
        f"{path} is none of the port's unet generators with batch norm (unet_128, unet_256), the "
        "only ones that fit"
    )
    try:
        config = Config(direction="AtoB", dropout_layers="port", **sizes)
    except UserError as error:
        raise unfit from error
    with torch.device("meta"):  # names and shapes alone
        ours = UNetGenerator(**sizes).state_dict()
        names_d = list(PatchDiscriminator().state_dict())
    if [weight.shape for weight in weights] != [weight.shape for weight in ours.values()]:
        raise unfit
    generator = dict(zip(ours, weights, strict=True))
    checkpoint = {"config": dataclasses.asdict(config), "generator": generator, "step": 0}
    beside = path.with_name(path.name.replace("_G.", "_D."))
    if beside != path and beside.exists():
        weights_d = read_weights(beside)
        checkpoint["discriminator"] = dict(zip(names_d, weights_d, strict=False))
    return checkpoint


def read_weights(path: Path) -> list[Tensor]:
    """The weights of a network in order, float32, without the running statistics of norms: like
    ours, the port uses those of the batch, also at test time. Raises UserError."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        values = [v.float() for k, v in weights.items() if not re.search("running|num_batches", k)]
        if not any(value.ndim == 4 for value in values):
            raise ValueError("it holds no convolutions")
    except Exception as error:  # torch.load has no common error for bad files
        reason = str(error).partition(". ")[0] or type(error).__name__
        raise UserError(f"{path} cannot be read as weights of the port: {reason}") from error
    return values


def reorder_skips(weights: list[Tensor]) -> list[Tensor]:
    """Reorders the input channels of the decoder: the port's layers see the skip before what comes
    from below, ours behind it."""
    convolutions = [i for i, weight in enumerate(weights) if weight.ndim == 4]
    depth = len(convolutions) // 2
    reordered = list(weights)
    for i in convolutions[depth + 1 :]:  # the decoder's, but its first, which sees no skip
        reordered[i] = torch.cat(weights[i].chunk(2)[::-1])
    return reordered
