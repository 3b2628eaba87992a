"""Translating and scoring with a trained run."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

import evaluate
import train
from config import Config
from dataset import PairedDataset
from engine import cli
from engine.cli import UserError
from evaluate import evaluate_split, translations
from images.pixels import to_image
from images.reading import read_image
from metrics.images import score
from utils import load_checkpoint, load_generator, save_checkpoint, translate

ON_CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def run(pairs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    fields = {**TINY, "epochs": 2, "direction": "AtoB"}
    train.train(Config(data_root=str(pairs), output=str(folder), **fields))
    return folder


@pytest.fixture(scope="module")
def generator(run):
    return load_generator(run)


def picture(size=(50, 40), seed=0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


# ---- Scores -----------------------------------------------------------------------------------


def test_an_image_is_scored_the_same_whatever_else_is_translated(generator):
    dataset = PairedDataset(generator.config, "test")
    everything = list(translations(generator, dataset))
    dataset.pairs, dataset.cache = dataset.pairs[1:], dataset.cache[1:]
    fewer = list(translations(generator, dataset))
    assert [result[0] for result in everything] == ["1", "2", "3"]
    for all_of_them, alone in zip(everything[1:], fewer, strict=True):
        assert all_of_them[0] == alone[0] and torch.equal(all_of_them[3], alone[3])
        assert torch.equal(all_of_them[2], alone[2])


# ---- The script -------------------------------------------------------------------------------


def test_the_test_split_is_translated_and_scored(run, generator, capsys):
    assert evaluate.main([run, *ON_CPU]) == 0
    out = capsys.readouterr().out
    folder = run / "test"
    assert str(folder / "grid.png") in out

    dataset = PairedDataset(generator.config, "test")
    results = translations(generator, dataset)
    expected = {result.name: (result.output, score(result.output, result.y)) for result in results}
    assert sorted(path.name for path in (folder / "output").iterdir()) == [
        "1.png",
        "2.png",
        "3.png",
    ]
    with open(folder / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert list(row) == ["name", "l1", "psnr", "ssim", "sharpness"]
        output, scores = expected[row["name"]]
        assert read_image(folder / "output" / f"{row['name']}.png") == to_image(output)
        # The input that was kept is what --input takes: its translation is the same again.
        kept = read_image(folder / "input" / f"{row['name']}.png")
        assert translate(generator, kept) == to_image(output)
        assert (folder / "target" / f"{row['name']}.png").exists()
        assert float(row["psnr"]) == pytest.approx(scores["psnr"])
    means = json.loads((folder / "scores.json").read_text())
    assert means["images"] == len(rows) == 3
    for name in ("l1", "psnr", "ssim"):
        assert means[name] == pytest.approx(np.mean([float(row[name]) for row in rows]))
    assert f"PSNR {means['psnr']:.2f} dB" in out
    assert Image.open(folder / "grid.png").size == (9 * 36 + 4, 24 + 36 + 4)  # titles, images


def test_the_training_split_is_seen_whole(generator, pairs, tmp_path):
    evaluate_split(generator, "train", tmp_path, seed=0, noise=True)
    for number in range(1, 7):
        pair = Image.open(pairs / "train" / f"{number}.png").crop((0, 0, 48, 48))
        whole = pair.resize((32, 32), Image.Resampling.BICUBIC)
        assert read_image(tmp_path / "output" / f"{number}.png") == translate(generator, whole)


def test_one_image_without_a_target(run, generator, tmp_path, monkeypatch, capsys):
    image = picture((45, 77))
    image.save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    words = ["--input", "photo.png", "--output", "out/result.png", "--seed", 3]
    assert evaluate.main([run, *words, *ON_CPU]) == 0
    assert read_image(tmp_path / "out" / "result.png") == translate(generator, image, seed=3)
    assert evaluate.main([run, "--input", "photo.png", "--no_dropout", *ON_CPU]) == 0
    silent = translate(generator, image, noise=False)
    assert read_image(run / "translated" / "photo.png") == silent
    words = ["--input", "photo.png", "--output", "tiled.png", "--tile", 32]
    assert evaluate.main([run, *words, *ON_CPU]) == 0
    assert read_image(tmp_path / "tiled.png") == translate(generator, image, tile=32)
    assert "colors can differ between tiles" in capsys.readouterr().err


def test_mistakes_are_refused_in_one_line(run, tmp_path, monkeypatch):
    (tmp_path / "broken.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    cases = {
        (run, "--inptu", "x"): "did you mean '--input'",
        (run, "--input", "missing.png"): "image or folder missing.png does not exist",
        (run, "--input", "broken.png"): "broken.png cannot be read as an image",
        (run, "--data_root", "elsewhere"): "data_root elsewhere does not exist",
        (run, "--device", "gpu"): "device is 'gpu'",
        (run, "--split", "trian"): "split is 'trian'",
        (run, "--seed", "-1"): "--seed is -1",
        (run, "--mask", "x.png"): "--mask needs --input",
        (run, "--tile", "64"): "--tile needs --input",
        (run, "--input", "broken.png", "--tile", "8"): "--tile is 8; it must be 16 or more",
        (run, "--input", "x.png", "--scorer", run): "--scorer cannot be combined with --input",
    }
    for words, line in cases.items():
        with pytest.raises(UserError) as refusal:
            evaluate.main(words)
        assert line in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_mistake_ends_in_one_line_and_exit_code_2(run, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda: evaluate.main([run, "--input", "missing.png", *ON_CPU]))
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "error: image or folder missing.png does not exist\n"


def test_names_that_are_no_text(run, pairs, tmp_path, monkeypatch):
    name = b"\xff%s {}\xe6.png".decode(errors="surrogateescape")
    shutil.copytree(pairs, tmp_path / "data")
    try:
        (tmp_path / "data" / "test" / "1.png").rename(tmp_path / "data" / "test" / name)
    except OSError:
        pytest.skip("no such names on this file system")
    monkeypatch.chdir(tmp_path)
    assert evaluate.main([run, "--data_root", "data", "--output", "o", *ON_CPU]) == 0
    assert (tmp_path / "o" / "output" / name).exists()


def test_a_stand_in_split_is_called_by_its_name(run, pairs, tmp_path):
    shutil.copytree(pairs / "train", tmp_path / "data" / "train")
    generator = load_generator(run)
    generator.config = replace(generator.config, data_root=str(tmp_path / "data"))
    evaluate_split(generator, "test", tmp_path / "test", seed=0, noise=True)
    assert json.loads((tmp_path / "test" / "scores.json").read_text())["split"] == "train"


def test_moved_data(run, pairs, tmp_path, monkeypatch):
    shutil.copytree(pairs, tmp_path / "moved")
    words = ["--data_root", "moved", "--split", "val", "--output", "results"]
    monkeypatch.chdir(tmp_path)
    assert evaluate.main([run, *words, *ON_CPU]) == 0
    assert len(list((tmp_path / "results" / "output").iterdir())) == 2


def test_images_unlike_those_of_training_give_one_warning(run, tmp_path, capsys):
    sizes = {"like": (40, 50), "pair": (96, 48), "photo": (300, 200), "big": (90, 80)}
    for name, size in sizes.items():
        (tmp_path / name).mkdir()
        for number in range(2):
            picture(size).save(tmp_path / name / f"{number}.png")
    remarks = {
        "like": None,
        "pair": "0.png is twice as wide as tall",
        "photo": "0.png is 300x200, but training saw whole images at 36 px",
        "big": "0.png is 90x80, but",
    }
    for name, remark in remarks.items():
        code = evaluate.main([run, "--input", tmp_path / name, *ON_CPU])
        written = capsys.readouterr()
        assert code == 0 and "wrote 2 images into" in written.out
        lines = [line for line in written.err.splitlines() if ".png is " in line]
        assert len(lines) == (remark is not None) and (remark or "") in "".join(lines)


def test_the_ema_is_used_unless_it_is_turned_off(run, generator, tmp_path):
    """`run` has none; one of other weights is added."""
    checkpoint = load_checkpoint(run)
    state = {key: checkpoint[key] for key in ("generator", "step")}
    average = {key: value * 1.5 for key, value in checkpoint["generator"].items()}
    config = replace(generator.config, ema_decay=0.9)
    save_checkpoint(tmp_path / "both.pt", config, **state, average=average)
    picture().save(tmp_path / "photo.png")
    words = [tmp_path / "both.pt", "--input", tmp_path / "photo.png", *ON_CPU]
    assert evaluate.main([*words, "--output", tmp_path / "ema.png"]) == 0
    assert evaluate.main([*words, "--output", tmp_path / "itself.png", "--no_ema"]) == 0
    itself = translate(generator, picture())
    assert read_image(tmp_path / "itself.png") == itself != read_image(tmp_path / "ema.png")
