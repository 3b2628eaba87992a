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
from sharing.onnx_graph import onnx_model
from tools.draw import PAGE, describe, to_png
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
"""


def write_web(run: str, folder: Path, space: bool, runtime: str | None, ema: bool) -> None:
    """Writes the page with the model and onnxruntime-web, which is read from the folder `runtime`
    or else downloaded; or a Space: a Gradio app with the model. Raises UserError."""
    generator = load_generator(run, ema=ema)
    config = generator.config
    about = {"name": Path(run).resolve().name, **describe(run), "longest": config.crop_size}
    if about["kind"] == "photo" or (about["kind"] == "mask" and space):
        raise UserError(f"{run} is for tools.draw alone: {config.task} needs more than its network")
    if any(folder.glob("[!.]*")) and not (folder / "runs.json").is_file():
        raise UserError(f"{folder} holds other files; choose an empty folder")
    examples = enumerate(about["examples"], 1)
    contents = {f"examples/{i}.png": to_png(read_image(file)) for i, file in examples}
    about |= {"examples": list(contents), "channels": config.in_channels}
    if space:
        contents["app.py"] = Path(__file__).with_name("space.py").read_bytes()
        contents["requirements.txt"] = b"gradio>=5\nnumpy\nonnxruntime>=1.17\npillow\n"
        contents["README.md"] = CARD.format(about["name"]).encode()
    else:
        contents["index.html"] = PAGE.read_bytes()
        contents |= {f"runtime/{name}": runtime_file(name, runtime) for name in RUNTIME}
        # Of the layers with noise: channels, and how often their size is half of the output's.
        layers = [(i, layer) for i, layer in enumerate(generator.decoder) if i in generator.dropped]
        about["noise"] = [(layer[-1].num_features, config.depth - 1 - i) for i, layer in layers]
        about |= {"dropout": config.dropout, "multiple": 2**config.depth}
    script = {"script": f"runtime/{SCRIPT}", "integrity": f"sha384-{RUNTIME[SCRIPT]}"}
    contents["model.onnx"] = onnx_model(generator, web=not space).SerializeToString()
    contents["runs.json"] = json.dumps({"runs": [about], "runtime": script}).encode()
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
