"""The page of tools.draw as a static site that runs the model in its visitors' browsers, and a
Space of the Hugging Face Hub, for `python -m tools.export RUN --web FOLDER` and `--space FOLDER`.
"""

import base64
import hashlib
import json
import urllib.request
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL.Image import BICUBIC, NEAREST

from engine.cli import UserError
from engine.files import replacing
from engine.images import read_image
from tools.draw import PAGE, describe, examples_of, to_png
from tools.onnx_graph import onnx_model
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

A Pix2Pix generator (Isola et al., CVPR 2017) to draw for. The terms of its training data also
apply to it.
"""


def write_web(
    run: str, folder: Path, space: bool = False, runtime: str = SOURCE, ema: bool = True
) -> None:
    """Writes the page with the model and onnxruntime-web, which is downloaded or read from the
    folder `runtime`; or a Space: a Gradio app with the model. Raises UserError."""
    generator = load_generator(run, ema=ema)
    config, model = generator.config, onnx_model(generator, True, {})
    if config.task in ("colorization", "super_resolution", "inpainting")[: 2 + space]:
        raise UserError(f"{run} is for tools.draw alone: {config.task} needs more than its network")
    if folder.is_dir() and any(folder.glob("[!.]*")) and not (folder / "runs.json").is_file():
        raise UserError(f"{folder} holds other files; choose an empty folder")
    about = {"name": Path(run).resolve().name, **describe(run, config)}
    about |= {"channels": config.in_channels, "longest": config.crop_size}
    contents, nearest = {}, about["kind"] == "labels"
    for i, (file, box) in enumerate(examples_of(run, config), 1):
        image = read_image(file).crop(box)
        image.thumbnail((config.crop_size,) * 2, NEAREST if nearest else BICUBIC)
        contents[f"examples/{i}.png"] = to_png(image)
    about["examples"] = list(contents)
    if space:
        contents["app.py"] = Path(__file__).with_name("space.py").read_bytes()
        contents["requirements.txt"] = b"gradio>=5\nnumpy\nonnxruntime>=1.17\npillow\n"
        contents["README.md"] = CARD.format(about["name"]).encode()
    else:
        contents |= {f"runtime/{name}": runtime_file(name, runtime) for name in RUNTIME}
        contents["index.html"] = PAGE.read_bytes()
        # The layers with noise: their channels, and how often their size is half of the output's.
        layers = [(generator.decoder[i][-1].num_features, i) for i in generator.dropped]
        about["noise"] = [(channels, config.depth - 1 - i) for channels, i in layers]
        about |= {"dropout": config.dropout, "multiple": 2**config.depth}
        model = model_for_web(model)
    script = {"script": f"runtime/{SCRIPT}", "integrity": f"sha384-{RUNTIME[SCRIPT]}"}
    contents["model.onnx"] = model.SerializeToString()
    contents["runs.json"] = json.dumps({"runs": [about], "runtime": script}).encode()
    for name, content in contents.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)


def runtime_file(name: str, source: str) -> bytes:
    """A file of onnxruntime-web, with the right checksum. Raises UserError."""
    place = f"{source}/{name}"
    try:
        if source == SOURCE:
            print(f"fetching {place}", flush=True)
            with urllib.request.urlopen(place, timeout=60) as answer:
                content = answer.read()
        else:
            content = Path(place).read_bytes()
    except OSError as error:
        hint = f"or: npm pack {PACKAGE}, unpack it, and name its package/dist as --runtime"
        raise UserError(f"{place} cannot be read: {error}; {hint}") from error
    if base64.b64encode(hashlib.sha384(content).digest()).decode() != RUNTIME[name]:
        raise UserError(f"{place} has another checksum than that of {PACKAGE}")
    return content


def model_for_web(model: ModelProto) -> ModelProto:
    """With weights in half precision, which are single again once they are loaded: on a CPU, only
    that is fast. With noise from the caller: dropout is a product with an input, noise_0 ..."""
    graph, casts = model.graph, []
    for constant in graph.initializer:
        if len(constant.dims) == 4:
            name, values = constant.name, numpy_helper.to_array(constant).astype(np.float16)
            constant.CopyFrom(numpy_helper.from_array(values, f"{name}_half"))
            casts.append(helper.make_node("Cast", [constant.name], [name], to=TensorProto.FLOAT))
    made_by = {node.output[0]: node for node in graph.node}
    for i, node in enumerate([node for node in graph.node if node.op_type == "Where"]):
        dropped, scaled = made_by[node.input[0]], made_by[node.input[2]]
        node.CopyFrom(helper.make_node("Mul", [scaled.input[0], f"noise_{i}"], node.output))
        for gone in (made_by[dropped.input[0]], dropped, scaled):
            graph.node.remove(gone)
        shape = ["N", None, None, None]
        graph.input.append(helper.make_tensor_value_info(f"noise_{i}", TensorProto.FLOAT, shape))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model
