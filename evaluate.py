"""Translate images with a trained generator, and score them where the target is known.

    python evaluate.py runs/facades                           the test split: images and scores
    python evaluate.py runs/facades --split val
    python evaluate.py runs/facades --input photo.jpg --output out.png
    python evaluate.py runs/facades --input folder --output out_folder
    python evaluate.py runs/facades --scorer runs/reader      also scores labels read from outputs
    python evaluate.py hf://owner/name --input photo.jpg      an exported generator on the Hub

The checkpoint describes its network and data; no training option has to be repeated.
"""

import contextlib
import math
import statistics
import sys
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn
from tqdm import tqdm

from config import UserError
from dataset import PairedDataset, load_pairs
from engine import cli
from engine.devices import command_line
from engine.files import report_skipped, save_image
from images.arrays import output_endings, write_array
from images.gallery import Gallery
from images.nodata import mean_error, write_nodata
from images.outputs import Files, plan_outputs
from images.pairs import size_of
from images.pixels import to_image, to_tensor
from images.ranges import from_unit, is_eight_bit
from metrics.class_numbers import to_numbers
from metrics.images import score
from metrics.palettes import trained_palette
from metrics.reader import LabelReader, ReaderScores, load_reader
from metrics.split import SplitScores, write_scores
from sharing.exports import is_export
from tasks import task_of
from tasks.base import fit
from tasks.inpainting import read_mask
from utils import generate_any_size, load_generator, run_folder, sample_grid, translate


def parse_arguments(argv=None) -> Namespace:
    """Raises UserError."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder, a checkpoint, an export, or hf://owner/name")
    add("--checkpoint", metavar="NAME", help="best, previous, epoch_0050 ... (default: latest)")
    add("--split", default="test", help="train, val or test (default: test)")
    add("--input", nargs="+", metavar="PATH", help="translate these images or folders instead")
    add("--output", metavar="PATH", help="where to write (default: the run; exports: runs/shared)")
    add("--mask", metavar="PATH", help="inpainting: a mask of --input, white in the hole")
    add("--tile", type=int, default=0, metavar="PX", help="translate a large --input in tiles")
    add("--draw", action="store_true", help="edges: --input is a photo whose edges are drawn first")
    add("--scorer", metavar="READER", help="score labels that this tools.reader reads in outputs")
    add("--data_root", metavar="PATH", help="the dataset, if it has moved")
    add("--bad_files", help="stop at a bad file, or skip it (default: as the run)")
    add("--palette", help="palette of the label maps (default: as the run)")
    add("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    add("--no_dropout", action="store_true", help="turn off the noise")
    add("--no_ema", action="store_true", help="use the weights themselves, not their EMA")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    options = parser.parse_args(argv)
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed is {options.seed}; it must be from 0 to below 2**63")
    cli.check_mode(options, "input", needed_by=["mask", "draw", "tile"], excludes=["scorer"])
    return options


GRID_IMAGES = 12
NUMBERS = "output_labels"  # the folder of the outputs in class numbers

# ---- A split ----------------------------------------------------------------------------------


def translations(generator: nn.Module, dataset: PairedDataset, seed: int = 0, noise: bool = True):
    """Translates the pairs of a dataset one by one; see `utils.generate` about noise. Yields (name,
    x, G(x), y), images (C, H, W) in [-1, 1]. The noise of every image starts from `seed`, so its
    translation does not depend on others."""
    for pair in load_pairs(dataset):
        output = generate_any_size(generator, pair["input"], seed, noise)
        show = partial(dataset.task.show, pair)
        yield pair["name"], pair["input"], show(output), show(pair["target"])


def validate(generator: nn.Module, dataset: PairedDataset) -> tuple[dict, Image.Image]:
    """The mean L1, PSNR and SSIM of a dataset, and a grid of its first `sample_images`. The noise
    is its own, so training is unaffected."""
    scores, grid = [], []
    device = next(generator.parameters()).device
    on = device if device.type == "cuda" else "cpu"  # a GPU computes SSIM faster
    results = translations(generator, dataset)
    # disable=None: only in a terminal, as it is a second progress bar
    for _, x, output, y in tqdm(results, "validating", len(dataset), leave=False, disable=None):
        scores.append(score(output[None].to(on), y[None].to(on)))
        if len(grid) < dataset.config.sample_images:
            grid.append((x, output, y))
    means = {name: statistics.fmean(row[name] for row in scores) for name in scores[0]}
    return means, sample_grid(grid)


def evaluate_split(
    generator: nn.Module,
    split: str,
    folder: Path,
    seed: int = 0,
    noise: bool = True,
    reader: LabelReader | None = None,
) -> dict:
    """Translates and scores a split; photos also by the labels that `reader` sees in them. Writes
    input/, output/, target/, grid.png, gallery.html, scores.csv and scores.json into `folder`, and
    outputs in class numbers to output_labels/. Returns the scores. Raises UserError."""
    config = generator.config
    palette = trained_palette(config)
    dataset = PairedDataset(config, split, augment=False)
    scores = SplitScores(palette if config.direction == "AtoB" else None)
    read = ReaderScores(reader, config) if reader else None

    labels = ("input",) if config.direction == "BtoA" else ("output", "target")
    gallery = Gallery(str(folder), command_line(), config, labels if palette else ())
    rows, grid = {}, []
    results = translations(generator, dataset, seed, noise)
    results = tqdm(results, "translating", len(dataset), unit="image")
    for index, (name, x, output, y) in enumerate(results):
        ranges = (config.input_range, config.target_range, config.target_range)
        images = list(map(to_image, (x, output, y), ranges))
        for kind, image in zip(("input", "output", "target"), images, strict=True):
            save_image(image, folder / kind / f"{name}.png")
        rows[name] = scores.add(output, y)
        if scores.palette and palette.numbers:
            save_image(to_numbers(output, palette), folder / NUMBERS / f"{name}.png")
        if config.target_range:
            pair = [image.permute(1, 2, 0).numpy() for image in (output, y)]
            values, truth = (from_unit(image, config.target_range) for image in pair)
            missing = dataset.nodata(index)
            values_file = folder / "values" / f"{name}.npy"
            write_array(write_nodata(values, missing[0], config.nodata), values_file)
            rows[name]["mae"] = mean_error(values, truth, *missing)
        gallery.add(name, images, rows[name])
        if read:
            file = dataset.task.read(dataset.pairs[index])[0]
            labels = to_tensor(fit(file, x.shape[:0:-1], 3, nearest=True))
            read.add(labels, output, y)
        if len(grid) < GRID_IMAGES:
            grid.append((x, output, y))

    means = scores.summary() | (read.summary() if read else {})
    if config.target_range:
        known = [row["mae"] for row in rows.values() if not math.isnan(row["mae"])]
        means |= {"mae": statistics.fmean(known)} if known else {}
    summary = {"split": dataset.split, "images": len(rows), "seed": seed, "dropout": noise, **means}
    summary |= {"class_ious": scores.ious()} if scores.palette else {}
    save_image(sample_grid(grid, 3, ["input", "output", "target"]), folder / "grid.png")
    write_scores(rows, summary, folder)
    gallery.write(folder / "gallery.html", means)
    report_skipped(dataset.skipped, folder)
    return summary


# The lines that `report` prints; not every task has every score.
LINES = (
    "L1 {l1:.4f}   PSNR {psnr:.2f} dB   SSIM {ssim:.4f}",
    "mean absolute error {mae:.6g} in the units of the targets",
    "sharpness {sharpness:.3f} relative to the targets",
    "color histogram intersection: L {histogram_l:.3f}   a {histogram_a:.3f}   b {histogram_b:.3f}",
    "labels: per-pixel {pixel_accuracy:.3f}   per-class {class_accuracy:.3f}   "
    "IoU {class_iou:.3f}   ({classes_present} classes present)",
    "labels read from outputs (not by FCN-8s): per-pixel {read_pixel_accuracy:.3f}   per-class "
    "{read_class_accuracy:.3f}   IoU {read_class_iou:.3f}   ({read_classes_present} classes)",
    "labels read from targets (not by FCN-8s): per-pixel {real_pixel_accuracy:.3f}   per-class "
    "{real_class_accuracy:.3f}   IoU {real_class_iou:.3f}",
)


def report(summary: dict, data_root: str, folder: Path) -> None:
    print(f"{summary['images']} {summary['split']} images of {data_root}, mean scores:")
    for line in LINES:
        with contextlib.suppress(KeyError):
            print("  " + line.format(**summary))
    for name, iou in summary.get("class_ious", {}).items():
        print(f"    IoU {'-' if iou is None else f'{iou:.3f}':5}  {name}")
    print(f"  gallery   {folder / 'gallery.html'}  (open it in a browser)")
    print(f"  images    {folder / 'output'}  (and input, target)")
    if (folder / NUMBERS).is_dir():
        print(f"  labels    {folder / NUMBERS}  (the outputs as class numbers)")
    print(f"  grid      {folder / 'grid.png'}  (input | output | target)")
    print(f"  scores    {folder / 'scores.csv'}  (means in scores.json)")


# ---- Files ------------------------------------------------------------------------------------


def translate_files(generator: nn.Module, plan: dict[Files, Path], options: Namespace) -> list[str]:
    """Translates each file of a plan. Returns what is wrong with those that were left out."""
    config, task = generator.config, task_of(generator.config)
    if advice := task.check_input([files[0] for files in plan]):
        print(advice, file=sys.stderr)
    tiled = bool(options.tile)
    mask = read_mask(Path(options.mask), tiled) if options.mask else None
    if tiled:
        print("norms see one tile at a time, so colors can differ between tiles", file=sys.stderr)
    skipped, advised = [], False
    eight_bit = is_eight_bit(config.target_range, config.out_channels, config.nodata)
    write = partial(write_array, eight_bit=eight_bit) if config.target_range else save_image
    for files, result in tqdm(plan.items(), "translating", unit="image"):
        file = files[0]
        try:
            image = task.read_input(files, tiled)
            advice = task.hint(*size_of(image), tiled)
            if advice and not advised:
                tqdm.write(f"{file} {advice}", file=sys.stderr)
                advised = True  # once is enough
            if options.draw:
                from tasks.edges import draw

                image = to_image(draw(to_tensor(np.asarray(image))))
            image = translate(
                generator, image, options.seed, not options.no_dropout, mask, options.tile
            )
        except UserError as error:
            if config.bad_files == "stop":
                raise
            skipped.append(f"{file}: {error}" if str(file) not in str(error) else str(error))
        else:
            write(image, result)
            if task.numbers and config.direction == "AtoB":
                labels = to_numbers(to_tensor(np.asarray(image)), task.palette)
                save_image(labels, result.parent / NUMBERS / result.name)
    if len(skipped) == len(plan):
        raise UserError(f"none of the images can be translated; the first: {skipped[0]}")
    return skipped


def main(argv=None) -> int:
    """Returns the exit code. Raises UserError."""
    options = parse_arguments(argv)
    run = options.run
    if options.checkpoint:
        run = run_folder(run) / "checkpoints" / f"{options.checkpoint.removesuffix('.pt')}.pt"
    generator = load_generator(run, options.device, ema=not options.no_ema)
    names = ("data_root", "palette", "bad_files")
    changes = {name: getattr(options, name) for name in names if getattr(options, name)}
    generator.config = replace(generator.config, **changes)
    if options.tile and options.tile < 2**generator.depth:
        raise UserError(f"--tile is {options.tile}; it must be {2**generator.depth} or more")
    if options.draw and generator.config.task != "edges":
        raise UserError(f"--draw is for edges; the task of this run is {generator.config.task}")
    folder = run_folder(options.run)
    if is_export(options.run):  # its folder may belong to a repository
        folder = Path("runs", "shared", Path(options.run).name.partition("@")[0])

    if options.input is not None:
        output = Path(options.output) if options.output else folder / "translated"
        masks = [Path(options.mask)] if options.mask else []
        config = generator.config
        endings = output_endings(config.target_range, config.out_channels, config.nodata)
        stacked = config.direction[0] if config.input_range else ""
        plan = plan_outputs(list(map(Path, options.input)), output, masks, endings, stacked)
        skipped = translate_files(generator, plan, options)
        several = f"{len(plan) - len(skipped)} images into {output}"
        print("wrote", several if len(plan) > 1 else next(iter(plan.values())))
        if skipped:  # otherwise, leave a skipped.txt in this folder alone
            report_skipped(skipped, output)
        return 0

    output = Path(options.output) if options.output else folder / options.split
    reader = load_reader(options.scorer, options.device) if options.scorer else None
    noise = not options.no_dropout
    summary = evaluate_split(generator, options.split, output, options.seed, noise, reader)
    report(summary, generator.config.data_root, output)
    return 0


if __name__ == "__main__":
    cli.run(main)
