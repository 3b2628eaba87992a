"""The page of tools.draw as a static site that runs the model in its visitors' browsers, and a
Space of the Hugging Face Hub, for `python -m tools.export RUN --web FOLDER` and `--space FOLDER`.
"""

import base64
import hashlib
import json
import urllib.request
from pathlib import Path

from engine.cli import UserError
from engine.files import replacing
from images.reading import read_image
from pages.runs import describe
from pages.server import page, to_png
from sharing.onnx_graph import onnx_model
from utils import load_generator

# What runs the model, files of an npm package and the SHA-384 of each.
PACKAGE = "onnxruntime-web@1.30.0"
SOURCE = f"https://cdn.jsdelivr.net/npm/{PACKAGE}/dist"
SCRIPT, LOADER = "ort.wasm.min.js", "ort-wasm-simd-threaded"
RUNTIME = {
    SCRIPT: "Bw6URI+Gvoadw0do7/QrSHUC9D1vCYYK5OSqChFyhyV5mzPL4oe2rOAFljAnS8Sq",
    f"{LOADER}.mjs": "XcXA/MtAf0WpB8e023xQH9CM7RIjiugakT7x99DIwpFf7k56BIFFcAPerIF7FDad",
    f"{LOADER}.wasm": "vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}

CARD = """---
title: {}
sdk: gradio
app_file: app.py
---

A Pix2Pix generator (Isola et al., CVPR 2017). The terms of its training data also apply to it.

model.onnx has {} MB. The Hub takes files of over 10 MB by its own command, not by plain git:

    hf upload --repo-type space OWNER/NAME .
"""


def write_web(run: str, folder: Path, runtime: str | None, ema: bool) -> None:
    """Writes the page with the model and onnxruntime-web, which is read from the folder `runtime`
    or else downloaded. Raises UserError."""
    about, contents = model_files(run, folder, ema)
    contents |= {f"runtime/{name}": runtime_file(name, runtime) for name in RUNTIME}
    loaded = ("model.onnx", f"runtime/{LOADER}.wasm")
    script = {"script": f"runtime/{SCRIPT}", "integrity": f"sha384-{RUNTIME[SCRIPT]}"}
    script["sizes"] = {name: len(contents[name]) for name in loaded}
    contents["index.html"] = page()
    contents["runs.json"] = json.dumps({"runs": [about], "runtime": script}).encode()
    write_files(folder, contents)


def write_space(run: str, folder: Path, ema: bool) -> None:
    """Writes a Gradio app with the model. Raises UserError."""
    about, contents = model_files(run, folder, ema)
    lacking = {"mask": "has no hole to paint", "photo": "changes no colors"}
    if about["kind"] in lacking:
        raise UserError(f"{run} is for tools.draw and --web: a Space {lacking[about['kind']]}")
    contents["app.py"] = Path(__file__).with_name("space.py").read_bytes()
    contents["requirements.txt"] = b"gradio>=6\nnumpy\nonnxruntime>=1.17\npillow\n"
    size = round(len(contents["model.onnx"]) / 1e6)
    contents["README.md"] = CARD.format(about["name"], size).encode()
    contents["runs.json"] = json.dumps({"runs": [about]}).encode()
    write_files(folder, contents)


def model_files(run: str, folder: Path, ema: bool) -> tuple[dict, dict[str, bytes]]:
    """What a page has to know about the run; and its model and examples, files of `folder`. Raises
    UserError, also if the folder holds other files."""
    generator = load_generator(run, ema=ema)
    config = generator.config
    about = {"name": Path(run).resolve().name, **describe(run)}
    if config.task == "super_resolution":
        raise UserError(f"{run} is for tools.draw alone: {config.task} needs more than its network")
    if config.task != "colorization":  # whose network always sees the size of training
        about["longest"] = config.crop_size
    if any(folder.glob("[!.]*")) and not (folder / "runs.json").is_file():
        raise UserError(f"{folder} holds other files; choose an empty folder")
    examples = enumerate(about["examples"], 1)
    contents = {f"examples/{i}.png": to_png(read_image(file)) for i, file in examples}
    # Of the layers with noise: channels, and how often their size is half of the output's.
    layers = [(i, layer) for i, layer in enumerate(generator.decoder) if i in generator.dropped]
    about["noise"] = [(layer[-1].num_features, config.depth - 1 - i) for i, layer in layers]
    about |= {"examples": list(contents), "channels": config.in_channels}
    about |= {"dropout": config.dropout, "multiple": 2**config.depth}
    contents["model.onnx"] = onnx_model(generator, web=True).SerializeToString()
    return about, contents


def write_files(folder: Path, contents: dict[str, bytes]) -> None:
    """Writes files, given by their paths in the folder."""
    for name, content in contents.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)


def runtime_file(name: str, folder: str | None) -> bytes:
    """A file of onnxruntime-web, with the right checksum. Raises UserError."""
    place = f"{folder or SOURCE}/{name}"
    try:
        if folder:
            content = Path(place).read_bytes()
        else:
            print(f"fetching {place}", flush=True)
            with urllib.request.urlopen(place, timeout=60) as answer:
                content = answer.read()
    except OSError as error:
        hint = f"or: npm pack {PACKAGE}, unpack it, and name its package/dist as --runtime"
        raise UserError(f"{place} cannot be read: {error}; {hint}") from error
    if base64.b64encode(hashlib.sha384(content).digest()).decode() != RUNTIME[name]:
        raise UserError(f"{place} has another checksum than that of {PACKAGE}")
    return content
