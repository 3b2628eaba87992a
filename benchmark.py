"""Measures the training step side by side with the textbook one, and the loading of data.

    python benchmark.py                                   a table for this machine
    python benchmark.py --batch_sizes 1 4 16 64           other batch sizes
    python benchmark.py --port DIR                        also the PyTorch port, checked out in DIR
    python benchmark.py --base_channels 16 --crop_size 128 --depth 7      small and quick

Every variant trains in a process of its own, all of them take turns, and a figure is the median
over the turns. The textbook step is train.py's without fast.py: eager, fp32, PyTorch's own Adam.
"""

from config import PAPER, Parser, UserError, one_line_errors

if __name__ == "__main__":  # before the slow imports, so that --help and mistakes answer at once
    parser = Parser(__doc__)
    parser.add_argument(
        "--batch_sizes", type=int, nargs="+", metavar="N", help="default: 1 8, on a GPU 1 4 16 64"
    )
    parser.add_argument("--crop_size", type=int, default=256, help="of the pictures, in pixels")
    parser.add_argument("--depth", type=int, default=8, help="of the generator")
    parser.add_argument("--base_channels", type=int, default=64, help="of both networks")
    parser.add_argument("--turns", type=int, default=5, help="turns of each variant that count")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--port", metavar="DIR", help="a checkout of pytorch-CycleGAN-and-pix2pix")
    parser.add_argument("--data_root", default="data/demo", help="pairs for the loading part")
    parser.add_argument("--output", metavar="FILE", help="also write the figures there, as JSON")
    with one_line_errors():
        ARGUMENTS = parser.parse_args()

import contextlib
import importlib.util
import json
import multiprocessing
import statistics
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from config import Config
from data.make_demo import DEMO_ROOT, make_demo
from dataset import PairedDataset, TrainingOrder, load_batches
from fast import choose_precision, keep_heap, prepare
from files import replacing
from processes import device_of, origin, usable_cores
from train import build_model, step_of, train_step

# ---- The variants -----------------------------------------------------------------------------


def our_step(config: Config, device: torch.device):
    """The step of a run with this configuration: (x, y) -> losses."""
    return step_of(prepare(build_model(config, device), config), config)


def port_step(folder: str, config: Config, device: torch.device):
    """The step of the PyTorch port: its networks and losses, in the order of its pix2pix model."""
    path = Path(folder) / "models" / "networks.py"
    spec = importlib.util.spec_from_file_location("networks", path)
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    kind = {256: "unet_256", 128: "unet_128"}[config.crop_size]
    with contextlib.redirect_stdout(None):  # it tells how it initialises
        g = networks.define_G(3, 3, config.base_channels, kind, norm="batch", use_dropout=True)
        d = networks.define_D(6, config.discriminator_channels, "basic", norm="batch")
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


def serve(connection, make_step, batch_size: int, size: int, device: torch.device) -> None:
    """Takes as many steps as the connection asks for, and answers with the seconds of each."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    x, y = (torch.rand(batch_size, 3, size, size, device=device) * 2 - 1 for _ in range(2))
    step = make_step()
    for count in iter(connection.recv, 0):
        seconds = []
        # To wait for a GPU after every step would count the wait, so there it is a mean.
        at_once = 1 if device.type == "cpu" else count
        for _ in range(count // at_once):
            start = time.perf_counter()
            for _ in range(at_once):
                step(x, y)
            finish(device)
            seconds.append((time.perf_counter() - start) / at_once)
        connection.send(seconds)
    connection.send(peak_memory(device))


def finish(device: torch.device) -> None:
    """Waits for what a GPU has been given to do."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def peak_memory(device: torch.device) -> float | None:
    """The most GB that this process has held: on the GPU, or else altogether, if Linux says."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    if device.type != "cpu" or not status.exists():
        return None
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e9


def measure(variants: dict, batch_size: int, size: int, device: torch.device, turns: int) -> dict:
    """Median seconds of a step and peak GB of each variant; None where it did not survive."""
    context = multiprocessing.get_context("spawn")
    count = 3 if device.type == "cpu" else 20  # steps a turn
    children, seconds = {}, {name: [] for name in variants}
    for name, make_step in variants.items():
        ours, theirs = context.Pipe()
        arguments = (theirs, make_step, batch_size, size, device)
        child = context.Process(target=serve, args=arguments, daemon=True)
        child.start()
        theirs.close()
        children[name] = (child, ours)

    results = {}
    warm_up = 1  # the turns that do not count; a CUDA graph is recorded in them
    bar = tqdm(total=(turns + warm_up) * len(variants), desc=f"batch {batch_size}", leave=False)
    with bar:
        for turn in range(turns + warm_up):
            for name, (_, connection) in children.items():
                try:
                    if name not in results:
                        connection.send(count)
                        taken = connection.recv()
                        if turn >= warm_up:
                            seconds[name] += taken
                except (EOFError, BrokenPipeError, ConnectionResetError):
                    results[name] = None
                bar.update()
    for name, (child, connection) in children.items():
        if name not in results:
            connection.send(0)
            results[name] = (statistics.median(seconds[name]), connection.recv())
        child.join()
    return results


# ---- What the machine could do ----------------------------------------------------------------


def count_flops(config: Config) -> int:
    """Floating-point operations of the convolutions of one textbook step."""
    device = torch.device("meta")  # shapes alone, nothing is computed
    model = build_model(config, device)
    x, y = torch.empty(2, config.batch_size, 3, config.crop_size, config.crop_size, device=device)
    with FlopCounterMode(display=False) as counter:
        train_step(model, x, y, config)
    return counter.get_total_flops()


def best_seconds(function, device: torch.device, times: int = 10) -> float:
    taken = []
    for _ in range(times):
        finish(device)
        start = time.perf_counter()
        function()
        finish(device)
        taken.append(time.perf_counter() - start)
    return min(taken)


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a large matrix product."""
    side = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / best_seconds(lambda: a @ b, device)


def copy_rate(device: torch.device) -> float:
    """Bytes read and written a second by a large copy."""
    a = torch.ones(2**26, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / best_seconds(lambda: b.copy_(a), device)


# ---- Loading ----------------------------------------------------------------------------------


def loading_rates(config: Config) -> dict[str, float]:
    """Pairs a second: from memory, and from files by one process and by one for each core."""
    keep_heap(config.batch_size)  # as a training does
    rates = {}
    for name, fields in {
        "from memory": {},
        "from files, 1 process": {"cache_gb": 0.0, "num_workers": 1},
        f"from files, {usable_cores()} processes": {"cache_gb": 0.0, "num_workers": -1},
    }.items():
        settings = replace(config, epochs=10**9, **fields)  # more than there is time for
        data = PairedDataset(settings, "train")
        batches = iter(load_batches(data, TrainingOrder(len(data), settings)))
        for _ in range(50):  # processes start, queues fill
            next(batches)
        start, pairs = time.perf_counter(), 0
        while time.perf_counter() - start < 2:
            pairs += len(next(batches)["name"])
        rates[name] = pairs / (time.perf_counter() - start)
        del batches
    return rates


# ---- The tables -------------------------------------------------------------------------------

COLUMNS = {
    "batch": "{}",
    "variant": "{}",
    "ms/step": "{:.1f}",
    "images/s": "{:.1f}",
    "TFLOP/s": "{:.2f}",
    "of floor": "{:.0%}",
    "peak GB": "{:.2f}",
    "speed": "{:.2f}x",
}


def show(values) -> None:
    print(line(values), flush=True)


def line(values) -> str:
    return "| " + " | ".join(map(str, values)) + " |"


def cells(row: dict) -> list[str]:
    """A row of the table of the steps, as it is printed."""
    return ["" if row[name] is None else form.format(row[name]) for name, form in COLUMNS.items()]


def markdown(figures: dict) -> str:
    """The table of the steps of what --output wrote."""
    rows = [list(COLUMNS), ["---"] * len(COLUMNS), *map(cells, figures["steps"])]
    return "\n".join(map(line, rows))


def notes(figures: dict) -> str:
    """What has to be known of that table."""
    rates = figures["rates"]
    floor = [f"a large {rates['precision']} matrix product {rates['TFLOP/s']:.2f} TFLOP/s"]
    floor += [f"a copy {rates['GB/s']:.0f} GB/s"] if "GB/s" in rates else []
    loading = ", ".join(f"{name} {rate:.0f}" for name, rate in figures["loading"].items())
    return (
        f"{figures['machine']}; {figures['versions']}; commit {figures['commit'] or 'unknown'}. "
        f"Random pictures of {figures['crop_size']} px; pairs loaded a second: {loading}. "
        f"The floor: {', '.join(floor)}.\n"
        f"`{figures['command']}`" + (f"\n{figures['note']}" if "note" in figures else "")
    )


def step_table(
    configs: list[Config], device: torch.device, turns: int, port: str | None
) -> tuple[list[dict], dict[str, float]]:
    """Prints the table of the steps, for each configuration its variants. Returns its rows, and the
    rates that make the floor."""
    config = configs[0]
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[config.precision]
    flop_rate, byte_rate = matrix_rate(dtype, device), copy_rate(device)
    flops = count_flops(replace(config, batch_size=1))
    networks = build_model(config, torch.device("meta"))[:2]
    # Adam reads the weight, the gradient and both moments, and writes all but the gradient.
    adam_bytes = 7 * 4 * sum(p.numel() for network in networks for p in network.parameters())
    print(f"a {config.precision} matrix product here: {flop_rate / 1e12:.2f} TFLOP/s")
    print(f"a copy: {byte_rate / 1e9:.0f} GB/s, read and written")
    print(f"a step, counted: {flops / 1e9:.1f} GFLOP a pair, {adam_bytes / 1e9:.2f} GB for Adam")
    print("the floor is the time that these take at those rates\n")

    show(COLUMNS)
    show(["---"] * len(COLUMNS))
    rows = []
    for config in configs:
        fp32 = replace(config, precision="fp32")
        variants = {
            "textbook fp32": partial(our_step, replace(fp32, fast=False), device),
            "ours fp32": partial(our_step, fp32, device),
        }
        if config.precision == "bf16":
            variants["ours bf16"] = partial(our_step, config, device)
        if port:
            variants["the port, fp32"] = partial(port_step, port, config, device)
        batch_size = config.batch_size
        results = measure(variants, batch_size, config.crop_size, device, turns)
        textbook = results["textbook fp32"]
        for name in variants:
            if results[name] is None:
                show([batch_size, name, "died, for lack of memory perhaps"] + [""] * 5)
                continue
            seconds, memory = results[name]
            values = (
                batch_size,
                name,
                seconds * 1e3,
                batch_size / seconds,
                batch_size * flops / seconds / 1e12,
                (batch_size * flops / flop_rate + adam_bytes / byte_rate) / seconds,
                memory,
                textbook and textbook[0] / seconds,
            )
            rows.append(dict(zip(COLUMNS, values, strict=True)))
            show(cells(rows[-1]))
    return rows, {"TFLOP/s": flop_rate / 1e12, "GB/s": byte_rate / 1e9}


def loading_table(config: Config) -> dict[str, float]:
    rates = loading_rates(config)
    show(["loading", "pairs/s"])
    show(["---", "---"])
    for name, rate in rates.items():
        show([name, f"{rate:.0f}"])
    print()
    return rates


def main(arguments) -> None:
    device = device_of(replace(PAPER, device=arguments.device))
    config = replace(
        PAPER,
        device=arguments.device,
        crop_size=arguments.crop_size,
        load_size=arguments.crop_size * 286 // 256,
        depth=arguments.depth,
        base_channels=arguments.base_channels,
        discriminator_channels=arguments.base_channels,
        data_root=arguments.data_root,
        precision=choose_precision("auto", device)[0],
    )
    usual = (1, 8) if device.type == "cpu" else (1, 4, 16, 64)
    configs = [replace(config, batch_size=size) for size in arguments.batch_sizes or usual]
    if arguments.turns < 1:
        raise UserError(f"--turns is {arguments.turns}; it has to be 1 or more")
    if arguments.port and not (Path(arguments.port) / "models" / "networks.py").is_file():
        raise UserError(f"--port {arguments.port} holds no models/networks.py")
    if arguments.port and config.crop_size not in (128, 256):
        raise UserError(f"--crop_size is {config.crop_size}; the port has networks for 128 and 256")

    made = origin(device)
    print(f"{made['machine']}; {made['versions']}")
    if Path(config.data_root) == DEMO_ROOT and not DEMO_ROOT.exists():
        make_demo(DEMO_ROOT)
    loading = loading_table(config)  # first, so that bad data cost no minutes
    steps, rates = step_table(configs, device, arguments.turns, arguments.port)
    if arguments.output:
        figures = {
            **made,
            "crop_size": config.crop_size,
            "rates": {**rates, "precision": config.precision},
            "steps": steps,
            "loading": loading,
        }
        with replacing(arguments.output) as temporary:
            temporary.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main(ARGUMENTS))
