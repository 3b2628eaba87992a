"""What a run shows of itself: lines in the terminal, curves, and its samples over the epochs."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, arguments, log_rows, run_script
from PIL import Image

from config import UserError
from log import draw_curves, draw_progress, evenly, read_log, sample_grids, sample_rows


@pytest.fixture(scope="module")
def trained(pairs, tmp_path_factory):
    """A run of 4 epochs that was stopped after 2 by the plan, and what both parts printed."""
    folder = tmp_path_factory.mktemp("log") / "run"
    fields = {**TINY, "validate_epochs": 1, "data_root": pairs, "output": folder, "epochs": 2}
    first = run_script("train.py", *arguments(**fields), cwd=folder.parent)
    rest = run_script("train.py", "--resume", folder, "--epochs", 4, cwd=folder.parent)
    assert first.returncode == rest.returncode == 0, first.stderr + rest.stderr
    return folder, first.stdout + rest.stdout


def same_picture(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


def test_the_terminal_says_how_the_scores_have_changed_and_where_the_samples_are(trained):
    folder, output = trained
    scores = {
        float(row["epoch"]): [float(row[name]) for name in ("val_l1", "val_psnr", "val_ssim")]
        for row in log_rows(folder)
        if row["val_l1"]
    }
    number = r"(-?[\d.]+)(?: \(([+-][\d.]+)\))?"
    pattern = rf"epoch +(\d+)  step +\d+  val L1 {number}  PSNR {number}  SSIM {number}  (\S+)"
    lines = [match.groups() for match in re.finditer(pattern, output)]
    assert [int(line[0]) for line in lines] == [0, 1, 2, 3, 4]
    for epoch, *numbers, path in lines:
        assert Path(path).is_file() and Path(path).name == f"epoch_{int(epoch):04d}.png"
        now = scores[float(epoch)]
        assert [float(n) for n in numbers[::2]] == pytest.approx(now, abs=6e-3)
        if epoch == "0":
            assert numbers[1::2] == [None] * 3
        else:  # also of the first validation after the resume
            changes = np.subtract(now, scores[float(epoch) - 1])
            assert [float(n) for n in numbers[1::2]] == pytest.approx(changes, abs=6e-3)
    for name in ("curves.png", "progress.gif"):
        assert f"{folder / name}" in output
    assert "6 to train on, 2 to validate with; B is given, A is to be made" in output


def test_the_curves_are_those_of_the_log(trained):
    folder, _ = trained
    measures = read_log(folder)
    rows = log_rows(folder)
    for name in ("loss_d", "loss_g_l1", "val_ssim", "learning_rate"):
        expected = [(float(row["epoch"]), float(row[name])) for row in rows if row[name]]
        assert list(zip(*measures[name], strict=True)) == expected
    with Image.open(folder / "curves.png") as picture:
        assert picture.width == 1000 and len(picture.convert("RGB").getcolors(2**24)) > 50
        before = picture.convert("RGB").tobytes()
    with open(folder / "log.csv", "a") as file:
        file.write("99,16,1,garbled\n99,16,0.9\0,?\n,,,,,,,,,,,,\n")
        file.write("99,16.5,0.9,1")  # is just being written
    draw_curves(folder)
    with Image.open(folder / "curves.png") as picture:
        assert picture.convert("RGB").tobytes() == before


def test_the_strip_shows_the_samples_of_each_epoch(trained):
    folder, _ = trained
    grids = {epoch: sample_rows(path) for epoch, path in sample_grids(folder).items()}
    assert list(grids) == [0, 1, 2, 3, 4] and all(len(rows) == 2 for rows in grids.values())
    with Image.open(folder / "progress.png") as strip:
        assert strip.width == 7 * 36 + 4  # input, five epochs and target
        for row in range(2):
            seen = [
                strip.crop((4 + x * 36, 24 + row * 36, 36 + x * 36, 56 + row * 36))
                for x in range(7)
            ]
            outputs = [grids[epoch][row][1] for epoch in range(5)]
            expected = [grids[4][row][0], *outputs, grids[4][row][2]]
            assert all(map(same_picture, seen, expected))
    assert not same_picture(grids[0][0][1], grids[4][0][1])
    with Image.open(folder / "progress.gif") as film:
        assert film.n_frames == 5 and film.info["loop"] == 0


def test_long_runs_are_shown_by_some_of_their_epochs():
    assert evenly(list(range(201)), 6) == [0, 40, 80, 120, 160, 200]
    assert evenly([0, 5], 6) == [0, 5]


def test_a_run_without_adversarial_loss_has_no_panel_of_it(tmp_path):
    rows = [
        "step,epoch,loss_d,loss_g_gan,loss_g_l1,val_l1",
        *(f"{i},{i / 9},,,0.5," for i in range(50)),
    ]
    (tmp_path / "log.csv").write_text("\n".join(rows) + "\n")
    assert draw_curves(tmp_path) == tmp_path / "curves.png"
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.height == 320
    assert draw_progress(tmp_path) is None


def test_it_can_be_drawn_at_any_time_and_says_what_is_missing(trained, tmp_path):
    folder, _ = trained
    for name in ("curves.png", "progress.png", "progress.gif"):
        (folder / name).unlink()
    result = run_script("log.py", folder, cwd=tmp_path)
    assert result.returncode == 0 and str(folder / "curves.png") in result.stdout
    assert all((folder / name).exists() for name in ("curves.png", "progress.png", "progress.gif"))
    result = run_script("log.py", tmp_path, cwd=tmp_path)
    assert result.returncode == 2 and "has no log.csv" in result.stderr
    (tmp_path / "log.csv").write_text("step,epoch\n")
    result = run_script("log.py", tmp_path, cwd=tmp_path)
    assert result.returncode == 2 and "has logged nothing yet" in result.stderr
    with pytest.raises(UserError):
        read_log(tmp_path / "nowhere")


def test_damaged_files_of_a_run_are_left_out(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    (run / "samples" / "epoch_0002.png").write_bytes(b"no picture")
    (run / "samples" / "epoch_best.png").write_bytes(b"of somebody")
    with open(run / "log.csv", "a") as file:
        file.write("20,garbled\n21,4,\0?\n")
    result = run_script("train.py", "--resume", run, "--epochs", 5, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "epoch_0002.png can't be read as a picture and is left out" in result.stderr
    with Image.open(run / "progress.gif") as film, Image.open(run / "progress.png") as strip:
        assert film.n_frames == 5 and strip.width == 7 * 36 + 4
