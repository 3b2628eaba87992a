"""Pictures and tensors, randomness, trained generators, checkpoints, sharing.

    from PIL import Image
    from utils import load_generator, translate

    generator = load_generator("runs/facades")
    translate(generator, Image.open("labels.png")).save("photo.png")

A checkpoint describes itself, so nothing else is needed to use it.
"""

import contextlib
import dataclasses
import json
import os
import pickletools
import platform
import re
import sys
import zipfile
from functools import partial
from pathlib import Path, PurePath

import numpy as np
import safetensors.torch
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.utils import make_grid

from config import Config, UserError, config_from_dict
from discriminator import PatchDiscriminator
from generator import EncoderDecoderGenerator, UNetGenerator
from processes import choose_device
from tasks import eight_bits, task_of

CHECKPOINT_FORMAT = 1
SHARED_FORMAT = 1  # of the folder of export_generator
WEIGHTS, DESCRIPTION, CARD = "model.safetensors", "config.json", "README.md"  # the Hub's names
SHARED_FILES = (WEIGHTS, DESCRIPTION, CARD)

# All that the tensors, dicts and numbers of a checkpoint are made by when it is read.
STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte")
CHECKPOINT_PARTS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in STORAGES),
}


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
    pixels = np.array(np.atleast_3d(pixels).transpose(2, 0, 1), order="C")
    return torch.from_numpy(pixels).float() / 127.5 - 1


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
        raise UserError(f"{path} holds neither checkpoints nor {WEIGHTS}")
    else:
        checkpoint = load_checkpoint(path)
    name = "average" if "average" in checkpoint else "generator"
    return with_weights(build_generator, checkpoint, name, path).to(choose_device(device))


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


def flush_to_disk(file) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: str | Path):
    """A temporary name to write to; it becomes `path` once all of it is on the disk.

    Until then `path` is as it was, whatever happens. Raises UserError where it can't be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            flush_to_disk(file)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch.save tells of a full disk by an error of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        reason = cause.strerror or cause
        raise UserError(f"{path} can't be written: {reason}; what was there is kept") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


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


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint as a file, None if nothing is.

    Compares all of it with the checksums that torch.save puts into it and torch.load passes over.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # Never so by torch.save: a small file could grow without limit.
            if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                return "it is compressed"
            broken = archive.testzip()
    except Exception as error:  # zipfile raises nearly anything on a damaged file
        return str(error) or type(error).__name__
    return f"its part {broken!r} does not match its checksum" if broken else None


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


def strange_parts(path: Path) -> list[str]:
    """The names in a checkpoint file that are not needed to make its contents. torch.load with
    `weights_only` runs no code, but makes some objects of any size of a few bytes."""
    found = set()
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                for operation, argument, _ in pickletools.genops(archive.read(name)):
                    if operation.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                        found.add(argument or operation.name)
    return sorted(found - CHECKPOINT_PARTS)


def tensors_of(state):
    """All tensors in nested containers, each of which is looked at once, whatever refers to it."""
    seen, waiting = set(), [state]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value


def check_fits(found, expected, name: str) -> None:
    """Raises UserError unless `found`, called `name`, is of the same make as `expected`: the same
    keys, shapes and types all through. `expected` needs no values and can be on the device meta."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected.keys() - found.keys():
            raise UserError(f"{name} lacks {key!r}")
        for key in found.keys() - expected.keys():
            raise UserError(f"{name} has {key!r}, which is not expected")
        for key, value in expected.items():
            check_fits(found[key], value, f"{name} {key}")
    elif make_of(found) != make_of(expected):
        raise UserError(f"{name} is {make_of(found)}, not {make_of(expected)}")


def make_of(value) -> str:
    """Such as `64x3x4x4 float32`, or the name of a type."""
    if isinstance(value, Tensor):
        shape = "x".join(map(str, value.shape)) or "scalar"
        return f"{shape} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


# ---- Sharing ----------------------------------------------------------------------------------


def export_generator(run: str | Path, folder: str | Path, half: bool = False) -> None:
    """Writes a run's generator in the format of the Hugging Face Hub, for `load_generator`.

    `run` is whatever `load_generator` takes. The folder gets model.safetensors (with `half` in
    float16, half as large), config.json and README.md, the model card. An earlier export there is
    replaced, its card too. Raises UserError, also where the folder holds anything else.
    """
    folder = Path(folder)
    found = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    found = {name for name in found if not name.startswith(".")}  # such as .git of a clone
    if WEIGHTS in found:
        read_description(folder)  # raises on a model that is not ours
        found -= set(SHARED_FILES)
    if found:
        raise UserError(f"{folder} holds other files ({min(found)}); choose an empty or new folder")

    generator = load_generator(run)
    config = without_places(generator.config)
    weights = generator.state_dict()
    if half:
        weights = {name: value.half() for name, value in weights.items()}
        if not all(value.isfinite().all() for value in weights.values()):
            raise UserError(f"{run} has weights that half precision can't hold; leave it out")
    description = {"format": SHARED_FORMAT, "config": dataclasses.asdict(config)}
    contents = (
        safetensors.torch.save(weights, metadata={"format": "pt"}),
        (json.dumps(description, indent=2) + "\n").encode(),
        model_card(config, weights, last_scores(Path(run))).encode(),
    )
    # All are written before the first gets its name; the weights, without which it is no export,
    # get theirs last.
    with contextlib.ExitStack() as stack:
        for name, content in zip(SHARED_FILES, contents, strict=True):
            stack.enter_context(replacing(folder / name)).write_bytes(content)


def without_places(config: Config) -> Config:
    """The configuration, of absolute paths only the last name: the rest is nobody's business."""
    paths = {name: PurePath(getattr(config, name)) for name in ("data_root", "output", "mask")}
    names = {name: path.name or "." for name, path in paths.items() if path.is_absolute()}
    return dataclasses.replace(config, **names)


def last_scores(run: Path) -> dict:
    """The scores of a run folder's test split, none where it has been trained on since."""
    file, checkpoint = run / "test" / "scores.json", run / "checkpoints" / "latest.pt"
    if not (file.is_file() and checkpoint.is_file()):
        return {}
    return read_json(file) if file.stat().st_mtime >= checkpoint.stat().st_mtime else {}


# What the generator of each task does, as its model card says it.
PURPOSES = {
    "pairs": "translates pictures {} into pictures {} of its training pairs",
    "colorization": "gives grey pictures their colours",
    "inpainting": "fills holes in pictures",
    "super_resolution": "enlarges pictures {factor} times",
    "edges": "makes photos of drawings, black lines on white",
    "style": "makes paintings, in ink and wash, of photos",
}


def model_card(config: Config, weights: dict[str, Tensor], scores: dict) -> str:
    """README.md of an exported generator: what it is, how it is used and how it was trained."""
    halves = ["A (the left half)", "B (the right half)"]
    if config.direction == "BtoA":
        halves.reverse()
    purpose = PURPOSES[config.task].format(*halves, factor=config.factor)
    values = list(weights.values())
    count, precision = sum(value.numel() for value in values), make_of(values[0]).split()[-1]
    mask = ', mask=Image.open("hole.png")' if config.task == "inpainting" else ""
    plain, fields = dataclasses.asdict(Config(device=config.device)), dataclasses.asdict(config)
    changed = [name for name in fields if fields[name] != plain[name] and name != "output"]
    training = "\n".join(f"- `{name}`: `{json.dumps(fields[name])}`" for name in changed)
    results = [f"- {name}: {value:.4g}" for name, value in scores.items() if type(value) is float]
    if results:
        means = f"Means of {scores.get('images')} {scores.get('split')} pictures:"
        results = ["", "## Scores", "", means, "", *results, ""]
    measured = "\n".join(results)
    return f"""---
library_name: pytorch
pipeline_tag: image-to-image
tags:
- pix2pix
- image-to-image
- conditional-gan
---

# Pix2Pix generator: {config.task}

It {purpose}: the generator G(x, z) of
*Image-to-Image Translation with Conditional Adversarial Networks* (Isola et al., CVPR 2017),
trained with a reproduction in PyTorch.

- task `{config.task}`, direction `{config.direction}`
- channels: {config.in_channels} in, {config.out_channels} out
- trained on crops of {config.crop_size}x{config.crop_size} px; translates pictures of any size
- {count:,} weights in {precision}

## Use

In the folder of that code:

```python
from PIL import Image
from utils import load_generator, translate
generator = load_generator("FOLDER")  # the folder of this file, or "hf://owner/name"
translate(generator, Image.open("x.png"){mask}).save("y.png")
```

or `python evaluate.py FOLDER --input x.png --output y.png`. The noise z is dropout and stays on, as
in the paper; `noise=False` or `--no_dropout` turns it off.

## Training

What differs from the defaults of the code's `config.py`; config.json has every field:

{training or "- nothing"}
{measured}
## Terms

The terms of the data that it was trained on hold for it too.
"""


def is_on_hub(path: str | Path) -> bool:
    return str(path).startswith("hf://")


def is_shared(path: str | Path) -> bool:
    """Whether it names a generator of `export_generator`, in a folder or on the Hub, and no run."""
    return is_on_hub(path) or (Path(path) / WEIGHTS).is_file()


def hub_folder(name: str) -> Path:
    """The folder into which huggingface_hub has put what "hf://owner/name[@revision]" holds."""
    found = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@(.+))?", name)
    if not found:
        raise UserError(f"{name} has to be like hf://owner/name or hf://owner/name@revision")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(f"{name} needs a package: pip install huggingface_hub") from error
    try:
        files = [
            hf_hub_download(found[1], file, revision=found[2]) for file in (WEIGHTS, DESCRIPTION)
        ]
    except Exception as error:  # nearly anything: no network, no such name, no access, a full disk
        reason = " ".join(re.sub(r"\(Request ID: .*?\)", "", str(error)).split())
        raise UserError(f"{name} can't be fetched from the Hugging Face Hub: {reason}") from error
    folders = {Path(file).parent for file in files}
    if len(folders) > 1:
        raise UserError(f"{name} was changed while it was being fetched; try again")
    return folders.pop()


def read_json(file: Path) -> dict:
    """A JSON file that holds an object. Raises UserError."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file} can't be read as JSON: {reason}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} holds no JSON object")
    return values


def read_description(folder: Path) -> dict:
    """config.json of an exported generator. Raises UserError."""
    file = folder / DESCRIPTION
    description = read_json(file)
    version = description.get("format")
    if type(version) is int and version > SHARED_FORMAT:
        raise UserError(
            f"{file} has format {version}, this version reads up to {SHARED_FORMAT}; update the "
            "code"
        )
    if version != SHARED_FORMAT or not isinstance(description.get("config"), dict):
        raise UserError(f"{file} describes no generator that was exported by this project")
    return description


def read_shared(folder: Path) -> dict:
    """What `export_generator` wrote, as a checkpoint of nothing else. Raises UserError."""
    description = read_description(folder)
    file = folder / WEIGHTS
    try:
        weights = safetensors.torch.load(file.read_bytes())
    except Exception as error:  # has errors of its own, and torch's on types that it doesn't know
        reason = str(error) or type(error).__name__
        raise UserError(f"{file} can't be read as safetensors: {reason}") from error
    weights = {
        name: value.float() if value.dtype == torch.float16 else value
        for name, value in weights.items()
    }
    return {"config": description["config"], "generator": weights}
