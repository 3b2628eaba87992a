"""Translating and scoring with a trained run."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, run_script
from PIL import Image

import train
from config import Config, UserError
from dataset import PairedDataset, read_image
from evaluate import evaluate_split, plan_outputs, translations
from scores import score
from utils import generate, load_checkpoint, load_generator, to_image, to_tensor, translate


@pytest.fixture(scope="module")
def run(pairs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    fields = {**TINY, "epochs": 2, "direction": "AtoB"}
    train.train(Config(data_root=str(pairs), output=str(folder), **fields))
    return folder


@pytest.fixture(scope="module")
def generator(run):
    return load_generator(run)


def picture(size=(50, 40), mode="RGB", seed=0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


# ---- translate --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 70), (16, 16), (17, 15), (50, 40), (64, 33), (257, 100)]
)
def test_a_translated_picture_has_its_sources_size(generator, size):
    result = translate(generator, picture(size))
    assert result.size == size and result.mode == "RGB"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_any_mode_is_translated(generator, mode):
    assert translate(generator, picture(mode=mode)).size == (50, 40)


def test_sixteen_bits_are_translated_as_their_eight(generator):
    grey = np.asarray(picture(mode="L"))
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    assert translate(generator, sixteen) == translate(generator, Image.fromarray(grey))
    with pytest.raises(UserError, match="32-bit"):
        translate(generator, picture(mode="F"))


def test_grey_networks_take_and_give_grey(pairs, tmp_path):
    fields = {**TINY, "epochs": 1, "in_channels": 1, "out_channels": 1}
    train.train(Config(data_root=str(pairs), output=str(tmp_path), **fields))
    result = translate(load_generator(tmp_path), picture((30, 70)))
    assert (result.size, result.mode) == ((30, 70), "L")


def test_what_is_padded_is_cut_off_again(generator):
    """A picture that needs no padding is what the network makes of it, pixel by pixel."""
    image = picture((48, 32))
    x = to_tensor(np.asarray(image))[None]
    assert translate(generator, image) == to_image(generate(generator, x)[0])


def test_the_noise_is_seeded_and_stays_on_whatever_eval_was_called(generator):
    image = picture()
    assert translate(generator.eval(), image) == translate(generator.train(), image)
    generator.eval()
    assert translate(generator, image) == translate(generator, image, seed=0)
    assert translate(generator, image) != translate(generator, image, seed=1)
    silent = translate(generator, image, noise=False)
    assert silent == translate(generator, image, seed=1, noise=False) != translate(generator, image)


def test_translating_leaves_other_random_numbers_alone(generator):
    state = torch.get_rng_state()
    translate(generator, picture())
    assert torch.equal(state, torch.get_rng_state())


# ---- load_generator ---------------------------------------------------------------------------


def test_a_checkpoint_alone_is_enough(run, generator, tmp_path):
    shutil.copy(run / "checkpoints" / "latest.pt", tmp_path / "somewhere.pt")
    alone = load_generator(tmp_path / "somewhere.pt")
    assert translate(alone, picture()) == translate(generator, picture())
    trained = load_checkpoint(run)["generator"]
    assert all(torch.equal(trained[name], value) for name, value in alone.state_dict().items())
    assert not alone.training and not any(p.requires_grad for p in alone.parameters())


# ---- Scores -----------------------------------------------------------------------------------


def test_a_picture_is_scored_the_same_whatever_else_is_translated(generator):
    dataset = PairedDataset(generator.config, "test")
    everything = list(translations(generator, dataset))
    dataset.pairs, dataset.cache = dataset.pairs[1:], dataset.cache[1:]
    fewer = list(translations(generator, dataset))
    assert [result[0] for result in everything] == ["1", "2", "3"]
    for all_of_them, alone in zip(everything[1:], fewer, strict=True):
        assert all_of_them[0] == alone[0] and torch.equal(all_of_them[3], alone[3])
        assert torch.equal(all_of_them[2], alone[2])


# ---- The script -------------------------------------------------------------------------------


def test_the_test_split_is_translated_and_scored(run, generator, pairs):
    result = run_script("evaluate.py", run, cwd=run)
    assert result.returncode == 0, result.stderr
    folder = run / "test"
    assert str(folder / "grid.png") in result.stdout

    dataset = PairedDataset(generator.config, "test")
    results = translations(generator, dataset)
    expected = {name: (output, score(output[None], y[None])) for name, _, output, y in results}
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
    assert f"PSNR {means['psnr']:.2f} dB" in result.stdout
    assert Image.open(folder / "grid.png").size == (9 * 36 + 4, 36 + 4)


def test_the_training_split_is_seen_whole(generator, pairs, tmp_path):
    evaluate_split(generator, "train", tmp_path, seed=0, noise=True)
    for number in range(1, 7):
        pair = Image.open(pairs / "train" / f"{number}.png").crop((0, 0, 48, 48))
        whole = pair.resize((32, 32), Image.Resampling.BICUBIC)
        assert read_image(tmp_path / "output" / f"{number}.png") == translate(generator, whole)


def test_one_picture_without_a_target(run, generator, tmp_path):
    image = picture((45, 77))
    image.save(tmp_path / "photo.png")
    words = ["--input", "photo.png", "--output", "out/result.png", "--seed", 3]
    result = run_script("evaluate.py", run, *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert read_image(tmp_path / "out" / "result.png") == translate(generator, image, seed=3)
    result = run_script("evaluate.py", run, "--input", "photo.png", "--no_dropout", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    silent = translate(generator, image, noise=False)
    assert read_image(run / "translated" / "photo.png") == silent


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["a/1.jpg", "b/1.png", "2.webp", ".hidden.png"], {"2.png", "a/1.png", "b/1.png"}),
        (["1.jpg", "1.png", "1.jpg.png"], {"1.jpg.png", "1.png.png", "1.jpg.png.png"}),
    ],
)
def test_a_folder_of_pictures_none_of_them_lost(tmp_path, sources, expected):
    for name in sources:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(tmp_path / "in" / name)
    plan = plan_outputs(tmp_path / "in", tmp_path / "out")
    assert {str(result.relative_to(tmp_path / "out")) for result in plan.values()} == expected


def test_results_are_png(tmp_path):
    picture().save(tmp_path / "1.png")
    with pytest.raises(UserError, match=r"out\.jpg is neither a folder nor a \.png"):
        plan_outputs(tmp_path / "1.png", tmp_path / "out.jpg")


def test_nothing_to_translate_is_refused(tmp_path):
    for source, line in (("missing.png", "there is no picture"), ("", "holds no pictures")):
        with pytest.raises(UserError, match=line):
            plan_outputs(tmp_path / source, tmp_path / "out")


def test_a_source_is_never_overwritten(tmp_path):
    picture().save(tmp_path / "1.png")
    picture().save(tmp_path / "2.jpg")
    for source, output in ((tmp_path / "1.png", tmp_path / "1.png"), (tmp_path, tmp_path)):
        with pytest.raises(UserError, match="would overwrite"):
            plan_outputs(source, output)


def test_mistakes_end_in_one_line_and_exit_code_2(run, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    cases = {
        (run, "--inptu", "x"): "did you mean '--input'",
        (run, "--input", "missing.png"): "there is no picture or folder missing.png",
        (run, "--input", "broken.png"): "broken.png can't be read as a picture",
        (run, "--data_root", "elsewhere"): "there is no folder elsewhere",
        (run, "--device", "gpu"): "device is 'gpu'",
    }
    for words, line in cases.items():
        result = run_script("evaluate.py", *words, cwd=tmp_path)
        assert result.returncode == 2, words
        last = result.stderr.splitlines()[-1]
        assert last.startswith("error: ") and line in last
        assert "Traceback" not in result.stderr


def test_names_that_are_no_text(run, pairs, tmp_path):
    name = b"\xff%s {}\xe6.png".decode(errors="surrogateescape")
    shutil.copytree(pairs, tmp_path / "data")
    try:
        (tmp_path / "data" / "test" / "1.png").rename(tmp_path / "data" / "test" / name)
    except OSError:
        pytest.skip("no such names on this file system")
    result = run_script("evaluate.py", run, "--data_root", "data", "--output", "o", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "o" / "output" / name).exists()


def test_a_stand_in_split_is_called_by_its_name(run, pairs, tmp_path):
    shutil.copytree(pairs / "train", tmp_path / "data" / "train")
    generator = load_generator(run)
    generator.config = replace(generator.config, data_root=str(tmp_path / "data"))
    evaluate_split(generator, "test", tmp_path / "test", seed=0, noise=True)
    assert json.loads((tmp_path / "test" / "scores.json").read_text())["split"] == "train"


def test_moved_data(run, pairs, tmp_path):
    shutil.copytree(pairs, tmp_path / "moved")
    words = ["--data_root", "moved", "--split", "val", "--output", "results"]
    result = run_script("evaluate.py", run, *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "results" / "output").iterdir())) == 2


def test_pictures_unlike_those_of_training_are_remarked_upon_once(run, tmp_path):
    sizes = {"like": (40, 50), "pair": (96, 48), "photo": (300, 200), "big": (90, 80)}
    for name, size in sizes.items():
        (tmp_path / name).mkdir()
        for number in range(2):
            picture(size).save(tmp_path / name / f"{number}.png")
    remarks = {
        "like": None,
        "pair": "0.png is twice as wide as high",
        "photo": "0.png is 300x200, but training saw whole pictures at 36 px",
        "big": "0.png is 90x80, but",
    }
    for name, remark in remarks.items():
        result = run_script("evaluate.py", run, "--input", tmp_path / name, cwd=tmp_path)
        assert result.returncode == 0 and "translated 2 into" in result.stdout
        lines = [line for line in result.stderr.splitlines() if ".png is " in line]
        assert len(lines) == (remark is not None) and (remark or "") in "".join(lines)


def test_a_folder_is_not_translated_into_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    picture().save(tmp_path / "folder" / "1.png")
    (tmp_path / "y.png").write_text("mine")
    with pytest.raises(UserError, match=r"--output .*y\.png is a file"):
        plan_outputs(tmp_path / "folder", tmp_path / "y.png")
