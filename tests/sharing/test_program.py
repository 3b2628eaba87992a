"""A generator as a program of torch.export, in programs that know nothing of this project."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, untrained
from PIL import Image

from config import Config
from images.pixels import to_image, to_tensor
from tools.export import export_program, main
from utils import generate_any_size, load_generator, translate

SIZES = [(32, 32), (50, 40), (33, 257), (1, 70), (1, 1), (7, 15), (16, 17)]


def loaded(run: Path, file: Path, noise: bool = True, size: int | None = None):
    export_program(run, file, noise, size=size)
    return torch.export.load(file).module()


def images(channels: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.rand(channels, *size, generator=random) * 2 - 1 for size in SIZES]


# It asks for what is shown in docs/faq.md, and has modules of the same names.
OTHER_PROGRAM = """
import sys

import numpy as np
import torch

import config
import generator
import utils

assert (config.OWN, generator.OWN, utils.OWN) == ("config", "generator", "utils")
program = torch.export.load("mine.pt2").module()
for name in sys.argv[1:]:
    torch.manual_seed(3)
    y = program(torch.from_numpy(np.load(name + ".npy"))[None])
    np.save(name + "_y.npy", y[0].numpy())
assert not {"sharing", "images", "engine", "tools"} & sys.modules.keys()
"""


@pytest.mark.slow
def test_a_program_with_modules_of_the_same_names(run, tmp_path):
    """In a folder and a process of its own; every size, with the noise of seed 3."""
    for name in ("config", "generator", "utils"):
        (tmp_path / f"{name}.py").write_text(f"OWN = {name!r}\n", encoding="utf-8")
    (tmp_path / "other.py").write_text(OTHER_PROGRAM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tools.export", run, "--program", tmp_path / "mine.pt2"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "mine.pt2; input and output are (N, C, H, W) in [-1, 1]" in done.stdout
    inputs = {f"image{i}": x for i, x in enumerate(images(3))}
    for name, x in inputs.items():
        np.save(tmp_path / f"{name}.npy", x.numpy())
    done = subprocess.run(
        [sys.executable, "other.py", *inputs], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    generator = load_generator(run)
    for name, x in inputs.items():
        ours = generate_any_size(generator, x, seed=3)
        theirs = torch.from_numpy(np.load(tmp_path / f"{name}_y.npy"))
        assert theirs.shape == ours.shape and (theirs - ours).abs().max() < 1e-5
        assert (theirs - generate_any_size(generator, x, seed=4)).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"norm": "batch", "depth": 3},
        {"norm": "instance", "upsampling": "resize", "in_channels": 1},
        {"generator": "encoder_decoder", "dropout": 0.3},
        {"depth": 6, "dropout_layers": "port", "crop_size": 64, "load_size": 64},
    ],
)
def test_a_program_of_every_network(tmp_path, fields):
    run = untrained(tmp_path / "run", **fields)
    generator = load_generator(run)
    for noise in (True, False):
        program = loaded(run, tmp_path / "mine.pt2", noise)
        for x in images(generator.in_channels):
            torch.manual_seed(1)
            theirs = program(x[None])[0]
            assert (theirs - generate_any_size(generator, x, 1, noise)).abs().max() < 1e-5
            assert theirs.dtype == torch.float32 and not theirs.requires_grad


@pytest.mark.slow
def test_a_program_translates_as_translate_does(run, tmp_path):
    program, generator = loaded(run, tmp_path / "mine.pt2"), load_generator(run)
    image = Image.open(REPOSITORY / "tests" / "checkpoint_format_1.png").convert("RGB")
    image = image.resize((45, 31))
    x, draws = to_tensor(np.asarray(image))[None], []
    for seed in (0, 5, 5):
        torch.manual_seed(seed)
        draws.append(program(x)[0])
        ours, theirs = translate(generator, image, seed), to_image(draws[-1])
        assert np.abs(np.int32(np.asarray(ours)) - np.asarray(theirs)).max() <= 1
    draws.append(program(x)[0])
    assert torch.equal(draws[1], draws[2])
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[2], draws[3])


@pytest.mark.slow
def test_a_program_leaves_images_of_a_batch_alone(run, tmp_path):
    program = loaded(run, tmp_path / "mine.pt2", noise=False)
    x = torch.rand(3, 3, 20, 41) * torch.tensor([2, 1, 0.1]).view(3, 1, 1, 1) - 1
    alone = torch.cat([program(image[None]) for image in x])
    assert (program(x) - alone).abs().max() < 1e-5
    assert torch.equal(program(x), program(x))


def test_a_program_of_one_size(run, tmp_path):
    """Without padding: for Core ML, whose converter accepts no shapes that depend on the input."""
    program, generator = loaded(run, tmp_path / "mine.pt2", size=48), load_generator(run)
    x = torch.rand(3, 48, 48) * 2 - 1
    torch.manual_seed(2)
    assert (program(x[None])[0] - generate_any_size(generator, x, 2)).abs().max() < 1e-5
    operators = {str(n.target) for n in torch.export.load(tmp_path / "mine.pt2").graph.nodes}
    assert not any("index" in name or "item" in name or "sym" in name for name in operators)
    for shape in ((1, 3, 64, 64), (2, 3, 48, 48)):
        with pytest.raises((AssertionError, RuntimeError), match=r"shape|size"):
            program(torch.zeros(shape))


def test_a_program_says_what_it_is_and_not_where_it_was_made(run, tmp_path, capsys):
    file = tmp_path / "out" / "mine.pt2"
    assert main([run, "--program", file, "--no_dropout", "--size", "32"]) == 0
    assert f"wrote {file}; input and output are (1, C, 32, 32)" in capsys.readouterr().out
    about = {"config": ""}
    torch.export.load(file, extra_files=about)
    config = Config(**json.loads(about["config"]))
    assert (config.depth, config.data_root, config.norm) == (4, "pairs0", "batch")
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            for path in (REPOSITORY, run.parent, Path(torch.__file__).parent):
                assert str(path).encode() not in archive.read(name), name
    assert not (run / "export").exists()
