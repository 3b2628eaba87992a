"""The demo's facades."""

import numpy as np
import pytest
from conftest import run_script
from PIL import Image

from config import UserError
from data.make_demo import LABELS, make_demo, make_pair


def test_by_hand_and_always_the_same(tmp_path):
    words = ["--output", "demo", "--train", 3, "--val", 1, "--test", 2]
    result = run_script("data/make_demo.py", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "making demo: 100%" in result.stderr
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    names = ["test/1", "test/2", "train/1", "train/2", "train/3", "val/1"]
    assert files == [f"demo/{name}.png" for name in names]
    for split, (folder, number) in enumerate([("train", 2), ("val", 1), ("test", 2)]):
        saved = Image.open(tmp_path / "demo" / folder / f"{number}.png").convert("RGB")
        assert saved == make_pair(0, split, number)
    again = run_script("data/make_demo.py", *words, cwd=tmp_path)
    assert again.returncode == 2 and "demo exists already" in again.stderr


def test_splits_seeds_and_numbers_differ():
    pairs = [make_pair(*key) for key in ((0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 0, 1))]
    assert all(pairs[i] != pairs[j] for i in range(4) for j in range(i))


def test_photo_left_and_flat_labels_right():
    seen = set()
    for number in range(1, 13):
        pixels = np.asarray(make_pair(0, 0, number))
        assert pixels.shape == (256, 512, 3)
        photo, labels = pixels[:, :256], pixels[:, 256:]
        seen |= set(map(tuple, labels.reshape(-1, 3).tolist()))
        assert len(np.unique(photo.reshape(-1, 3), axis=0)) > 5000
    assert seen == set(LABELS.values())


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

    monkeypatch.setattr("data.make_demo.make_pair", fail)
    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
    monkeypatch.undo()
    make_demo(tmp_path / "demo", 1, 1, 1)
    assert len(list((tmp_path / "demo").rglob("*.png"))) == 3
    with pytest.raises(UserError, match="exists already"):
        make_demo(tmp_path / "demo")
