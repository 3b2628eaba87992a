"""Exports a trained generator, in the format of the Hugging Face Hub or as an ONNX file.

    python -m tools.export runs/mine                                   writes runs/mine/export
    python -m tools.export runs/mine --precision int8 --output shared  a quarter of the size
    python -m tools.export runs/mine --onnx mine.onnx                  for use without PyTorch
    python -m tools.export runs/mine --onnx mine.onnx --no_dropout     deterministic
    python -m tools.export runs/mine --web site                        a page to draw on
    python -m tools.export runs/mine --space space                     for a Hugging Face Space

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
    parser.add_argument("--web", metavar="FOLDER", help="write a static site to draw on instead")
    parser.add_argument("--runtime", metavar="DIR", help="onnxruntime-web's dist/, not downloaded")
    parser.add_argument("--space", metavar="FOLDER", help="write a Gradio app instead")
    options = parser.parse_args(argv)
    if options.runtime and not options.web:
        raise UserError("--runtime needs --web")
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
from engine.files import replacing
from engine.hub import (
    CARD,
    DESCRIPTION,
    EXPORT_FILES,
    WEIGHTS,
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
    files = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    others = {name for name in files - set(EXPORT_FILES) if not name.startswith(".")}  # not .git
    if others:
        raise UserError(f"{folder} holds other files ({min(others)}); choose an empty folder")
    if files & {WEIGHTS, DESCRIPTION}:
        read_description(folder)  # raises if it is not an export of this project

    generator = load_generator(run, ema=ema)
    config = without_paths(generator.config)
    weights = stored_weights(generator, precision)
    if not all(value.isfinite().all() for value in weights.values()):
        raise UserError(f"some weights are too large for {precision}; choose another --precision")
    version = 2 if precision == "int8" else 1
    description = {"format": version, "config": dataclasses.asdict(config)}
    contents = {
        WEIGHTS: safetensors.torch.save(weights, metadata={"format": "pt"}),
        DESCRIPTION: (json.dumps(description, indent=2) + "\n").encode(),
    }
    if CARD not in files:  # otherwise it may have been edited
        contents[CARD] = model_card(config, precision).encode()
    # All are written before the first is renamed; the weights, which make it an export, come last.
    with contextlib.ExitStack() as stack:
        for name, content in contents.items():
            stack.enter_context(replacing(folder / name)).write_bytes(content)


def stored_weights(generator: nn.Module, precision: str) -> dict[str, Tensor]:
    """The generator's weights in a precision of `PRECISIONS`."""
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


MODEL_CARD = """---
library_name: pytorch
pipeline_tag: image-to-image
tags:
- pix2pix
---

# Pix2Pix generator: {title}

The generator of *Image-to-Image Translation with Conditional Adversarial Networks* (Isola et al.,
CVPR 2017). Task {task}, direction {direction} (A is the left half of a pair), {in_channels} input
and {out_channels} output channels, trained on {crop_size} px crops. Weights are stored as {stored};
config.json holds the training configuration. In the folder of its code:

```python
from PIL import Image
from utils import load_generator, translate
generator = load_generator("FOLDER")  # the folder of this file, or "hf://owner/name"
translate(generator, Image.open("x.png")).save("y.png")
```

The terms of the training data also apply to this generator.
"""


def model_card(config: Config, precision: str) -> str:
    """README.md of an exported generator."""
    title = PurePath(config.data_root).name if config.task == "pairs" else config.task
    return MODEL_CARD.format(title=title, stored=precision, **dataclasses.asdict(config))


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
    if options.web or options.space:
        try:
            from tools.site import SOURCE, write_web
        except ImportError as error:
            raise UserError("ONNX files need a package: pip install onnx") from error
        folder = options.web or options.space
        write_web(run, Path(folder), not options.web, options.runtime or SOURCE, ema)
        print(f"wrote {folder}; " + ("upload it" if options.web else "push it to a Space"))
        return 0

    if options.onnx is not None:
        metadata = export_onnx(run, options.onnx, not options.no_dropout, ema)
        print(f"wrote {options.onnx}, dropout {metadata['dropout']}; values are in [-1, 1]")
        if "network" in metadata:
            print(metadata["network"])
        return 0

    default = (Path() if is_export(run) else run_folder(run)) / "export"
    folder = Path(options.output) if options.output else default
    export_generator(run, folder, options.precision or "float32", ema)
    size = (folder / WEIGHTS).stat().st_size / 1e6
    print(f"wrote {folder}: {', '.join(EXPORT_FILES)} (an existing {CARD} is kept), {size:.1f} MB")
    print(f"next: python evaluate.py {folder} --input x.jpg --output y.png")
    print(f"to share: hf upload owner/name {folder}   (then load hf://owner/name)")
    return 0


if __name__ == "__main__":
    cli.run(main)
