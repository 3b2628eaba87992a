"""The page of tools.draw as a static site, whose visitors run the generator in their browsers, and
the generator as a Space of the Hugging Face Hub. For `python -m tools.export RUN --web FOLDER`, or
`--space FOLDER`.
"""

import base64
import hashlib
import io
import json
import shutil
import urllib.request
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn
from tqdm import tqdm

from engine.cli import UserError
from engine.files import replacing, write_text
from engine.images import read_image
from tools.draw import PAGE, describe, examples_of, to_png
from tools.onnx_graph import onnx_model
from utils import load_generator

# What runs the model, from npm. The page, too, checks the script before it runs.
VERSION = "1.30.0"
SOURCE = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSION}/dist/"
RUNTIME = {
    "ort.wasm.min.js": "Bw6URI+Gvoadw0do7/QrSHUC9D1vCYYK5OSqChFyhyV5mzPL4oe2rOAFljAnS8Sq",
    "ort-wasm-simd-threaded.mjs": "XcXA/MtAf0WpB8e023xQH9CM7RIjiugakT7x99DIwpFf7k56BIFFcAPerIF7FDad",
    "ort-wasm-simd-threaded.wasm": "vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}


def write_site(run: str, folder: Path, runtime: str | None = None, ema: bool = True) -> None:
    """Writes the page, the model and onnxruntime-web, whose files are taken from the folder
    `runtime` or fetched. Raises UserError."""
    generator = load_generator(run, ema=ema)
    about = about_run(run, generator, folder)
    files = {name: runtime_file(name, runtime) for name in RUNTIME}
    model = with_noise_as_input(in_half(onnx_model(generator, True, {})))
    about["model"] = {
        "file": "model.onnx",
        "channels": generator.in_channels,
        "multiple": 2**generator.depth,
        "dropout": generator.dropout,
        # The layers with noise: their channels, and by which power of 2 they are smaller.
        "noise": [
            [generator.decoder[i][-1].num_features, generator.depth - 1 - i]
            for i in generator.dropped
        ],
    }
    for name, content in files.items():
        write(folder / "runtime" / name, content)
    write(folder / "model.onnx", model.SerializeToString())
    script = {
        "script": "runtime/ort.wasm.min.js",
        "integrity": f"sha384-{RUNTIME['ort.wasm.min.js']}",
    }
    write_text(folder / "runs.json", json.dumps({"runs": [about], "runtime": script}) + "\n")
    shutil.copyfile(PAGE, folder / "index.html")


def write_space(run: str, folder: Path, ema: bool = True) -> None:
    """Writes a Gradio app around the model, with its requirements and card. Raises UserError."""
    generator = load_generator(run, ema=ema)
    about = about_run(run, generator, folder)
    write(folder / "model.onnx", in_half(onnx_model(generator, True, {})).SerializeToString())
    write_text(folder / "runs.json", json.dumps({"runs": [about]}) + "\n")
    write_text(folder / "requirements.txt", "gradio>=5\nnumpy\nonnxruntime>=1.17\npillow\n")
    write_text(folder / "app.py", Path(__file__).with_name("space.py").read_text(encoding="utf-8"))
    write_text(folder / "README.md", CARD.format(title=about["name"]))


CARD = """---
title: {title}
sdk: gradio
app_file: app.py
pinned: false
---

A Pix2Pix generator (Isola et al., CVPR 2017) to draw for. The terms of its training data also
apply to it.
"""


def about_run(run: str, generator: nn.Module, folder: Path) -> dict:
    """The run for runs.json; its examples are written into the folder. Raises UserError."""
    config = generator.config
    if config.task in ("colorization", "super_resolution"):
        raise UserError(f"a page of its own cannot do {config.task} yet; use python -m tools.draw")
    if folder.is_dir() and any(folder.glob("[!.]*")) and not (folder / "runs.json").is_file():
        raise UserError(f"{folder} holds other files; choose an empty folder")
    examples = []
    for number, (file, box) in enumerate(examples_of(run, config), 1):
        examples.append(f"examples/{number}.png")
        write(folder / examples[-1], to_png(read_image(file).crop(box)))
    return {"name": Path(run).resolve().name, "examples": examples, **describe(run, config)}


def write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def runtime_file(name: str, folder: str | None) -> bytes:
    """A file of onnxruntime-web, whose checksum is right. Raises UserError."""
    if folder is not None:
        content, source = Path(folder, name).read_bytes(), f"{folder}/{name}"
    else:
        content, source = fetch(SOURCE + name), SOURCE + name
    found = base64.b64encode(hashlib.sha384(content).digest()).decode()
    if found != RUNTIME[name]:
        raise UserError(f"{source} is not that of onnxruntime-web {VERSION}: its checksum differs")
    return content


def fetch(url: str) -> bytes:
    """Raises UserError."""
    buffer = io.BytesIO()
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            total = int(answer.headers.get("Content-Length", 0)) or None
            with tqdm(desc=url.rpartition("/")[2], total=total, unit="B", unit_scale=True) as bar:
                while part := answer.read(2**16):
                    buffer.write(part)
                    bar.update(len(part))
    except OSError as error:
        hint = "npm pack onnxruntime-web@" + VERSION + " and give its dist/ as --runtime"
        raise UserError(f"{url} cannot be fetched ({error}); {hint}") from error
    return buffer.getvalue()


# ---- The model --------------------------------------------------------------------------------


def in_half(model: ModelProto) -> ModelProto:
    """Stores the weights in half precision. They are single again when the model is loaded: in a
    browser, as on a CPU, only that is fast."""
    graph, casts = model.graph, []
    for constant in graph.initializer:
        if len(constant.dims) == 4 and constant.data_type == TensorProto.FLOAT:
            name, values = constant.name, numpy_helper.to_array(constant).astype(np.float16)
            constant.CopyFrom(numpy_helper.from_array(values, f"{name}_half"))
            casts.append(helper.make_node("Cast", [constant.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def with_noise_as_input(model: ModelProto) -> ModelProto:
    """Makes each dropout a product with an input, noise_0, noise_1 ..., so that the caller draws the
    noise, or gives ones for none."""
    graph = model.graph
    made_by = {node.output[0]: node for node in graph.node}
    for i, node in enumerate([node for node in graph.node if node.op_type == "Where"]):
        scaled = made_by[node.input[2]]  # Where(u < p, 0, x / (1 - p))
        drawn = made_by[made_by[node.input[0]].input[0]]
        for gone in (scaled, made_by[node.input[0]], drawn):
            graph.node.remove(gone)
        node.op_type, name = "Mul", f"noise_{i}"
        node.input[:] = [scaled.input[0], name]
        shape = ["N", None, None, None]
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    used = {name for node in graph.node for name in node.input}
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return model
