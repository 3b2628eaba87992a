"""Exported generators: reading the Hugging Face Hub's folder format, fetching hf://owner/name.

tools/export.py writes such a folder: model.safetensors, config.json and README.md, the model card.
Weights are float32, float16, or int8 with a float32 scale for each output channel.
"""

import re
import sys
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from engine.cli import UserError
from engine.files import read_json

WEIGHTS, DESCRIPTION, CARD = "model.safetensors", "config.json", "README.md"  # the Hub's names
EXPORT_FILES = (WEIGHTS, DESCRIPTION, CARD)
EXPORT_FORMAT = 2  # 2: some weights are int8; 1: all are floats


def is_on_hub(path: str | Path) -> bool:
    return str(path).startswith("hf://")


def is_export(path: str | Path) -> bool:
    """Whether `path` names an exported generator, a folder or one on the Hub, rather than a run."""
    return is_on_hub(path) or (Path(path) / WEIGHTS).is_file()


def hub_folder(name: str) -> Path:
    """Downloads "hf://owner/name[@revision]", unless cached, into a folder. Raises UserError."""
    found = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@(.+))?", name)
    if not found:
        raise UserError(f"{name} must be like hf://owner/name or hf://owner/name@revision")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(f"{name} needs a package: pip install huggingface_hub") from error
    print(f"fetching {name}", file=sys.stderr)
    try:
        for file in (DESCRIPTION, WEIGHTS):
            path = hf_hub_download(found[1], file, revision=found[2])
    except Exception as error:  # nearly anything: no network, no such name, no access, a full disk
        raise UserError(f"{name} cannot be fetched from the Hugging Face Hub: {error}") from error
    return Path(path).parent


def read_export(folder: Path) -> dict:
    """{"config": dict, "generator": weights} of an exported generator. Raises UserError."""
    description, file = read_json(folder / DESCRIPTION), folder / WEIGHTS
    version, config = description.get("format"), description.get("config")
    if not isinstance(version, int) or not isinstance(config, dict):
        raise UserError(f"{folder / DESCRIPTION} does not describe a generator of this project")
    if version > EXPORT_FORMAT:
        newer = f"has format {version}, newer than {EXPORT_FORMAT}; update the code"
        raise UserError(f"{folder / DESCRIPTION} {newer}")
    try:
        weights = dequantized(safetensors.torch.load(file.read_bytes()))
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


def dequantized(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights, where they are int8 multiplied by their `name.scale`. Raises KeyError."""
    result = {}
    for name, value in weights.items():
        if value.dtype == torch.int8:
            value = value.float() * weights[f"{name}.scale"]
        if not name.endswith(".scale"):
            result[name] = value
    return result
