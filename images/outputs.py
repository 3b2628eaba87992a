"""Where the translations of files and folders are written."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from engine.cli import UserError
from images.names import composed
from images.pairs import folders_of
from images.reading import find_images_below

Files = tuple[Path, ...]  # of one input: several if their channels are stacked
VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif")  # see images/video.py


def plan_outputs(
    sources: Sequence[Path],
    output: Path,
    others: Sequence[Path] = (),
    endings: Sequence[str] = (".png",),
    stacked: str = "",
) -> dict[Files, Path]:
    """Maps the files of each input to its output file: the same name and subfolders below `output`,
    with the first of `endings`. For a single image, `output` may also be a file with any of them.
    `sources` are images and folders; an `output` inside a folder is not searched for inputs. If
    `stacked` is A, folders A1, A2 ... of a source hold the files of an input; B likewise. Raises
    UserError if there is no image, or if an image or one of `others` would be overwritten."""
    inputs = [pair for source in sources for pair in inputs_of(source, output, stacked)]
    is_file = output.suffix.lower() in endings and not output.is_dir()
    if is_file and (len(sources) > 1 or sources[0].is_dir()):
        raise UserError(f"--output {output} is one file; it must be a folder for several images")
    known = output.suffix.lower() in {*Image.registered_extensions(), ".npy", *VIDEOS}
    if known and not is_file and not output.is_dir():
        raise UserError(f"--output {output} is neither a folder nor a {', '.join(endings)}")
    names = [name.with_suffix("") for _, name in inputs]
    # 1.jpg and 1.png keep their endings; file systems may not distinguish A.png and a.png.
    if len({composed(str(name)).casefold() for name in names}) < len(names):
        names = [name for _, name in inputs]
    if len({composed(str(name)).casefold() for name in names}) < len(names):
        raise UserError("two of the images have the same name; translate them into two folders")
    plan = {
        files: output if is_file else output / f"{name}{endings[0]}"
        for (files, _), name in zip(inputs, names, strict=True)
    }

    inputs = {file.resolve() for files in plan for file in files}
    for files, result in plan.items():
        if result.resolve() in inputs | {file.resolve() for file in others}:
            overwritten = f"the translation of {files[0]} would overwrite {result}"
            raise UserError(f"{overwritten}; give an --output")
    return plan


def inputs_of(source: Path, output: Path, stacked: str) -> list[tuple[Files, Path]]:
    """The files of each input in a source, and its path below the source. Raises UserError."""
    if not source.exists():
        raise UserError(f"image or folder {source} does not exist")
    if not source.is_dir():
        return [((source,), Path(source.name))]
    if output.resolve() == source.resolve():
        raise UserError(f"--output is the folder of the inputs, {source}; they would be lost")
    folders = folders_of(source, stacked) if stacked else []
    if len(folders) < 2:
        files = find_images_below(source, excluded=output)
        return [((file,), file.relative_to(source)) for file in files]
    found = {folder: below(folder, output) for folder in folders}
    for files in found.values():
        for name, file in files.items():
            lacking = next((folder for folder in folders if name not in found[folder]), None)
            if lacking:
                raise UserError(f"{file} has no partner of that name in {lacking}")
    first = found[folders[0]]
    return [
        (tuple(found[folder][name] for folder in folders), file.relative_to(folders[0]))
        for name, file in first.items()
    ]


def below(folder: Path, excluded: Path) -> dict[str, Path]:
    """The images below a folder by path without ending, as names are matched."""
    files = find_images_below(folder, excluded)
    return {composed(str(file.relative_to(folder).with_suffix(""))): file for file in files}
