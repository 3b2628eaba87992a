"""Times evaluate.py on a folder of images and on a split, beside the PyTorch port's test.py.

`python -m tools.benchmark --translate` runs it. Both programs run as a user starts them, one after
the other, on the same drawn images; speed does not depend on the weights, which are random.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from tqdm import tqdm

from config import Config
from engine.cli import UserError
from sharing.exports import write_export
from tools.make_demo import make_demo
from utils import build_generator

IMAGES = 200
WEIGHTS = "latest_net_G.pth"  # as the port names them
ROOT = Path(__file__).resolve().parent.parent


def compare_translation(config: Config, junyanz: str | None, turns: int, images: int) -> list[dict]:
    """A row for each program and task: the median time of a run, from start to end, and the images
    per second that follow. Raises UserError if a program fails."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        make_demo(root / "data", train=1, val=1, test=images)
        write_inputs(root / "data" / "test", root / "inputs")
        generator = build_generator(config)
        generator.config = config
        write_export(generator, root / "ours", "float32")
        commands = our_commands(root, config)
        if junyanz:
            write_port_weights(Path(junyanz), config, root / "port" / WEIGHTS)
            commands |= port_commands(root, Path(junyanz).resolve(), config, images)
        measured = {name: [] for name in commands}
        for _ in tqdm(range(turns), "translating", leave=False):
            for name, (words, place) in commands.items():
                measured[name].append(time_command(words, place))
    seconds = {name: statistics.median(wall for wall, _ in measured[name]) for name in measured}
    last = {task: seconds[task, variant] for task, variant in measured}  # the port, if it ran
    return [
        {
            "task": task,
            "variant": variant,
            "seconds": seconds[task, variant],
            "CPU seconds": statistics.median(cpu for _, cpu in timings),
            "images/s": images / seconds[task, variant],
            "speed": last[task] / seconds[task, variant],
        }
        for (task, variant), timings in sorted(measured.items(), key=lambda item: item[0][0])
    ]


def write_inputs(pairs: Path, inputs: Path) -> None:
    """Writes the inputs, the right halves, of side-by-side pairs."""
    inputs.mkdir()
    for file in pairs.iterdir():
        with Image.open(file) as pair:
            width, height = pair.size
            pair.crop((width // 2, 0, width, height)).save(inputs / file.name)


def our_commands(root: Path, config: Config) -> dict:
    """(task, variant) -> the words of a command, and where it runs."""
    words = [sys.executable, "evaluate.py", root / "ours", "--device", config.device]
    folder = [*words, "--input", root / "inputs", "--output", root / "translated"]
    split = [*words, "--data_root", root / "data", "--output", root / "scored"]
    commands = {}
    for precision in dict.fromkeys(["fp32", config.precision]):
        for task, command in (("folder", folder), ("split, scored", split)):
            words = [*command, "--precision", precision]
            commands[task, f"ours {precision}"] = words, ROOT
    return commands


def port_commands(root: Path, junyanz: Path, config: Config, images: int) -> dict:
    """Likewise of the port's test.py, which computes no scores."""
    words = [sys.executable, "test.py", "--checkpoints_dir", root, "--name", "port"]
    words += ["--netG", f"unet_{config.crop_size}", "--ngf", config.base_channels]
    words += ["--norm", "batch", "--num_test", images, "--results_dir", root / "port"]
    words += ["--load_size", config.crop_size, "--crop_size", config.crop_size]
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    words += ["--gpu_ids", 0 if on_gpu else -1]
    single = ["--model", "test", "--dataset_mode", "single", "--dataroot", root / "inputs"]
    pairs = ["--model", "pix2pix", "--direction", "BtoA", "--dataroot", root / "data"]
    return {
        ("folder", "the port"): ([*words, *single], junyanz),
        ("split, scored", "the port, not scored"): ([*words, *pairs], junyanz),
    }


def write_port_weights(junyanz: Path, config: Config, path: Path) -> None:
    """Random weights of the port's generator. Its modules are imported by a process of their own,
    as their names are those of ours."""
    path.parent.mkdir(parents=True)
    code = (
        "import sys, torch; from models.networks import define_G; channels, width, side, path = "
        "sys.argv[1:]; network = define_G(int(channels), int(channels), int(width), "
        "f'unet_{side}', norm='batch', use_dropout=True); torch.save(network.state_dict(), path)"
    )
    sizes = (config.in_channels, config.base_channels, config.crop_size)
    time_command([sys.executable, "-c", code, *sizes, path.resolve()], junyanz)


def time_command(words: list, folder: Path) -> tuple[float, float]:
    """Runs a command. Returns its wall-clock time and its CPU time, in seconds."""
    before, begun = os.times(), time.perf_counter()
    done = subprocess.run(list(map(str, words)), cwd=folder, capture_output=True)
    seconds, after = time.perf_counter() - begun, os.times()
    if done.returncode:
        lines = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise UserError(f"{words[1]} in {folder} failed: {reason}")
    cpu_seconds = after.children_user + after.children_system
    cpu_seconds -= before.children_user + before.children_system
    return seconds, cpu_seconds
