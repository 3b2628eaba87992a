"""Nothing is lost, nothing gets in: kills, full disks, damaged and hostile files, bad data."""

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fuzz
import kill
import numpy as np
import pytest
import soak
import torch
from conftest import REPOSITORY, TINY, arguments, equal, log_rows, run_script, same_training
from PIL import Image
from test_training import CrashError, RunsCode, config_for, crash_after, refusal

import dataset
import train
from config import Config, UserError
from dataset import PairedDataset, TrainingOrder, read_image
from evaluate import plan_outputs
from files import damage, replacing
from processes import alone_in
from utils import (
    CHECKPOINT_FORMAT,
    DamagedError,
    build_generator,
    load_checkpoint,
    load_generator,
    save_checkpoint,
    translate,
)

FORMAT_1 = Path(__file__).parent / "checkpoint_format_1.pt"

# ---- Kills ------------------------------------------------------------------------------------


def test_kills_at_any_moment_lose_nothing(tmp_path):
    """The short form of `python tests/kill.py`."""
    random.seed(1)
    kill.compare(tmp_path, kills=3, epochs=8, base_channels=32)


def test_a_run_killed_before_its_first_step_keeps_the_row_of_its_start(
    pairs, tmp_path, monkeypatch
):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train.train(config_for(pairs, whole, epochs=1))
    crash_after(1, monkeypatch)
    with pytest.raises(CrashError):
        train.train(config_for(pairs, run, epochs=1))
    monkeypatch.undo()
    train.main(None, {}, str(run))
    assert log_rows(run) == log_rows(whole)


def test_a_spoilt_log_stops_no_run(pairs, tmp_path):
    run = tmp_path / "run"
    train.train(config_for(pairs, run, epochs=1))
    with open(run / "log.csv", "ab") as file:
        file.write(b"\0\0\0\n\n\xff\xfe,1\nnotes,of,mine\n")
    train.main(None, {"epochs": 2}, str(run))
    assert [row["step"] for row in log_rows(run)] == [str(step) for step in range(13)]


def test_a_run_is_found_by_any_of_its_names(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "checkpoints" / "latest.pt").unlink()
    assert load_checkpoint(run / "checkpoints")["step"] == 12
    with pytest.raises(UserError, match=r"latest\.pt; .*run has previous\.pt"):
        load_checkpoint(run / "checkpoints" / "latest.pt")


def test_half_a_row_of_the_log_is_no_row(pairs, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    for folder in (whole, run):
        train.train(config_for(pairs, folder, epochs=1))
    with open(run / "log.csv", "a") as file:
        file.write("3,0.5,0.69")  # of what should become step 38
    for folder in (whole, run):
        train.main(None, {"epochs": 2}, str(folder))
    assert log_rows(run) == log_rows(whole)


# ---- Storage ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(pairs, tmp_path_factory) -> Path:
    """A run of 3 epochs of 6 steps, saved after each epoch."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    train.train(config_for(pairs, run, save_epochs=1))
    return run


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def nothing(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [truncate, flip_a_bit, zeros, nothing, Path.unlink])
def test_the_last_good_checkpoint_is_used_and_it_is_said(finished, tmp_path, capsys, harm):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    harm(run / "checkpoints" / "latest.pt")
    checkpoint = load_checkpoint(run)
    assert checkpoint["step"] == 12  # of 18
    said = capsys.readouterr().err
    if harm is not Path.unlink:
        assert "latest.pt can't be read as a checkpoint" in said
        assert "previous.pt, step 12" in said
        with pytest.raises(UserError, match=r"latest\.pt can't be read as a checkpoint"):
            load_generator(run / "checkpoints" / "latest.pt")  # asked for by name
    weights = load_generator(run).state_dict()
    assert equal(checkpoint["generator"], dict(weights))
    # It goes on from there, and ends where it should.
    assert train.main(None, {}, str(run)) == 0
    assert same_training(run, finished)
    assert log_rows(run) == log_rows(finished)
    for name in ("latest.pt", "previous.pt"):
        assert damage(run / "checkpoints" / name) is None


def test_kept_checkpoints_are_the_last_resort_and_without_any_it_is_refused(pairs, tmp_path):
    run = tmp_path / "run"
    train.train(config_for(pairs, run, epochs=2, keep_epochs=1))
    for name in ("latest.pt", "previous.pt", "epoch_0002.pt"):
        truncate(run / "checkpoints" / name)
    assert load_checkpoint(run)["step"] == 6
    truncate(run / "checkpoints" / "epoch_0001.pt")
    with pytest.raises(UserError, match=r"epoch_0001\.pt can't be read as a checkpoint"):
        load_checkpoint(run)


def test_every_flipped_bit_is_found_or_harmless(finished, tmp_path):
    """Flips that the checksums miss lie where zip has no content; what is read is unchanged."""
    data = (finished / "checkpoints" / "latest.pt").read_bytes()
    sound = load_checkpoint(finished)
    place = random.Random(0)
    found = 0
    for _ in range(300):
        flipped = bytearray(data)
        flipped[place.randrange(len(data))] ^= 1 << place.randrange(8)
        path = tmp_path / "flipped.pt"
        path.write_bytes(flipped)
        try:
            assert equal(load_checkpoint(path), sound)
        except DamagedError:
            found += 1
    assert found > 250


def test_a_damaged_checkpoint_never_pushes_out_a_good_one(tmp_path):
    path = tmp_path / "checkpoints" / "latest.pt"
    previous = path.with_name("previous.pt")
    for step in (1, 2):
        save_checkpoint(path, Config(), step=step, generator={"weight": torch.ones(9999)})
    flip_a_bit(path)
    save_checkpoint(path, Config(), step=3, generator={"weight": torch.ones(9999)})
    assert (load_checkpoint(path)["step"], load_checkpoint(previous)["step"]) == (3, 1)


def test_a_failed_write_leaves_both_checkpoints(tmp_path):
    """A real write error: files may not grow past 1 MB."""
    path = tmp_path / "checkpoints" / "latest.pt"
    for step in (1, 2):
        save_checkpoint(path, Config(), step=step, generator={"weight": torch.ones(10)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(UserError, match=r"latest\.pt can't be written: File too large"):
            save_checkpoint(path, Config(), step=3, generator={"weight": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    names = {file.name: load_checkpoint(file)["step"] for file in path.parent.iterdir()}
    assert names == {"latest.pt": 2, "previous.pt": 1}


def mounted(options: str, script: str, cwd: Path) -> subprocess.CompletedProcess:
    """Runs a shell script beside a tmpfs at ./small, in a name space of its own."""
    (cwd / "small").mkdir()
    command = f"mount -t tmpfs -o {options} tmpfs small && {{ {script}\n}}"
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", command]
    if not shutil.which("unshare") or subprocess.run([*command[:3], "true"]).returncode:
        pytest.skip("mounting is not allowed here")
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def train_command(pairs: Path, **fields) -> str:
    words = arguments(**{**TINY, "data_root": pairs, "epochs": 3, "save_minutes": 1e-9, **fields})
    return " ".join([sys.executable, str(REPOSITORY / "train.py"), *words])


def test_a_full_disk_stops_the_run_with_its_checkpoints_whole(pairs, tmp_path):
    command = train_command(pairs, output="small/run", base_channels=8)
    # 3.6 MB: room for two checkpoints of 1.4 MB, but not for a third while it is written.
    script = f"{command}; echo code $?; cp -r small/run kept"
    done = mounted("size=3600k", script, tmp_path)
    assert "code 2" in done.stdout, done.stderr
    assert "latest.pt can't be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert load_checkpoint(tmp_path / "kept")["step"] > 0
    assert not list((tmp_path / "kept" / "checkpoints").glob(".*"))
    # With room again it ends as if nothing had been.
    assert train.main(None, {}, str(tmp_path / "kept")) == 0
    whole = tmp_path / "whole"
    train.train(config_for(pairs, whole, base_channels=8))
    assert same_training(tmp_path / "kept", whole)
    assert log_rows(tmp_path / "kept") == log_rows(whole)


def test_a_read_only_folder_is_said_in_one_line(pairs, tmp_path):
    done = mounted("ro", train_command(pairs, output="small/run"), tmp_path)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "Read-only file system" in last and "small/run" in last
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_log_that_cannot_be_written_is_named(pairs, tmp_path, capsys):
    run = tmp_path / "run"
    train.train(config_for(pairs, run, epochs=1))
    log = train.Log(run, 6)
    (run / "log.csv").unlink()
    (run / "log.csv").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"log\.csv can't be written: No space left on device"):
        log.write(7, epoch=1.2)
    log.close()


def test_writing_to_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="can't be written"), replacing(tmp_path / "file" / "x"):
        pass
    assert (tmp_path / "file").read_text() == "mine"


# ---- Two at once ------------------------------------------------------------------------------


def test_a_second_process_on_a_run_is_refused_and_harms_nothing(pairs, tmp_path):
    run = tmp_path / "run"
    fields = {**TINY, "data_root": pairs, "epochs": 3000, "output": run}
    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments(**fields)]
    with open(tmp_path / "said", "w") as said:
        first = subprocess.Popen(command, stdout=said, stderr=said)
    deadline = time.monotonic() + 120
    while not (run / "log.csv").exists() or len((run / "log.csv").read_text().split()) < 4:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    with ThreadPoolExecutor() as pool:
        anew, resumed = pool.map(
            lambda words: run_script("train.py", *words, cwd=tmp_path),
            (arguments(**fields), ["--resume", run]),
        )
    for second in (anew, resumed):
        assert second.returncode == 2
        assert f"error: another process is training in {run}" in second.stderr
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 128 + signal.SIGTERM
    steps = [int(row["step"]) for row in log_rows(run)]
    assert steps == list(range(len(steps))) and load_checkpoint(run)["step"] == steps[-1]


def test_who_goes_on_waits_for_the_last_checkpoint_of_the_one_before(pairs, tmp_path):
    """A scheduler may start the successor while the one before still saves."""
    run = tmp_path / "run"
    train.train(config_for(pairs, run, epochs=1))
    with alone_in(run):
        command = [sys.executable, str(REPOSITORY / "train.py"), "--resume", run, "--epochs", "3"]
        second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
        checkpoint = load_checkpoint(run)  # what it could see now
        train.train(config_for(pairs, run, epochs=2), checkpoint)
    said, _ = second.communicate(timeout=100)
    assert second.returncode == 0 and "going on after step 12 of 18" in said


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    left = tmp_path / "checkpoints" / ".latest.pt.123.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    (tmp_path / ".mine.tmp").write_text("mine")
    with alone_in(tmp_path):
        assert not left.exists()
    assert (tmp_path / ".mine.tmp").exists()


# ---- Bad data ---------------------------------------------------------------------------------


def test_broken_pictures_are_read_right_or_refused():
    """The short form of `python tests/fuzz.py`."""
    counts, wrong = fuzz.fuzz(280, seed=7)
    assert wrong == []
    outcomes = {outcome for _, outcome in counts}
    assert outcomes == {"read", "refused"}


def spoil(root: Path) -> None:
    """Three bad files among six, each in its way."""
    (root / "train" / "2.png").write_bytes(b"no picture")
    truncate(root / "train" / "4.png")
    Image.new("RGB", (33, 20)).save(root / "train" / "5.png")


@pytest.mark.parametrize("cache_gb", [0.0, 4.0])
def test_bad_files_can_be_skipped(pairs, tmp_path, capsys, cache_gb):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(pairs, data)
    spoil(data)
    config = config_for(data, run, epochs=1, bad_files="skip", cache_gb=cache_gb)
    assert train.train(config) == 0
    said = capsys.readouterr().out
    assert "train: 3 files can't be used" in said
    assert f"3 files were left out ({run / 'skipped.txt'}):" in said
    lines = (run / "skipped.txt").read_text().splitlines()
    assert [Path(line.split(".png")[0]).name for line in lines] == ["2", "4", "5"]
    assert log_rows(run)[-1]["step"] == "3"
    with pytest.raises(UserError, match=r"2\.png can't be read"):
        PairedDataset(config_for(data, run, cache_gb=4.0), "train")


def test_plain_pictures_masks_and_limits_are_skipped_alike(tmp_path, capsys):
    for number in range(30):
        Image.new("RGB", (40, 40), (9 * number, 0, 0)).save(tmp_path / f"{number}.png")
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(2):
        Image.new("1", (40, 40), 1).save(masks / f"{number}.png")
    for path in (tmp_path / "0.png", tmp_path / "2.png", masks / "0.png"):
        path.write_bytes(b"no picture")
    fields = {"task": "inpainting", "mask": str(masks), "bad_files": "skip", "cache_gb": 0.0}
    data = PairedDataset(config_for(tmp_path, tmp_path, limit=3, **fields), "train")
    assert [pair.name for pair in data.pairs] == ["1", "3", "4"]
    assert len(data.skipped) == 3 and len(data.task.masks) == 1
    assert data[0]["input"].shape == (3, 32, 32)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(UserError, match=r"1\.png: it is missing, or no plain file"):
        read_image(tmp_path / "1.png")


def test_other_pairs_under_a_resumed_run_are_refused(pairs, tmp_path, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(pairs, data)
    train.train(config_for(data, run, epochs=1))
    (data / "train" / "6.png").rename(data / "train" / "0.png")
    assert "but others" in refusal(capsys, None, {"epochs": 2}, str(run))


def test_nothing_but_bad_files_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "1.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"none of the pairs can be used.*1\.png"):
        PairedDataset(config_for(tmp_path, tmp_path, bad_files="skip"), "train")


def test_the_check_names_every_problem_at_once(pairs, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(pairs, data)
    done = run_script("dataset.py", "--data_root", "data", cwd=tmp_path)
    assert (done.returncode, done.stdout.count("0 bad")) == (0, 3)
    spoil(data)
    (data / "test" / "3.png").write_bytes(b"")
    shutil.copy(data / "val" / "1.png", data / "val" / "1.bmp")
    done = run_script("dataset.py", "--data_root", "data", cwd=tmp_path)
    assert done.returncode == 2
    for name in ("train/2.png", "train/4.png", "train/5.png", "test/3.png", "val/1.png"):
        assert done.stdout.count(f"data/{name} ") == 1, name
    for line in ("train: 3 good, 3 bad", "val: 2 good, 1 bad", "test: 2 good, 1 bad"):
        assert line in done.stdout
    assert "Traceback" not in done.stderr


def test_the_check_names_all_where_none_is_good(tmp_path, capsys):
    (tmp_path / "train").mkdir()
    for number in range(3):
        (tmp_path / "train" / f"{number}.png").write_bytes(b"no picture" if number else b"")
    assert dataset.main(config_for(tmp_path, tmp_path)) == 2
    said = capsys.readouterr().out
    assert "train: 0 good, 3 bad" in said
    for number in range(3):
        kind = "no PNG, JPEG, WEBP, BMP, TIFF" if number else "empty"
        assert f"{number}.png can't be read as a picture: it is {kind}" in said


def test_the_check_of_two_folders_names_all_without_a_partner(tmp_path):
    for name in ("A/train/1", "A/train/2", "A/train/3", "B/train/2", "B/train/9"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(path)
    done = run_script("dataset.py", "--data_root", ".", cwd=tmp_path)
    assert "train: 1 good, 3 bad" in done.stdout and done.returncode == 2
    for name in ("A/train/1.png", "A/train/3.png", "B/train/9.png"):
        assert f"{name} has no partner" in done.stdout


def test_a_file_that_declares_itself_huge_is_refused(tmp_path, monkeypatch):
    Image.new("1", (300, 300)).save(tmp_path / "1.png")
    monkeypatch.setattr(dataset, "MAX_PIXELS", 300 * 300 - 1)
    with pytest.raises(UserError, match=r"1\.png: it is 300x300"):
        read_image(tmp_path / "1.png")


def test_other_programs_files_are_not_run(tmp_path):
    """Pillow would hand PostScript to an interpreter, whatever the name says."""
    (tmp_path / "1.png").write_bytes(fuzz.saved(fuzz.scene(), "EPS"))
    with pytest.raises(UserError, match=r"1\.png can't be read as a picture"):
        read_image(tmp_path / "1.png")


def test_translating_a_folder_skips_what_it_is_told_to(finished, tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "in" / "1.png")
    (tmp_path / "in" / "2.png").write_bytes(b"no picture")
    words = [finished, "--input", "in", "--output", "out"]
    done = run_script("evaluate.py", *words, cwd=tmp_path)
    assert done.returncode == 2 and "2.png can't be read" in done.stderr
    done = run_script("evaluate.py", *words, "--bad_files", "skip", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 files were left out" in done.stdout and (tmp_path / "out" / "1.png").exists()


def test_no_file_beside_the_results_is_lost(finished, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "1.png")
    (tmp_path / "skipped.txt").write_text("mine")
    done = run_script(
        "evaluate.py", finished, "--input", "1.png", "--output", "o.png", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "skipped.txt").read_text() == "mine"


def test_results_within_the_folder_of_the_pictures_are_no_pictures_of_it(tmp_path):
    for name in ("A.png", "a.jpg", "out/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    plan = plan_outputs(tmp_path, tmp_path / "out")
    names = {str(result.relative_to(tmp_path / "out")).casefold() for result in plan.values()}
    assert names == {"a.png.png", "a.jpg.png"}
    with pytest.raises(UserError, match="would overwrite"):
        plan_outputs(tmp_path / "A.png", tmp_path / "a.png", [tmp_path / "a.png"])


# ---- Numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"log_steps": 1}, {"log_steps": 1000}, {"gan_weight": 0.0}])
def test_losses_that_are_not_finite_stop_the_run_at_their_step(pairs, tmp_path, capsys, fields):
    run = tmp_path / "run"
    config = config_for(pairs, run, learning_rate=1e30, batch_size=2, **fields)
    line = refusal(capsys, config, {}, None)
    step = int(line.split("step ")[1].split()[0])
    order = list(TrainingOrder(6, config))
    names = [PairedDataset(config, "train").pairs[index].name for _, index in order[step - 1]]
    assert "not finite" in line and f"its pairs were {', '.join(names)}." in line
    assert "nan" in line or "inf" in line
    checkpoint = load_checkpoint(run)
    assert checkpoint["step"] == 0
    assert all(tensor.isfinite().all() for tensor in checkpoint["generator"].values())
    assert not any(
        "nan" in value or "inf" in value for row in log_rows(run) for value in row.values()
    )


@pytest.mark.parametrize("fields", [{"save_minutes": 1e-9}, {"validate_epochs": 1}])
def test_weights_that_are_not_finite_are_never_saved(pairs, tmp_path, capsys, monkeypatch, fields):
    run = tmp_path / "run"
    take = train.train_step

    def overflow(model, x, y, config):
        losses = take(model, x, y, config)
        with torch.no_grad():
            next(model.generator.parameters())[0] = torch.inf
        return losses

    monkeypatch.setattr(train, "train_step", overflow)
    monkeypatch.setattr(train.Watch, "look", lambda *arguments, **options: None)
    config = config_for(pairs, run, **fields)
    assert "some weights are not finite" in refusal(capsys, config, {}, None)
    assert load_checkpoint(run)["step"] == 0
    assert [path.name for path in (run / "samples").iterdir()] == ["epoch_0000.png"]
    assert not any(row["val_l1"] == "nan" for row in log_rows(run))


# ---- Files from strangers ---------------------------------------------------------------------


def test_code_in_a_checkpoint_is_never_run(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = torch.load(finished / "checkpoints" / "latest.pt", weights_only=True)
    for key in ("generator", "extra"):
        torch.save({**state, key: RunsCode()}, "stranger.pt")
        with pytest.raises(UserError, match=r"stranger\.pt can't be read as .* holds code"):
            load_generator("stranger.pt")
    for script in (["evaluate.py", "stranger.pt"], ["train.py", "--resume", "stranger.pt"]):
        done = run_script(*script, cwd=tmp_path)
        assert done.returncode == 2
        assert "error: stranger.pt can't be read as a checkpoint: it holds code" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "harmed").exists()


def lacking(state):
    del state["generator"]["output.1.weight"]


def another_shape(state):
    state["generator"]["output.1.weight"] = torch.zeros(3, 3, 4, 4)


def strange(state):
    state["generator"]["extra"] = torch.zeros(1)


def integers(state):
    state["generator"] = {key: value.int() for key, value in state["generator"].items()}


def no_tensors(state):
    state["generator"] = dict.fromkeys(state["generator"], "weight")


def absurd_configuration(state):
    state["config"]["base_channels"] = 2**16


def absurd_tensors(state):
    """A file of a few bytes that stands for gigabytes."""
    state["config"]["base_channels"] = 4096
    shapes = build_generator_shapes(4096)
    state["generator"] = {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}


def build_generator_shapes(base_channels: int) -> dict:
    with torch.device("meta"):
        network = build_generator(Config(**{**TINY, "base_channels": base_channels}))
    return {key: value.shape for key, value in network.state_dict().items()}


def shared(state):
    """Ten lists of ten lists of ... of one tensor: more than can be counted one by one."""
    nested = [torch.zeros(1)]
    for _ in range(40):
        nested = [nested] * 10
    state["extra"] = nested
    state["format"] = CHECKPOINT_FORMAT + 1


def cyclic(state):
    state["extra"] = state
    strange(state)


def sparse(state):
    state["generator"]["output.1.weight"] = torch.zeros(8, 3, 4, 4).to_sparse()


def on_no_device(state):
    state["generator"]["output.1.weight"] = torch.zeros(8, 3, 4, 4, device="meta")


class Bytes:
    """Gigabytes, of a few bytes."""

    def __reduce__(self):
        return (bytearray, (10**9,))


def gigabytes(state):
    state["extra"] = Bytes()


def endless(state):
    state["config"]["learning_rate"] = 10**400


def mixed_fields(state):
    state["config"] |= {1: 2, "\x1b[31m" * 10**5: 3}


def newer(state):
    state["format"] = CHECKPOINT_FORMAT + 1


def unknown_field(state):
    state["config"]["telepathy"] = True


def wrong_value(state):
    state["config"]["depth"] = "deep"


FOREIGN = {
    lacking: r"generator lacks 'output\.1\.weight'",
    another_shape: r"generator output\.1\.weight is 3x3x4x4 float32, not 8x3x4x4 float32",
    strange: r"generator has 'extra'",
    integers: r"is .* int32, not .* float32",
    no_tensors: r"is str, not .* float32",
    absurd_configuration: r"generator .* is .* float32, not \d+x\d+x4x4 float32",
    absurd_tensors: r"its tensors are larger than it",
    shared: r"checkpoint format 2",
    cyclic: r"generator has 'extra'",
    sparse: r"holds code or objects",
    on_no_device: r"holds code or objects \(torch",
    gigabytes: r"holds code or objects \(\w+ bytearray\)",
    endless: r"learning_rate is 10+",
    mixed_fields: r"fields unknown to this version",
    newer: r"checkpoint format 2, this version reads up to 1; update the code",
    unknown_field: r"fields unknown to this version.*telepathy",
    wrong_value: r"depth is 'deep'",
}


@pytest.mark.parametrize("change", FOREIGN, ids=lambda change: change.__name__)
def test_checkpoints_that_do_not_fit_are_refused_in_one_line(finished, tmp_path, capsys, change):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    state = torch.load(finished / "checkpoints" / "latest.pt", weights_only=True)
    state["generator"] = dict(state["generator"])
    change(state)
    torch.save(state, run / "checkpoints" / "latest.pt")
    with pytest.raises(UserError, match=FOREIGN[change]) as error:
        load_generator(run)
    assert str(error.value).isprintable() and len(str(error.value)) <= 1000
    assert re.search(FOREIGN[change], refusal(capsys, None, {"epochs": 9}, str(run)))


def lost_moments(state):
    del state["optimizer_g"]["state"][3]


def moments_of_another_shape(state):
    state["optimizer_d"]["state"][0]["exp_avg"] = torch.zeros(2)


def no_discriminator(state):
    del state["discriminator"]


def no_random_numbers(state):
    state["rng"] = []


def other_random_numbers(state):
    state["rng"] = [{"cpu": torch.zeros(3, dtype=torch.uint8)}]


def shifted(state):
    state["shift"] = 100


def wrong_shift(state):
    state["shift"] = "x"


def no_list_of_random_numbers(state):
    state["rng"] = [torch.zeros(3)]


def many_losses(state):
    state["losses_steps"] = 10**400


def no_step(state):
    state["step"] = -1


INCOMPLETE = {
    lost_moments: "optimizer_g state lacks 3",
    moments_of_another_shape: "optimizer_d state 0 exp_avg is 2 float32",
    no_discriminator: "discriminator is NoneType",
    no_random_numbers: "rng is empty",
    other_random_numbers: "random numbers does not fit",
    shifted: "shift is 100",
    wrong_shift: "shift is str, not int",
    no_list_of_random_numbers: "random numbers does not fit",
    many_losses: "losses_steps is 1000",
    no_step: "is no checkpoint of this project",
}


@pytest.mark.parametrize("change", INCOMPLETE, ids=lambda change: change.__name__)
def test_a_run_goes_on_only_from_all_of_its_state(finished, tmp_path, capsys, change):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "checkpoints" / "previous.pt").unlink()
    state = torch.load(run / "checkpoints" / "latest.pt", weights_only=True)
    change(state)
    torch.save(state, run / "checkpoints" / "latest.pt")
    assert INCOMPLETE[change] in refusal(capsys, None, {"epochs": 9}, str(run))


def test_a_compressed_checkpoint_is_refused(finished, tmp_path):
    """It could unpack to any size; torch.save never writes one."""
    with (
        zipfile.ZipFile(finished / "checkpoints" / "latest.pt") as source,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in source.namelist():
            bomb.writestr(name, source.read(name))
    with pytest.raises(UserError, match=r"bomb\.pt can't be read as a checkpoint: it is comp"):
        load_generator(tmp_path / "bomb.pt")


def test_loading_a_generator_draws_no_random_numbers(finished):
    state = torch.get_rng_state()
    load_generator(finished)
    assert torch.equal(state, torch.get_rng_state())


# ---- Formats ----------------------------------------------------------------------------------


def test_a_checkpoint_of_format_1_loads_for_ever(pairs, tmp_path):
    """Kept from the first version: what it made of a picture then, and that it can go on."""
    generator = load_generator(FORMAT_1)
    ramp = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3) % 256
    picture = translate(generator, Image.fromarray(ramp.astype(np.uint8)), noise=False)
    kept = np.asarray(Image.open(FORMAT_1.with_suffix(".png")))
    assert np.abs(np.asarray(picture).astype(int) - kept).max() <= 2
    shutil.copy(FORMAT_1, tmp_path / "latest.pt")
    changes = {"data_root": str(pairs), "epochs": 3}
    assert train.main(None, changes, str(tmp_path / "latest.pt")) == 0
    assert load_checkpoint(tmp_path)["step"] == 18


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_the_names_of_wrappers_are_taken_off(finished, tmp_path, prefix):
    state = load_checkpoint(finished)
    state["generator"] = {prefix + key: value for key, value in state["generator"].items()}
    torch.save(state, tmp_path / "wrapped.pt")
    assert equal(
        dict(load_generator(tmp_path / "wrapped.pt").state_dict()),
        dict(load_generator(finished).state_dict()),
    )


def test_a_compiled_generator_is_saved_and_loaded_plainly(finished, tmp_path):
    generator = load_generator(finished)
    compiled = torch.compile(generator)
    assert any(key.startswith("_orig_mod.") for key in compiled.state_dict())
    save_checkpoint(tmp_path / "c.pt", generator.config, step=0, generator=compiled.state_dict())
    again = load_generator(tmp_path / "c.pt")
    assert equal(dict(again.state_dict()), dict(generator.state_dict()))


# ---- Long runs --------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux only")
def test_memory_and_open_files_stay_flat(tmp_path):
    """The short form of `python tests/soak.py`."""
    samples = soak.soak(tmp_path, steps=300, every=50)
    memory, files = zip(*samples, strict=True)
    assert max(files[1:]) <= files[1] + 2
    assert memory[-1] < memory[1] + 30e6
