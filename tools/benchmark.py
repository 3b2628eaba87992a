"""Measures the training step of a preset beside the textbook one, data loading and translation.

    python -m tools.benchmark                       the paper's networks, batch size 1 and 8
    python -m tools.benchmark --batch_size 64       another batch size
    python -m tools.benchmark --junyanz DIR         also the PyTorch port, checked out there
    python -m tools.benchmark demo                  small and quick
    python -m tools.benchmark --translate           evaluate.py, in images per second

The variants take turns, each time in a new process, and the median counts. The textbook step is
train.py's without engine/fast.py: eager, fp32, PyTorch's own Adam. The floor is its FLOPs at the
rate of a large matrix product, and Adam's bytes at that of a copy. Pairs loaded: the demo's.
On a GPU it takes less than five minutes.
"""

import argparse
import contextlib
import json
import multiprocessing
import re
import runpy
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from config import PRESETS, Config
from dataset import PairedDataset, load_pairs
from engine import cli
from engine.cli import UserError
from engine.devices import device_of, provenance
from engine.fast import HALVES, choose_precision
from engine.fields import parse_preset
from engine.files import write_text
from engine.order import TrainingOrder
from tools.benchmark_translate import IMAGES, compare_translation
from tools.make_demo import DEMO_ROOT, make_demo
from tools.tables import described
from train import build_model, prepare, step_function, train_step
from utils import build_generator, generate_any_size


def parse_arguments(argv=None) -> argparse.Namespace:
    """Returns junyanz, turns, json and `configs`, one for each batch size."""
    parser = cli.Parser(__doc__, "python -m tools.benchmark [PRESET] [--field value ...]")
    add = parser.add_argument
    add(
        "--junyanz", metavar="DIR", help="a checkout of pytorch-CycleGAN-and-pix2pix; 128 or 256 px"
    )
    add("--turns", type=int, help="turns of each variant (default: 3, on a GPU 1)", metavar="N")
    add("--translate", action="store_true", help="time evaluate.py instead of training")
    add("--json", metavar="FILE", help="also write the results there")
    options, preset, fields = parse_preset(parser, PRESETS, "facades", argv)
    if options.turns is not None and options.turns < 1:
        raise UserError(f"--turns is {options.turns}; it must be 1 or more")
    if options.junyanz and not Path(options.junyanz, "models", "networks.py").is_file():
        raise UserError(f"--junyanz {options.junyanz} holds no models/networks.py")
    fields = {"data_root": PRESETS["demo"].data_root, **fields}  # for the loading part
    config = replace(preset, **fields)
    sizes = [config.batch_size] if "batch_size" in fields else [1, 8]
    options.configs = [replace(config, batch_size=size) for size in sizes]
    return options


def junyanz_step(folder: str, config: Config, device: torch.device):
    """The PyTorch port's step: its networks and losses, in the order of its pix2pix model."""
    networks = runpy.run_path(str(Path(folder, "models", "networks.py")))
    kind, width = f"unet_{config.crop_size}", config.base_channels
    channels = config.in_channels, config.out_channels
    with contextlib.redirect_stdout(None):
        g = networks["define_G"](*channels, width, kind, norm="batch", use_dropout=True)
        d = networks["define_D"](sum(channels), width, "basic", norm="batch")
    g, d = g.to(device), d.to(device)
    gan_loss, l1_loss = networks["GANLoss"]("vanilla").to(device), torch.nn.L1Loss()
    adam_g, adam_d = (torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.999)) for n in (g, d))

    def step(x, y):
        fake = g(x)
        d.requires_grad_(True)
        adam_d.zero_grad()
        loss_fake = gan_loss(d(torch.cat([x, fake], 1).detach()), False)
        loss_real = gan_loss(d(torch.cat([x, y], 1)), True)
        ((loss_fake + loss_real) * 0.5).backward()
        adam_d.step()
        d.requires_grad_(False)
        adam_g.zero_grad()
        (gan_loss(d(torch.cat([x, fake], 1)), True) + l1_loss(fake, y) * 100.0).backward()
        adam_g.step()

    return step


class Timing(NamedTuple):
    seconds: float  # of a step, the mean
    peak: float | None  # GB
    graph: bool  # whether it was replayed from a CUDA graph


def half_precisions(config: Config, device: torch.device) -> list[str]:
    """bf16 and fp16, if the configuration leaves it open those that the hardware is built for."""
    if config.precision != "auto":
        return [config.precision] if config.precision != "fp32" else []
    found = [choose_precision("auto", device)[0]]
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0):
        found.append("fp16")
    return [precision for precision in found if precision != "fp32"]


def compare(
    config: Config, precisions: list[str], junyanz: str | None, turns: int
) -> dict[str, list[Timing]]:
    """For each variant, what each turn measured. `precisions` are those beside fp32."""
    fp32 = replace(config, precision="fp32")
    variants = {"textbook fp32": (replace(fp32, fast=False), None), "ours fp32": (fp32, None)}
    for precision in precisions:
        variants[f"ours {precision}"] = (replace(config, precision=precision), None)
    if junyanz:
        variants["junyanz, fp32"] = (fp32, junyanz)
    measured = {name: [] for name in variants}
    for name in tqdm(turns * list(variants), f"batch {config.batch_size}", leave=False):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            measured[name].append(process.submit(time_steps, *variants[name]).result())
    return measured


def time_steps(config: Config, junyanz: str | None) -> Timing:
    """In a process of its own."""
    device = device_of(config.device)
    if junyanz:
        take_step = junyanz_step(junyanz, config, device)
    else:
        take_step = step_function(prepare(build_model(config, device), config), config)
    step = partial(take_step, *random_batch(config, device))
    warm_up, count = (2, 3) if device.type == "cpu" else (10, 50)
    mean_seconds(step, warm_up)  # on a GPU, it also records the CUDA graph
    graph = getattr(take_step, "graph", None) is not None
    return Timing(mean_seconds(step, count), peak_memory(device), graph)


def mean_seconds(function, count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        function()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return (time.perf_counter() - begun) / count


def random_batch(config: Config, device: torch.device) -> list[torch.Tensor]:
    """x and y, (B, C, H, W) in [-1, 1]."""
    size = (config.crop_size, config.crop_size)
    channels = (config.in_channels, config.out_channels)
    return [torch.rand(config.batch_size, c, *size, device=device) * 2 - 1 for c in channels]


def peak_memory(device: torch.device) -> float | None:
    """Peak GB of this process: on the GPU, else in total, where Linux reports it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    found = status.exists() and re.search(r"VmHWM:\s*(\d+) kB", status.read_text("utf-8"))
    return int(found[1]) * 1024 / 1e9 if found and device.type == "cpu" else None


def count_work(config: Config) -> tuple[int, int]:
    """What a textbook step cannot do without: the FLOPs of the convolutions, and Adam's bytes."""
    device = torch.device("cpu")
    one = replace(config, batch_size=1, precision="fp32")
    model = build_model(one, device)
    with FlopCounterMode(display=False) as counter:
        train_step(model, *random_batch(one, device), one)
    weights = sum(p.numel() for network in filter(None, model[:2]) for p in network.parameters())
    # Adam reads weight, gradient and both moments, and writes all but the gradient.
    return counter.get_total_flops() * config.batch_size, 7 * 4 * weights


def machine_rates(precision: str, device: torch.device) -> tuple[float, float]:
    """FLOP/s of a large matrix product, and bytes/s, read and written, of a large copy."""
    dtype = HALVES.get(precision, torch.float32)
    side = 2048 if device.type == "cpu" else 8192
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)

    def best_seconds(function) -> float:
        return min(mean_seconds(function, 1) for _ in range(10))

    flop_rate = 2 * side**3 / best_seconds(lambda: a @ b)
    return flop_rate, 2 * source.nbytes / best_seconds(lambda: target.copy_(source))


def loading_rate(config: Config) -> float:
    """Training pairs loaded per second, at most in batches of all."""
    data = PairedDataset(config, "train")
    size = min(config.batch_size, len(data))
    load = partial(next, load_pairs(data, TrainingOrder(len(data), size, 10**9, 0)))  # never ends
    mean_seconds(load, 2 + 50 // size)  # processes start, queues fill
    return size / mean_seconds(load, 2 + 500 // size)


def translation_rate(config: Config, device: torch.device) -> float:
    """Images of crop_size translated per second, one at a time, from and to memory of the CPU."""
    generator = build_generator(config).to(device).eval().requires_grad_(False)
    image = random_batch(replace(config, batch_size=1), torch.device("cpu"))[0][0]
    run = partial(generate_any_size, generator, image)
    warm_up, count = (1, 5) if device.type == "cpu" else (10, 100)
    mean_seconds(run, warm_up)
    return 1 / mean_seconds(run, count)


def rows_of(
    measured: dict[str, list[Timing]], config: Config, rates: tuple[float, float]
) -> list[dict]:
    """The rows of a batch size, from the results of `compare`."""
    flops, adam_bytes = count_work(config)
    seconds = {name: statistics.median(t.seconds for t in measured[name]) for name in measured}
    return [
        {
            "batch": config.batch_size,
            "variant": name,
            "ms/step": seconds[name] * 1e3,
            "images/s": config.batch_size / seconds[name],
            "TFLOP/s": flops / seconds[name] / 1e12,
            "of floor": (flops / rates[0] + adam_bytes / rates[1]) / seconds[name],
            "peak GB": measured[name][0].peak,
            "CUDA graph": measured[name][0].graph,
            "speed": seconds["textbook fp32"] / seconds[name],
        }
        for name in measured
    ]


def measure_translation(options: argparse.Namespace, device: torch.device, turns: int) -> dict:
    """What `tools.tables` shows of evaluate.py."""
    config = options.configs[0]
    precision, _ = choose_precision(config.precision, device)
    config = replace(config, precision=precision)
    rows = compare_translation(config, options.junyanz, turns, IMAGES)
    sizes = {"crop_size": config.crop_size, "base_channels": config.base_channels}
    return {**sizes, "images": IMAGES, "translations": rows}


def measure_training(options: argparse.Namespace, device: torch.device, turns: int) -> dict:
    """What `tools.tables` shows of training."""
    config = options.configs[0]
    precisions = half_precisions(config, device)
    if Path(config.data_root) == DEMO_ROOT and not DEMO_ROOT.exists():
        make_demo(DEMO_ROOT)

    from_files = loading_rate(replace(config, cache_gb=0.0))  # first, so that bad data cost no time
    loading = {"from memory": loading_rate(config)}
    loading["from memory in batches of 64"] = loading_rate(replace(config, batch_size=64))
    loading["from files"] = from_files
    fastest = [*precisions, "fp32"][0]
    rates, steps = machine_rates(fastest, device), []
    translating = translation_rate(config, device)
    torch.cuda.empty_cache()  # for the processes of the variants
    for sized in options.configs:
        steps += rows_of(compare(sized, precisions, options.junyanz, turns), sized, rates)
    return {
        "crop_size": config.crop_size,
        "rates": {"TFLOP/s": rates[0] / 1e12, "GB/s": rates[1] / 1e9, "precision": fastest},
        "steps": steps,
        "loading": loading,
        "translating": translating,
    }


def main(argv=None) -> int:
    options = parse_arguments(argv)
    device = device_of(options.configs[0].device)
    turns = options.turns or (1 if device.type == "cuda" else 3)
    measure = measure_translation if options.translate else measure_training
    content = {**provenance(device), **measure(options, device, turns)}
    print(described(content))
    if options.json:
        write_text(options.json, json.dumps(content, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    cli.run(main)
