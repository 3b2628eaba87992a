"""A run: what it leaves, and that stopping changes nothing."""

import json
import math
import re
import shutil
import signal

import numpy as np
import pytest
import torch
from conftest import (
    CrashError,
    config_for,
    crash_at,
    equal,
    log_rows,
    refusal,
    same_training,
    weights,
)
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate
import train
from config import Config
from dataset import PairedDataset
from engine.cli import UserError
from engine.log import Meter
from engine.order import TrainingOrder
from utils import load_checkpoint, load_generator

pytestmark = pytest.mark.usefixtures("undrawn")


def resume(run, *words) -> int:
    return train.main(["--resume", str(run), *map(str, words)])


# ---- What a run leaves ------------------------------------------------------------------------


def test_a_run_leaves_all_that_was_promised(finished):
    config = json.loads((finished / "config.json").read_text())
    assert Config(**config).output == str(finished)

    rows = log_rows(finished)
    assert [int(row["step"]) for row in rows] == list(range(19))
    validated = [int(row["step"]) for row in rows if row["val_l1"]]
    assert validated == [0, 12, 18]  # before the first step, every 2 epochs, at the end
    assert all(float(row["loss_g_l1"]) > 0 for row in rows[1:])
    assert all(0 < float(rows[i]["val_l1"]) < 2 for i in validated)
    assert all(-1 <= float(rows[i]["val_ssim"]) <= 1 for i in validated)

    samples = sorted(path.name for path in (finished / "samples").iterdir())
    assert samples == ["epoch_0000.png", "epoch_0002.png", "epoch_0003.png"]
    grid = Image.open(finished / "samples" / "epoch_0003.png")
    assert grid.size == (3 * 36 + 4, 2 * 36 + 4)  # input | output | target, 2 images

    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("loss/d")) == 18
    assert [event.step for event in events.Scalars("val/psnr")] == [0, 12, 18]
    assert len(events.Images("samples")) == 3
    assert {event.value for event in events.Scalars("learning_rate")} == {np.float32(2e-4)}
    assert all(event.value > 0 for event in events.Scalars("images_per_second"))
    checkpoints = sorted(path.name for path in (finished / "checkpoints").iterdir())
    assert checkpoints == ["latest.pt", "previous.pt"]


def test_a_checkpoint_holds_everything_and_loads_without_running_code(finished):
    checkpoint = torch.load(finished / "checkpoints" / "latest.pt", weights_only=True)
    assert checkpoint["format"] == 1 and checkpoint["versions"]["torch"] == torch.__version__
    assert (checkpoint["step"], checkpoint["steps_per_epoch"]) == (18, 6)
    assert Config(**checkpoint["config"]).crop_size == 32
    for optimizer in ("optimizer_g", "optimizer_d"):
        assert all(state["step"] == 18 for state in checkpoint[optimizer]["state"].values())


def test_the_same_seed_gives_the_same_weights_and_another_does_not(pairs, finished, tmp_path):
    train.train(config_for(pairs, tmp_path / "again"))
    assert same_training(finished, tmp_path / "again")
    assert log_rows(finished) == log_rows(tmp_path / "again")
    train.train(config_for(pairs, tmp_path / "other", seed=1))
    assert not equal(weights(finished), weights(tmp_path / "other"))


def test_validation_leaves_no_trace_in_the_training(pairs, finished, tmp_path):
    train.train(config_for(pairs, tmp_path / "run", validate_epochs=1, log_steps=5))
    assert equal(weights(finished), weights(tmp_path / "run"))


def test_kept_checkpoints(pairs, tmp_path):
    train.train(config_for(pairs, tmp_path / "run", keep_epochs=2, epochs=4))
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["epoch_0002.pt", "epoch_0004.pt", "latest.pt", "previous.pt"]
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "epoch_0002.pt")["step"] == 12


# ---- Stopping and resuming --------------------------------------------------------------------


def test_a_finished_run_resumes_as_if_it_had_never_ended(pairs, finished, tmp_path, capsys):
    run = tmp_path / "run"
    train.train(config_for(pairs, run, epochs=1))
    assert resume(run) == 0
    assert "--epochs N for more" in capsys.readouterr().out
    assert resume(run, "--epochs", 3) == 0
    assert same_training(run, finished)
    assert [row["step"] for row in log_rows(run)] == [str(step) for step in range(19)]


def test_an_end_between_two_log_rows_leaves_their_means_alone(pairs, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train.train(config_for(pairs, whole, log_steps=4, epochs=2))
    train.train(config_for(pairs, run, log_steps=4, epochs=1))
    resume(run, "--epochs", 2)
    last_of_the_first = [row for row in log_rows(run) if row["step"] == "6"]
    assert [row for row in log_rows(run) if row not in last_of_the_first] == log_rows(whole)


def test_checkpoints_by_time_survive_a_crash_within_an_epoch(pairs, finished, tmp_path):
    run = tmp_path / "run"
    with crash_at(10), pytest.raises(CrashError):
        train.train(config_for(pairs, run, save_minutes=1e-9))
    assert load_checkpoint(run)["step"] == 9
    assert resume(run) == 0
    assert same_training(run, finished)
    assert log_rows(run) == log_rows(finished)


def test_losses_averaged_over_a_stop_are_those_of_an_uninterrupted_run(pairs, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train.train(config_for(pairs, whole, log_steps=7, epochs=2))
    with crash_at(7), pytest.raises(CrashError):
        train.train(config_for(pairs, run, log_steps=7, epochs=2, save_minutes=1e-9))
    resume(run)
    assert log_rows(run) == log_rows(whole)


def test_a_run_that_died_before_its_first_step_keeps_the_row_of_its_start(pairs, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train.train(config_for(pairs, whole, epochs=1))
    with crash_at(1), pytest.raises(CrashError):
        train.train(config_for(pairs, run, epochs=1))
    resume(run)
    assert log_rows(run) == log_rows(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_its_step(pairs, finished, tmp_path, capsys, monkeypatch, number):
    """With a signal of its own; test_reliability.py sends one to a real process."""
    run, step = tmp_path / "run", train.train_step
    monkeypatch.setattr(
        train, "train_step", lambda *a, **o: (signal.raise_signal(number), step(*a, **o))[1]
    )
    handler = signal.getsignal(number)
    assert train.train(config_for(pairs, run)) == 128 + number
    monkeypatch.setattr(train, "train_step", step)
    assert signal.getsignal(number) == handler
    output = capsys.readouterr().out
    assert f"python train.py --resume {run}" in output
    assert load_checkpoint(run)["step"] == 1
    assert resume(run) == 0
    assert f"next: python evaluate.py {run}" in capsys.readouterr().out
    assert same_training(run, finished)
    assert log_rows(run) == log_rows(finished)


def test_a_moved_run_resumes_where_it_lies_now(pairs, finished, tmp_path):
    train.train(config_for(pairs, tmp_path / "here", epochs=1))
    (tmp_path / "here").rename(tmp_path / "there")
    resume(tmp_path / "there", "--epochs", 3)
    assert same_training(tmp_path / "there", finished)
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(("before", "printed"), [(7200.0, " in 2:00:0"), (None, "\n")])
def test_a_run_knows_how_long_it_took_in_all(pairs, tmp_path, capsys, before, printed):
    train.train(config_for(pairs, tmp_path / "run", epochs=1))
    state = load_checkpoint(tmp_path / "run")
    assert 0 < state["seconds"] < 300 and "trained for 1 epoch in 0:0" in capsys.readouterr().out
    state["seconds"] = before
    if before is None:
        del state["seconds"]  # as an earlier version left it
    torch.save(state, tmp_path / "run" / "checkpoints" / "latest.pt")
    assert resume(tmp_path / "run", "--epochs", 2) == 0
    assert f"trained for 2 epochs{printed}" in capsys.readouterr().out
    after = load_checkpoint(tmp_path / "run")["seconds"]
    assert math.isnan(after) if before is None else 7200 < after < 7500


def test_a_refused_resume_changes_nothing(pairs, copied, capsys):
    before = (copied / "config.json").read_text(), (copied / "log.csv").read_text()
    refusal(capsys, train.main, "--resume", copied, "--epochs", 9, "--data_root", "nowhere")
    for epochs in (3, 2):
        assert resume(copied, "--epochs", epochs) == 0
        assert "is trained for 3 epochs; --epochs N for more" in capsys.readouterr().out
    assert before == ((copied / "config.json").read_text(), (copied / "log.csv").read_text())


def test_a_changed_training_set_is_refused(pairs, copied, tmp_path, capsys):
    data = shutil.copytree(pairs, tmp_path / "data")
    (data / "train" / "6.png").unlink()
    words = ["--resume", copied, "--epochs", 4, "--data_root", data]
    assert "are not those this run began with" in refusal(capsys, train.main, *words)


def test_other_pairs_under_a_resumed_run_are_refused(pairs, copied, tmp_path, capsys):
    data = shutil.copytree(pairs, tmp_path / "data")
    (data / "train" / "6.png").rename(data / "train" / "0.png")
    words = ["--resume", copied, "--epochs", 4, "--data_root", data]
    assert "are not those this run began with" in refusal(capsys, train.main, *words)


# ---- Numbers that are not finite --------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"log_steps": 1}, {"log_steps": 1000}, {"gan_weight": 0.0}])
def test_losses_that_are_not_finite_stop_the_run_at_their_step(pairs, tmp_path, capsys, fields):
    run = tmp_path / "run"
    config = config_for(pairs, run, learning_rate=1e30, batch_size=2, **fields)
    line = refusal(capsys, train.main, config)
    step = int(re.search(r"at step (\d+);", line)[1])
    order = list(TrainingOrder(6, batch_size=2, epochs=3, seed=0))
    names = [PairedDataset(config, "train").pairs[index].name for _, index in order[step - 1]]
    assert "not finite" in line and f"its images were {', '.join(names)}." in line
    checkpoint = load_checkpoint(run)
    assert checkpoint["step"] == 0
    assert all(tensor.isfinite().all() for tensor in checkpoint["generator"].values())
    assert not any(
        "nan" in value or "inf" in value for row in log_rows(run) for value in row.values()
    )


@pytest.mark.parametrize("fields", [{"save_minutes": 1e-9}, {"validate_epochs": 1}])
def test_weights_that_are_not_finite_are_never_saved(pairs, tmp_path, capsys, monkeypatch, fields):
    run = tmp_path / "run"
    step = train.train_step

    def overflow(model, x, y, config):
        losses = step(model, x, y, config)
        with torch.no_grad():
            next(model.generator.parameters())[0] = torch.inf
        return losses

    monkeypatch.setattr(train, "train_step", overflow)
    monkeypatch.setattr(Meter, "check", lambda *arguments, **options: None)
    config = config_for(pairs, run, **fields)
    assert "some weights are not finite" in refusal(capsys, train.main, config)
    assert load_checkpoint(run)["step"] == 0
    assert [path.name for path in (run / "samples").iterdir()] == ["epoch_0000.png"]
    assert not any(row["val_l1"] == "nan" for row in log_rows(run))


# ---- The best checkpoint ----------------------------------------------------------------------


@pytest.fixture
def scored(monkeypatch):
    """Validations give these L1 scores, one an epoch from epoch 0 on; SSIM is its negative."""
    scores = [0.9, 0.5, 0.3, 0.4, 0.35, 0.31, 0.2, 0.1, 0.1, 0.1]

    def validate(generator, dataset):
        epoch = validate.epoch
        validate.epoch += 1
        return {"l1": scores[epoch], "ssim": -scores[epoch]}, Image.new("RGB", (112, 76))

    validate.epoch = 0
    monkeypatch.setattr(train, "validate", validate)
    return validate


def best_of(run) -> dict:
    return load_checkpoint(run / "checkpoints" / "best.pt")


@pytest.mark.parametrize("name", ["l1", "ssim"])
def test_the_best_checkpoint_is_kept_and_patience_ends_a_run(pairs, tmp_path, capsys, scored, name):
    run = tmp_path / "run"
    fields = {"validate_epochs": 1, "best_by": name, "patience": 3, "epochs": 9}
    assert train.train(config_for(pairs, run, **fields)) == 0
    out = capsys.readouterr().out
    assert f"stopped early: 3 validations in a row without a better {name}" in out
    assert "trained for 5 epochs" in out
    assert best_of(run)["step"] == 2 * 6 and load_checkpoint(run)["step"] == 5 * 6
    assert equal(
        load_generator(run / "checkpoints" / "best.pt").state_dict(), best_of(run)["generator"]
    )
    words = [run, "--checkpoint", "best", "--input", pairs / "test" / "1.png", "--output"]
    assert evaluate.main([*words, tmp_path / "out.png", "--device", "cpu"]) == 0
    with pytest.raises(UserError, match=r"worst\.pt does not exist; .* has latest\.pt"):
        evaluate.main([run, "--checkpoint", "worst"])


def test_a_run_that_stopped_early_is_over_unless_it_may_wait_for_longer(
    pairs, tmp_path, capsys, scored
):
    run = tmp_path / "run"
    fields = {"validate_epochs": 1, "best_by": "l1", "patience": 3, "epochs": 9}
    assert train.train(config_for(pairs, run, **fields)) == 0
    capsys.readouterr()
    assert train.main(["--resume", str(run)]) == 0
    assert "run stopped early; --patience N for more" in capsys.readouterr().out
    assert load_checkpoint(run)["step"] == 5 * 6
    scored.epoch = 6
    assert train.main(["--resume", str(run), "--patience", "5"]) == 0
    assert load_checkpoint(run)["step"] == 9 * 6 and best_of(run)["step"] > 5 * 6


def test_the_start_may_stay_the_best(pairs, tmp_path, monkeypatch):
    """As where a trained generator is tuned with a learning rate that is too high."""
    worse = iter([0.1, 0.2, 0.3])
    grid = Image.new("RGB", (112, 76))
    monkeypatch.setattr(train, "validate", lambda *_: ({"l1": next(worse)}, grid))
    fields = {"validate_epochs": 1, "best_by": "l1", "patience": 2, "epochs": 9}
    assert train.train(config_for(pairs, tmp_path / "run", **fields)) == 0
    assert load_checkpoint(tmp_path / "run")["step"] == 2 * 6
    assert best_of(tmp_path / "run")["step"] == 0


def test_a_run_may_begin_to_keep_its_best_when_it_resumes(pairs, tmp_path, scored):
    run = tmp_path / "run"
    assert train.train(config_for(pairs, run, validate_epochs=1, epochs=4)) == 0
    scored.epoch = 5
    words = ["--epochs", "9", "--best_by", "l1", "--patience", "2"]
    assert train.main(["--resume", str(run), *words]) == 0
    assert load_checkpoint(run)["step"] == 9 * 6 and best_of(run)["step"] == 7 * 6


def test_the_best_is_the_same_after_an_interruption(pairs, tmp_path, scored):
    fields = {"validate_epochs": 1, "best_by": "l1", "epochs": 4, "save_epochs": 1}
    for name in ("whole", "killed"):
        scored.epoch = 0
        config = config_for(pairs, tmp_path / name, **fields)
        if name == "whole":
            train.train(config)
            continue
        with crash_at(3 * 6 + 2), pytest.raises(CrashError):
            train.train(config)
        scored.epoch = 4
        resume(tmp_path / name)
    assert best_of(tmp_path / "killed")["step"] == 2 * 6
    assert same_training(tmp_path / "whole", tmp_path / "killed")
    assert log_rows(tmp_path / "whole") == log_rows(tmp_path / "killed")
