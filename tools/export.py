"""Exports a trained generator: for the Hugging Face Hub, for PyTorch alone, or as an ONNX file.

    python -m tools.export runs/mine                                   writes runs/mine/export
    python -m tools.export runs/mine --precision int8 --output shared  a quarter of the size
    python -m tools.export runs/mine --push owner/name                 uploads it to the Hub
    python -m tools.export runs/mine --program mine.pt2                for PyTorch without this code
    python -m tools.export runs/mine --onnx mine.onnx                  for use without PyTorch
    python -m tools.export runs/mine --onnx mine.onnx --no_dropout     deterministic
    python -m tools.export runs/mine --onnx mine.onnx --size 256       of 256x256 alone, for OpenCV
    python -m tools.export runs/mine --web site                        a page to draw on
    python -m tools.export runs/mine --space space                     for a Hugging Face Space

evaluate.py and `utils.load_generator` accept the folder, and hf://owner/name once it is uploaded.
The model card shows the test scores and three test images, if evaluate.py has written them.
A program and an ONNX file take and give float32 (N, C, H, W) in [-1, 1], of any height and width
without --size. docs/faq.md, "In my own program", shows how to use them.
"""

import argparse
import dataclasses
import io
import json
import re
from pathlib import Path

import torch

from engine import cli
from engine.cli import UserError
from engine.files import replacing
from generator import UNetGenerator
from sharing.card import EXAMPLES, OUTPUTS
from sharing.exports import EXPORT_FILES, is_export, without_paths, write_export
from sharing.hub import push_folder
from sharing.program import exported_program
from utils import build_generator, checkpoint_files, load_generator, run_folder


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = cli.Parser(__doc__, "python -m tools.export RUN [--output FOLDER | --onnx FILE] ...")
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder, a checkpoint or an export")
    add("--output", metavar="FOLDER", help="default: export, in the run folder")
    add("--precision", choices=("float32", "half", "int8"), help="of the weights; default: float32")
    add("--no_ema", action="store_true", help="the weights instead of their EMA")
    add("--push", metavar="OWNER/NAME", help="upload the folder to the Hugging Face Hub")
    add("--private", action="store_true", help="--push: a new repository is not public")
    add("--program", metavar="FILE", help="write this torch.export file (.pt2) instead of a folder")
    add("--onnx", metavar="FILE", help="write this ONNX file instead of a folder")
    add("--no_dropout", action="store_true", help="program, ONNX: leave out the noise")
    add("--size", type=int, metavar="N", help="program, ONNX: for one image of N x N px alone")
    add("--web", metavar="FOLDER", help="write a static site to draw on instead")
    add("--runtime", metavar="DIR", help="onnxruntime-web's dist/, not downloaded")
    add("--space", metavar="FOLDER", help="write a Gradio app instead")
    options = parser.parse_args(argv)
    others = ["output", "precision", "onnx", "program"]
    cli.check_mode(options, "web", needed_by=["runtime"], excludes=[*others, "space"])
    cli.check_mode(options, "space", needed_by=[], excludes=others)
    cli.check_mode(options, "program", needed_by=[], excludes=others[:3])
    cli.check_mode(options, "onnx", needed_by=[], excludes=others[:2])
    cli.check_mode(options, "push", needed_by=["private"], excludes=[*others[2:], "web", "space"])
    if options.onnx is None and options.program is None:
        for name in ("no_dropout", "size"):
            if getattr(options, name):
                raise UserError(f"--{name} needs --onnx or --program")
    if options.push and not re.fullmatch(r"[\w.-]+/[\w.-]+", options.push):
        raise UserError(f"--push is {options.push!r}; it must be owner/name")
    return options


def export_generator(
    run: str | Path,
    folder: str | Path,
    precision: str = "float32",
    ema: bool = True,
    name: str | None = None,
) -> None:
    """Exports the generator of `run`, anything `load_generator` accepts, into a folder that it
    accepts as well; see `write_export`. Raises UserError."""
    evaluation = evaluation_of(run) if Path(run).is_dir() and not is_export(run) and ema else None
    write_export(load_generator(run, ema=ema), Path(folder), precision, evaluation, name)


def evaluation_of(run: str | Path) -> Path | None:
    """What evaluate.py wrote for the test split, unless the run has trained on since then."""
    folder, weights = run_folder(run) / "test", checkpoint_files(run)
    scores = folder / "scores.json"
    command = f"python evaluate.py {cli.shell_quote(run)}"
    if not weights or not scores.is_file():
        print(f"the card lacks scores and examples; {command} makes them")
        return None
    if scores.stat().st_mtime < weights[0].stat().st_mtime:
        print(f"the card lacks scores, as {scores} is older than the weights; {command} makes them")
        return None
    return folder


def export_program(
    run: str | Path, path: str | Path, noise: bool = True, ema: bool = True, size: int | None = None
) -> None:
    """Writes the generator of `run`, anything `load_generator` accepts, as a program that
    `torch.export.load` reads: (N, in_channels, H, W) -> (N, out_channels, H, W), float32 in [-1, 1]
    of any height and width, or with `size` one image of size x size. Each of the N images is
    translated as if alone. After `torch.manual_seed`, one image gets the noise of that seed. Raises
    UserError."""
    generator = load_generator(run, ema=ema)
    check_size(generator, size)
    # Instance norm has the same weights, and keeps images apart.
    alone = build_generator(dataclasses.replace(generator.config, norm="instance"))
    alone.load_state_dict(generator.state_dict())
    program, file = exported_program(alone.requires_grad_(False), noise, size), io.BytesIO()
    torch.export.save(program, file, extra_files={"config": config_of(generator)})
    with replacing(path) as temporary:
        temporary.write_bytes(file.getvalue())


def export_onnx(
    run: str | Path, path: str | Path, noise: bool = True, ema: bool = True, size: int | None = None
) -> None:
    """Writes the generator of `run`, anything `load_generator` accepts, as one ONNX file: "input"
    (N, in_channels, H, W) -> "output" (N, out_channels, H, W), float32 in [-1, 1] of any height and
    width, or with `size` one image of size x size. Each of the N images is translated as if alone.
    With `noise` every call draws new noise; after `onnxruntime.set_seed` a new session repeats its
    draws. Raises UserError."""
    generator = load_generator(run, ema=ema)
    check_size(generator, size)
    from sharing.onnx_graph import onnx_model  # needs an optional package

    model = onnx_model(generator, noise, size=size)
    model.metadata_props.add(key="config", value=config_of(generator))
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def check_size(generator: UNetGenerator, size: int | None) -> None:
    """Raises UserError unless a size is None or a positive multiple of 2**depth."""
    multiple = 2**generator.depth
    if size is not None and (size <= 0 or size % multiple):
        takes = f"a generator of depth {generator.depth} takes multiples of {multiple}"
        raise UserError(f"--size is {size}; {takes}")


def config_of(generator: UNetGenerator) -> str:
    """The configuration as JSON, for the metadata of a file."""
    return json.dumps(dataclasses.asdict(without_paths(generator.config)))


def main(argv=None) -> int:
    options = parse_arguments(argv)
    run, ema = options.run, not options.no_ema
    shape = f"(1, C, {options.size}, {options.size})" if options.size else "(N, C, H, W)"
    tensors = f"input and output are {shape} in [-1, 1]"
    if options.web:
        from pages.site import write_web

        write_web(run, Path(options.web), options.runtime, ema)
        print(f"wrote {options.web}; upload it to any static host")
    elif options.space:
        from pages.site import write_space

        write_space(run, Path(options.space), ema)
        upload = f"hf upload --repo-type space OWNER/NAME {cli.shell_quote(options.space)}"
        print(f"wrote {options.space}; to publish it: {upload}")
    elif options.program is not None:
        export_program(run, options.program, not options.no_dropout, ema, options.size)
        print(f"wrote {options.program}; {tensors}")
    elif options.onnx is not None:
        export_onnx(run, options.onnx, not options.no_dropout, ema, options.size)
        print(f"wrote {options.onnx}; {tensors}")
    else:
        default = (Path() if is_export(run) else run_folder(run)) / "export"
        folder = Path(options.output or default)
        name = f"hf://{options.push}" if options.push else None
        export_generator(run, folder, options.precision or "float32", ema, name)
        print(f"wrote {folder}: {', '.join(EXPORT_FILES)}")
        if options.push:
            files = [*EXPORT_FILES, f"{EXAMPLES}/*.png", f"{OUTPUTS}/*.png"]
            print("pushed to", push_folder(folder, options.push, files, options.private))
        shared = name or cli.shell_quote(folder)
        print(f"next: python evaluate.py {shared} --input x.jpg --output y.png")
        if not options.push:
            print(f"to share: python -m tools.export {cli.shell_quote(run)} --push owner/name")
    return 0


if __name__ == "__main__":
    cli.run(main)
