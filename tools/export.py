"""Exports a trained generator, in the format of the Hugging Face Hub or as an ONNX file.

    python -m tools.export runs/mine                                   writes runs/mine/export
    python -m tools.export runs/mine --precision int8 --output shared  a quarter of the size
    python -m tools.export runs/mine --onnx mine.onnx                  for use without PyTorch
    python -m tools.export runs/mine --onnx mine.onnx --no_dropout     deterministic

evaluate.py and `utils.load_generator` accept the folder, and hf://owner/name once it is uploaded.
Input and output of the ONNX file are float32 (N, C, H, W) in [-1, 1], of any height and width.
"""

import argparse

from engine import cli
from engine.cli import UserError

PRECISIONS = ("float32", "half", "int8")


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = cli.Parser(__doc__, "python -m tools.export RUN [--output FOLDER | --onnx FILE] ...")
    parser.add_argument("run", metavar="RUN", help="a run folder, a checkpoint or an export")
    parser.add_argument("--output", metavar="FOLDER", help="default: export, in the run folder")
    parser.add_argument("--precision", choices=PRECISIONS, help="of the weights; default: float32")
    parser.add_argument("--no_ema", action="store_true", help="the weights instead of their EMA")
    parser.add_argument("--onnx", metavar="FILE", help="write this ONNX file instead of a folder")
    parser.add_argument("--no_dropout", action="store_true", help="ONNX: leave out the noise")
    options = parser.parse_args(argv)
    for name in ("no_dropout",) if options.onnx is None else ("output", "precision"):
        if getattr(options, name):
            relation = "needs" if options.onnx is None else "cannot be combined with"
            raise UserError(f"--{name} {relation} --onnx")
    return options


if __name__ == "__main__":
    cli.early(parse_arguments)  # --help and mistakes answer before the slow imports

import contextlib
import dataclasses
import json
from pathlib import Path, PurePath

import safetensors.torch
from torch import Tensor, nn

from config import Config
from engine.files import read_json, replacing
from engine.hub import (
    CARD,
    DESCRIPTION,
    EXPORT_FILES,
    WEIGHTS,
    dequantized,
    is_export,
    quantize,
    read_description,
)
from utils import load_generator, run_folder

# ---- The folder -------------------------------------------------------------------------------


def export_generator(
    run: str | Path, folder: str | Path, precision: str = "float32", ema: bool = True
) -> None:
    """Exports a run's generator into a folder, for `load_generator` and the Hugging Face Hub.

    Args:
        run: anything `load_generator` accepts.
        folder: gets model.safetensors, config.json and README.md, the model card. An earlier export
            there is replaced, except for its card.
        precision: of the weights: "float32", "half" (float16) or "int8" (convolutions only, with a
            scale for each output channel).
        ema: whether to export the EMA of the weights, where the run has one.

    Raises UserError, also if the folder holds other files.
    """
    folder = Path(folder)
    found = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    found = {name for name in found if not name.startswith(".")}  # such as .git of a clone
    if WEIGHTS in found:
        read_description(folder)  # raises if it is not an export of this project
        found -= {WEIGHTS, DESCRIPTION}
    others = found - {CARD}
    if others:
        raise UserError(
            f"{folder} holds other files ({min(others)}); choose an empty or new folder"
        )

    generator = load_generator(run, ema=ema)
    config = without_paths(generator.config)
    weights = weights_in(generator, precision)
    if not all(value.isfinite().all() for value in dequantized(weights).values()):
        raise UserError(f"some weights are too large for {precision}; choose another --precision")
    version = 2 if precision == "int8" else 1
    description = {"format": version, "config": dataclasses.asdict(config)}
    contents = {
        WEIGHTS: safetensors.torch.save(weights, metadata={"format": "pt"}),
        DESCRIPTION: (json.dumps(description, indent=2) + "\n").encode(),
    }
    if CARD not in found:  # otherwise it may have been edited
        scores = last_scores(Path(run)) if ema or not config.ema_decay else {}
        count = sum(value.numel() for value in generator.state_dict().values())
        contents[CARD] = model_card(config, count, precision, scores).encode()
    # All are written before the first is renamed; the weights, which make it an export, come last.
    with contextlib.ExitStack() as stack:
        for name, content in contents.items():
            stack.enter_context(replacing(folder / name)).write_bytes(content)


def weights_in(generator: nn.Module, precision: str) -> dict[str, Tensor]:
    """The generator's weights as they are stored in a precision of `PRECISIONS`."""
    weights = generator.state_dict()
    if precision == "half":
        return {name: value.half() for name, value in weights.items()}
    if precision == "int8":
        # The output channels are dimension 0 of a convolution and 1 of a transposed one.
        for name, layer in generator.named_modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                axis, key = int(isinstance(layer, nn.ConvTranspose2d)), f"{name}.weight"
                weights[key], weights[f"{key}.scale"] = quantize(weights[key], axis)
    return weights


def without_paths(config: Config) -> Config:
    """The configuration with absolute paths cut to their last name: the rest is private."""
    names = ("data_root", "output", "mask", "palette")
    paths = {name: PurePath(getattr(config, name)) for name in names}
    names = {name: path.name or "." for name, path in paths.items() if path.is_absolute()}
    return dataclasses.replace(config, **names)


def last_scores(run: Path) -> dict:
    """The test scores of a run folder, {} if there are none or it was trained further since."""
    file, checkpoint = run / "test" / "scores.json", run / "checkpoints" / "latest.pt"
    if not (file.is_file() and checkpoint.is_file()):
        return {}
    return read_json(file) if file.stat().st_mtime >= checkpoint.stat().st_mtime else {}


# ---- The model card ---------------------------------------------------------------------------

PURPOSES = {
    "pairs": "translates images {} into images {} of its training pairs",
    "colorization": "colorizes grayscale photos",
    "inpainting": "fills holes in images",
    "super_resolution": "enlarges images {factor} times",
    "edges": "turns drawings, black lines on white, into photos",
    "style": "turns photos into ink and wash paintings",
}

STORED = {
    "float32": "float32",
    "half": "float16",
    "int8": "int8 with a scale for each output channel; norms and biases as float32",
}


def model_card(config: Config, count: int, precision: str, scores: dict) -> str:
    """README.md of an exported generator: what it is, how to use it, how it was trained."""
    title = PurePath(config.data_root).name if config.task == "pairs" else config.task
    halves = ["A (the left half)", "B (the right half)"]
    if config.direction == "BtoA":
        halves.reverse()
    purpose = PURPOSES[config.task].format(*halves, factor=config.factor)
    mask = ', mask=Image.open("hole.png")' if config.task == "inpainting" else ""
    plain, fields = dataclasses.asdict(Config(device=config.device)), dataclasses.asdict(config)
    changed = [name for name in fields if fields[name] != plain[name] and name != "output"]
    training = "\n".join(f"- `{name}`: `{json.dumps(fields[name])}`" for name in changed)
    results = [f"- {name}: {value:.4g}" for name, value in scores.items() if type(value) is float]
    if results:
        head = f"Means of {scores.get('images')} {scores.get('split')} images, in float32:"
        results = ["", "## Scores", "", head, "", *results, ""]
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
trained with a PyTorch reproduction.

- task `{config.task}`, direction `{config.direction}`
- channels: {config.in_channels} in, {config.out_channels} out
- trained on {config.crop_size}x{config.crop_size} px crops; translates images of any size
- {count:,} weights, stored as {STORED[precision]}

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

Fields that differ from the defaults of the code's `config.py`; config.json has all of them:

{training or "- none"}
{measured}
## Terms

The terms of the training data also apply to this generator.
"""


# ---- ONNX -------------------------------------------------------------------------------------

# What `utils.translate` does around the network, and a user of the ONNX file must do.
AROUND = {
    "colorization": "the input is L / 50 - 1, the output a / 110 and b / 110 of Lab",
    "inpainting": "holes are white in the input; only their pixels of the output are used",
    "super_resolution": "the input is already enlarged, bicubically",
    "edges": "the input is a drawing, lines of -1 on 1",
}


def export_onnx(
    run: str | Path, path: str | Path, noise: bool = True, ema: bool = True
) -> dict[str, str]:
    """Writes a run's generator as one ONNX file. `run` is anything `load_generator` accepts.

    "input" is float32 (N, in_channels, H, W) in [-1, 1] of any height and width, "output" is (N,
    out_channels, H, W). Each of the N images is translated as if alone. With `noise` every call
    draws new noise; after `onnxruntime.set_seed` a new session repeats its draws. Returns the
    file's metadata. Raises UserError, also if the package onnx is missing.
    """
    try:
        from tools.onnx_graph import onnx_model
    except ImportError as error:
        raise UserError("ONNX files need a package: pip install onnx") from error
    if Path(path).suffix != ".onnx":
        raise UserError(f"{path} is not the name of an ONNX file; it must end in .onnx")
    generator = load_generator(run, ema=ema)
    if sum(weight.nbytes for weight in generator.parameters()) > 2e9:
        raise UserError(f"{run} has more than 2 GB of weights, the limit of an ONNX file")
    config = generator.config
    metadata = {
        "config": json.dumps(dataclasses.asdict(without_paths(config))),
        "task": config.task,
        "range": "input and output are float32 (N, C, H, W) in [-1, 1]",
        "dropout": "on" if noise else "off",
    }
    if config.task in AROUND:
        metadata["network"] = f"the network alone: {AROUND[config.task]}"
    model = onnx_model(generator, noise, metadata)
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return metadata


def main(argv=None) -> int:
    options = parse_arguments(argv)
    run, ema = options.run, not options.no_ema
    if options.onnx is not None:
        noise = not options.no_dropout
        metadata = export_onnx(run, options.onnx, noise, ema)
        size, kind = Path(options.onnx).stat().st_size / 1e6, "with" if noise else "without"
        print(f"wrote {options.onnx}, {size:.1f} MB, {kind} dropout; values are in [-1, 1]")
        if "network" in metadata:
            print(metadata["network"])
        return 0

    default = (Path() if is_export(run) else run_folder(run)) / "export"
    folder = Path(options.output) if options.output else default
    card = (folder / CARD).exists()
    export_generator(run, folder, options.precision or "float32", ema)
    size = (folder / WEIGHTS).stat().st_size / 1e6
    print(f"wrote {folder}: {', '.join(EXPORT_FILES)}, {size:.1f} MB")
    if card:
        print(f"kept the existing {folder / CARD}; delete it first to get a new one")
    print(f"next: python evaluate.py {folder} --input x.jpg --output y.png")
    print(f"to share: hf upload owner/name {folder}   (then load hf://owner/name)")
    return 0


if __name__ == "__main__":
    cli.run(main)
