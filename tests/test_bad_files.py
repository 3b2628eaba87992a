"""Bad files among the data: skipped if asked, each listed, none run; and what becomes of them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import config_for, log_rows, refusal, truncate
from PIL import Image

import dataset
import evaluate
import train
from dataset import PairedDataset
from engine.cli import UserError
from images import reading
from images.arrays import read_array
from images.outputs import plan_outputs
from images.reading import read_image
from tests import fuzz

pytestmark = pytest.mark.usefixtures("undrawn")


def spoil(root: Path) -> None:
    """Three bad files among six, each in its way."""
    (root / "train" / "2.png").write_bytes(b"no image")
    truncate(root / "train" / "4.png")
    Image.new("RGB", (33, 20)).save(root / "train" / "5.png")


# ---- Training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cache_gb", [0.0, 4.0])
def test_bad_files_can_be_skipped(pairs, tmp_path, capsys, cache_gb):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(pairs, data)
    spoil(data)
    fields = {"bad_files": "skip", "cache_gb": cache_gb, "num_workers": 0}
    assert train.train(config_for(data, run, epochs=1, **fields)) == 0
    printed = capsys.readouterr().out
    assert "train: 3 files cannot be used" in printed
    assert f"3 files were left out ({run / 'skipped.txt'}):" in printed
    lines = (run / "skipped.txt").read_text().splitlines()
    assert [Path(line.split(".png")[0]).name for line in lines] == ["2", "4", "5"]
    assert log_rows(run)[-1]["step"] == "3"
    with pytest.raises(UserError, match=r"2\.png cannot be read"):
        PairedDataset(config_for(data, run, cache_gb=4.0), "train")


def test_photos_masks_and_limits_are_skipped_alike(tmp_path):
    for number in range(30):
        Image.new("RGB", (40, 40), (8 * number, 0, 0)).save(tmp_path / f"{number}.png")
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(2):
        Image.new("1", (40, 40), 1).save(masks / f"{number}.png")
    for path in (tmp_path / "0.png", tmp_path / "2.png", masks / "0.png"):
        path.write_bytes(b"no image")
    fields = {"task": "inpainting", "mask": str(masks), "bad_files": "skip", "cache_gb": 0.0}
    data = PairedDataset(config_for(tmp_path, tmp_path, limit=3, **fields), "train")
    assert [pair.name for pair in data.pairs] == ["1", "3", "4"]
    assert len(data.skipped) == 3 and len(data.task.masks) == 1
    assert data[0]["input"].shape == (3, 32, 32)


def test_nothing_but_bad_files_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none of the pairs can be used.*1\.png"):
        PairedDataset(config_for(tmp_path, tmp_path, bad_files="skip"), "train")


# ---- python dataset.py ------------------------------------------------------------------------


def test_the_check_names_every_problem_at_once(pairs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = shutil.copytree(pairs, tmp_path / "data")
    assert dataset.main(["--data_root", "data"]) == 0
    assert capsys.readouterr().out.count("0 bad") == 3
    spoil(data)
    (data / "test" / "3.png").write_bytes(b"")
    shutil.copy(data / "val" / "1.png", data / "val" / "1.bmp")
    assert dataset.main(["--data_root", "data"]) == 2
    printed = capsys.readouterr().out
    for name in ("train/2.png", "train/4.png", "train/5.png", "test/3.png", "val/1.png"):
        assert printed.count(f"data/{name} ") == 1, name
    for line in ("train: 3 good, 3 bad", "val: 2 good, 1 bad", "test: 2 good, 1 bad"):
        assert line in printed


def test_the_check_names_all_where_none_is_good(tmp_path, capsys):
    (tmp_path / "train").mkdir()
    for number in range(3):
        (tmp_path / "train" / f"{number}.png").write_bytes(b"no image" if number else b"")
    assert dataset.main(["--data_root", tmp_path]) == 2
    printed = capsys.readouterr().out
    assert "train: 0 good, 3 bad" in printed
    assert "val: 0" not in printed and "test: 0" not in printed  # they are train
    for number in range(3):
        kind = "none of PNG, JPEG, WEBP, BMP, TIFF" if number else "empty"
        assert f"{number}.png cannot be read as an image: it is {kind}" in printed


def test_the_check_names_a_mistake_of_the_dataset_once(tmp_path, capsys):
    Image.new("RGB", (64, 32)).save(tmp_path / "1.png")
    with pytest.raises(UserError, match="has no folder 'train'"):
        dataset.main(["--data_root", str(tmp_path)])
    assert capsys.readouterr().out == ""


def test_the_check_of_two_folders_names_all_without_a_partner(tmp_path, capsys):
    for name in ("A/train/1", "A/train/2", "A/train/3", "B/train/2", "B/train/9"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(path)
    code = dataset.main(["--data_root", tmp_path])
    printed = capsys.readouterr().out
    assert "train: 1 good, 3 bad" in printed and code == 2
    for name in ("A/train/1.png", "A/train/3.png", "B/train/9.png"):
        assert f"{name} has no partner" in printed


# ---- Reading images ---------------------------------------------------------------------------


@pytest.mark.slow
def test_broken_images_are_read_right_or_refused():
    """The short form of `python -m tests.fuzz`."""
    counts, wrong = fuzz.fuzz(280, seed=7)
    assert wrong == []
    outcomes = {outcome for _, outcome in counts}
    assert outcomes == {"read", "refused"}


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(UserError, match=r"1\.png: it is missing or not a regular file"):
        read_image(tmp_path / "1.png")


def test_a_file_that_declares_itself_huge_is_refused(tmp_path, monkeypatch):
    Image.new("1", (300, 300)).save(tmp_path / "1.png")
    monkeypatch.setattr(reading, "MAX_PIXELS", 300 * 300 - 1)
    with pytest.raises(UserError, match=r"1\.png: it is 300x300"):
        read_image(tmp_path / "1.png")


def test_other_programs_files_are_not_run(tmp_path):
    """Pillow would hand PostScript to an interpreter, whatever the name says."""
    (tmp_path / "1.png").write_bytes(fuzz.saved(fuzz.scene(), "EPS"))
    with pytest.raises(UserError, match=r"1\.png cannot be read as an image"):
        read_image(tmp_path / "1.png")


# ---- Translating files ------------------------------------------------------------------------


def test_translating_a_folder_skips_what_it_is_told_to(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "in" / "1.png")
    (tmp_path / "in" / "2.png").write_bytes(b"no image")
    words = [finished, "--input", "in", "--output", "out"]
    assert "2.png cannot be read" in refusal(capsys, evaluate.main, *words)
    assert evaluate.main([*words, "--bad_files", "skip"]) == 0
    assert "1 files were left out" in capsys.readouterr().out
    assert (tmp_path / "out" / "1.png").exists()


def test_no_file_beside_the_results_is_lost(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40)).save(tmp_path / "1.png")
    (tmp_path / "skipped.txt").write_text("mine")
    assert evaluate.main([finished, "--input", "1.png", "--output", "o.png"]) == 0
    assert (tmp_path / "skipped.txt").read_text() == "mine"


def test_results_within_the_folder_of_the_images_are_no_images_of_it(tmp_path):
    for name in ("A.png", "a.jpg", "out/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    plan = plan_outputs([tmp_path], tmp_path / "out")
    names = {str(result.relative_to(tmp_path / "out")).casefold() for result in plan.values()}
    assert names == {"a.png.png", "a.jpg.png"}
    with pytest.raises(UserError, match="would overwrite"):
        plan_outputs([tmp_path / "A.png"], tmp_path / "a.png", [tmp_path / "a.png"])


def test_large_scenes_are_read_in_tiles_alone(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reading, "MAX_PIXELS", 40 * 40)
    Image.new("RGB", (48, 40)).save(tmp_path / "1.png")
    words = [finished, "--input", tmp_path / "1.png", "--output", tmp_path / "y.png"]
    line = refusal(capsys, evaluate.main, *words)
    assert "1.png: it is 48x40, over 0 megapixels; evaluate.py --tile" in line
    assert evaluate.main([*words, "--tile", "32"]) == 0
    assert Image.open(tmp_path / "y.png").size == (48, 40)
    assert "1.png is 48x40, which takes about 0.0 GB of memory" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(48, 40), (48, 40, 2)])
def test_a_large_array_is_refused_for_its_size(tmp_path, monkeypatch, shape):
    np.save(tmp_path / "1.npy", np.zeros(shape, np.uint8))
    monkeypatch.setattr(reading, "MAX_PIXELS", 40 * 40)
    with pytest.raises(UserError, match=r"1\.npy .*: it is 40x48, over 0 megapixels; .*--tile"):
        read_array(tmp_path / "1.npy")
    assert read_array(tmp_path / "1.npy", large=True).shape[:2] == (48, 40)


def test_what_pillow_takes_for_a_bomb_is_too_large(tmp_path, monkeypatch):
    Image.new("1", (300, 300)).save(tmp_path / "1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"1\.png: it is too large, over 67 megapixels; .*--tile"):
        read_image(tmp_path / "1.png")
    monkeypatch.setattr(reading, "MAX_PIXELS", 1)
    assert read_image(tmp_path / "1.png", large=True).size == (300, 300)
