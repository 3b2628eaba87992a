"""Exported generators: a folder in the format of the Hugging Face Hub.

tools/export.py writes such a folder: model.safetensors, config.json, README.md, the model card, and
examples. Weights are float32, float16, or int8 with a float32 scale for each output channel.
"""

import dataclasses
import json
from pathlib import Path, PurePath

import safetensors.torch
import torch
from torch import Tensor, nn

from config import Config
from engine.cli import UserError
from engine.files import read_json, replacing, write_text
from sharing.card import CARD, EXAMPLES, OUTPUTS, write_card
from sharing.hub import fetch_export, is_on_hub

WEIGHTS, DESCRIPTION = "model.safetensors", "config.json"  # the Hub's names
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


# ---- Writing ----------------------------------------------------------------------------------


def write_export(
    generator: nn.Module,
    folder: Path,
    precision: str,
    evaluation: Path | None = None,
    name: str | None = None,
) -> None:
    """Writes a generator, whose `.config` is that of its training, as a folder. An earlier export
    there is replaced, except for its card. `precision` is "float32", "half" (float16) or "int8"
    (convolutions only, with a scale for each output channel). The card shows the scores and images
    of `evaluation`, a folder of evaluate.py, and `name`, "hf://owner/name". Raises UserError, also
    if the folder holds other files."""
    others = {file.name for file in folder.glob("[!.]*")} - {*EXPORT_FILES, EXAMPLES, OUTPUTS}
    if others:
        raise UserError(f"{folder} holds other files ({min(others)}); choose an empty folder")
    config = without_paths(generator.config)
    weights = stored_weights(generator, precision)
    if not all(value.isfinite().all() for value in weights.values()):
        raise UserError(f"some weights are too large for {precision}; choose another --precision")
    version = 2 if precision == "int8" else 1  # see EXPORT_FORMAT
    description = {"format": version, "config": dataclasses.asdict(config)}
    if (folder / CARD).exists():
        print(f"{folder / CARD} is kept, as it may have been edited; remove it for a new one")
    else:
        write_card(folder, config, precision, evaluation, name)
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
