"""Exported generators: reading the Hugging Face Hub's folder format, fetching hf://owner/name.

A folder holds model.safetensors (the weights), config.json (the configuration) and README.md (the
model card). tools/export.py writes it. Weights are float32, float16, or int8 with a float32 scale
for each output channel; they are float32 once they are read.
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
    """Downloads "hf://owner/name[@revision]", unless cached, and returns its local folder. Raises
    UserError."""
    found = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@(.+))?", name)
    if not found:
        raise UserError(f"{name} must be like hf://owner/name or hf://owner/name@revision")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import logging
    except ImportError as error:
        raise UserError(f"{name} needs a package: pip install huggingface_hub") from error
    logging.set_verbosity_error()  # it warns at each attempt to reach the network
    print(f"fetching {name}", file=sys.stderr)
    try:
        files = [
            hf_hub_download(found[1], file, revision=found[2]) for file in (WEIGHTS, DESCRIPTION)
        ]
    except Exception as error:  # nearly anything: no network, no such name, no access, a full disk
        reason = " ".join(re.sub(r"\(Request ID: .*?\)", "", str(error)).split())
        raise UserError(f"{name} cannot be fetched from the Hugging Face Hub: {reason}") from error
    folders = {Path(file).parent for file in files}
    if len(folders) > 1:
        raise UserError(f"{name} changed during the download; try again")
    return folders.pop()


def read_description(folder: Path) -> dict:
    """config.json of an exported generator. Raises UserError."""
    file = folder / DESCRIPTION
    description = read_json(file)
    version = description.get("format")
    if type(version) is int and version > EXPORT_FORMAT:
        raise UserError(f"{file} has format {version}, newer than {EXPORT_FORMAT}; update the code")
    if type(version) is not int or not isinstance(description.get("config"), dict):
        raise UserError(f"{file} does not describe a generator exported by this project")
    return description


def read_export(folder: Path) -> dict:
    """{"config": dict, "generator": weights} of an exported generator. Raises UserError."""
    description = read_description(folder)
    file = folder / WEIGHTS
    try:
        weights = dequantized(safetensors.torch.load(file.read_bytes()))
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except Exception as error:  # safetensors' own errors, and torch's on types it does not know
        reason = str(error) or type(error).__name__
        raise UserError(f"{file} cannot be read as safetensors: {reason}") from error
    return {"config": description["config"], "generator": weights}


# ---- int8 weights -----------------------------------------------------------------------------


def quantize(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Symmetric int8 quantization with one scale per output channel, which is dimension `axis`:
    weight ≈ int8 * scale, off by at most scale / 2. Returns the int8 weight and the scale."""
    others = [dimension for dimension in range(weight.ndim) if dimension != axis]
    scale = weight.float().abs().amax(others, keepdim=True) / 127
    steps = weight.float() / torch.where(scale > 0, scale, 1)  # 0 / 1 in a channel of zeros
    return steps.round().clamp(-127, 127).to(torch.int8), scale


def dequantized(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights in float32: float16 is widened, int8 multiplied by its `name.scale`. Other types
    stay as they are. Raises UserError on a scale that does not fit."""
    scales = {f"{name}.scale" for name, value in weights.items() if value.dtype == torch.int8}
    result = {}
    for name, value in weights.items():
        if value.dtype == torch.int8:
            scale = weights.get(f"{name}.scale")
            if scale is None or scale.dtype != torch.float32 or scale.ndim != value.ndim:
                raise UserError(f"{name} is int8 without a fitting {name}.scale")
            if any(
                one not in (1, side) for one, side in zip(scale.shape, value.shape, strict=True)
            ):
                raise UserError(f"{name}.scale does not fit {name}")
            result[name] = value.float() * scale
        elif name not in scales:
            result[name] = value.float() if value.dtype == torch.float16 else value
    return result
