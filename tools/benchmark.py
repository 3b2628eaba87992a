"""Measures the training step beside the textbook one, and data loading.

    python -m tools.benchmark                               a table for this machine
    python -m tools.benchmark --batch_sizes 1 4 16 64       other batch sizes
    python -m tools.benchmark --port DIR                    also the PyTorch port, checked out there
    python -m tools.benchmark --base_channels 16 --crop_size 128 --depth 7      small and quick

Each variant trains in its own process; they take turns, and the median counts. The textbook step is
train.py's without engine/fast.py: eager, fp32, PyTorch's own Adam. The floor is its FLOPs at the
rate of a large matrix product, and Adam's bytes at the rate of a copy.
"""

import argparse
from pathlib import Path

from engine import cli
from engine.cli import UserError


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = cli.Parser(__doc__, "python -m tools.benchmark [--option value ...]")
    add = parser.add_argument
    add("--batch_sizes", type=int, nargs="+", metavar="N", help="default: 1 8, on a GPU 1 4 16 64")
    add("--crop_size", type=int, default=256, help="of the images, in pixels (default: 256)")
    add("--depth", type=int, default=8, help="of the generator (default: 8)")
    add("--base_channels", type=int, default=64, help="of both networks (default: 64)")
    add("--turns", type=int, default=5, help="turns of each variant that count (default: 5)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--port", metavar="DIR", help="a checkout of pytorch-CycleGAN-and-pix2pix; 128 or 256 px")
    add("--data_root", default="data/demo", help="pairs for the loading part")
    add("--output", metavar="FILE", help="also write the results there, as JSON")
    options = parser.parse_args(argv)
    if options.turns < 1:
        raise UserError(f"--turns is {options.turns}; it must be 1 or more")
    if options.port and not Path(options.port, "models", "networks.py").is_file():
        raise UserError(f"--port {options.port} holds no models/networks.py")
    return options


if __name__ == "__main__":
    cli.early(parse_arguments)  # --help and mistakes answer before the slow imports

import contextlib
import importlib.util
import json
import multiprocessing
import re
import statistics
import sys
import time
import timeit
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from config import Config
from data.make_demo import DEMO_ROOT, make_demo
from dataset import PairedDataset, load_pairs
from engine.devices import device_of, origin, usable_cores
from engine.fast import choose_precision, keep_heap
from engine.files import write_text
from engine.loading import TrainingOrder
from tools.tables import described
from train import build_model, prepare, step_function, train_step

# ---- Variants of the step ---------------------------------------------------------------------


def variants_of(config: Config, port: str | None) -> dict:
    """Names of variants, and functions that make their step, (x, y) -> losses, on a device."""
    fp32 = replace(config, precision="fp32")
    ours = {"textbook fp32": replace(fp32, fast=False), "ours fp32": fp32}
    if config.precision == "bf16":
        ours["ours bf16"] = config
    variants = {name: partial(our_step, fields) for name, fields in ours.items()}
    if port:
        variants["the port, fp32"] = partial(port_step, port, config)
    return variants


def our_step(config: Config, device: torch.device):
    return step_function(prepare(build_model(config, device), config), config)


def port_step(folder: str, config: Config, device: torch.device):
    """The PyTorch port's step: its networks and losses, in the order of its pix2pix model."""
    path = Path(folder, "models", "networks.py")
    spec = importlib.util.spec_from_file_location("networks", path)
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    kind, width = f"unet_{config.crop_size}", config.base_channels
    with contextlib.redirect_stdout(None):
        g = networks.define_G(3, 3, width, kind, norm="batch", use_dropout=True)
        d = networks.define_D(6, width, "basic", norm="batch")
    g, d = g.to(device), d.to(device)
    gan_loss, l1_loss = networks.GANLoss("vanilla").to(device), torch.nn.L1Loss()
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


# ---- Timing -----------------------------------------------------------------------------------

process = {}  # of a variant's process: its step, images and device


def start(make_step, config: Config, device: torch.device) -> None:
    """Begins a variant's process."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    size = (2, config.batch_size, 3, config.crop_size, config.crop_size)
    images = torch.rand(size, device=device) * 2 - 1
    process.update(step=make_step(device), images=images, device=device)


def take_steps(count: int) -> tuple[float, float | None]:
    """In a variant's process: the mean seconds of some steps, and its peak memory so far in GB."""
    begun = time.perf_counter()
    for _ in range(count):
        process["step"](*process["images"])
    finish(process["device"])
    return (time.perf_counter() - begun) / count, peak_memory(process["device"])


def finish(device: torch.device) -> None:
    """Waits for a GPU."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def peak_memory(device: torch.device) -> float | None:
    """Peak GB of this process: on the GPU, else in total, where Linux reports it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    found = status.exists() and re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
    return int(found[1]) * 1024 / 1e9 if found and device.type == "cpu" else None


def measure(variants: dict, config: Config, device: torch.device, turns: int) -> dict:
    """Median seconds per step and peak GB of each variant, without those that crashed."""
    context = multiprocessing.get_context("spawn")
    count = 3 if device.type == "cpu" else 20  # steps a turn
    pools, seconds, peaks = {}, {name: [] for name in variants}, {}
    for name, make_step in variants.items():
        pools[name] = ProcessPoolExecutor(1, context, start, (make_step, config, device))
    # The first turn warms up and does not count; a CUDA graph is recorded in it.
    for turn in tqdm(range(turns + 1), f"batch {config.batch_size}", leave=False):
        for name in list(pools):
            try:
                taken, peaks[name] = pools[name].submit(take_steps, count).result()
                seconds[name] += [taken] if turn else []
            except Exception as error:  # such as lack of memory; the others go on
                print(f"{name}, batch {config.batch_size}, crashed: {error}", file=sys.stderr)
                pools.pop(name).shutdown()
    for pool in pools.values():
        pool.shutdown()  # the next batch size needs the memory
    return {name: (statistics.median(seconds[name]), peaks[name]) for name in pools}


def count_work(config: Config) -> tuple[int, int]:
    """What a textbook step cannot do without: the FLOPs of the convolutions, and Adam's bytes."""
    device = torch.device("meta")  # shapes alone, nothing is computed
    model = build_model(config, device)
    x, y = torch.empty(2, config.batch_size, 3, config.crop_size, config.crop_size, device=device)
    with FlopCounterMode(display=False) as counter:
        train_step(model, x, y, config)
    weights = sum(p.numel() for network in model[:2] for p in network.parameters())
    # Adam reads weight, gradient and both moments, and writes all but the gradient.
    return counter.get_total_flops(), 7 * 4 * weights


def machine_rates(precision: str, device: torch.device) -> tuple[float, float]:
    """FLOP/s of a large matrix product, and bytes/s, read and written, of a large copy."""
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    side = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)

    def best_seconds(function) -> float:
        return min(timeit.repeat(lambda: (function(), finish(device)), number=1, repeat=10))

    flop_rate = 2 * side**3 / best_seconds(lambda: a @ b)
    return flop_rate, 2 * source.nbytes / best_seconds(lambda: target.copy_(source))


def loading_rates(config: Config) -> dict[str, float]:
    """Pairs per second: from memory, and from files with one process and one per core."""
    keep_heap(config.batch_size)  # as in training
    rates = {}
    for name, fields in {
        "from memory": {},
        "from files, 1 process": {"cache_gb": 0.0, "num_workers": 1},
        f"from files, {usable_cores()} processes": {"cache_gb": 0.0, "num_workers": -1},
    }.items():
        data = PairedDataset(replace(config, **fields), "train")
        order = TrainingOrder(len(data), config.batch_size, 10**9, config.seed)  # never ends
        batches = iter(load_pairs(data, order))
        for _ in range(50):  # processes start, queues fill
            next(batches)
        start, pairs = time.perf_counter(), 0
        while time.perf_counter() - start < 2:
            pairs += len(next(batches)["name"])
        rates[name] = pairs / (time.perf_counter() - start)
        del batches
    return rates


# ---- The table --------------------------------------------------------------------------------


def step_rows(results: dict, config: Config, rates: tuple[float, float]) -> list[dict]:
    """The rows of a batch size, from the results of `measure`."""
    flops, adam_bytes = count_work(config)
    textbook, _ = results.get("textbook fp32", (None, None))
    return [
        {
            "batch": config.batch_size,
            "variant": name,
            "ms/step": seconds * 1e3,
            "images/s": config.batch_size / seconds,
            "TFLOP/s": flops / seconds / 1e12,
            "of floor": (flops / rates[0] + adam_bytes / rates[1]) / seconds,
            "peak GB": peak,
            "speed": textbook and textbook / seconds,
        }
        for name, (seconds, peak) in results.items()
    ]


def main(argv=None) -> int:
    options = parse_arguments(argv)
    device = device_of(options.device)
    config = Config(
        device=options.device,
        crop_size=options.crop_size,
        load_size=options.crop_size * 286 // 256,
        depth=options.depth,
        base_channels=options.base_channels,
        discriminator_channels=options.base_channels,
        data_root=options.data_root,
        precision=choose_precision("auto", device)[0],
    )
    default = (1, 8) if device.type == "cpu" else (1, 4, 16, 64)
    configs = [replace(config, batch_size=size) for size in options.batch_sizes or default]
    if Path(config.data_root) == DEMO_ROOT and not DEMO_ROOT.exists():
        make_demo(DEMO_ROOT)

    loading = loading_rates(config)  # first, so that bad data cost no minutes
    rates, steps = machine_rates(config.precision, device), []
    for config in configs:
        results = measure(variants_of(config, options.port), config, device, options.turns)
        steps += step_rows(results, config, rates)
    content = {
        **origin(device),
        "crop_size": config.crop_size,
        "rates": {
            "TFLOP/s": rates[0] / 1e12,
            "GB/s": rates[1] / 1e9,
            "precision": config.precision,
        },
        "steps": steps,
        "loading": loading,
    }
    print(described(content))
    if options.output:
        write_text(options.output, json.dumps(content, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    cli.run(main)
