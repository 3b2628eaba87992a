"""Paired datasets of the Hugging Face Hub, such as hf://huggan/facades, as a folder of pairs."""

import io
from pathlib import Path

import PIL.Image
from tqdm import tqdm

from engine.cli import UserError
from engine.files import creating_folder
from sharing.hub import split_name

# The paper's datasets there, with columns imageA and imageB.
ON_HUB = ("facades", "maps", "cityscapes", "edges2shoes", "night2day")
COPIES = {name: f"huggan/{name}" for name in ON_HUB}
COLUMNS = ("imageA", "imageB")
SPLITS = {"validation": "val"}  # the Hub's name, and ours
ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp"}


def write_pairs(name: str, folder: Path, columns: tuple[str, str] = COLUMNS) -> None:
    """Writes "hf://owner/name[@revision]" as two folders, A/SPLIT and B/SPLIT, from the two image
    columns of A and B. The files are those of the dataset, byte by byte. `folder` appears when it
    is complete. Raises UserError."""
    splits = load_splits(name, columns)
    with creating_folder(folder) as unfinished:
        for split, rows in splits.items():
            folders = [unfinished / side / SPLITS.get(split, split) for side in "AB"]
            for place in folders:
                place.mkdir(parents=True, exist_ok=True)
            digits = len(str(len(rows)))
            for number, row in enumerate(tqdm(rows, f"writing {split}", unit="pair"), 1):
                for place, column in zip(folders, columns, strict=True):
                    where = f"{name}: {column} of row {number} of {split}"
                    write_image(row[column], place / f"{number:0{digits}}", where)


def load_splits(name: str, columns: tuple[str, str]) -> dict:
    """The splits of a dataset, with the encoded images of two columns. Raises UserError."""
    repository, revision = split_name(name)
    try:
        from datasets import Image, load_dataset  # takes seconds
    except ImportError as error:
        raise UserError(f"{name} needs a package: pip install datasets") from error
    try:
        splits = load_dataset(repository, revision=revision)
    except Exception as error:  # no network, no such name, no access, a full disk
        raise UserError(f"{name} cannot be loaded from the Hugging Face Hub: {error}") from error
    for split, rows in splits.items():
        images = [key for key, kind in rows.features.items() if isinstance(kind, Image)]
        for column in columns:
            if column not in images:
                found = f"its image columns are {', '.join(images) or 'none'}"
                raise UserError(
                    f"{name} has no images {column!r} in {split} ({found}); name those of A and B: "
                    "--columns A B"
                )
            rows = rows.cast_column(column, Image(decode=False))
        splits[split] = rows.select_columns(list(columns))
    return splits


def write_image(encoded: dict, path: Path, where: str) -> None:
    """Writes an image, {"bytes": ..., "path": ...} as in a dataset; `path` lacks its ending."""
    try:
        content = encoded["bytes"] or Path(encoded["path"]).read_bytes()
        with PIL.Image.open(io.BytesIO(content), formats=list(ENDINGS)) as image:
            ending = ENDINGS.get(image.format, ".jpg")  # or MPO, the JPEG of some cameras
    except (TypeError, OSError, PIL.Image.DecompressionBombError) as error:  # None, no image, huge
        raise UserError(f"{where} cannot be read as an image: {error}") from error
    path.with_suffix(ending).write_bytes(content)
