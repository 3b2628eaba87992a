"""Translate images with a trained generator, and score them where the target is known.

    python evaluate.py runs/facades                           the test split: images and scores
    python evaluate.py runs/facades --split val
    python evaluate.py runs/facades --input photo.jpg --output out.png
    python evaluate.py runs/facades --input folder --output out_folder
    python evaluate.py runs/facades --input clip.mp4 --output out.mp4
    python evaluate.py runs/facades --scorer runs/reader      also scores labels read from outputs
    python evaluate.py hf://owner/name --input photo.jpg      an exported generator on the Hub

The checkpoint describes its network and data; no training option has to be repeated.
"""

import math
import statistics
import sys
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image
from torch import nn
from tqdm import tqdm

from config import UserError
from dataset import PairedDataset
from engine import cli, fast
from engine.devices import command_line
from engine.files import report_skipped, save_image
from engine.loading import attempt, choose_overlap, one_at_a_time, overlap
from images.arrays import output_endings
from images.gallery import Gallery
from images.outputs import Files, plan_outputs
from images.pairs import size_of
from images.pixels import to_tensor
from images.video import plan_videos, translate_videos
from metrics.images import score
from metrics.palettes import trained_palette
from metrics.reader import LabelReader, ReaderScores, load_reader
from metrics.split import ImageScores, SplitScores, report_scores, write_scores
from sharing.exports import is_export
from tasks import task_of
from tasks.base import fit
from tasks.edges import draw_photo
from tasks.inpainting import read_mask
from tasks.outputs import Translation, save_output, save_translation, value_error
from utils import generate_any_size, load_generator, run_folder, sample_grid, translate


def parse_arguments(argv=None) -> Namespace:
    """Raises UserError."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder, a checkpoint, an export, or hf://owner/name")
    add("--checkpoint", metavar="NAME", help="best, previous, epoch_0050 ... (default: latest)")
    add("--split", default="test", metavar="NAME", help="train, val or test (default: test)")
    add("--input", nargs="+", metavar="PATH", help="translate images, folders or videos instead")
    add("--output", metavar="PATH", help="where to write (default: the run; exports: runs/shared)")
    add("--mask", metavar="PATH", help="inpainting: a mask of --input, white in the hole")
    add("--tile", type=int, default=0, metavar="PX", help="translate a large --input in tiles")
    add("--draw", action="store_true", help="edges: --input is a photo whose edges are drawn first")
    add("--side_by_side", action="store_true", help="write each --input beside its output")
    add("--scorer", metavar="READER", help="score labels that this tools.reader reads in outputs")
    add("--data_root", metavar="PATH", help="the dataset, if it has moved")
    add("--bad_files", metavar="HOW", help="stop at a bad file, or skip it (default: as the run)")
    add("--palette", metavar="NAME", help="palette of the label maps (default: as the run)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the noise (default: 0)")
    add("--no_dropout", action="store_true", help="turn off the noise")
    add("--precision", default="fp32", choices=("fp32", "bf16"), help="bf16: faster, less exact")
    add("--no_ema", action="store_true", help="use the weights themselves, not their EMA")
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps")
    options = parser.parse_args(argv)
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed is {options.seed}; it must be from 0 to below 2**63")
    cli.check_mode(options, "input", ["mask", "draw", "tile", "side_by_side"], ["scorer"])
    return options


GRID_IMAGES = 12

# ---- A split ----------------------------------------------------------------------------------


def translations(
    generator: nn.Module,
    dataset: PairedDataset,
    seed: int = 0,
    noise: bool = True,
    finish=lambda translation: translation,
):
    """Translates the pairs of a dataset, each with the noise of `seed`, so that none depends on
    others; see `utils.generate`. Yields `finish`, which runs in threads, of each Translation."""

    def read(index: int):
        return index, dataset[index], dataset.nodata(index)

    def compute(item) -> Translation:
        index, pair, missing = item
        x, name = pair["input"], pair["name"]
        output = generate_any_size(generator, x, seed, noise)
        output, y = (dataset.task.show(pair, image) for image in (output, pair["target"]))
        return Translation(name, x, output, y, index, missing)

    run_all = choose_overlap(generator, len(dataset), pixels=dataset[0]["input"][0].numel())
    return run_all(range(len(dataset)), read, compute, finish)


def validate(generator: nn.Module, dataset: PairedDataset) -> tuple[dict, Image.Image]:
    """The mean L1, PSNR and SSIM of a dataset, and a grid of its first `sample_images`. The noise
    is its own, so training is unaffected."""

    def finish(translation: Translation) -> tuple[dict, tuple]:
        _, x, output, y, index, _ = translation
        is_shown = index < dataset.config.sample_images
        return score(output, y), (x, output, y) if is_shown else None

    results = translations(generator, dataset, finish=finish)
    # disable=None: only in a terminal, as it is a second progress bar
    results = list(tqdm(results, "validating", len(dataset), leave=False, disable=None))
    scores, grid = zip(*results, strict=True)
    means = {name: statistics.fmean(row[name] for row in scores) for name in scores[0]}
    return means, sample_grid([*filter(None, grid)])


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

    def finish(translation: Translation) -> tuple[Translation, ImageScores, list[str]]:
        thumbnails = save_translation(translation, folder, config, scores.palette)
        return translation, scores.measure(translation.output, translation.y), thumbnails

    labels = ("input",) if config.direction == "BtoA" else ("output", "target")
    gallery = Gallery(str(folder), command_line(), config, labels if palette else ())
    rows, grid = {}, []
    results = translations(generator, dataset, seed, noise, finish)
    results = tqdm(results, "translating", len(dataset), unit="image")
    for translation, measured, thumbnails in results:
        name, x, output, y, index, _ = translation
        scores.add(measured)
        rows[name] = measured.row
        if config.target_range:
            rows[name]["mae"] = value_error(translation, config)
        gallery.add(name, thumbnails, rows[name])
        if read:
            file = dataset.task.read(dataset.pairs[index])[0]
            read.add(to_tensor(fit(file, x.shape[:0:-1], 3, nearest=True)), output, y)
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


# ---- Files ------------------------------------------------------------------------------------


def translator(generator: nn.Module, options: Namespace):
    """A function that translates an image as the options say. Raises UserError."""
    if options.tile:
        print("norms see one tile at a time, so colors can differ between tiles", file=sys.stderr)
    mask = read_mask(Path(options.mask), bool(options.tile)) if options.mask else None
    fields = {"seed": options.seed, "noise": not options.no_dropout, "tile": options.tile}
    run = partial(translate, generator, mask=mask, **fields)
    return (lambda photo: run(draw_photo(photo))) if options.draw else run


def translate_files(generator: nn.Module, plan: dict[Files, Path], options: Namespace) -> list[str]:
    """Translates each file of a plan. Returns what is wrong with those that were left out."""
    config, task = generator.config, task_of(generator.config)
    if advice := task.check_input([files[0] for files in plan]):
        print(advice, file=sys.stderr)
    run, tiled, advised = translator(generator, options), bool(options.tile), {}

    def read(files: Files):
        return files, task.read_input(files, tiled)

    def compute(item):
        files, image = item
        advice = task.hint(*size_of(image), tiled)
        if advice and advised.setdefault("first", files) is files:  # once is enough
            tqdm.write(f"{files[0]} {advice}", file=sys.stderr)
        with one_at_a_time(math.prod(size_of(image))):
            return files, run(image), image if options.side_by_side else None

    def finish(item) -> UserError | None:
        if isinstance(item, UserError):
            return item
        files, output, beside = item
        save_output(output, plan[files], config, beside)

    if config.bad_files == "skip":
        read, compute = partial(attempt, read), partial(attempt, compute)
    if tiled:
        results = overlap(plan, read, compute, finish, ahead=1)
    else:
        first = attempt(read, next(iter(plan)))
        pixels = 0 if isinstance(first, UserError) else math.prod(size_of(first[1]))
        results = choose_overlap(generator, len(plan), pixels)(plan, read, compute, finish)
    results = tqdm(results, "translating", len(plan), unit="image")
    skipped = [
        str(error) if str(files[0]) in str(error) else f"{files[0]}: {error}"
        for files, error in zip(plan, results, strict=True)
        if error
    ]
    if len(skipped) == len(plan):
        raise UserError(f"none of the images can be translated; the first: {skipped[0]}")
    return skipped


def translate_inputs(generator: nn.Module, options: Namespace, folder: Path) -> None:
    """Translates the files of `--input`, by default into a subfolder of `folder`."""
    output = Path(options.output) if options.output else folder / "translated"
    masks = [Path(options.mask)] if options.mask else []
    inputs, config = list(map(Path, options.input)), generator.config
    if videos := plan_videos(inputs, output, masks, config.input_range or config.target_range):
        hint = partial(task_of(config).hint, tiled=bool(options.tile))
        translate_videos(videos, translator(generator, options), options.side_by_side, hint)
        return
    endings = output_endings(config.target_range, config.out_channels, config.nodata)
    stacked = config.direction[0] if config.input_range else ""
    plan = plan_outputs(inputs, output, masks, endings, stacked)
    skipped = translate_files(generator, plan, options)
    several = f"{len(plan) - len(skipped)} images into {output}"
    print("wrote", several if len(plan) > 1 else next(iter(plan.values())))
    if skipped:  # otherwise, leave a skipped.txt in this folder alone
        report_skipped(skipped, output)


def load(options: Namespace) -> nn.Module:
    """The generator of a run, with what the options change. Raises UserError."""
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
    fast.speed_up_inference(generator)
    return generator


def main(argv=None) -> int:
    """Returns the exit code. Raises UserError."""
    options = parse_arguments(argv)
    generator = load(options)
    folder = run_folder(options.run)
    if is_export(options.run):  # its folder may belong to a repository
        folder = Path("runs", "shared", Path(options.run).name.partition("@")[0])
    with fast.mixed_precision(options.precision, next(generator.parameters()).device):
        if options.input is not None:
            translate_inputs(generator, options, folder)
            return 0
        output = Path(options.output) if options.output else folder / options.split
        reader = load_reader(options.scorer, options.device) if options.scorer else None
        noise = not options.no_dropout
        summary = evaluate_split(generator, options.split, output, options.seed, noise, reader)
    report_scores(summary, generator.config.data_root, output)
    return 0


if __name__ == "__main__":
    cli.run(main)
