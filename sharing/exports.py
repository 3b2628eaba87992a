"""Exported generators: a folder in the format of the Hugging Face Hub.

tools/export.py writes such a folder: model.safetensors, config.json and README.md, the model card.
Weights are float32, float16, or int8 with a float32 scale for each output channel.
"""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from engine.cli import UserError
from engine.files import read_json
from sharing.hub import fetch_export, is_on_hub

WEIGHTS, DESCRIPTION, CARD = "model.safetensors", "config.json", "README.md"  # the Hub's names
EXPORT_FILES = (WEIGHTS, DESCRIPTION, CARD)
EXPORT_FORMAT = 2  # 2: some weights are int8; 1: all are floats


def is_export(path: str | Path) -> bool:
    """Whether `path` names an exported generator, a folder or one on the Hub, rather than a run."""
    return is_on_hub(path) or (Path(path) / WEIGHTS).is_file()


def export_folder(path: str | Path) -> Path:
    """The folder of an export; one on the Hub is downloaded first. Raises UserError."""
    return fetch_export(str(path), (DESCRIPTION, WEIGHTS)) if is_on_hub(path) else Path(path)


def read_export(path: str | Path) -> dict:
    """{"config": dict, "generator": weights} of an exported generator. Raises UserError."""
    folder = export_folder(path)
    description, file = read_json(folder / DESCRIPTION), folder / WEIGHTS
    version, config = description.get("format"), description.get("config")
    if not isinstance(version, int) or not isinstance(config, dict):
        raise UserError(f"{folder / DESCRIPTION} does not describe a generator of this project")
    if version > EXPORT_FORMAT:
        newer = f"has format {version}, newer than {EXPORT_FORMAT}; update the code"
        raise UserError(f"{folder / DESCRIPTION} {newer}")
    try:
        weights = dequantize(safetensors.torch.load(file.read_bytes()))
    except Exception as error:  # safetensors' own errors, and torch's on types it does not know
        raise UserError(f"{file} cannot be read as safetensors: {error!r}") from error
    return {"config": config, "generator": weights}


def quantize(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Symmetric int8 quantization, one scale per output channel, dimension `axis`. Returns the int8
    weight and the scale: weight ≈ int8 * scale, off by at most scale / 2."""
    others = [dimension for dimension in range(weight.ndim) if dimension != axis]
    scale = weight.float().abs().amax(others, keepdim=True) / 127
    steps = weight.float() / torch.where(scale > 0, scale, 1)  # 0 / 1 in a channel of zeros
    return steps.round().clamp(-127, 127).to(torch.int8), scale


def dequantize(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Multiplies int8 weights by their `name.scale`; keeps the others. Raises KeyError."""
    result = {}
    for name, value in weights.items():
        if value.dtype == torch.int8:
            value = value.float() * weights[f"{name}.scale"]
        if not name.endswith(".scale"):
            result[name] = value
    return result
