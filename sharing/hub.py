"""The Hugging Face Hub, hf://owner/name: fetching a generator, uploading one."""

import re
import sys
from pathlib import Path

from engine.cli import UserError


def is_on_hub(path: str | Path) -> bool:
    return str(path).startswith("hf://")


def split_name(name: str) -> tuple[str, str | None]:
    """ "hf://owner/name[@revision]" as ("owner/name", revision or None). Raises UserError."""
    found = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@(.+))?", name)
    if not found:
        raise UserError(f"{name} must be like hf://owner/name or hf://owner/name@revision")
    return found[1], found[2]


def fetch_export(name: str, files: tuple[str, ...]) -> Path:
    """Downloads files of "hf://owner/name[@revision]", unless cached. Returns their folder. Raises
    UserError."""
    repository, revision = split_name(name)
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(f"{name} needs a package: pip install huggingface_hub") from error
    print(f"fetching {name}", file=sys.stderr)
    try:
        paths = [hf_hub_download(repository, file, revision=revision) for file in files]
    except Exception as error:  # no network, no such name, no access, a full disk
        raise UserError(f"{name} cannot be fetched from the Hugging Face Hub: {error}") from error
    return Path(paths[0]).parent


def push_folder(folder: Path, repository: str, patterns: list[str], private: bool) -> str:
    """Creates the model repository "owner/name" unless it exists, `private` or public, and uploads
    the files of a folder that fit `patterns` as one commit. Needs `hf auth login` or HF_TOKEN.
    Returns its address. Raises UserError."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UserError("--push needs a package: pip install huggingface_hub") from error
    api = HfApi()
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=patterns,
            commit_message="Upload a Pix2Pix generator",
        )
    except Exception as error:  # no network, no token, no access
        hint = "it takes hf auth login, or HF_TOKEN"
        raise UserError(f"{folder} cannot be pushed to {repository}: {error}; {hint}") from error
    return str(address)
