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
import dataclasses
import json
from pathlib import Path, PurePath

import safetensors.torch
from torch import Tensor, nn

from config import Config
from engine import cli
from engine.cli import UserError
from engine.files import replacing, write_text
from sharing.exports import CARD, DESCRIPTION, EXPORT_FILES, WEIGHTS, is_export, quantize
from utils import load_generator, run_folder


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = cli.Parser(__doc__, "python -m tools.export RUN [--output FOLDER | --onnx FILE] ...")
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder, a checkpoint or an export")
    add("--output", metavar="FOLDER", help="default: export, in the run folder")
    add("--precision", choices=("float32", "half", "int8"), help="of the weights; default: float32")
    add("--no_ema", action="store_true", help="the weights instead of their EMA")
    add("--onnx", metavar="FILE", help="write this ONNX file instead of a folder")
    add("--no_dropout", action="store_true", help="ONNX: leave out the noise")
    add("--web", metavar="FOLDER", help="write a static site to draw on instead")
    add("--runtime", metavar="DIR", help="onnxruntime-web's dist/, not downloaded")
    add("--space", metavar="FOLDER", help="write a Gradio app instead")
    options = parser.parse_args(argv)
    others = ["output", "onnx", "precision"]
    cli.check_mode(options, "web", needed_by=["runtime"], excludes=[*others, "space"])
    cli.check_mode(options, "space", needed_by=[], excludes=others)
    cli.check_mode(options, "onnx", needed_by=["no_dropout"], excludes=["output", "precision"])
    return options


def export_generator(
    run: str | Path, folder: str | Path, precision: str = "float32", ema: bool = True
) -> None:
    """Exports the generator of `run`, anything `load_generator` accepts, into a folder that it
    accepts as well. An earlier export there is replaced, except for its card. `precision` is
    "float32", "half" (float16) or "int8" (convolutions only, with a scale for each output channel).
    Raises UserError, also if the folder holds other files."""
    folder = Path(folder)
    others = {file.name for file in folder.glob("[!.]*")} - {*EXPORT_FILES, "examples"}
    if others:
        raise UserError(f"{folder} holds other files ({min(others)}); choose an empty folder")
    generator = load_generator(run, ema=ema)
    config = without_paths(generator.config)
    weights = stored_weights(generator, precision)
    if not all(value.isfinite().all() for value in weights.values()):
        raise UserError(f"some weights are too large for {precision}; choose another --precision")
    version = 2 if precision == "int8" else 1  # of the format, see sharing/exports.py
    description = {"format": version, "config": dataclasses.asdict(config)}
    if (folder / CARD).exists():
        print(f"{folder / CARD} is kept, as it may have been edited")
    else:
        title = PurePath(config.data_root).name if config.task == "pairs" else config.task
        card = MODEL_CARD.format(title=title, stored=precision, **dataclasses.asdict(config))
        write_text(folder / CARD, card)
    write_text(folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")
    with replacing(folder / WEIGHTS) as temporary:  # last, as they make it an export
        temporary.write_bytes(safetensors.torch.save(weights, metadata={"format": "pt"}))


def stored_weights(generator: nn.Module, precision: str) -> dict[str, Tensor]:
    """The generator's weights in a precision."""
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
    names = ("data_root", "output", "mask", "palette", "init")
    paths = {name: PurePath(getattr(config, name)) for name in names}
    names = {name: path.name or "." for name, path in paths.items() if path.is_absolute()}
    return dataclasses.replace(config, **names)


MODEL_CARD = """---
library_name: pytorch
pipeline_tag: image-to-image
tags: [pix2pix]
---

# Pix2Pix generator: {title}

The generator of *Image-to-Image Translation with Conditional Adversarial Networks* (Isola et al.,
CVPR 2017): task {task}, direction {direction} (A is the left half of a pair), {in_channels} input
and {out_channels} output channels, trained on {crop_size} px crops, stored as {stored}.
config.json holds the training configuration. From the folder of the Pix2Pix code:

    from PIL import Image
    from utils import load_generator, translate

    generator = load_generator("FOLDER")  # the folder of this file, or "hf://owner/name"
    translate(generator, Image.open("x.png")).save("y.png")

The terms of the training data also apply to this generator.
"""


def export_onnx(run: str | Path, path: str | Path, noise: bool = True, ema: bool = True) -> None:
    """Writes the generator of `run`, anything `load_generator` accepts, as one ONNX file: "input"
    (N, in_channels, H, W) -> "output" (N, out_channels, H, W), float32 in [-1, 1] of any height and
    width. Each of the N images is translated as if alone. With `noise` every call draws new noise;
    after `onnxruntime.set_seed` a new session repeats its draws. Raises UserError."""
    from sharing.onnx_graph import onnx_model

    generator = load_generator(run, ema=ema)
    model = onnx_model(generator, noise)
    config = dataclasses.asdict(without_paths(generator.config))
    model.metadata_props.add(key="config", value=json.dumps(config))
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def main(argv=None) -> int:
    options = parse_arguments(argv)
    run, ema = options.run, not options.no_ema
    if options.web:
        from pages.site import write_web

        write_web(run, Path(options.web), options.runtime, ema)
        print(f"wrote {options.web}; upload it to any static host")
    elif options.space:
        from pages.site import write_space

        write_space(run, Path(options.space), ema)
        upload = f"hf upload --repo-type space OWNER/NAME {cli.shell_quote(options.space)}"
        print(f"wrote {options.space}; to publish it: {upload}")
    elif options.onnx is not None:
        export_onnx(run, options.onnx, not options.no_dropout, ema)
        print(f"wrote {options.onnx}; input and output are (N, C, H, W) in [-1, 1]")
    else:
        default = (Path() if is_export(run) else run_folder(run)) / "export"
        folder = Path(options.output or default)
        export_generator(run, folder, options.precision or "float32", ema)
        print(f"wrote {folder}: {', '.join(EXPORT_FILES)}")
        print(f"next: python evaluate.py {cli.shell_quote(folder)} --input x.jpg --output y.png")
        print(f"to share: hf upload owner/name {folder}   (then load hf://owner/name)")
    return 0


if __name__ == "__main__":
    cli.run(main)
