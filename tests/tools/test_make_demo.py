"""The demo's facades."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config import Config
from engine.cli import UserError
from metrics.palettes import PALETTES, find_palette
from tools.make_demo import LABELS, main, make_demo, make_pair


def test_the_script_writes_the_same_files_every_time(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = Path("mine")  # a longer name would leave no room for the progress
    words = ["--output", root, "--train", 3, "--val", 1, "--test", 2]
    assert main(words) == 0
    assert "making mine/train: 100%" in capsys.readouterr().err
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*.*"))
    names = ["test/1", "test/2", "train/1", "train/2", "train/3", "val/1"]
    assert files == ["palette.json", *(f"{name}.png" for name in names)]
    for split, (folder, number) in enumerate([("train", 2), ("val", 1), ("test", 2)]):
        saved = Image.open(root / folder / f"{number}.png").convert("RGB")
        assert saved == make_pair(0, split, number)
    assert find_palette(Config(data_root=str(root))) == PALETTES["demo"]
    with pytest.raises(UserError, match="mine already exists"):
        main(words)


def test_the_facades_are_those_of_the_published_results():
    """The scores in results/ are for these images; the photos may be rounded differently."""
    pairs = [make_pair(0, split, number) for split in range(3) for number in (1, 7)]
    photos, labels = np.split(np.stack([np.asarray(pair) for pair in pairs]), 2, axis=2)
    expected = "7f8ed8c12b5d943c4effd9d69f8353ae4ba7009c193e84456940f854d231e913"
    assert hashlib.sha256(labels.tobytes()).hexdigest() == expected
    assert photos.mean() == pytest.approx(144.7069, abs=0.01)


@pytest.mark.parametrize("words", [["--train", "0"], ["--seed", "-1"], ["--val", "x"]])
def test_mistakes_on_the_command_line(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words[0]):
        main(words)
    assert not list(tmp_path.iterdir())


def test_splits_seeds_and_numbers_differ():
    pairs = [make_pair(*key) for key in ((0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 0, 1))]
    assert all(pairs[i] != pairs[j] for i in range(4) for j in range(i))


def colors_of(pixels) -> set[int]:
    """The colors of (..., 3) pixels, each as one number."""
    return set(np.unique(np.asarray(pixels) @ [2**16, 2**8, 1]).tolist())


def test_photo_left_and_flat_labels_right():
    seen = set()
    for number in range(1, 13):
        pixels = np.asarray(make_pair(0, 0, number))
        assert pixels.shape == (256, 512, 3)
        photo, labels = pixels[:, :256], pixels[:, 256:]
        seen |= colors_of(labels)
        assert len(colors_of(photo)) > 5000
    assert seen == colors_of([*LABELS.values()])


def test_labels_and_photo_agree():
    """Windows are bluer than the walls around them, and roofs redder than the sky."""
    for number in range(1, 6):
        pixels = np.asarray(make_pair(0, 2, number)).astype(float)
        photo, labels = pixels[:, :256], pixels[:, 256:]
        window, wall, roof, sky = (
            photo[(labels == LABELS[name]).all(2)].mean(0)
            for name in ("window", "wall", "roof", "background")
        )
        assert window[2] - window[0] > wall[2] - wall[0] + 20
        assert roof[0] - roof[2] > sky[0] - sky[2] + 60


def test_nothing_half_made_is_taken_for_a_dataset(tmp_path, monkeypatch):
    def fail(*key):
        raise KeyboardInterrupt

    monkeypatch.setattr("tools.make_demo.make_pair", fail)
    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path / "demo")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    make_demo(tmp_path / "demo", 1, 1, 1)
    assert len(list((tmp_path / "demo").rglob("*.png"))) == 3
    with pytest.raises(UserError, match="already exists"):
        make_demo(tmp_path / "demo")
