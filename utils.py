"""Pictures and tensors, randomness, trained generators, checkpoints, sharing.

    from PIL import Image
    from utils import load_generator, translate

    generator = load_generator("runs/facades")
    translate(generator, Image.open("labels.png")).save("photo.png")

A checkpoint describes itself, so nothing else is needed to use it.
"""

import contextlib
import dataclasses
import os
import platform
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.utils import make_grid

from config import Config, UserError, config_from_dict
from discriminator import PatchDiscriminator
from files import (
    check_fits,
    damage,
    flush_to_disk,
    replacing,
    strange_parts,
    tensors_of,
)
from generator import EncoderDecoderGenerator, UNetGenerator
from processes import choose_device
from sharing import (
    WEIGHTS,
    hub_folder,
    is_on_hub,
    is_shared,
    last_scores,
    read_shared,
    write_shared,
)
from tasks import eight_bits, task_of

CHECKPOINT_FORMAT = 1


# ---- Pictures and tensors ---------------------------------------------------------------------


def normalise_mode(image: Image.Image, channels: int) -> Image.Image:
    """The picture as a viewer shows it, upright, in mode L (1 channel) or RGB (3).

    16 bits are scaled to 8, transparency is laid on white, the orientation of EXIF is applied.
    Raises UserError on 32-bit values, whose range is unknown.
    """
    try:
        image.getexif()
    except Exception:  # broken in one of many ways: it turns nothing, and the picture is whole
        image.info.pop("exif", None)
    else:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow's own conversion of 16 bits would clip or truncate
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError(
            f"a picture of 32-bit values (mode {image.mode}) has no known range; save it with 8 "
            "or 16 bits"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 pixels (H, W, C) or (H, W) -> float (C, H, W) in [-1, 1]."""
    # By NumPy, on one thread: PyTorch's would wait for each other, long if others use the cores.
    values = np.array(np.atleast_3d(pixels).transpose(2, 0, 1), np.float32, order="C")
    values /= 127.5
    values -= 1
    return torch.from_numpy(values)


def to_image(tensor: Tensor) -> Image.Image:
    """Float (C, H, W) in [-1, 1], C 1 or 3 -> a picture in mode L or RGB."""
    pixels = eight_bits(tensor.cpu()).to(torch.uint8)
    return Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())


def sample_grid(groups: list[tuple[Tensor, ...]], across: int = 1) -> Image.Image:
    """Groups of pictures, such as input | output | target, `across` of them in a row.

    Each picture is (C, H, W) in [-1, 1], C 1 or 3; all of one size.
    """
    pictures = [picture.cpu().float().expand(3, -1, -1) for group in groups for picture in group]
    return to_image(make_grid(pictures, nrow=across * len(groups[0]), padding=4, pad_value=1.0))


def save_image(image: Image.Image, path: Path) -> None:
    """Writes a PNG whole or not at all, and makes its folder."""
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")


# ---- Randomness -------------------------------------------------------------------------------


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The state of the random numbers that training draws: of the CPU and of `device`."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Puts a state of `rng_state` back; what belongs to another kind of device is left out. Raises
    UserError if it is none."""
    try:
        torch.set_rng_state(state["cpu"])
        if device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], device)
        elif device.type == "mps" and "mps" in state:
            torch.mps.set_rng_state(state["mps"])
    except (IndexError, KeyError, RuntimeError, TypeError) as error:
        raise UserError(f"the state of the random numbers does not fit: {error}") from error


@contextlib.contextmanager
def own_randomness(seed: int, device: torch.device):
    """Random numbers from `seed` inside, and outside as if nothing had been drawn."""
    state = rng_state(device)
    # Not torch.manual_seed: it would seed every GPU, also those whose state is not put back.
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


# ---- Networks ---------------------------------------------------------------------------------


def build_generator(config: Config) -> UNetGenerator:
    """The untrained generator of a configuration."""
    kind = {"unet": UNetGenerator, "encoder_decoder": EncoderDecoderGenerator}[config.generator]
    return kind(
        config.in_channels,
        config.out_channels,
        config.base_channels,
        config.depth,
        config.dropout,
        config.norm,
        config.upsampling,
        config.dropout_layers,
    )


def build_discriminator(config: Config) -> PatchDiscriminator:
    """The untrained discriminator of a configuration."""
    return PatchDiscriminator(
        config.out_channels + (config.in_channels if config.conditional else 0),
        config.discriminator_channels,
        config.receptive_field,
        config.norm,
    )


@torch.inference_mode()
def generate(generator: nn.Module, x: Tensor, seed: int = 0, noise: bool = True) -> Tensor:
    """G(x, z) with z drawn from `seed`, leaving all other random numbers alone.

    x: (B, C, H, W) in [-1, 1], H and W multiples of 2**depth. Give one picture at a time, as the
    paper does: the norms use the statistics of the batch, so pictures in it change each other.
    """
    with own_randomness(seed, x.device):
        return generator(x, noise=noise)


def translate(
    generator: nn.Module,
    image: Image.Image,
    seed: int = 0,
    noise: bool = True,
    mask: Image.Image | None = None,
) -> Image.Image:
    """Translates one picture of any size and mode into one of the same size.

    A super_resolution generator alone makes it larger, by its factor. For inpainting, `mask` is a
    picture of the same size, white where it is to be filled. The dropout noise is part of the
    method and on, whatever `.eval()` was called: another `seed` gives another draw, `noise=False`
    none. Raises UserError on a mask that does not fit.
    """
    task = task_of(generator.config)
    picture = to_tensor(np.asarray(normalise_mode(image, task.channels)))
    if mask is not None:
        if generator.config.task != "inpainting":
            raise UserError(f"a mask is for inpainting; this run's task is {task.config.task}")
        hole = to_tensor(np.asarray(normalise_mode(mask, channels=1))) > 0
        if hole.shape[1:] != picture.shape[1:]:
            sizes = [f"{size.shape[2]}x{size.shape[1]}" for size in (hole, picture)]
            raise UserError(f"the mask is {sizes[0]}, its picture {sizes[1]}; they have one size")
        mask = hole
    return to_image(task.translate(picture, partial(generate_any, generator, seed, noise), mask))


def generate_any(generator: nn.Module, seed: int, noise: bool, x: Tensor) -> Tensor:
    """G(x, z) of one picture (C, H, W) of any size, on the CPU.

    What the network needs beyond the picture's size is filled with its mirror image and cut off
    again.
    """
    height, width = x.shape[-2:]
    bottom, right = (-side % 2**generator.depth for side in (height, width))
    padded = np.pad(x.numpy(), ((0, 0), (0, bottom), (0, right)), mode="symmetric")
    batch = torch.from_numpy(padded)[None].to(next(generator.parameters()).device)
    return generate(generator, batch, seed, noise)[0, :, :height, :width].float().cpu()


def load_generator(path: str | Path, device: str = "cpu") -> UNetGenerator:
    """The trained generator of a run folder or a checkpoint file, ready for `translate`.

    Also of a folder of `export_generator`, and of "hf://owner/name" or "hf://owner/name@revision",
    such a folder on the Hugging Face Hub. The file describes itself: nothing of the training has
    to be repeated. `device` as in config.py. Its `.config` is the configuration it was trained
    with. Raises UserError.
    """
    if is_shared(path):
        checkpoint = read_shared(hub_folder(path) if is_on_hub(path) else Path(path))
    elif Path(path).is_dir() and not checkpoint_files(path):
        raise UserError(
            f"{path} holds neither checkpoints nor {WEIGHTS}; name a run in which something was "
            "trained and saved, such as runs/demo, or an export"
        )
    else:
        checkpoint = load_checkpoint(path)
    name = "average" if "average" in checkpoint else "generator"
    return with_weights(build_generator, checkpoint, name, path).to(choose_device(device))


def export_generator(run: str | Path, folder: str | Path, half: bool = False) -> None:
    """Writes a run's generator in the format of the Hugging Face Hub, for `load_generator`.

    `run` is whatever `load_generator` takes. The folder gets model.safetensors (with `half` in
    float16, half as large), config.json and README.md, the model card. An earlier export there is
    replaced, but for its card. Raises UserError, also where the folder holds anything else.
    """
    write_shared(load_generator(run), Path(folder), half, last_scores(Path(run)))


def load_discriminator(path: str | Path, device: str = "cpu") -> PatchDiscriminator:
    """The trained discriminator of a run folder or a checkpoint file, to look at what it sees.

    Its `.config` is the configuration it was trained with. Raises UserError, also where the run
    had no adversarial loss and so no discriminator.
    """
    checkpoint = load_checkpoint(path)
    if "discriminator" not in checkpoint:
        raise UserError(f"{path} has no discriminator")
    return with_weights(build_discriminator, checkpoint, "discriminator", path).to(
        choose_device(device)
    )


def with_weights(build, checkpoint: dict, name: str, path: str | Path) -> nn.Module:
    """The network that `build` makes, with the weights `name` of a checkpoint, for use alone."""
    try:
        config = config_from_dict(checkpoint["config"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    with torch.device("meta"):  # neither memory nor random numbers for weights that are replaced
        network = build(config)
    check_fits(checkpoint[name], network.state_dict(), f"{path}: {name}")
    weights = {key: value.contiguous() for key, value in checkpoint[name].items()}
    network.load_state_dict(weights, assign=True)
    network.config = config
    return network.eval().requires_grad_(False)


# ---- Checkpoints ------------------------------------------------------------------------------


def save_checkpoint(path: Path, config: Config, **state) -> None:
    """Writes a checkpoint whole or not at all, and looks whether it can be read back.

    `state` is what has to go on: the networks and optimisers as state dicts, the step, the random
    numbers. Tensors, numbers, strings and containers of them only, so that it loads without
    running code. latest.pt becomes previous.pt, but only once its successor has proved good, and
    only if it is good itself. Raises UserError.
    """
    checkpoint = {
        "format": CHECKPOINT_FORMAT,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "config": dataclasses.asdict(config),
        **state,
    }
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            flush_to_disk(file)
        reason = damage(temporary)
        if reason:
            raise UserError(f"{path} was damaged while it was written ({reason}): check the disk")
        if path.name == "latest.pt" and path.exists() and not damage(path):
            os.replace(path, path.with_name("previous.pt"))
    if os.name == "posix":  # the new names, too, have to be on the disk
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def on_cpu(state):
    """A copy of nested dicts and lists with the tensors of GPUs on the CPU; its own stay theirs."""
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {key: on_cpu(value) for key, value in state.items()}
    return [on_cpu(value) for value in state] if isinstance(state, list) else state


def run_folder(path: str | Path) -> Path:
    """The run that a folder or a checkpoint file belongs to; a loose file, to where it lies."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    return folder.parent if folder.name == "checkpoints" else folder


def checkpoint_files(path: str | Path) -> list[Path]:
    """The checkpoints that a run folder or a file name stands for, the newest first."""
    path = Path(path)
    if not path.is_dir():
        return [path] if path.exists() else []
    folder = run_folder(path) / "checkpoints"
    newest = [folder / "latest.pt", folder / "previous.pt"]
    kept = sorted(folder.glob("epoch_*.pt"), key=lambda f: (len(f.name), f.name), reverse=True)
    return [file for file in newest if file.exists()] + kept


class DamagedError(UserError):
    """A checkpoint that was whole once, or may have been."""


def load_checkpoint(path: str | Path) -> dict:
    """What `save_checkpoint` wrote, on the CPU. Takes a run folder or a file.

    If the newest of a run folder is damaged, it says so and takes the one before. Raises UserError.
    """
    files = checkpoint_files(path)
    if not files:
        if Path(path).is_dir():
            raise UserError(f"{path} holds no checkpoint; start the run again, without --resume")
        others = checkpoint_files(run_folder(path))
        hint = f"; {run_folder(path)} has {others[0].name}" if others else ""
        raise UserError(f"there is no run folder or checkpoint {path}{hint}")
    damaged = []
    for file in files:
        try:
            checkpoint = read_checkpoint(file)
        except DamagedError as error:
            damaged.append(error)
        else:
            for error in damaged:
                print(f"{error}; going back to {file}, step {checkpoint['step']}", file=sys.stderr)
            return checkpoint
    raise damaged[-1]


def read_checkpoint(path: Path) -> dict:
    """A checkpoint file. Nothing in it is run. Raises DamagedError or another UserError."""
    reason = damage(path)
    if reason:
        raise DamagedError(f"{path} can't be read as a checkpoint: {reason}")
    try:
        strange = strange_parts(path)
        if strange:
            raise UserError(
                f"{path} can't be read as a checkpoint: it holds code or objects ({strange[0]}), "
                "which are never run nor made"
            )
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        reason = str(error).partition(". ")[0] or type(error).__name__
        raise DamagedError(f"{path} can't be read as a checkpoint: {reason}") from error
    version = checkpoint.get("format") if isinstance(checkpoint, dict) else None
    if type(version) is int and version > CHECKPOINT_FORMAT:
        raise UserError(
            f"{path} has checkpoint format {version}, this version reads up to "
            f"{CHECKPOINT_FORMAT}; update the code"
        )
    kinds = {"format": int, "config": dict, "generator": dict, "step": int}
    known = isinstance(checkpoint, dict) and all(
        isinstance(checkpoint.get(name), kind) for name, kind in kinds.items()
    )
    if not known or checkpoint["format"] < 1 or not 0 <= checkpoint["step"] < 2**63:
        raise UserError(f"{path} is no checkpoint of this project")
    if sum(tensor.nbytes for tensor in tensors_of(checkpoint)) > path.stat().st_size:
        raise UserError(f"{path} is no checkpoint of this project: its tensors are larger than it")
    for name in ("generator", "average", "discriminator"):
        if isinstance(checkpoint.get(name), dict):
            # Left by torch.compile and DistributedDataParallel, should they have been saved.
            checkpoint[name] = {
                re.sub(r"\b(_orig_mod|module)\.", "", str(key)): value
                for key, value in checkpoint[name].items()
            }
    return checkpoint
