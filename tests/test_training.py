"""Training: the objective, what a run leaves, and that stopping changes nothing."""

import copy
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, TINY, arguments, equal, log_rows, run_script, same_training
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_dataset import BAD_DATA

import train
from config import Config, UserError, one_line_errors
from train import build_model, learning_rate, train_step
from utils import load_checkpoint


def config_for(pairs: Path, output: Path, **fields) -> Config:
    return Config(**{"data_root": str(pairs), "output": str(output), "epochs": 3, **TINY, **fields})


def weights(run: Path) -> dict:
    return load_checkpoint(run)["generator"]


# ---- The objective ----------------------------------------------------------------------------


def step_setting():
    config = Config(**TINY, dropout=0.0)
    model = build_model(config, torch.device("cpu"))
    torch.manual_seed(1)
    x, y = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    return model, x, y


def test_losses_are_the_papers_objective_and_g_meets_the_updated_d():
    model, x, y = step_setting()
    before = copy.deepcopy(model)
    losses = train_step(model, x, y, Config())

    def d(network, *pair):
        return torch.sigmoid(network(*pair))

    fake = before.generator(x)
    loss_d = -(d(before.discriminator, x, y).log() + (1 - d(before.discriminator, x, fake)).log())
    assert losses[0].item() == pytest.approx(loss_d.mean().item() / 2, rel=1e-4)
    updated = -d(model.discriminator, x, fake).log().mean().item()
    assert losses[1].item() == pytest.approx(updated, rel=1e-4)
    assert abs(updated - -d(before.discriminator, x, fake).log().mean().item()) > 1e-3
    assert losses[2].item() == pytest.approx((fake - y).abs().mean().item(), rel=1e-5)


def test_each_network_learns_from_its_own_loss_alone():
    """With plain gradient descent a step is the gradient, which autograd gives as well."""
    model, x, y = step_setting()
    before = copy.deepcopy(model)
    rate = 0.1
    optimizers = [torch.optim.SGD(network.parameters(), rate) for network in model[:2]]
    stepped = model._replace(optimizer_g=optimizers[0], optimizer_d=optimizers[1])
    train_step(stepped, x, y, Config(lambda_l1=7.0))

    fake = before.generator(x)
    d_real, d_fake = before.discriminator(x, y), before.discriminator(x, fake.detach())
    loss_d = -(d_real.sigmoid().log().mean() + (1 - d_fake.sigmoid()).log().mean()) / 2
    loss_g = -model.discriminator(x, fake).sigmoid().log().mean() + 7.0 * (fake - y).abs().mean()
    for loss, old, new in (
        (loss_d, before.discriminator, model.discriminator),
        (loss_g, before.generator, model.generator),
    ):
        gradients = torch.autograd.grad(loss, list(old.parameters()))
        for was, now, gradient in zip(old.parameters(), new.parameters(), gradients, strict=True):
            assert torch.allclose(was - now, rate * gradient, atol=1e-5)


def test_learning_rate_is_constant_or_falls_linearly_at_the_end():
    constant = Config(epochs=10)
    assert {learning_rate(constant, epoch) for epoch in range(10)} == {2e-4}
    decaying = Config(epochs=200, decay_epochs=100)
    rates = [learning_rate(decaying, epoch) / 2e-4 for epoch in range(200)]
    assert rates[:100] == [1.0] * 100
    assert rates[100:] == pytest.approx([1 - i / 101 for i in range(1, 101)])


# ---- A run and what it leaves -----------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(pairs, tmp_path_factory) -> Path:
    """A run of 3 epochs of 6 steps."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    assert train.train(config_for(pairs, run)) == 0
    return run


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
    assert grid.size == (3 * 36 + 4, 2 * 36 + 4)  # input | output | target, 2 pictures

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


def test_both_optimisers_are_adam_as_in_the_paper():
    model = build_model(Config(), torch.device("cpu"))
    for optimizer in (model.optimizer_g, model.optimizer_d):
        assert isinstance(optimizer, torch.optim.Adam)
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (2e-4, (0.5, 0.999), 0)


def test_training_learns(pairs, tmp_path):
    train.train(config_for(pairs, tmp_path / "run", epochs=40, validate_epochs=40, base_channels=8))
    scores = [float(row["val_l1"]) for row in log_rows(tmp_path / "run") if row["val_l1"]]
    assert scores[-1] < 0.8 * scores[0]


def test_kept_checkpoints(pairs, tmp_path):
    train.train(config_for(pairs, tmp_path / "run", keep_epochs=2, epochs=4))
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["epoch_0002.pt", "epoch_0004.pt", "latest.pt", "previous.pt"]
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "epoch_0002.pt")["step"] == 12


def test_batches_decay_and_the_other_networks_train_too(pairs, tmp_path):
    config = config_for(
        pairs,
        tmp_path / "run",
        batch_size=4,
        generator="encoder_decoder",
        receptive_field=16,
        in_channels=1,
        decay_epochs=2,
    )
    train.train(config)
    rows = log_rows(tmp_path / "run")
    assert [float(row["learning_rate"]) for row in rows[1:]] == pytest.approx(
        [2e-4, 2e-4 * 2 / 3, 2e-4 / 3], rel=1e-4
    )


# ---- Stopping and going on --------------------------------------------------------------------


class CrashError(Exception):
    pass


def crash_after(step: int, monkeypatch) -> None:
    """Lets the next run die as it logs the step."""
    write = train.Log.write

    def failing(self, at, **values):
        if at == step:
            raise CrashError
        write(self, at, **values)

    monkeypatch.setattr(train.Log, "write", failing)


def test_a_finished_run_trains_on_as_if_it_had_never_ended(pairs, finished, tmp_path, capsys):
    run = tmp_path / "run"
    train.train(config_for(pairs, run, epochs=1))
    assert train.main(None, {}, str(run)) == 0
    assert "--epochs N for more" in capsys.readouterr().out
    assert train.main(None, {"epochs": 3}, str(run)) == 0
    assert same_training(run, finished)
    assert [row["step"] for row in log_rows(run)] == [str(step) for step in range(19)]


def test_an_end_between_two_log_rows_leaves_their_means_alone(pairs, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train.train(config_for(pairs, whole, log_steps=4, epochs=2))
    train.train(config_for(pairs, run, log_steps=4, epochs=1))
    train.main(None, {"epochs": 2}, str(run))
    last_of_the_first = [row for row in log_rows(run) if row["step"] == "6"]
    assert [row for row in log_rows(run) if row not in last_of_the_first] == log_rows(whole)


def test_checkpoints_by_time_survive_a_crash_within_an_epoch(
    pairs, finished, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    crash_after(10, monkeypatch)
    with pytest.raises(CrashError):
        train.train(config_for(pairs, run, save_minutes=1e-9))
    monkeypatch.undo()
    assert load_checkpoint(run)["step"] == 9
    assert train.main(None, {}, str(run)) == 0
    assert same_training(run, finished)
    assert log_rows(run) == log_rows(finished)


def test_losses_averaged_over_a_stop_are_those_of_an_uninterrupted_run(
    pairs, tmp_path, monkeypatch
):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train.train(config_for(pairs, whole, log_steps=7, epochs=2))
    crash_after(7, monkeypatch)
    with pytest.raises(CrashError):
        train.train(config_for(pairs, run, log_steps=7, epochs=2, save_minutes=1e-9))
    monkeypatch.undo()
    train.main(None, {}, str(run))
    assert log_rows(run) == log_rows(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_resumed_run_equals_an_uninterrupted_one(pairs, tmp_path, number):
    """Real processes, with data loaded by others that get the signal as well."""
    settings = {"epochs": 12, "validate_epochs": 12, "cache_gb": 0, "num_workers": 2}
    fields = arguments(data_root=pairs, **{**TINY, **settings})
    run = tmp_path / "runs" / "stopped"
    command = [sys.executable, str(REPOSITORY / "train.py"), *fields, "--output", "runs/stopped"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while not (run / "log.csv").exists() or len((run / "log.csv").read_text().split()) < 10:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 128 + number, errors
    assert "python train.py --resume runs/stopped" in output
    assert "Traceback" not in errors
    stopped_at = load_checkpoint(run)["step"]
    assert 8 <= stopped_at < 72

    resumed = run_script("train.py", "--resume", "runs/stopped", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "next: python evaluate.py runs/stopped" in resumed.stdout

    whole = tmp_path / "whole"
    config = config_for(pairs, whole, epochs=12, validate_epochs=12)
    assert train.train(config) == 0
    assert same_training(run, whole)
    assert log_rows(run) == log_rows(whole)


def test_a_moved_run_goes_on_where_it_lies_now(pairs, finished, tmp_path):
    train.train(config_for(pairs, tmp_path / "here", epochs=1))
    (tmp_path / "here").rename(tmp_path / "there")
    train.main(None, {"epochs": 3}, str(tmp_path / "there"))
    assert same_training(tmp_path / "there", finished)
    assert not (tmp_path / "here").exists()


def refusal(capsys, *main) -> str:
    """The one line on stderr with which the script ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end, one_line_errors():
        train.main(*main)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    return next(line for line in lines if line.startswith("error: "))


@pytest.mark.parametrize(("before", "said"), [(7200.0, " in 2:00:0"), (None, "\n")])
def test_a_run_knows_how_long_it_took_in_all(pairs, tmp_path, capsys, before, said):
    train.train(config_for(pairs, tmp_path / "run", epochs=1))
    state = load_checkpoint(tmp_path / "run")
    assert 0 < state["seconds"] < 300 and "trained to the end of epoch 1 in 0:0" in (
        capsys.readouterr().out
    )
    state["seconds"] = before
    if before is None:
        del state["seconds"]  # as an earlier version left it
    torch.save(state, tmp_path / "run" / "checkpoints" / "latest.pt")
    assert train.main(None, {"epochs": 2}, str(tmp_path / "run")) == 0
    assert f"trained to the end of epoch 2{said}" in capsys.readouterr().out
    after = load_checkpoint(tmp_path / "run")["seconds"]
    assert math.isnan(after) if before is None else 7200 < after < 7500


def test_a_refused_resume_changes_nothing(pairs, tmp_path, capsys):
    run = tmp_path / "run"
    train.train(config_for(pairs, run, epochs=1))
    before = (run / "config.json").read_text(), (run / "log.csv").read_text()
    refusal(capsys, None, {"epochs": 9, "data_root": "nowhere"}, str(run))
    assert train.main(None, {"epochs": 1}, str(run)) == 0
    assert "is trained to the end of epoch 1, and 1 were asked for;" in capsys.readouterr().out
    assert before == ((run / "config.json").read_text(), (run / "log.csv").read_text())


@pytest.mark.parametrize("make", BAD_DATA, ids=lambda make: make.__name__)
def test_each_kind_of_bad_data_ends_in_its_line_and_exit_code_2(tmp_path, capsys, make):
    (tmp_path / "data").mkdir()
    make(tmp_path / "data")
    line = refusal(capsys, config_for(tmp_path / "data", tmp_path / "run"), {}, None)
    assert re.search(BAD_DATA[make], line)


def test_a_run_is_not_overwritten_nor_changed_on_the_way(pairs, finished, capsys):
    config = config_for(pairs, finished)
    assert f"train.py --resume {finished}" in refusal(capsys, config, {}, None)
    changed = refusal(capsys, None, {"base_channels": 8}, str(finished))
    assert "base_channels was 4" in changed
    assert "no run folder" in refusal(capsys, None, {}, str(finished / "nowhere"))


def test_a_changed_training_set_is_refused(pairs, tmp_path, capsys):
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(pairs, data)
    train.train(config_for(data, run, epochs=1))
    (data / "train" / "6.png").unlink()
    line = refusal(capsys, None, {"epochs": 2}, str(run))
    assert "gives 5 steps an epoch, but gave 6" in line


def test_bad_data_ends_a_real_process_in_one_line(tmp_path):
    (tmp_path / "pairs" / "train").mkdir(parents=True)
    (tmp_path / "pairs" / "val").mkdir()
    for name in ("train/1.png", "val/1.png"):
        Image.new("RGB", (64, 32)).save(tmp_path / "pairs" / name)
    (tmp_path / "pairs" / "train" / "2.png").write_bytes(b"no picture")
    for extra in ({}, {"cache_gb": 0, "num_workers": 1}):  # found at once, or by a worker
        fields = arguments(data_root="pairs", epochs=1, **TINY, **extra)
        result = run_script("train.py", *fields, cwd=tmp_path)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
        last = result.stderr.splitlines()[-1]
        assert last.startswith("error: pairs/train/2.png can't be read as a picture")


def test_a_missing_dataset_names_its_folder(tmp_path, capsys):
    config = config_for(tmp_path / "nowhere", tmp_path / "run")
    assert "there is no folder" in refusal(capsys, config, {}, None)
    assert (tmp_path / "run" / "config.json").exists()  # the configuration is saved first of all


# ---- Checkpoint files -------------------------------------------------------------------------


class RunsCode:
    def __reduce__(self):
        return (os.mkdir, ("harmed",))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (lambda path: path.write_bytes(b"x" * 100), "can't be read as a checkpoint"),
        (lambda path: path.write_bytes(b""), "can't be read as a checkpoint"),
        (lambda path: torch.save({"format": RunsCode()}, path), "can't be read as a checkpoint"),
        (lambda path: torch.save({"weights": 1}, path), "is no checkpoint of this project"),
        (lambda path: torch.save({"format": 1}, path), "is no checkpoint of this project"),
        (lambda path: torch.save({"format": "one"}, path), "is no checkpoint of this project"),
        (lambda path: torch.save([1, 2], path), "is no checkpoint of this project"),
        (lambda path: torch.save({"format": 99}, path), "checkpoint format 99"),
    ],
)
def test_other_files_are_refused_as_checkpoints(tmp_path, monkeypatch, content, line):
    monkeypatch.chdir(tmp_path)
    content(tmp_path / "file.pt")
    with pytest.raises(UserError, match=rf"file\.pt.*{line}"):
        load_checkpoint(tmp_path / "file.pt")
    assert not (tmp_path / "harmed").exists()
    with pytest.raises(UserError, match="no run folder or checkpoint"):
        load_checkpoint(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no checkpoint"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "reproduce.py", "benchmark.py"])
def test_ctrl_c_while_it_still_starts_leaves_no_traceback(script, tmp_path):
    words = {"evaluate.py": ["run"], "reproduce.py": ["table1"]}.get(script, [])
    command = [sys.executable, str(REPOSITORY / script), *words]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=subprocess.PIPE, text=True)
    time.sleep(0.7)  # in its imports
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in errors
