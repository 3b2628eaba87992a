"""The Hugging Face Hub: fetching hf://owner/name."""

import re
import sys
from pathlib import Path

from engine.cli import UserError


def is_on_hub(path: str | Path) -> bool:
    return str(path).startswith("hf://")


def fetch_export(name: str, files: tuple[str, ...]) -> Path:
    """Downloads files of "hf://owner/name[@revision]", unless cached. Returns their folder. Raises
    UserError."""
    found = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@(.+))?", name)
    if not found:
        raise UserError(f"{name} must be like hf://owner/name or hf://owner/name@revision")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(f"{name} needs a package: pip install huggingface_hub") from error
    print(f"fetching {name}", file=sys.stderr)
    try:
        paths = [hf_hub_download(found[1], file, revision=found[2]) for file in files]
    except Exception as error:  # no network, no such name, no access, a full disk
        raise UserError(f"{name} cannot be fetched from the Hugging Face Hub: {error}") from error
    return Path(paths[0]).parent
