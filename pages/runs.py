"""What a page has to know about a run: what is drawn for it, its colors, its examples."""

import contextlib
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from config import Config, config_from_dict
from engine.cli import UserError
from engine.fast import speed_up_inference
from engine.files import read_json
from images.reading import find_images, natural_order
from metrics.palettes import FILE, find_palette
from sharing.exports import DESCRIPTION, WEIGHTS
from utils import checkpoint_files, load_generator, run_folder

MAX_SIDE = 2048  # px; a larger upload is reduced


def stamp_of(run: str | Path) -> int:
    """When the newest weights of a run or an export were saved; 0 if it is none."""
    files = [Path(run, WEIGHTS), *checkpoint_files(run)]
    return next((file.stat().st_mtime_ns for file in files if file.is_file()), 0)


def runs_at(path: str) -> list[str]:
    """The run at `path`, or those in the folder there: facades first, then by name."""
    if stamp_of(path):
        return [path]
    inside = filter(Path.is_dir, Path(path).glob("*"))
    inside = sorted(inside, key=lambda f: (f.name != "facades", natural_order(f)))
    return [str(folder) for folder in inside if stamp_of(folder)]


def find_runs(paths: list[str]) -> dict[str, str]:
    """The runs at all `paths`, by a short name. Raises UserError."""
    for path in paths:
        if not runs_at(path):
            raise UserError(f"{path} is no run with a checkpoint, no export and no folder of these")
    return named([run for path in paths for run in runs_at(path)])


def named(runs: list[str]) -> dict[str, str]:
    """The runs by the names of their folders, or by their paths where two names are equal."""
    names = Counter(Path(run).name for run in runs)
    return {run if names[Path(run).name] > 1 else Path(run).name: run for run in runs}


@lru_cache(maxsize=4)
def generator_of(run: str, device: str, stamp: int) -> torch.nn.Module:
    """The generator as of that stamp."""
    generator = load_generator(run, device)
    speed_up_inference(generator)
    return generator


def config_of(run: str) -> Config:
    """The configuration, if possible without reading the weights. Raises UserError."""
    file = run_folder(run) / DESCRIPTION
    if not file.is_file():
        return load_generator(run).config
    values = read_json(file)
    with contextlib.suppress(TypeError):
        return config_from_dict(values.get("config", values))  # an export has it inside
    raise UserError(f"{file} holds no configuration")


# What is drawn, for each task; in pairs, an image unless `kind_of` knows better.
KINDS = {"edges": "edges", "inpainting": "mask", "style": "image", "pairs": "image"}
TITLES = {
    "labels": "label map -> image",
    "edges": "edges -> image",
    "mask": "photo with a hole -> photo",
    "image": "image -> image",
}


def describe(run: str) -> dict:
    """What the page needs to know. `kind` is what one draws: labels, edges, the mask of a photo, an
    image in any colors, or nothing on a photo. `longest` is the longer side, in px, to which an
    image is reduced. `examples` are files. Raises UserError."""
    config = config_of(run)
    if config.input_range or config.target_range:
        raise UserError(f"{run} translates arrays, which cannot be drawn; evaluate.py can")
    own = run_folder(run) / FILE
    palette = find_palette(replace(config, palette=str(own)) if own.is_file() else config)
    kind = KINDS.get(config.task, "photo")
    if palette and config.direction == "BtoA":
        kind = "labels"
    elif config.inputs == "drawings":
        kind = "edges"
    title = TITLES[kind] if config.task in ("pairs", "inpainting") else config.task
    longest = {"colorization": 1024, "inpainting": 1024, "super_resolution": MAX_SIDE}
    return {
        "kind": kind,
        "palette": palette.classes if kind == "labels" else {},
        "task": config.task,
        "title": (config.translates or title.replace("_", " ")).replace("->", "→"),
        "direction": config.direction,
        "size": config.crop_size,
        "longest": longest.get(config.task, config.crop_size),
        "factor": config.factor if config.task == "super_resolution" else 1,
        "examples": examples_of(run, kind),
    }


def examples_of(run: str, kind: str) -> list[Path]:
    """examples/ in the run's folder, or else the test images that evaluate.py wrote."""
    for folder in ("examples", "test/target" if kind in ("mask", "photo") else "test/input"):
        with contextlib.suppress(UserError):  # it holds none
            return find_images(run_folder(run) / folder)[:12]
    return []
