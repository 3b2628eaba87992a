"""Exports a trained generator, in the format of the Hugging Face Hub or as an ONNX file.

    python -m tools.export runs/mine                                   writes runs/mine/export
    python -m tools.export runs/mine --precision int8 --output shared  a quarter of the size
    python -m tools.export runs/mine --push owner/name                 uploads it to the Hub
    python -m tools.export runs/mine --onnx mine.onnx                  for use without PyTorch
    python -m tools.export runs/mine --onnx mine.onnx --no_dropout     deterministic
    python -m tools.export runs/mine --web site                        a page to draw on
    python -m tools.export runs/mine --space space                     for a Hugging Face Space

evaluate.py and `utils.load_generator` accept the folder, and hf://owner/name once it is uploaded.
The model card shows the test scores and three test images, if evaluate.py has written them.
Input and output of the ONNX file are float32 (N, C, H, W) in [-1, 1], of any height and width.
"""

import argparse
import dataclasses
import json
import re
from pathlib import Path

from engine import cli
from engine.cli import UserError
from engine.files import replacing
from sharing.card import EXAMPLES, OUTPUTS
from sharing.exports import EXPORT_FILES, is_export, without_paths, write_export
from sharing.hub import push_folder
from utils import checkpoint_files, load_generator, run_folder


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = cli.Parser(__doc__, "python -m tools.export RUN [--output FOLDER | --onnx FILE] ...")
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder, a checkpoint or an export")
    add("--output", metavar="FOLDER", help="default: export, in the run folder")
    add("--precision", choices=("float32", "half", "int8"), help="of the weights; default: float32")
    add("--no_ema", action="store_true", help="the weights instead of their EMA")
    add("--push", metavar="OWNER/NAME", help="upload the folder to the Hugging Face Hub")
    add("--private", action="store_true", help="--push: a new repository is not public")
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
    cli.check_mode(options, "push", needed_by=["private"], excludes=["onnx", "web", "space"])
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
    if weights and scores.is_file() and scores.stat().st_mtime >= weights[0].stat().st_mtime:
        return folder
    command = f"python evaluate.py {cli.shell_quote(run)}"
    print(f"the card lacks scores and examples; {command} makes them")
    return None


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
