"""Translate pictures with a trained generator, and score them where the truth is known.

    python evaluate.py runs/facades                           the test split: pictures and scores
    python evaluate.py runs/facades --split val
    python evaluate.py runs/facades --input photo.jpg --output out.png
    python evaluate.py runs/facades --input folder --output out_folder
    python evaluate.py runs/facades --scorer runs/labels      how well its photos can be read
    python evaluate.py hf://owner/name --input photo.jpg      a shared generator; see export.py

The run's checkpoint says everything about its network and its data; nothing has to be repeated.
"""

from config import Parser, UserError, one_line_errors

if __name__ == "__main__":  # before the slow imports, so that --help and mistakes answer at once
    parser = Parser(__doc__)
    parser.add_argument("run", metavar="RUN", help="a run folder, a checkpoint, or hf://owner/name")
    parser.add_argument("--split", default="test", help="train, val or test (default: test)")
    parser.add_argument("--input", metavar="PATH", help="a picture, or a folder of them, instead")
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="where the results go (default: the run; if shared, runs/shared)",
    )
    parser.add_argument("--mask", metavar="PATH", help="inpainting: white where --input is filled")
    parser.add_argument("--draw", action="store_true", help="edges: --input is a photo to be drawn")
    parser.add_argument(
        "--scorer", metavar="RUN", help="a run photo -> labels, to read photos with"
    )
    parser.add_argument("--inception", metavar="FILE", help="weights of Inception, for FID and KID")
    parser.add_argument("--data_root", metavar="PATH", help="the dataset, if it has moved")
    parser.add_argument("--bad_files", help="stop at a bad file, or skip it (default: as the run)")
    parser.add_argument("--palette", help="of the label pictures: demo, facades, cityscapes, none")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--no_dropout", action="store_true", help="translate without the noise")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    with one_line_errors():
        ARGUMENTS = parser.parse_args()
        if not 0 <= ARGUMENTS.seed < 2**63:
            raise UserError(f"--seed is {ARGUMENTS.seed}; it has to be from 0 to below 2**63")
        for name in ("mask", "draw") if ARGUMENTS.input is None else ("scorer", "inception"):
            if getattr(ARGUMENTS, name):
                without = "needs" if ARGUMENTS.input is None else "can't be combined with"
                raise UserError(f"--{name} {without} --input")

import contextlib
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from config import Config
from dataset import (
    ENDINGS,
    PairedDataset,
    is_image,
    list_skipped,
    load_batches,
    natural_order,
    read_image,
    read_pair,
)
from files import replacing
from gallery import Gallery
from processes import command_line
from scores import (
    PALETTES,
    Distances,
    Palette,
    SplitScores,
    class_scores,
    confusion,
    read_classes,
)
from sharing import is_shared
from tasks import draw
from utils import (
    generate,
    load_generator,
    run_folder,
    sample_grid,
    save_image,
    to_image,
    to_tensor,
    translate,
)

GRID_PICTURES = 12


def translations(generator: nn.Module, dataset: PairedDataset, seed: int = 0, noise: bool = True):
    """Translates the pairs of a dataset one by one; see `utils.generate` about noise.

    Yields (name, x, G(x), y), pictures as (C, H, W) in [-1, 1]. The noise of every picture begins
    at `seed`, so its translation does not depend on what was translated before.
    """
    device = next(generator.parameters()).device
    for batch in load_batches(dataset):
        pair = {key: value[0] for key, value in batch.items()}
        output = generate(generator, batch["input"].to(device), seed, noise)[0].float().cpu()
        show = partial(dataset.task.show, pair)
        yield pair["name"], pair["input"], show(output), show(pair["target"])


class LabelReader:
    """How well labels can be read from photos: the idea of the paper's FCN-score (Section 4).

    The paper's reader is an FCN-8s; this one is a generator photo -> labels of this code, trained
    on the same data, and without its noise. Real photos are read too, and are the ceiling. Raises
    UserError where the scorer doesn't fit the run.
    """

    def __init__(self, scorer: nn.Module, config: Config):
        name = config.label_palette()
        theirs = scorer.config
        rules = {
            "the run has to make photos of labels in colours of a known palette": (
                name is not None and config.direction == "BtoA" and config.in_channels == 3
            ),
            "the scorer has to make labels in colours (--direction AtoB)": (
                theirs.direction == "AtoB" and theirs.out_channels == 3
            ),
            f"its palette is {theirs.label_palette()}, the run's is {name}": (
                theirs.label_palette() == name
            ),
            f"it was trained at {theirs.crop_size} px, the run at {config.crop_size} px": (
                theirs.crop_size == config.crop_size
            ),
            f"it takes {theirs.in_channels} channels, the run makes {config.out_channels}": (
                theirs.in_channels == config.out_channels
            ),
        }
        for rule, holds in rules.items():
            if not holds:
                raise UserError(f"--scorer doesn't fit: {rule}")
        self.scorer = scorer
        self.palette = PALETTES[name]
        self.matrices = {"read": 0, "real": 0}

    def add(self, true: Tensor, output: Tensor, photo: Tensor) -> None:
        """The true classes (H, W), the photo made of their labels and the real one (C, H, W)."""
        device = next(self.scorer.parameters()).device
        for name, picture in (("read", output), ("real", photo)):
            made = generate(self.scorer, picture[None].to(device), noise=False)[0].cpu()
            self.matrices[name] += confusion(true, read_classes(made, self.palette), self.palette)

    def summary(self) -> dict[str, float]:
        return {
            f"{kind}_{name}": value
            for kind, matrix in self.matrices.items()
            for name, value in class_scores(matrix).items()
        }


def true_classes(dataset: PairedDataset, index: int, palette: Palette) -> Tensor:
    """The classes of a pair's label picture B, (H, W), read at its own size and only then resized,
    for colours in between would be those of other classes."""
    _, labels = read_pair(dataset.pairs[index])
    classes = read_classes(to_tensor(np.asarray(labels)), palette)
    size = (dataset.size, dataset.size)
    return F.interpolate(classes[None, None].float(), size, mode="nearest-exact")[0, 0].long()


def evaluate_split(
    generator: nn.Module,
    split: str,
    folder: Path,
    seed: int = 0,
    noise: bool = True,
    scorer: nn.Module | None = None,
    inception: str | None = None,
) -> dict:
    """Writes a split into `folder`: its pictures as the network saw, made and should have made them
    in input/, output/ and target/, and grid.png, gallery.html, scores.csv and scores.json. Returns
    the last."""
    config = generator.config
    # No jitter and no mirror, should it be the training split that is asked for.
    dataset = PairedDataset(replace(config, load_size=config.crop_size, mirror=False), split)
    makes_labels = config.direction == "AtoB" and config.out_channels == 3
    scores = SplitScores(config.label_palette() if makes_labels else None)
    palette = PALETTES.get(config.label_palette())
    reader = LabelReader(scorer, config) if scorer else None
    if inception and len(dataset) < 2:
        raise UserError(f"FID and KID compare sets of pictures; {split} has only one")
    distances = Distances(inception, next(generator.parameters()).device) if inception else None

    gallery = Gallery(str(folder), command_line(), config)
    rows, grid = {}, []
    results = translations(generator, dataset, seed, noise)
    results = tqdm(results, "translating", len(dataset), unit="image")
    for index, (name, x, output, y) in enumerate(results):
        pictures = [to_image(picture) for picture in (x, output, y)]
        for kind, picture in zip(("input", "output", "target"), pictures, strict=True):
            save_image(picture, folder / kind / f"{name}.png")
        true = true_classes(dataset, index, palette) if scores.palette or reader else None
        rows[name] = scores.add(output, y, true)
        gallery.add(name, pictures, rows[name])
        if reader:
            reader.add(true, output, y)
        if distances:
            distances.add(output, y)
        if len(grid) < GRID_PICTURES:
            grid.append((x, output, y))
    save_image(sample_grid(grid, across=3), folder / "grid.png")

    with (
        replacing(folder / "scores.csv") as temporary,
        # A file name need not be text; its bytes go through as they are.
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["name", *next(iter(rows.values()))])
        for name, values in rows.items():
            writer.writerow([name, *values.values()])
    means = {}
    for part in (scores, reader, distances):
        means |= part.summary() if part else {}
    summary = {"split": dataset.split, "images": len(rows), "seed": seed, "dropout": noise, **means}
    with replacing(folder / "scores.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    gallery.write(folder / "gallery.html", means)
    list_skipped(dataset.skipped, folder)
    return summary


# The scores as they are printed: a line each, with their names and formats.
LINES = {
    "L1 {l1:.4f}   PSNR {psnr:.2f} dB   SSIM {ssim:.4f}": "",
    "sharpness {sharpness:.3f} of the targets'": "",
    "colours in common: L {histogram_l:.3f}   a {histogram_a:.3f}   b {histogram_b:.3f}": "",
    "per-pixel {pixel_accuracy:.3f}   per-class {class_accuracy:.3f}   IoU {class_iou:.3f}"
    "   ({classes_present} classes occur)": "labels: ",
    "per-pixel {read_pixel_accuracy:.3f}   per-class {read_class_accuracy:.3f}"
    "   IoU {read_class_iou:.3f}   ({read_classes_present} classes occur)": "labels read: ",
    "per-pixel {real_pixel_accuracy:.3f}   per-class {real_class_accuracy:.3f}"
    "   IoU {real_class_iou:.3f}": "of real photos: ",
    "FID {fid:.1f}   KID {kid:.4f}": "",
}


def report(summary: dict, data_root: str, folder: Path) -> None:
    print(f"{summary['images']} {summary['split']} pictures of {data_root}, mean scores:")
    for line, title in LINES.items():
        with contextlib.suppress(KeyError):  # not every task has every score
            print("  " + title + line.format(**summary))
    print(f"  gallery   {folder / 'gallery.html'}  (to look at in a browser)")
    print(f"  pictures  {folder / 'output'}  (and input, target)")
    print(f"  grid      {folder / 'grid.png'}  (input | output | target)")
    print(f"  scores    {folder / 'scores.csv'}  (the means in scores.json)")


def plan_outputs(source: Path, output: Path, others: Sequence[Path] = ()) -> dict[Path, Path]:
    """Where the translation of each picture goes: a PNG of its name, in folders as the source's.
    Those in an `output` within the source are results of an earlier time, and no pictures of it.

    Raises UserError where there is nothing to translate, or a source or one of the `others` would
    be overwritten.
    """
    if source.is_dir():
        if output.resolve() == source.resolve():
            raise UserError(f"--output is the folder of the pictures, {source}: it would overwrite")
        if output.is_file():
            raise UserError(f"--output {output} is a file; for a folder of pictures it is a folder")
        files = sorted(filter(is_image, source.rglob("*")), key=natural_order)
        files = [file for file in files if output.resolve() not in file.resolve().parents]
        if not files:
            raise UserError(f"{source} holds no pictures ({', '.join(ENDINGS)})")
        names = [file.relative_to(source).with_suffix("") for file in files]
        # 1.jpg and 1.png: their whole names keep them apart, also where A.png is a.png.
        if len({str(name).casefold() for name in names}) < len(names):
            names = [file.relative_to(source) for file in files]
        plan = {
            file: output / name.with_name(name.name + ".png")
            for file, name in zip(files, names, strict=True)
        }
    elif source.is_file():
        if output.suffix not in ("", ".png"):
            raise UserError(f"--output {output} is neither a folder nor a .png")
        plan = {source: output if output.suffix else output / f"{source.stem}.png"}
    else:
        raise UserError(f"there is no picture or folder {source}")

    sources = {file.resolve() for file in (*plan, *others)}
    for file, result in plan.items():
        if result.resolve() in sources:
            raise UserError(f"{file}: its translation would overwrite {result}; choose an --output")
    return plan


def hint(image: Image.Image, config: Config) -> str | None:
    """What may be wrong with a picture that was given to be translated, at its own size."""
    width, height = image.size
    if config.task not in ("pairs", "style", "edges"):  # the others see to it
        return None
    if config.task == "pairs" and width == 2 * height:
        return "is twice as wide as high; of a side-by-side pair, give the input alone"
    if not config.crop_size / 2 <= (width * height) ** 0.5 <= config.crop_size * 2:
        return (
            f"is {width}x{height}, but training saw whole pictures at {config.load_size} px; what "
            "is in it should be about as large as there, so try it resized"
        )
    return None


def translate_files(generator, plan: dict[Path, Path], arguments) -> list[str]:
    """Translates each file of a plan. Returns what is wrong with those that were left out."""
    mask = read_image(Path(arguments.mask)) if arguments.mask else None
    skipped, advised = [], False
    for file, result in tqdm(plan.items(), "translating", unit="image"):
        try:
            image = read_image(file)
            advice = hint(image, generator.config)
            if advice and not advised:
                tqdm.write(f"{file} {advice}", file=sys.stderr)
                advised = True  # once is enough
            if arguments.draw:
                image = to_image(draw(to_tensor(np.asarray(image))))
            noise = not arguments.no_dropout
            picture = translate(generator, image, arguments.seed, noise, mask)
        except UserError as error:
            if generator.config.bad_files == "stop":
                raise
            skipped.append(f"{file}: {error}" if str(file) not in str(error) else str(error))
        else:
            save_image(picture, result)
    if len(skipped) == len(plan):
        raise UserError(f"none of the pictures can be translated; the first: {skipped[0]}")
    return skipped


def main(arguments) -> None:
    generator = load_generator(arguments.run, arguments.device)
    for name in ("data_root", "palette", "bad_files"):
        if getattr(arguments, name):
            generator.config = replace(generator.config, **{name: getattr(arguments, name)})
    if arguments.draw and generator.config.task != "edges":
        raise UserError(f"--draw is for edges; the task of this run is {generator.config.task}")
    folder = run_folder(arguments.run)
    if is_shared(arguments.run):  # its folder may be part of a repository
        folder = Path("runs", "shared", Path(arguments.run).name.partition("@")[0])

    if arguments.input is not None:
        output = Path(arguments.output) if arguments.output else folder / "translated"
        mask = [Path(arguments.mask)] if arguments.mask else []
        plan = plan_outputs(Path(arguments.input), output, mask)
        skipped = translate_files(generator, plan, arguments)
        goal = next(iter(plan.values())) if len(plan) == 1 else output
        print(f"translated {len(plan) - len(skipped)} into {goal}")
        if skipped:  # else nothing of this name is touched in a folder that may be anyone's
            list_skipped(skipped, output)
        return

    output = Path(arguments.output) if arguments.output else folder / arguments.split
    scorer = load_generator(arguments.scorer, arguments.device) if arguments.scorer else None
    noise = not arguments.no_dropout
    summary = evaluate_split(
        generator, arguments.split, output, arguments.seed, noise, scorer, arguments.inception
    )
    report(summary, generator.config.data_root, output)


if __name__ == "__main__":
    with one_line_errors():
        main(ARGUMENTS)
