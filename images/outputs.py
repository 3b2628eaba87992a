"""Where the translations of a file or a folder are written."""

from collections.abc import Sequence
from pathlib import Path

from engine.cli import UserError
from images.reading import find_images_below


def plan_outputs(
    source: Path, output: Path, others: Sequence[Path] = (), endings: Sequence[str] = (".png",)
) -> dict[Path, Path]:
    """Maps each image of `source` to its output file: the same name and subfolders below `output`,
    with the first of `endings`. For a single image, `output` may also be a file with any of them.
    An `output` inside `source` is not searched for inputs. Raises UserError if there is no image,
    or if an image or one of `others` would be overwritten."""
    if not source.exists():
        raise UserError(f"image or folder {source} does not exist")
    if not source.is_dir():
        is_file = output.suffix in endings and not output.is_dir()
        if output.suffix and not is_file and not output.is_dir():
            raise UserError(f"--output {output} is neither a folder nor a {', '.join(endings)}")
        plan = {source: output if is_file else output / f"{source.stem}{endings[0]}"}
    elif output.resolve() == source.resolve():
        raise UserError(f"--output is the folder of the inputs, {source}; they would be lost")
    else:
        files = find_images_below(source, besides=output)
        names = [file.relative_to(source).with_suffix("") for file in files]
        # 1.jpg and 1.png keep their endings; file systems may not distinguish A.png and a.png.
        if len({str(name).casefold() for name in names}) < len(names):
            names = [file.relative_to(source) for file in files]
        plan = {
            file: output / f"{name}{endings[0]}" for file, name in zip(files, names, strict=True)
        }

    sources = {file.resolve() for file in (*plan, *others)}
    for file, result in plan.items():
        if result.resolve() in sources:
            raise UserError(f"the translation of {file} would overwrite {result}; give an --output")
    return plan
