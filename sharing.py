"""Trained generators as others get them: in the format of the Hugging Face Hub.

from utils import export_generator, load_generator

export_generator("runs/mine", "shared", half=True)
load_generator("shared")                 # or "hf://owner/name", once it is there
"""

import contextlib
import dataclasses
import json
import re
import sys
from pathlib import Path, PurePath

import safetensors.torch
import torch
from torch import Tensor, nn

from config import Config, UserError
from files import make_of, read_json, replacing

SHARED_FORMAT = 1  # of the folder of export_generator
WEIGHTS, DESCRIPTION, CARD = "model.safetensors", "config.json", "README.md"  # the Hub's names
SHARED_FILES = (WEIGHTS, DESCRIPTION, CARD)


def write_shared(generator: nn.Module, folder: Path, half: bool, scores: dict) -> None:
    """Writes a generator with its configuration and a model card, as `utils.export_generator` says.
    `scores` are those of `scores.json`, or none."""
    found = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    found = {name for name in found if not name.startswith(".")}  # such as .git of a clone
    if WEIGHTS in found:
        read_description(folder)  # raises on a model that is not ours
        found -= {WEIGHTS, DESCRIPTION}
    others = found - {CARD}
    if others:
        raise UserError(
            f"{folder} holds other files ({min(others)}); choose an empty or new folder"
        )

    config = without_places(generator.config)
    weights = generator.state_dict()
    if half:
        weights = {name: value.half() for name, value in weights.items()}
        if not all(value.isfinite().all() for value in weights.values()):
            raise UserError("some weights are too large for half precision; leave it out")
    description = {"format": SHARED_FORMAT, "config": dataclasses.asdict(config)}
    contents = {
        WEIGHTS: safetensors.torch.save(weights, metadata={"format": "pt"}),
        DESCRIPTION: (json.dumps(description, indent=2) + "\n").encode(),
    }
    if CARD not in found:  # else somebody may have written on it
        contents[CARD] = model_card(config, weights, scores).encode()
    # All are written before the first gets its name; the weights, without which it is no export,
    # get theirs last.
    with contextlib.ExitStack() as stack:
        for name, content in contents.items():
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
    title = PurePath(config.data_root).name if config.task == "pairs" else config.task
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

# Pix2Pix generator: {title}

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
        from huggingface_hub.utils import logging
    except ImportError as error:
        raise UserError(f"{name} needs a package: pip install huggingface_hub") from error
    logging.set_verbosity_error()  # a line for each of its attempts to reach the network
    print(f"fetching {name}", file=sys.stderr)
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
