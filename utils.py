"""Trained generators, checkpoints and sample grids.

    from PIL import Image
    from utils import load_generator, translate

    generator = load_generator("runs/facades")
    translate(generator, Image.open("labels.png")).save("photo.png")

A checkpoint describes itself: nothing else is needed to use it.
"""

import dataclasses
import os
import platform
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from config import Config, UserError, config_from_dict
from discriminator import PatchDiscriminator
from engine.devices import choose_device
from engine.files import (
    DamagedError,
    find_damage,
    load_tensors,
    misfit,
    replacing,
    retry_while_locked,
)
from generator import EncoderDecoderGenerator, UNetGenerator
from images.grids import center_on_squares, image_grid
from images.nodata import NOWHERE, fill_nodata, mark_nodata, write_nodata
from images.pixels import to_image, to_tensor
from images.ranges import from_unit, to_unit
from images.reading import to_mode
from images.tiles import apply_in_tiles
from sharing import junyanz
from sharing.exports import WEIGHTS, is_export, read_export
from tasks import task_of

CHECKPOINT_FORMAT = 1

# ---- Networks ---------------------------------------------------------------------------------


def build_generator(config: Config) -> UNetGenerator:
    """The untrained generator of a configuration."""
    kind = {"unet": UNetGenerator, "encoder_decoder": EncoderDecoderGenerator}[config.generator]
    return kind(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        base_channels=config.base_channels,
        depth=config.depth,
        dropout=config.dropout,
        norm=config.norm,
        upsampling=config.upsampling,
        dropout_layers=config.dropout_layers,
    )


def build_discriminator(config: Config) -> PatchDiscriminator:
    """The untrained discriminator of a configuration."""
    return PatchDiscriminator(
        in_channels=config.out_channels + (config.in_channels if config.conditional else 0),
        base_channels=config.discriminator_channels,
        receptive_field=config.receptive_field,
        norm=config.norm,
    )


def load_generator(path: str | Path, device: str = "cpu", ema: bool = True) -> UNetGenerator:
    """Loads a trained generator, ready for `translate`, from a run folder, a checkpoint file, a
    folder written by tools.export, the Hugging Face Hub ("hf://owner/name", with "@revision" if
    needed) or the PyTorch port (latest_net_G.pth). `device` is as in config.py. Uses the EMA of the
    weights if the run keeps one, unless `ema=False`. The result's `.config` is the configuration it
    was trained with. Raises UserError."""
    checkpoint = load_any_checkpoint(path)
    name = "average" if ema and "average" in checkpoint else "generator"
    return with_weights(build_generator, checkpoint, name, path).to(choose_device(device))


def load_discriminator(path: str | Path, device: str = "cpu") -> PatchDiscriminator:
    """The trained discriminator of a run folder or a checkpoint file, with `.config` as above.
    Raises UserError, also if the run had no adversarial loss."""
    checkpoint = load_checkpoint(path)
    if "discriminator" not in checkpoint:
        raise UserError(f"{path} has no discriminator")
    network = with_weights(build_discriminator, checkpoint, "discriminator", path)
    return network.to(choose_device(device))


def load_any_checkpoint(path: str | Path) -> dict:
    """The checkpoint of anything that `load_generator` accepts; at least its generator and its
    configuration. Raises UserError."""
    junyanz.refuse_address(path)
    if is_export(path):
        return read_export(path)
    if Path(path).is_dir() and not checkpoint_files(path):
        raise UserError(
            f"{path} holds neither checkpoints nor {WEIGHTS}; name a folder of a run that has "
            "been saved, such as runs/demo, or of an export"
        )
    return load_checkpoint(path)


def start_from(path: str, config: Config, generator: nn.Module, discriminator: nn.Module | None):
    """Gives new networks the weights of a trained generator, anything `load_generator` accepts, and
    of its discriminator if it has one that fits. Raises UserError if the generator does not."""
    checkpoint = load_any_checkpoint(path)
    before = with_weights(build_generator, checkpoint, "generator", path).config
    fields = ("in_channels", "out_channels", "base_channels", "depth", "norm", "upsampling")
    for field in ("generator", *fields):
        there, here = getattr(before, field), getattr(config, field)
        if there != here:
            raise UserError(f"init {path} has {field} {there}, not {here}; give --{field} {there}")
    generator.load_state_dict(checkpoint["generator"])
    loaded = "the generator"
    if discriminator and not misfit(discriminator, checkpoint.get("discriminator")):
        discriminator.load_state_dict(checkpoint["discriminator"])
        loaded += " and the discriminator"
    print(f"starting from {loaded} of {path}")


def with_weights(build, checkpoint: dict, name: str, path: str | Path) -> nn.Module:
    """The network that `build` makes, with the weights `name` of a checkpoint, for inference.
    Raises UserError if they do not fit."""
    try:
        config = config_from_dict(checkpoint["config"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced
        network = build(config)
    reason = misfit(network, checkpoint[name])
    if reason:
        raise UserError(f"{path}: its {name} does not fit its configuration: {reason}")
    weights = {key: value.float().contiguous() for key, value in checkpoint[name].items()}
    network.load_state_dict(weights, assign=True)
    network.config = config
    return network.eval().requires_grad_(False)


# ---- Translation ------------------------------------------------------------------------------


@torch.inference_mode()
def generate(generator: nn.Module, x: Tensor, seed: int = 0, noise: bool = True) -> Tensor:
    """G(x, z) with z drawn from `seed`, the same on any device and in any thread. x: (B, C, H, W)
    in [-1, 1], H and W multiples of 2**depth. Use B = 1, as the paper does: norms use the
    statistics of the batch, so its images change each other."""
    return generator(x, noise=noise, random=torch.Generator().manual_seed(seed))


def generate_any_size(generator: nn.Module, x: Tensor, seed: int = 0, noise: bool = True) -> Tensor:
    """G(x, z) of one image (C, H, W) of any size, on the CPU: it is padded with its mirror image to
    a multiple of 2**depth, and the output is cropped."""
    height, width = x.shape[-2:]
    bottom, right = (-side % 2**generator.depth for side in (height, width))
    padded = np.pad(x.numpy(), ((0, 0), (0, bottom), (0, right)), mode="symmetric")
    batch = torch.from_numpy(padded)[None].to(next(generator.parameters()).device)
    return generate(generator, batch, seed, noise)[0, :, :height, :width].float().cpu()


def translate(
    generator: nn.Module,
    image: Image.Image | np.ndarray,
    seed: int = 0,
    noise: bool = True,
    mask: Image.Image | None = None,
    tile: int = 0,
) -> Image.Image | np.ndarray:
    """Translates an image of any size and mode into one of the same size; a super_resolution
    generator enlarges it. The noise is dropout, which is part of the method and stays on after
    `.eval()`: another `seed` draws another, `noise=False` turns it off. For inpainting, `mask` is
    an image of the same size, white where it is to be filled. With `tile`, in px, the network sees
    overlapping tiles of that side, one at a time: memory then does not grow with the image, but
    norms use the statistics of each tile, so colors can differ between tiles. With an input_range,
    `image` is an array (H, W, C) in its units; with a target_range, so is the result, with `nodata`
    where the image has it. An input of class numbers holds them or has their colors; outputs always
    have colors, see metrics.class_numbers.to_numbers. Raises UserError on what does not fit."""
    config = generator.config
    task = task_of(config)
    missing = NOWHERE
    if not isinstance(image, np.ndarray if config.input_range else Image.Image):
        takes = "an array" if config.input_range else "a PIL image"
        raise UserError(f"image is of type {type(image).__name__}; this generator takes {takes}")
    if config.input_range:
        if image.shape[2:] != (config.in_channels,):
            size = f"(H, W, {config.in_channels})"
            raise UserError(f"the array has the shape {image.shape}; it must be {size}")
        image = mark_nodata(image, config.nodata)
        missing = np.isnan(image)
        x = to_tensor(fill_nodata(to_unit(image, config.input_range)))
    else:
        x = to_tensor(np.asarray(to_mode(task.to_colors(image), task.channels)))
    if mask is not None:
        if config.task != "inpainting":
            raise UserError(f"a mask is for inpainting; this run's task is {config.task}")
        mask = to_tensor(np.asarray(to_mode(mask, channels=1))) > 0
        if mask.shape[1:] != x.shape[1:]:
            sizes = [f"{size.shape[2]}x{size.shape[1]}" for size in (mask, x)]
            raise UserError(f"the mask is {sizes[0]}, its image {sizes[1]}; sizes must be equal")
    run = partial(generate_any_size, generator, seed=seed, noise=noise)
    if tile or task.tile:
        run = partial(apply_in_tiles, run, side=tile or task.tile)
    y = task.translate(x, run, mask)
    if config.target_range:
        values = from_unit(y.permute(1, 2, 0).numpy(), config.target_range)
        return write_nodata(values, missing, config.nodata)
    return to_image(y)


def sample_grid(groups: list[tuple[Tensor, ...]], across: int = 1, titles=()) -> Image.Image:
    """Draws groups of images (C, H, W) in [-1, 1], such as input | output, `across` in a row."""
    images = center_on_squares([image for group in groups for image in group])
    columns = across * len(groups[0])
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    return image_grid(rows, [*titles] * (len(rows[0]) // len(groups[0])))


# ---- Checkpoints ------------------------------------------------------------------------------


def save_checkpoint(path: Path, config: Config, **state) -> None:
    """Writes a checkpoint, atomically, and verifies that it can be read back. `state` is what
    resuming needs: tensors, numbers, strings and containers of them, so that loading it runs no
    code. latest.pt becomes previous.pt once its successor is verified, unless it is damaged. Raises
    UserError."""
    checkpoint = {
        "format": CHECKPOINT_FORMAT,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "config": dataclasses.asdict(config),
        **state,
    }
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:  # to a path, torch.save hides the errors of a full disk
            torch.save(checkpoint, file)
        reason = find_damage(temporary)
        if reason:
            raise UserError(f"{path} was damaged while it was written ({reason}): check the disk")
        if path.name == "latest.pt" and path.exists() and not find_damage(path):
            retry_while_locked(os.replace, path, path.with_name("previous.pt"))


def run_folder(path: str | Path) -> Path:
    """The run of a folder or a checkpoint file; for a loose file, the folder that holds it."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    return folder.parent if folder.name == "checkpoints" else folder


def checkpoint_files(path: str | Path) -> list[Path]:
    """The checkpoints of a run folder, newest first; or the file itself."""
    path = Path(path)
    if not path.is_dir():
        return [path] if path.exists() else []
    folder = run_folder(path) / "checkpoints"
    newest = [folder / "latest.pt", folder / "previous.pt"]
    kept = sorted(folder.glob("epoch_*.pt"), key=lambda f: (len(f.name), f.name), reverse=True)
    return [file for file in newest if file.exists()] + kept


def load_checkpoint(path: str | Path) -> dict:
    """Loads a checkpoint of a run folder or a file, on the CPU. If the newest one of a run is
    damaged, prints a message and falls back to the one before. Raises UserError."""
    files = checkpoint_files(path)
    if not files:
        if Path(path).is_dir():
            raise UserError(f"{path} holds no checkpoint; start the run again, without --resume")
        others = checkpoint_files(run_folder(path))
        hint = f"; {run_folder(path)} has {others[0].name}" if others else ""
        raise UserError(f"run folder or checkpoint {path} does not exist{hint}")
    damaged = []
    for file in files:
        try:
            checkpoint = read_checkpoint(file)
        except DamagedError as error:
            damaged.append(error)
        else:
            for error in damaged:
                print(f"{error}; using {file}, step {checkpoint['step']}", file=sys.stderr)
            return checkpoint
    raise damaged[-1]


def read_checkpoint(path: Path) -> dict:
    """Reads a checkpoint file without running code from it. Raises DamagedError or UserError."""
    if path.suffix == ".pth":
        return junyanz.read_checkpoint(path)
    values = load_tensors(path)
    version = values.get("format")
    if type(version) is int and version > CHECKPOINT_FORMAT:
        newest = f"this version reads up to {CHECKPOINT_FORMAT}; update the code"
        raise UserError(f"{path} has checkpoint format {version}, {newest}")
    kinds = {"format": int, "config": dict, "generator": dict, "step": int}
    known = all(isinstance(values.get(name), kind) for name, kind in kinds.items())
    if not (known and version >= 1 and 0 <= values["step"] < 2**63):
        raise UserError(f"{path} is not a checkpoint of this project")
    for name in ("generator", "average", "discriminator"):
        if isinstance(values.get(name), dict):
            # Prefixes of torch.compile and DistributedDataParallel.
            values[name] = {
                re.sub(r"\b(_orig_mod|module)\.", "", str(key)): value
                for key, value in values[name].items()
            }
    return values
