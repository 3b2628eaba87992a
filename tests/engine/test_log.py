"""What a run shows of itself: lines in the terminal, its log, curves, samples over the epochs."""

import contextlib
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, arguments, log_rows
from PIL import Image

import train
from engine.cli import UserError
from engine.curves import draw_curves, draw_progress, evenly, sample_rows
from engine.log import Log, read_log


@pytest.fixture(scope="module")
def trained(pairs, tmp_path_factory):
    """A run of 4 epochs that ended after 2 and was resumed, and what both parts printed."""
    folder = tmp_path_factory.mktemp("log") / "run"
    fields = {**TINY, "validate_epochs": 1, "data_root": pairs, "output": folder, "epochs": 2}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert train.main(arguments(**fields)) == 0
        assert train.main(["--resume", folder, "--epochs", 4]) == 0
    return folder, printed.getvalue()


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(trained[0], tmp_path / "run")


def same_image(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


def test_the_terminal_shows_the_scores_and_where_the_samples_are(trained):
    folder, output = trained
    scores = {
        float(row["epoch"]): [float(row[name]) for name in ("val_l1", "val_psnr", "val_ssim")]
        for row in log_rows(folder)
        if row["val_l1"]
    }
    number = r"(-?[\d.]+)"
    pattern = rf"epoch +(\d+)  step +\d+  val L1 {number}  PSNR {number}  SSIM {number}  (\S+)"
    lines = [match.groups() for match in re.finditer(pattern, output)]
    assert [int(line[0]) for line in lines] == [0, 1, 2, 3, 4]
    for epoch, *numbers, path in lines:
        assert Path(path).is_file() and Path(path).name == f"epoch_{int(epoch):04d}.png"
        assert [float(n) for n in numbers] == pytest.approx(scores[float(epoch)], abs=6e-3)
    for name in ("curves.png", "progress.gif"):
        assert f"{folder / name}" in output
    assert "6 training pairs, 2 validation pairs" in output


def test_the_curves_are_those_of_the_log(run):
    measures = read_log(run)
    rows = log_rows(run)
    for name in ("loss_d", "loss_g_l1", "val_ssim", "learning_rate"):
        expected = [(float(row["epoch"]), float(row[name])) for row in rows if row[name]]
        assert list(zip(*measures[name], strict=True)) == expected
    draw_curves(run)  # its title is the folder
    with Image.open(run / "curves.png") as image:
        assert image.width == 1000 and len(image.convert("RGB").getcolors(2**24)) > 50
        before = image.convert("RGB").tobytes()
    with open(run / "log.csv", "a") as file:
        file.write("99,16,1,garbled\n99,16,0.9\0,?\n,,,,,,,,,,,,\n")
        file.write("99,16.5,0.9,1")  # is just being written
    draw_curves(run)
    with Image.open(run / "curves.png") as image:
        assert image.convert("RGB").tobytes() == before


def test_the_film_shows_the_samples_of_each_epoch(trained):
    folder, _ = trained
    files = sorted((folder / "samples").iterdir())
    grids = {int(file.stem.removeprefix("epoch_")): sample_rows(file) for file in files}
    assert list(grids) == [0, 1, 2, 3, 4] and all(len(rows) == 2 for rows in grids.values())
    assert not same_image(grids[0][0][1], grids[4][0][1])
    with Image.open(folder / "progress.gif") as film:
        assert film.n_frames == 5 and film.info["loop"] == 0
        for epoch, rows in grids.items():
            film.seek(epoch)
            frame = film.convert("RGB")
            top = frame.height - 2 * 164  # below the titles
            for x, y in np.ndindex(3, 2):
                place = (4 + x * 164, top + y * 164, 164 + x * 164, top + 160 + y * 164)
                large = rows[y][x].resize((160, 160))
                errors = np.asarray(frame.crop(place), float) - np.asarray(large, float)
                assert abs(errors).mean() < 12  # of 255, by the palette


def test_the_film_shows_as_many_rows_as_each_epoch_has(run):
    assert train.main(["--resume", run, "--epochs", 5, "--sample_images", 1]) == 0
    with Image.open(run / "progress.gif") as film:
        assert film.height < 2 * 164  # a row and its titles
        frames = []
        for number in range(film.n_frames):
            film.seek(number)
            frames.append(film.size)
    assert len(frames) == 6 and len(set(frames)) == 1


def test_the_title_of_curves_may_hold_dollars(run, tmp_path):
    shutil.copytree(run, tmp_path / "a$b_{c$")
    assert draw_curves(tmp_path / "a$b_{c$").is_file()


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
    with Image.open(tmp_path / "curves.png") as image:
        assert image.height == 320
    assert draw_progress(tmp_path) is None


def test_it_can_be_drawn_at_any_time_and_names_what_is_missing(run, tmp_path):
    drawn = [run / name for name in ("curves.png", "progress.gif")]
    for path in drawn:
        path.unlink()
    assert [draw_curves(run), draw_progress(run)] == drawn
    assert all(path.stat().st_size > 100 for path in drawn)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"has no log\.csv"):
        draw_curves(empty)
    (empty / "log.csv").write_text("step,epoch\n")
    assert draw_curves(empty) is None and draw_progress(empty) is None
    with pytest.raises(UserError):
        read_log(tmp_path / "nowhere")


def test_rows_and_images_of_somebody_else_are_left_out(run):
    (run / "samples" / "epoch_best.png").write_bytes(b"of somebody")
    with open(run / "log.csv", "a") as file:
        file.write("20,garbled\n21,4,\0?\n")
    assert train.main(["--resume", run, "--epochs", 5]) == 0
    with Image.open(run / "progress.gif") as film:
        assert film.n_frames == 6


# ---- log.csv ----------------------------------------------------------------------------------


def test_a_spoiled_log_stops_no_run(copied, undrawn):
    with open(copied / "log.csv", "ab") as file:
        file.write(b"\0\0\0\n\n\xff\xfe,1\nnotes,of,mine\n")
    train.main(["--resume", copied, "--epochs", 4])
    assert [row["step"] for row in log_rows(copied)] == [str(step) for step in range(25)]


def test_half_a_row_of_the_log_is_no_row(finished, copied, tmp_path, undrawn):
    whole = shutil.copytree(finished, tmp_path / "whole")
    with open(copied / "log.csv", "a") as file:
        file.write("3,0.5,0.69")  # of what should become step 38
    for folder in (whole, copied):
        train.main(["--resume", folder, "--epochs", 4])
    assert len(log_rows(whole)) == 25
    assert log_rows(copied) == log_rows(whole)


def test_a_row_is_written_once_the_next_begins(tmp_path):
    log = Log(tmp_path, ["step", "epoch", "loss_d", "val_l1"], -1)
    log.write(1, epoch=0.5, loss_d=0.7)
    log.write(1, val_l1=0.2)
    log.write(2, epoch=1)
    assert (tmp_path / "log.csv").read_text().splitlines()[1:] == ["1,0.5,0.7,0.2"]
    log.close()
    assert (tmp_path / "log.csv").read_text().splitlines()[1:] == ["1,0.5,0.7,0.2", "2,1,,"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_log_that_cannot_be_written_is_named(tmp_path):
    log = Log(tmp_path, ["step", "epoch"], -1)
    (tmp_path / "log.csv").unlink()
    (tmp_path / "log.csv").symlink_to("/dev/full")
    log.write(7, epoch=1.2)
    with pytest.raises(UserError, match=r"log\.csv cannot be written: No space left on device"):
        log.flush()
    with pytest.raises(UserError, match=r"log\.csv cannot be written"):
        log.close()  # the row is still missing
