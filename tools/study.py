"""A study with people: how often is a generated image taken for the real one? (Section 4.1)

    python -m tools.study runs/maps --output study.html     a page that runs the trials
    python -m tools.study runs/L1 runs/L1+cGAN              each session draws one of them
    python -m tools.study runs/maps --size 512              translated at 512 px, shown at 256
    python -m tools.study --read study_*.json               "% labeled real" of the results

The page is one file and needs no network. docs/study.md describes the protocol.
"""

import argparse
import base64
import glob
import hashlib
import io
import json
import math
import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm

from config import Config
from dataset import PairedDataset
from engine import cli
from engine.cli import UserError
from engine.files import read_json, write_text
from images.pixels import resize, to_image
from sharing.hub import is_on_hub
from utils import generate_any_size, load_generator, run_folder

TEMPLATE = Path(__file__).parent.parent / "pages" / "study.html"
RESULT_FORMAT = 1
PEOPLE = 50  # for each generator, in the paper
MAX_REPEATS = 3  # a session shows no image more often than this as real, or as generated
LARGE = 50  # MB; a larger page may be too much for a phone
RESAMPLES = 10_000
TOLERANCE = 100  # ms by which the display may differ from one second before it is reported


def parse_arguments(argv=None) -> argparse.Namespace:
    """Raises UserError."""
    parser = cli.Parser(
        __doc__,
        "python -m tools.study RUN [RUN ...] [--output PAGE] ... | --read FILE [FILE ...]",
    )
    add = parser.add_argument
    add("runs", nargs="*", metavar="RUN", help="a run folder, a checkpoint, an export, or hf://...")
    add("--read", nargs="+", metavar="FILE", help="evaluate results that the page has saved")
    add("--output", default="study.html", metavar="PAGE", help="the page (default: study.html)")
    add("--split", default="test", help="train, val or test (default: test)")
    add("--size", type=int, metavar="PX", help="translate at this size, show at half of it")
    add("--images", type=int, default=100, help="images of the split to use (default: 100)")
    add("--practice", type=int, default=10, help="trials with feedback (default: 10)")
    add("--trials", type=int, default=40, help="trials without (default: 40)")
    add("--data_root", metavar="PATH", help="the dataset, if it has moved")
    add("--bad_files", help="stop at a bad file, or skip it (default: as the run)")
    add("--seed", type=int, default=0, help="of the noise, the images, the bootstrap (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    options = parser.parse_args(argv)
    if bool(options.runs) == bool(options.read):
        raise UserError("name either runs, to make a page, or results (--read)")
    least = {"practice": 0, "trials": 1, "images": 1, "seed": 0, "size": 2}
    for name, minimum in least.items():
        value = getattr(options, name)
        if value is not None and not minimum <= value < 2**63:
            raise UserError(f"--{name} is {value}; it must be {minimum} or more")
    return options


# ---- The page ---------------------------------------------------------------------------------


def names_of(runs: list[str]) -> dict[str, str]:
    """The runs by a short name: that of the folder, or the whole path where two would be equal.
    Raises UserError if a run is given twice."""
    if twice := [run for run, count in Counter(runs).items() if count > 1]:
        raise UserError(f"{twice[0]} is given twice")
    short = [Path(run if is_on_hub(run) else run_folder(run).resolve()).name for run in runs]
    return {
        run if short.count(name) > 1 else name: run for name, run in zip(short, runs, strict=True)
    }


def resized(config: Config, size: int) -> Config:
    """The configuration with which a dataset has images of `size` px. Raises UserError."""
    if config.resize == "none":
        raise UserError("--size cannot be used, since this run does not resize its images")
    load_size = round(config.load_size * size / config.crop_size)
    try:
        return replace(config, crop_size=size, load_size=load_size)
    except UserError as error:
        raise UserError(f"--size {size}: {error}") from error


def practice_images(count: int, practice: int, trials: int, same_input: bool) -> int:
    """How many of `count` images are for practice only, so that its feedback tells nothing about
    the trials that count. Raises UserError if there are too few images."""

    def least(number: int) -> int:
        return max(1 if same_input else 2, math.ceil(number / MAX_REPEATS)) if number else 0

    needed = least(practice) + least(trials)
    if count < needed:
        raise UserError(
            f"{count} images are too few for {practice} + {trials} trials, which need {needed} "
            "(--split, --images, --practice, --trials)"
        )
    share = round(count * practice / (practice + trials))
    return min(max(least(practice), share), count - least(trials))


class Generator(NamedTuple):
    """A generator and the images that it is shown with."""

    network: nn.Module
    dataset: PairedDataset
    chosen: list[int]  # indices of the pairs that are used
    about: dict  # how the page makes trials of them


def load(run: str, options: argparse.Namespace) -> Generator:
    """Raises UserError, also if there are too few images."""
    network = load_generator(run, options.device)
    changes = {name: getattr(options, name) for name in ("data_root", "bad_files")}
    changes = {name: value for name, value in changes.items() if value}
    config = replace(network.config, cache_gb=0.0, **changes)  # only some images are read
    if options.size:
        config = resized(config, options.size)
    dataset = PairedDataset(config, options.split, augment=False)
    count = min(options.images, len(dataset))
    # The first ones may all be of one street. Generators of a dataset get the same ones.
    chosen = sorted(random.Random(options.seed).sample(range(len(dataset)), count))
    # Section 4.1: both of the same gray input in colorization, of different inputs elsewhere.
    same_input = config.task == "colorization"
    try:
        practice = practice_images(count, options.practice, options.trials, same_input)
    except UserError as error:
        raise UserError(f"{config.data_root}, split {dataset.split}: {error}") from error
    about = {"same_input": same_input, "practice_images": practice}
    return Generator(network, dataset, chosen, about)


def translated(generator: Generator, options: argparse.Namespace, doing: str):
    """Yields the name, the real and the generated image (C, H, W), in [-1, 1], of each pair that is
    used. The noise of every image starts from the seed."""
    for index in tqdm(generator.chosen, doing, unit="image"):
        pair = generator.dataset[index]
        output = generate_any_size(generator.network, pair["input"], options.seed)
        images = [generator.dataset.task.show(pair, y) for y in (pair["target"], output)]
        if options.size:
            images = [resize(y, [side // 2 for side in y.shape[-2:]]) for y in images]
        yield pair["name"], *images


def data_url(image: Tensor) -> str:
    """The image (C, H, W) without any loss: artifacts of a format could give it away."""
    buffer = io.BytesIO()
    to_image(image).convert("RGB").save(buffer, "WEBP", lossless=True)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def valid_text(name: str) -> str:
    """The name of a file, which need not be valid text."""
    return os.fsencode(name).decode(errors="replace")


def study_of(options: argparse.Namespace) -> dict:
    """What the page needs: the generators with their images, and the protocol. Raises UserError."""
    loaded = {name: load(run, options) for name, run in names_of(options.runs).items()}
    images: dict[str, int] = {}  # the number of each; generators share their real images
    generators = []
    for name, generator in loaded.items():
        items = []
        for item, *pair in translated(generator, options, f"translating with {name}"):
            real, fake = (images.setdefault(data_url(y), len(images)) for y in pair)
            items.append({"name": valid_text(item), "real": real, "fake": fake})
        generators.append({"name": valid_text(name), **generator.about, "items": items})
    return {
        "format": RESULT_FORMAT,
        "practice": options.practice,
        "trials": options.trials,
        "generators": generators,
        "images": list(images),
    }


def write_page(study: dict, path: Path) -> None:
    """Writes the page, atomically. Its results carry the hash of the study."""
    study["id"] = hashlib.sha256(json.dumps(study).encode()).hexdigest()[:12]
    data = json.dumps(study).replace("<", "\\u003c")  # so that no name can end the script
    write_text(path, TEMPLATE.read_text(encoding="utf-8").replace("{{data}}", data))


def make_page(options: argparse.Namespace) -> None:
    """Raises UserError."""
    study, path = study_of(options), Path(options.output)
    write_page(study, path)
    megabytes = path.stat().st_size / 1e6
    print(f"wrote {path}, {megabytes:.1f} MB")
    if megabytes > LARGE:
        print("it may be too large for phones; fewer --images make it smaller")
    trials = options.practice + options.trials
    for number, generator in enumerate(study["generators"], 1):
        count = len(generator["items"])
        kind = "the same input" if generator["same_input"] else "different inputs"
        print(f"  {path.name}#{number}  {generator['name']}: {count} images, pairs of {kind}")
        if count < trials:
            print(f"    {trials} trials: a session shows some images up to {MAX_REPEATS} times")
    if len(study["generators"]) > 1:
        print(f"  {path.name}    draws one of them for each session")


# ---- The results ------------------------------------------------------------------------------


def is_name(value) -> bool:
    """Whether a value from a file is text that can be printed."""
    return isinstance(value, str) and value != "" and value.isprintable()


def is_trial(values) -> bool:
    """Whether a value from a file is a trial that was answered or interrupted."""
    if not isinstance(values, dict) or type(values.get("practice")) is not bool:
        return False
    if values.get("state") == "interrupted":
        return True
    times = [values.get(name) for name in ("shown_ms", "response_ms")]
    sides = [values.get(name) for name in ("fake_side", "answer")]
    return (
        values.get("state") == "answered"
        and all(type(time) in (int, float) and 0 <= time < 1e9 for time in times)
        and all(type(side) is int and side in (1, 2) for side in sides)
    )


def read_session(path: Path) -> dict:
    """The session in a file that the page has saved. Raises UserError."""
    session = read_json(path)
    version = session.get("format")
    if type(version) is int and version > RESULT_FORMAT:
        raise UserError(f"{path} has format {version}, newer than {RESULT_FORMAT}; update the code")
    names = [session.get(name) for name in ("study", "session", "generator")]
    trials = session.get("trials")
    if version != RESULT_FORMAT or not all(map(is_name, names)):
        raise UserError(f"{path} is no result of a study page")
    if not isinstance(trials, list) or not trials or not all(map(is_trial, trials)):
        raise UserError(f"{path} is damaged: its trials are incomplete or were changed")
    return session


def read_sessions(paths: list[str]) -> list[dict]:
    """The sessions of these files, each once. Raises UserError, also if they are of several
    studies."""
    files = []
    for path in paths:  # Windows leaves the * to the program
        several = [] if Path(path).exists() else sorted(glob.glob(path))
        files += map(Path, several or [path])
    found: dict[str, tuple[Path, dict]] = {}
    for file in files:
        session = read_session(file)
        earlier, other = found.setdefault(session["session"], (file, session))
        if session != other:
            raise UserError(f"{file} and {earlier} are of the same session but differ; keep one")
        if file != earlier:
            print(f"{file} repeats {earlier}; counted once")
        first, other = next(iter(found.values()))
        if session["study"] != other["study"]:
            raise UserError(f"{file} and {first} are of different pages; read them apart")
    return [session for _, session in found.values()]


def trials_by_generator(sessions: list[dict]) -> dict[str, list[list[dict]]]:
    """For each generator, the trials of each person that count: without feedback, and answered.
    Raises UserError if there are none."""
    groups = {}
    for session in sorted(sessions, key=lambda session: session["generator"]):
        trials = [t for t in session["trials"] if not t["practice"] and t["state"] == "answered"]
        if trials:
            groups.setdefault(session["generator"], []).append(trials)
    if not groups:
        raise UserError("no trial without feedback was answered")
    return groups


def labeled_real(trials: list[dict]) -> np.ndarray:
    """For each trial 100 if the generated image was taken for the real one, else 0."""
    return np.array([100.0 * (trial["answer"] != trial["fake_side"]) for trial in trials])


def estimate(values: np.ndarray, seed: int) -> tuple[float, float, float, float]:
    """The mean of (N,) values, its standard error, and both ends of its 95 % bootstrap interval."""
    count = len(values)
    error = values.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
    drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return values.mean(), error, low, high


def print_table(groups: dict[str, list[list[dict]]], seed: int) -> None:
    width = max(map(len, [*groups, "generator"]))
    print(f"{'generator':<{width}}  people  trials  % labeled real  95 % interval")
    for name, people in groups.items():
        if len(people) > 1:
            values = np.array([labeled_real(trials).mean() for trials in people])
        else:
            values = labeled_real(people[0])
        mean, error, low, high = estimate(values, seed)
        counts = f"{len(people):>6}  {sum(map(len, people)):>6}"
        note = "  (over trials: one person)" if len(people) == 1 else ""
        print(
            f"{name:<{width}}  {counts}  {f'{mean:.1f} ± {error:.1f}':>14}"
            f"  {f'{low:.1f} to {high:.1f}':>13}{note}"
        )
    print(f"± standard error over people; interval: {RESAMPLES} bootstrap samples of people")
    if min(map(len, groups.values())) < PEOPLE:
        print(f"the paper asked about {PEOPLE} people for each generator")


def print_checks(sessions: list[dict], groups: dict[str, list[list[dict]]]) -> None:
    """Prints how long the images were shown, and what is not counted."""
    times = [
        trial["shown_ms"] for people in groups.values() for trials in people for trial in trials
    ]
    off = sum(abs(time - 1000) > TOLERANCE for time in times)
    spread = f"median; {min(times):.0f} to {max(times):.0f}"
    print(
        f"images shown for {np.median(times):.0f} ms ({spread}); {off} of {len(times)} trials are "
        f"off by over {TOLERANCE} ms"
    )
    planned = sum(not trial["practice"] for session in sessions for trial in session["trials"])
    if planned > len(times):
        print(f"{planned - len(times)} interrupted trials are not counted")


def main(argv=None) -> int:
    """Returns the exit code. Raises UserError."""
    options = parse_arguments(argv)
    if options.read:
        sessions = read_sessions(options.read)
        groups = trials_by_generator(sessions)
        print_table(groups, options.seed)
        print_checks(sessions, groups)
    else:
        make_page(options)
    return 0


if __name__ == "__main__":
    cli.run(main)
