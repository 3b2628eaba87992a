"""Two folders of images become side-by-side pairs that train, exactly and whole or not at all."""

import os
import random
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, TINY, arguments
from PIL import Image

import train
from config import Config
from dataset import PairedDataset
from engine.cli import UserError
from images.pairs import find_pairs, read_pair
from tools.combine import combine, main

DRAW = np.random.default_rng(0)


def save_image(path: Path, width: int = 40, height: int = 32, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = DRAW.integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def make_folders(root: Path, names) -> tuple[Path, Path, Path]:
    """Folders photos and labels with PNGs of these names, and where to combine them."""
    a, b = root / "photos", root / "labels"
    for name in names:
        save_image(a / f"{name}.png")
        save_image(b / f"{name}.png")
    return a, b, root / "out"


def files_of(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_folders_with_splits_become_pairs_pixel_by_pixel(tmp_path, capsys, monkeypatch):
    a, b, out = make_folders(tmp_path, ["train/1", "train/2", "train/10", "val/1", "test/1"])
    save_image(b / "train" / "3.jpg")  # another ending, another mode, and a hidden file
    save_image(a / "train" / "3.TIFF", mode="L")
    (a / "train" / "._3.png").write_bytes(b"of macOS")
    monkeypatch.chdir(tmp_path)
    assert main(["photos", "labels", "out"]) == 0
    printed = capsys.readouterr().out
    assert "wrote out: train 4, val 1, test 1 pairs" in printed
    assert "python train.py --data_root out --direction AtoB" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "out", "photos"]
    assert files_of(out) == [
        "test/1.png", "train/1.png", "train/10.png", "train/2.png", "train/3.png", "val/1.png",
    ]  # fmt: skip
    for split in ("train", "val", "test"):
        for pair in find_pairs(out, split)[1]:
            for side, half in zip((a, b), read_pair(pair), strict=True):
                (original,) = (side / split).glob(f"{pair.name}.*")
                expected = Image.open(original).convert("RGB")
                assert np.array_equal(np.asarray(half), np.asarray(expected))

    config = Config(data_root=str(out), direction="AtoB", **TINY)
    assert len(PairedDataset(config, "train")) == 4
    assert PairedDataset(config, "val").split == "val"


def test_flat_folders_are_always_split_alike(tmp_path):
    a, b, out = make_folders(tmp_path, range(20))
    assert combine(a, b, out) == {"train": 16, "val": 2, "test": 2}
    first = files_of(out)
    assert len(first) == 20
    held_out = ["test/14.png", "test/16.png", "val/10.png", "val/18.png"]
    assert [name for name in first if "train" not in name] == held_out
    combine(a, b, tmp_path / "again")
    assert files_of(tmp_path / "again") == first
    assert combine(a, b, tmp_path / "all", val=0, test=0) == {"train": 20}
    assert combine(a, b, tmp_path / "shares", val=0.25, test=0) == {"train": 15, "val": 5}
    few = make_folders(tmp_path / "few", range(3))
    assert combine(*few) == {"train": 3}


@pytest.mark.slow
def test_the_next_command_trains(tmp_path, capsys, monkeypatch):
    make_folders(tmp_path, range(12))
    monkeypatch.chdir(tmp_path)
    assert main(["photos", "labels", "my data/out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (command,) = (line for line in lines if line.startswith("next: "))
    assert command.endswith("--data_root 'my data/out' --direction AtoB")
    words = ["--data_root", "my data/out", "--direction", "AtoB"]
    assert train.main([*words, *arguments(**TINY, epochs=1)]) == 0
    assert (tmp_path / "runs" / "out" / "log.csv").exists()


def test_subfolders_and_odd_names(tmp_path):
    names = ["rome/1", "rome/old town/2", "a.b", "-x", "ünï cødé 🏠", "100%_{x}", "line\nbreak"]
    a, b, out = make_folders(tmp_path, [f"train/{name}" for name in names])
    save_image(a / "train" / ".thumbnails" / "1.png")
    (tmp_path / "elsewhere").mkdir()
    for side in (a, b):
        save_image(tmp_path / "elsewhere" / side.name / "7.png")
        (side / "val").symlink_to(tmp_path / "elsewhere" / side.name)
    assert combine(a, b, out) == {"train": 7, "val": 1}
    flat = sorted(f"{name.replace('/', '_')}.png" for name in names)
    assert sorted(path.name for path in (out / "train").iterdir()) == flat
    pair = Image.open(out / "train" / "rome_old town_2.png")
    left = Image.open(a / "train" / "rome" / "old town" / "2.png")
    assert np.array_equal(np.asarray(pair)[:, :40], np.asarray(left))


def test_names_match_composed_and_decomposed_and_the_rest_is_counted(tmp_path, capsys):
    a, b, out = make_folders(tmp_path, ["1"])
    save_image(a / (unicodedata.normalize("NFC", "café") + ".png"))
    save_image(b / (unicodedata.normalize("NFD", "café") + ".png"))
    (a / "2.gif").touch()
    assert main([a, b, out, "--val", "0", "--test", "0"]) == 0
    assert len(files_of(out)) == 2
    assert f"{a}: not read: 1 .gif" in capsys.readouterr().out


def test_b_is_resized_to_a_on_request(tmp_path):
    a, b, out = make_folders(tmp_path, range(3))
    labels = np.zeros((20, 24, 3), np.uint8)
    labels[:, 12:] = 255
    Image.fromarray(labels).save(b / "1.png")
    with pytest.raises(UserError) as error:
        combine(a, b, out)
    line = str(error.value)
    assert f"{a / '1.png'} is 40x32 but {b / '1.png'} is 24x20" in line and "--resize" in line
    assert not out.exists()

    for option, mixed in (("--resize", True), ("--nearest", False)):
        assert main([a, b, tmp_path / option[2:], option]) == 0
        pair = np.asarray(Image.open(tmp_path / option[2:] / "train" / "1.png"))
        assert pair.shape == (32, 80, 3)
        assert np.array_equal(pair[:, :40], np.asarray(Image.open(a / "1.png")))
        assert (len(np.unique(pair[:, 40:])) > 2) == mixed


def test_what_cannot_be_combined_is_an_error_in_one_line(tmp_path):
    a, b, out = make_folders(tmp_path, range(4))
    empty, nowhere = tmp_path / "empty", tmp_path / "nowhere"
    empty.mkdir()
    split = make_folders(tmp_path / "split", ["train/1", "val/1"])
    cases = [
        ((nowhere, b, out), {}, f"folder {nowhere} does not exist"),
        ((a, empty, out), {}, f"{empty} holds no images (.png, "),
        ((a, b, empty), {}, f"{empty} already exists"),
        ((a, b, Path(".")), {}, ". already exists"),
        ((a, split[0], out), {}, f"is in none of {a}'s folders train, val, test"),
        ((a, b, out), {"val": 1.5}, "--val 1.5 and --test 0.1 must be 0 or more and below 1"),
        ((a, b, out), {"val": -0.1}, "--val -0.1"),
        ((a, b, out), {"test": float("nan")}, "--test nan"),
        ((a, b, out), {"val": 0.5, "test": 0.5}, "below 1 in total"),
        ((a, b, out), {"val": 0.5, "test": 0.4}, "leave none of the 4 pairs for train"),
    ]
    before = files_of(tmp_path)
    for folders, shares, line in cases:
        with pytest.raises(UserError) as error:
            combine(*folders, **shares)
        assert line in str(error.value) and "\n" not in str(error.value)
        assert files_of(tmp_path) == before


def test_a_pair_too_large_to_be_read_is_not_written(tmp_path, monkeypatch):
    a, b, out = make_folders(tmp_path, range(4))
    monkeypatch.setattr("tools.combine.MAX_PIXELS", 2 * 40 * 32 - 1)
    with pytest.raises(UserError, match="together over 0 megapixels, too many to be read; use fo"):
        combine(a, b, out)
    assert not out.exists()


def test_mistakes_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = {
        ("a", "b", "out"): "folder a does not exist",
        ("a", "b", "out", "--resise"): "unknown option --resise; did you mean '--resize'?",
        ("a", "b"): "the following arguments are required: OUT",
    }
    for words, line in cases.items():
        with pytest.raises(UserError) as error:
            main(words)
        assert line in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_part_of_a_pair_leaves_nothing(tmp_path):
    def refused(*, naming: Path, saying: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError) as error:
            combine(a, b, out)
        assert str(naming) in str(error.value) and saying in str(error.value)
        assert "\n" not in str(error.value) and sorted(tmp_path.rglob("*")) == before
        naming.unlink()

    a, b, out = make_folders(tmp_path, range(4))
    save_image(a / "lonely2.png")
    refused(naming=save_image(a / "lonely1.png"), saying="(files without a partner: 2)")
    refused(naming=a / "lonely2.png", saying=f"has no partner lonely2 in {b};")
    refused(naming=save_image(b / "lonely.png"), saying=f"has no partner lonely in {a};")
    refused(naming=save_image(b / "1.webp"), saying="would both become 1.png")
    save_image(b / "7_mask.png")
    refused(naming=save_image(a / "7_img.png"), saying="; 7_mask.png is similar: rename one")
    (b / "7_mask.png").unlink()
    save_image(a / "2_3.png")
    refused(naming=save_image(a / "2" / "3.png"), saying="would both become 2_3.png")
    (a / "2_3.png").unlink()
    (b / "bad.png").write_bytes(random.Random(0).randbytes(99))
    refused(naming=b / "bad.png", saying="has no partner")
    save_image(a / "bad.png")
    (b / "bad.png").write_bytes((a / "bad.png").read_bytes()[:-200])
    refused(naming=b / "bad.png", saying="cannot be read as an image")


def test_existing_files_are_never_overwritten_or_removed(tmp_path):
    a, b, out = make_folders(tmp_path, range(3))
    unfinished = tmp_path / "out.unfinished"
    kept = save_image(unfinished / "mine.png")
    combine(a, b, out)
    assert kept.exists()
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out", "out.unfinished"]
    with pytest.raises(UserError, match="already exists"):
        combine(a, b, out)


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(tmp_path):
    a, b, out = make_folders(tmp_path, range(1500))
    words = [sys.executable, "-m", "tools.combine", str(a), str(b), str(out)]
    process = subprocess.Popen(
        words, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 100
    while not list(tmp_path.glob("out.unfinished-*/*")) and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130 and errors.endswith("interrupted\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "photos"]


def test_many_pairs_do_not_wait_for_the_disk(tmp_path, monkeypatch):
    a, b, out = make_folders(tmp_path, range(20))
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    combine(a, b, out)
    assert not synced and len(files_of(out)) == 20
