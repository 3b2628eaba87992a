"""Translate pictures with a trained generator, and score them where the truth is known.

    python evaluate.py runs/facades                           the test split: pictures and scores
    python evaluate.py runs/facades --split val
    python evaluate.py runs/facades --input photo.jpg --output out.png
    python evaluate.py runs/facades --input folder --output out_folder

The run's checkpoint says everything about its network and its data; nothing has to be repeated.
"""

from config import Parser, UserError, one_line_errors

if __name__ == "__main__":  # before the slow imports, so that --help and mistakes answer at once
    parser = Parser(__doc__)
    parser.add_argument("run", metavar="RUN", help="a run folder, or a checkpoint file")
    parser.add_argument("--split", default="test", help="train, val or test (default: test)")
    parser.add_argument("--input", metavar="PATH", help="a picture, or a folder of them, instead")
    parser.add_argument("--output", metavar="PATH", help="where the results go (default: the run)")
    parser.add_argument("--data_root", metavar="PATH", help="the dataset, if it has moved")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--no_dropout", action="store_true", help="translate without the noise")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    with one_line_errors():
        ARGUMENTS = parser.parse_args()
        if not 0 <= ARGUMENTS.seed < 2**63:
            raise UserError(f"--seed is {ARGUMENTS.seed}; it has to be from 0 to below 2**63")

import csv
import json
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from tqdm import tqdm

from dataset import ENDINGS, PairedDataset, is_image, load_batches, natural_order, read_image
from utils import (
    generate,
    load_generator,
    replacing,
    run_folder,
    sample_grid,
    save_image,
    to_image,
    translate,
)

GRID_PICTURES = 12


def score(output: Tensor, target: Tensor) -> dict[str, float]:
    """L1, PSNR in dB and SSIM of one translation, (1, C, H, W) in [-1, 1].

    L1 is the mean absolute difference in that range, as in the training loss: 2 is the worst. The
    other two are taken in [0, 1]: SSIM compares brightness, which is not negative.
    """
    l1 = (output - target).abs().mean()
    output, target = (output + 1) / 2, (target + 1) / 2
    return {
        "l1": l1.item(),
        "psnr": peak_signal_noise_ratio(output, target, data_range=1.0).item(),
        "ssim": structural_similarity_index_measure(output, target, data_range=1.0).item(),
    }


def translations(generator: nn.Module, dataset: PairedDataset, seed: int = 0, noise: bool = True):
    """Translates the pairs of a dataset one by one; see `utils.generate` about noise.

    Yields (name, x, G(x), y, scores), the pictures as (C, H, W) in [-1, 1]. The noise of every
    picture begins at `seed`, so its translation does not depend on what was translated before.
    """
    device = next(generator.parameters()).device
    for pair in load_batches(dataset):
        x, y = pair["input"].to(device), pair["target"].to(device)
        output = generate(generator, x, seed, noise)
        yield pair["name"][0], x[0], output[0], y[0], score(output, y)


def mean_scores(scores: list[dict[str, float]]) -> dict[str, float]:
    """The mean over pictures of each score."""
    return {name: sum(picture[name] for picture in scores) / len(scores) for name in scores[0]}


def evaluate_split(generator: nn.Module, split: str, folder: Path, seed: int, noise: bool) -> None:
    """Writes a split into `folder`: its pictures as the network saw, made and should have made them
    in input/, output/ and target/, and grid.png, scores.csv and scores.json."""
    # No jitter and no mirror, should it be the training split that is asked for.
    size = generator.config.crop_size
    dataset = PairedDataset(replace(generator.config, load_size=size, mirror=False), split)
    names, all_scores, grid = [], [], []
    results = translations(generator, dataset, seed, noise)
    for name, x, output, y, scores in tqdm(results, "translating", len(dataset), unit="image"):
        for kind, picture in {"input": x, "output": output, "target": y}.items():
            save_image(to_image(picture), folder / kind / f"{name}.png")
        names.append(name)
        all_scores.append(scores)
        if len(grid) < GRID_PICTURES:
            grid.append((x, output, y))
    save_image(sample_grid(grid, across=3), folder / "grid.png")

    with (
        replacing(folder / "scores.csv") as temporary,
        # A file name need not be text; its bytes go through as they are.
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["name", *all_scores[0]])
        for name, scores in zip(names, all_scores, strict=True):
            writer.writerow([name, *scores.values()])
    means = mean_scores(all_scores)
    summary = {"split": dataset.split, "images": len(names), "seed": seed, "dropout": noise}
    with replacing(folder / "scores.json") as temporary:
        temporary.write_text(json.dumps({**summary, **means}, indent=2) + "\n")

    print(f"{len(names)} {dataset.split} pictures of {dataset.config.data_root}, mean scores:")
    print("  L1 {l1:.4f}   PSNR {psnr:.2f} dB   SSIM {ssim:.4f}".format(**means))
    print(f"  pictures  {folder / 'output'}  (and input, target)")
    print(f"  grid      {folder / 'grid.png'}  (input | output | target)")
    print(f"  scores    {folder / 'scores.csv'}  (the means in scores.json)")


def plan_outputs(source: Path, output: Path) -> dict[Path, Path]:
    """Where the translation of each picture goes: a PNG of its name, in folders as the source's.

    Raises UserError where there is nothing to translate, or a source would be overwritten.
    """
    if source.is_dir():
        files = sorted(filter(is_image, source.rglob("*")), key=natural_order)
        if not files:
            raise UserError(f"{source} holds no pictures ({', '.join(ENDINGS)})")
        names = [file.relative_to(source).with_suffix("") for file in files]
        if len(set(names)) < len(names):  # 1.jpg and 1.png: their whole names keep them apart
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

    sources = {file.resolve() for file in plan}
    for file, result in plan.items():
        if result.resolve() in sources:
            raise UserError(f"{file}: its translation would overwrite {result}; choose an --output")
    return plan


def main(arguments) -> None:
    generator = load_generator(arguments.run, arguments.device)
    noise = not arguments.no_dropout
    folder = run_folder(arguments.run)

    if arguments.input is not None:
        output = Path(arguments.output) if arguments.output else folder / "translated"
        plan = plan_outputs(Path(arguments.input), output)
        for file, result in tqdm(plan.items(), "translating", unit="image"):
            save_image(translate(generator, read_image(file), arguments.seed, noise), result)
        print(f"translated {len(plan)} into {result if len(plan) == 1 else output}")
        return

    if arguments.data_root:
        generator.config = replace(generator.config, data_root=arguments.data_root)
    output = Path(arguments.output) if arguments.output else folder / arguments.split
    evaluate_split(generator, arguments.split, output, arguments.seed, noise)


if __name__ == "__main__":
    with one_line_errors():
        main(ARGUMENTS)
