"""Pictures and tensors, devices and processes, trained generators, checkpoints, logs.

    from PIL import Image
    from utils import load_generator, translate

    generator = load_generator("runs/facades")
    translate(generator, Image.open("labels.png")).save("photo.png")

A checkpoint describes itself, so nothing else is needed to use it.
"""

import contextlib
import csv
import dataclasses
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.utils import make_grid

from config import Config, UserError, config_from_dict
from generator import EncoderDecoderGenerator, UNetGenerator
from tasks import eight_bits, task_of

CHECKPOINT_FORMAT = 1


# ---- Pictures and tensors ---------------------------------------------------------------------


def normalise_mode(image: Image.Image, channels: int) -> Image.Image:
    """The picture as a viewer shows it, upright, in mode L (1 channel) or RGB (3).

    16 bits are scaled to 8, transparency is laid on white, the orientation of EXIF is applied.
    Raises UserError on 32-bit values, whose range is unknown.
    """
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


# ---- Devices, processes and randomness --------------------------------------------------------


def choose_device(name: str) -> torch.device:
    """The device of `config.device`; auto is CUDA, else MPS, else the CPU. Raises UserError."""
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device is {name!r}; it can be auto, cpu, cuda, cuda:N or mps") from error
    no_cuda = device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    no_mps = device.type == "mps" and not torch.backends.mps.is_available()
    if no_cuda or no_mps:
        raise UserError(f"device is {name!r}; torch finds none on this machine")
    return device


def device_of(config: Config) -> torch.device:
    """The device of this process: by default, of several on a machine each has a GPU of its own."""
    device = choose_device(config.device)
    if device.type == "cuda":
        if device.index is None:
            device = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(device)
    return device


class Processes:
    """Those that train a run together: as many as torchrun started, or this one alone."""

    def __init__(self, device: torch.device):
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.first = self.rank == 0  # it alone validates and writes
        # Steps from one agreement to the next about what clocks and signals ask for.
        self.agree_steps = 10 if self.size > 1 else 1
        if self.size > 1:
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            torch.distributed.init_process_group(backend)

    def __enter__(self):
        if not self.first:  # one line for all is enough; errors go to stderr
            self.stdout, sys.stdout = sys.stdout, open(os.devnull, "w")
        return self

    def __exit__(self, *error) -> None:
        if not self.first:
            sys.stdout.close()
            sys.stdout = self.stdout
        if self.size > 1 and error[0] is None:  # after an error the others may never come
            self.wait()  # gloo may hang where one leaves while another still works
            torch.distributed.destroy_process_group()

    def share(self, model):
        """The `train.Model` with gradients that are means over the processes."""
        if self.size == 1:
            return model
        discriminator = model.discriminator and DistributedDataParallel(model.discriminator)
        generator = DistributedDataParallel(model.generator)
        return model._replace(generator=generator, discriminator=discriminator)

    def mean(self, tensor: Tensor) -> Tensor:
        if self.size > 1:
            tensor = tensor.clone()
            torch.distributed.all_reduce(tensor)
        return tensor / self.size

    def largest(self, *numbers: int) -> list[int]:
        """Of each number the largest that a process has."""
        if self.size == 1:
            return list(numbers)
        tensor = torch.tensor(numbers)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
        return tensor.tolist()

    def gather(self, state) -> list:
        """What each process has, in the order of their ranks."""
        states = [state] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(states, state)
        return states

    def wait(self) -> None:
        if self.size > 1:
            torch.distributed.barrier()


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The state of the random numbers that training draws: of the CPU and of `device`."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Puts a state of `rng_state` back; what belongs to another kind of device is left out."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


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


# ---- Generators -------------------------------------------------------------------------------


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

    The file describes itself: nothing of the training has to be repeated. `device` as in
    config.py. Its `.config` is the configuration it was trained with. Raises UserError.
    """
    checkpoint = load_checkpoint(path)
    config = config_from_dict(checkpoint["config"])
    generator = build_generator(config)
    generator.load_state_dict(checkpoint.get("average", checkpoint["generator"]))
    generator.config = config
    return generator.to(choose_device(device)).eval().requires_grad_(False)


# ---- Checkpoints ------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: str | Path):
    """A temporary name to write to; it becomes `path` once all of it is on the disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path: Path, config: Config, **state) -> None:
    """Writes a checkpoint whole or not at all.

    `state` is what has to go on: the networks and optimisers as state dicts, the step, the random
    numbers. Tensors, numbers, strings and containers of them only, so that it loads without
    running code.
    """
    checkpoint = {
        "format": CHECKPOINT_FORMAT,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "config": dataclasses.asdict(config),
        **state,
    }
    with replacing(path) as temporary:
        torch.save(checkpoint, temporary)


class Background:
    """Does one thing at a time in a thread. What goes wrong there is raised by the next call."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(1)
        self.task = None

    def do(self, function, *arguments, **options) -> None:
        """Begins it, once what was begun before is done."""
        self.wait()
        self.task = self.pool.submit(function, *arguments, **options)

    def wait(self) -> None:
        task, self.task = self.task, None
        if task:
            task.result()


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
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def checkpoint_path(path: str | Path) -> Path:
    """The checkpoint that a run folder or a file name stands for. Raises UserError."""
    path = Path(path)
    if path.is_dir():
        latest = path / "checkpoints" / "latest.pt"
        if not latest.exists():
            raise UserError(f"{path} holds no checkpoint: there is no {latest}")
        return latest
    if not path.exists():
        raise UserError(f"there is no run folder or checkpoint {path}")
    return path


def load_checkpoint(path: str | Path) -> dict:
    """What `save_checkpoint` wrote, on the CPU. Takes a run folder or a file. Raises UserError."""
    path = checkpoint_path(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} can't be read as a checkpoint: {reason}") from error
    version = checkpoint.get("format") if isinstance(checkpoint, dict) else None
    if isinstance(version, int) and version > CHECKPOINT_FORMAT:
        raise UserError(
            f"{path} has checkpoint format {version}, this version reads up to "
            f"{CHECKPOINT_FORMAT}; update the code"
        )
    if not isinstance(version, int) or not {"config", "generator", "step"} <= checkpoint.keys():
        raise UserError(f"{path} is no checkpoint of this project")
    return checkpoint


# ---- Logs -------------------------------------------------------------------------------------


class Log:
    """log.csv and TensorBoard events of a run.

    A row holds what was measured at its step, and is empty where nothing was. A run that goes on
    from `step` forgets the rows after it, which it is about to write again.
    """

    COLUMNS = (
        "step",
        "epoch",
        "loss_d",
        "loss_g_gan",
        "loss_g_l1",
        "val_l1",
        "val_psnr",
        "val_ssim",
        "learning_rate",
        "images_per_second",
    )

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter  # half a second of imports

        self.path = folder / "log.csv"
        rows = []
        if step > 0 and self.path.exists():
            with open(self.path, newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        with replacing(self.path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, self.COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        self.events = SummaryWriter(folder / "tensorboard", purge_step=step + 1 if step else 0)

    def write(self, step: int, **values: float) -> None:
        row = {"step": step, **{name: f"{value:.6g}" for name, value in values.items()}}
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, self.COLUMNS).writerow(row)
        for name, value in values.items():
            grouped = name.startswith(("loss_", "val_"))  # TensorBoard groups by what is before a /
            self.events.add_scalar(name.replace("_", "/", 1) if grouped else name, value, step)

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        self.events.add_image(name, np.asarray(image), step, dataformats="HWC")

    def close(self) -> None:
        self.events.close()
