"""Downloads a dataset of the paper, or a generator that its authors trained.

    python -m tools.download facades                a dataset, to data/facades
    python -m tools.download maps --output /big/disk
    python -m tools.download hf://huggan/facades    a dataset of pairs on the Hugging Face Hub
    python -m tools.download hf://owner/name --columns left right
    python -m tools.download facades_label2photo    a generator of the PyTorch port, to runs/
    python -m tools.download edges2shoes --weights  a generator with the name of a dataset

An interrupted download resumes, by itself or when the command is repeated. Nothing is written
outside of the folder of the dataset or generator, which appears only when it is complete.
"""

import argparse
from pathlib import Path

from engine import cli
from engine.cli import UserError
from engine.files import creating_folder
from metrics.palettes import PALETTES, copy_palette
from sharing import junyanz
from sharing.downloads import download, unpack
from sharing.hub import is_on_hub, split_name
from sharing.hub_pairs import COLUMNS, COPIES, write_pairs

SERVER = "http://efrosgans.eecs.berkeley.edu/pix2pix"
SOURCE = f"{SERVER}/datasets"

DATASETS = {  # and their terms; README.md has their origin and what to cite
    "facades": "research only: https://cmp.felk.cvut.cz/~tylecr1/facade",
    "maps": "research only, under the terms of Google Maps",
    "cityscapes": "no commercial use, no redistribution: https://www.cityscapes-dataset.com/license",
    "edges2shoes": "no commercial use: https://vision.cs.utexas.edu/projects/finegrained/utzap50k",
    "edges2handbags": "research only: https://github.com/junyanz/iGAN",
    "night2day": "research only: http://transattr.cs.brown.edu",
}


def parse_arguments(argv=None) -> argparse.Namespace:
    """`name`, `weights` (whether it is a generator), `output`, `source`, `columns`."""
    parser = cli.Parser(__doc__, "python -m tools.download NAME [--output FOLDER] ...")
    add = parser.add_argument
    known = [*DATASETS, *junyanz.GENERATORS]
    add("name", help=", ".join(dict.fromkeys([*known, "hf://owner/name"])), metavar="NAME")
    add("--output", metavar="FOLDER", help="default: data; for generators: runs")
    add("--source", metavar="URL", help=f"default: {SOURCE}; {junyanz.SOURCE}")
    add("--weights", action="store_true", help="NAME is a generator, not a dataset")
    add("--columns", nargs=2, metavar="NAME", help="hf://: those of A and B (imageA imageB)")
    options = parser.parse_args(argv)
    name, on_hub = options.name, is_on_hub(options.name)
    if options.columns and not on_hub:
        raise UserError("--columns is for datasets of the Hub, hf://owner/name")
    if on_hub and (options.source or options.weights):
        raise UserError(f"{name} is a dataset of the Hub: --source and --weights do not fit it")
    options.weights |= name in junyanz.GENERATORS and name not in DATASETS
    known = junyanz.GENERATORS if options.weights else known
    if not on_hub and name not in known:
        kind = "generator" if options.weights else "dataset"
        raise UserError(f"unknown {kind} {name!r}{cli.did_you_mean(name, known)}")
    options.output = options.output or ("runs" if options.weights else "data")
    return options


def download_dataset(name: str, folder: Path, source: str) -> None:
    """Downloads an archive of the authors and unpacks it as `folder`. Raises UserError."""
    print(f"{name}: {DATASETS[name]} (origin and citation: data/README.md)", flush=True)
    archive = folder.with_name(f"{name}.tar.gz")
    if not archive.exists():
        try:
            download(f"{source.rstrip('/')}/{archive.name}", archive)
        except UserError as error:
            if name not in COPIES:
                raise
            command = f"python -m tools.download hf://{COPIES[name]}"
            raise UserError(f"{error}; or, from the Hugging Face Hub: {command}") from error
    unpack(archive, folder)
    archive.unlink()


def download_generator(name: str, folder: Path, source: str) -> Path:
    """Downloads a generator of the port into `folder` and checks it. Returns the file. Raises
    UserError."""
    print(f"{name}: {junyanz.GENERATORS[name]}, trained by the authors of the port", flush=True)
    file = folder.with_name(f"{name}.pth")
    if not file.exists():
        download(f"{source.rstrip('/')}/{file.name}", file)
    try:
        config = junyanz.read_checkpoint(file)["config"]
    except UserError as error:
        file.unlink()  # or the next attempt would use it
        raise UserError(f"{error}; it is deleted, try again") from error
    with creating_folder(folder) as unfinished:
        unfinished.mkdir()
        file.replace(unfinished / junyanz.FILE)
    print(f"wrote {folder / junyanz.FILE}: a U-Net, {config['base_channels']} filters")
    return folder / junyanz.FILE


def main(argv=None) -> int:
    options = parse_arguments(argv)
    on_hub = is_on_hub(options.name)
    name = Path(split_name(options.name)[0]).name if on_hub else options.name
    folder = Path(options.output, name)
    if folder.exists():
        raise UserError(f"{folder} already exists; remove it to download it again")
    if options.weights:
        file = download_generator(name, folder, options.source or junyanz.SOURCE)
        print(f"next: python evaluate.py {cli.shell_quote(file)} --input x.jpg --output y.png")
        return 0
    if on_hub:
        repository = split_name(options.name)[0]
        print(f"{name}: terms and origin at https://huggingface.co/datasets/{repository}")
        write_pairs(options.name, folder, options.columns or COLUMNS)
    else:
        download_dataset(name, folder, options.source or SOURCE)
    if name in PALETTES:
        copy_palette(name, folder)
    base = folder / "A" if on_hub else folder
    counts = {split: len(list(base.glob(f"{split}/*"))) for split in ("train", "val", "test")}
    found = ", ".join(f"{split} {count}" for split, count in counts.items() if count)
    print(f"wrote {folder}: {found} {'pairs' if on_hub else 'images'}")
    preset = {"night2day": "day2night"}.get(name, name if name in DATASETS else "facades")
    expected = name in DATASETS and folder == Path("data") / name  # by the preset
    elsewhere = "" if expected else f" --data_root {cli.shell_quote(folder)}"
    print(f"next: python train.py {preset}{elsewhere}")
    return 0


if __name__ == "__main__":
    cli.run(main)
