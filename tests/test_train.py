"""Training: the objective, its ablations, what goes beyond the paper, and what is refused."""

import copy
import csv
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import (
    TINY,
    arguments,
    config_for,
    equal,
    log_rows,
    refusal,
    run_script,
    same_training,
    weights,
)
from PIL import Image
from test_dataset import BAD_DATA

import train
from config import Config
from engine.cli import UserError
from engine.processes import Processes
from evaluate import evaluate_split
from generator import UNetGenerator
from train import build_model, prepare, set_learning_rate, train_step
from utils import load_checkpoint, load_generator

pytestmark = pytest.mark.usefixtures("undrawn")

CPU = torch.device("cpu")


# ---- The objective ----------------------------------------------------------------------------


def setting(**fields):
    config = Config(**{**TINY, "precision": "fp32", "dropout": 0.0, **fields})
    model = build_model(config, CPU)
    torch.manual_seed(1)
    x, y = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    return config, model, x, y


def test_losses_are_the_papers_objective_and_g_meets_the_updated_d():
    _, model, x, y = setting()
    before = copy.deepcopy(model)
    losses = train_step(model, x, y, Config())

    def d(network, *pair):
        return torch.sigmoid(network(*pair))

    fake = before.generator(x)
    loss_d = -(d(before.discriminator, x, y).log() + (1 - d(before.discriminator, x, fake)).log())
    assert losses["loss_d"].item() == pytest.approx(loss_d.mean().item() / 2, rel=1e-4)
    updated = -d(model.discriminator, x, fake).log().mean().item()
    assert losses["loss_g_gan"].item() == pytest.approx(updated, rel=1e-4)
    assert abs(updated - -d(before.discriminator, x, fake).log().mean().item()) > 1e-3
    assert losses["loss_g_l1"].item() == pytest.approx((fake - y).abs().mean().item(), rel=1e-5)


def test_each_network_learns_from_its_own_loss_alone():
    """With plain gradient descent a step is the gradient, which autograd gives as well."""
    _, model, x, y = setting()
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


def test_learning_rate_is_constant_or_decays_linearly_at_the_end():
    _, model, *_ = setting()
    optimizers = model.optimizer_g, model.optimizer_d

    def rate(config: Config, epoch: int) -> float:
        rate = set_learning_rate(model, config, epoch)
        assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers] == [rate, rate]
        return rate

    constant = Config(epochs=10)
    assert {rate(constant, epoch) for epoch in range(10)} == {2e-4}
    decaying = Config(epochs=200, decay_epochs=100)
    rates = [rate(decaying, epoch) / 2e-4 for epoch in range(200)]
    assert rates[:100] == [1.0] * 100
    assert rates[100:] == pytest.approx([1 - i / 101 for i in range(1, 101)])


def test_both_optimizers_are_adam_as_in_the_paper():
    _, model, *_ = setting()
    for optimizer in (model.optimizer_g, model.optimizer_d):
        assert isinstance(optimizer, torch.optim.Adam)
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (2e-4, (0.5, 0.999), 0)


def test_training_learns(pairs, tmp_path):
    run = config_for(pairs, tmp_path / "run", epochs=12, validate_epochs=12, learning_rate=2e-3)
    train.train(run)
    scores = [float(row["val_l1"]) for row in log_rows(tmp_path / "run") if row["val_l1"]]
    assert scores[-1] < 0.8 * scores[0]


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


# ---- Ablations --------------------------------------------------------------------------------

# Table 1, each with its losses.
LOSSES = {
    "L1": {"gan_weight": 0.0},
    "GAN": {"conditional": False, "lambda_l1": 0.0},
    "cGAN": {"lambda_l1": 0.0},
    "L1+GAN": {"conditional": False},
    "L1+cGAN": {},
    "L1+cGAN, least squares": {"gan_loss": "least_squares"},
    "weighted": {"gan_weight": 3.0, "lambda_l1": 7.0},
}


@pytest.mark.parametrize("fields", LOSSES.values(), ids=LOSSES)
def test_the_generator_descends_the_configured_objective(fields):
    """With plain gradient descent a step is the gradient, which autograd gives as well."""
    config, model, x, y = setting(**fields)
    before = UNetGenerator(3, 3, 4, 4, dropout=0.0)
    before.load_state_dict(model.generator.state_dict())
    rate = 0.1
    losses = train_step(
        model._replace(optimizer_g=torch.optim.SGD(model.generator.parameters(), rate)),
        x,
        y,
        config,
    )
    fake = before(x)
    l1 = (fake - y).abs().mean()
    assert losses["loss_g_l1"].item() == pytest.approx(l1.item(), rel=1e-5)
    assert len(losses) == (3 if config.gan_weight else 1)
    loss = config.lambda_l1 * l1
    if config.gan_weight:
        seen = torch.cat([x, fake], 1) if config.conditional else fake
        logits = model.discriminator.layers(seen)  # the updated one
        if config.gan_loss == "least_squares":
            loss = loss + config.gan_weight * (logits - 1).square().mean()
        else:
            loss = loss - config.gan_weight * logits.sigmoid().log().mean()
    gradients = torch.autograd.grad(loss, list(before.parameters()))
    for was, now, gradient in zip(
        before.parameters(), model.generator.parameters(), gradients, strict=True
    ):
        assert torch.allclose(was - now, rate * gradient, atol=1e-5)


def test_the_discriminator_learns_by_the_configured_loss():
    config, model, x, y = setting(gan_loss="least_squares")
    before = copy.deepcopy(model)
    rate = 0.1
    sgd = torch.optim.SGD(model.discriminator.parameters(), rate)
    losses = train_step(model._replace(optimizer_d=sgd), x, y, config)
    real = before.discriminator(x, y)
    fake = before.discriminator(x, before.generator(x).detach())
    loss = ((real - 1).square().mean() + fake.square().mean()) / 2
    assert losses["loss_d"].item() == pytest.approx(loss.item(), rel=1e-5)
    gradients = torch.autograd.grad(loss, list(before.discriminator.parameters()))
    old, new = before.discriminator.parameters(), model.discriminator.parameters()
    for was, now, gradient in zip(old, new, gradients, strict=True):
        assert torch.allclose(was - now, rate * gradient, atol=1e-5)


def test_without_an_adversarial_loss_there_is_no_discriminator(pairs, tmp_path):
    config = config_for(pairs, tmp_path / "run", gan_weight=0.0, epochs=1)
    parts = build_model(config, CPU)._asdict()
    used = {name for name, part in parts.items() if part is not None}
    assert used == {"generator", "optimizer_g"}
    assert train.train(config) == 0
    assert not {"discriminator", "optimizer_d"} & load_checkpoint(tmp_path / "run").keys()
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["loss_d"] == row["loss_g_gan"] == "" for row in rows)
    assert float(rows[-1]["loss_g_l1"]) > 0


def test_an_unconditional_discriminator_sees_the_target_alone():
    model = setting(conditional=False, out_channels=1)[1]
    assert model.discriminator.layers[0].in_channels == 1
    model = setting(out_channels=1)[1]
    assert model.discriminator.layers[0].in_channels == 4


def test_a_configuration_without_any_loss_is_refused():
    with pytest.raises(UserError, match="gan_weight"):
        Config(lambda_l1=0.0, gan_weight=0.0)


# ---- Beyond the paper -------------------------------------------------------------------------

BEYOND = {
    "instance norm": {"norm": "instance", "batch_size": 2},
    "resize": {"upsampling": "resize"},
    "ema": {"ema_decay": 0.9},
    "decay": {"decay_epochs": 2},
    "L1 in bf16": {"gan_weight": 0.0, "precision": "bf16"},
    "resize in bf16": {"upsampling": "resize", "norm": "instance", "precision": "bf16"},
    "encoder-decoder": {"generator": "encoder_decoder"},
}


@pytest.mark.parametrize("fields", BEYOND.values(), ids=BEYOND)
def test_each_option_trains_resumes_bit_by_bit_and_translates(pairs, tmp_path, fields):
    whole = config_for(pairs, tmp_path / "whole", keep_epochs=1, epochs=2, **fields)
    assert train.train(whole) == 0
    part = tmp_path / "part" / "checkpoints" / "latest.pt"
    part.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "whole" / "checkpoints" / "epoch_0001.pt", part)
    assert train.main(["--resume", tmp_path / "part"]) == 0
    assert same_training(tmp_path / "whole", tmp_path / "part")
    assert load_generator(tmp_path / "part")(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_the_ema_of_the_weights_is_validated_and_used_for_inference(pairs, tmp_path):
    config = config_for(pairs, tmp_path / "run", ema_decay=0.5, epochs=1, log_steps=1)
    assert train.train(config) == 0
    state = load_checkpoint(tmp_path / "run")
    assert not equal(state["average"], state["generator"])
    assert equal(dict(load_generator(tmp_path / "run").state_dict()), dict(state["average"]))
    # Validated: what the log has is what a translation with the EMA scores.
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        logged = float(list(csv.DictReader(file))[-1]["val_l1"])
    generator = load_generator(tmp_path / "run")
    by_mean = evaluate_split(generator, "val", tmp_path / "val")["l1"]
    generator = load_generator(tmp_path / "run", ema=False)
    assert equal(dict(generator.state_dict()), dict(state["generator"]))
    by_last = evaluate_split(generator, "val", tmp_path / "val")["l1"]
    assert abs(logged - by_mean) < abs(logged - by_last) / 5
    # The weights themselves are those of a training without.
    assert train.train(config_for(pairs, tmp_path / "plain", epochs=1, log_steps=1)) == 0
    assert equal(weights(tmp_path / "plain"), state["generator"])


def test_an_ema_of_the_weights_follows_them_step_by_step(pairs, tmp_path, monkeypatch):
    expected = []

    def watched(model, x, y, config):
        def now():
            return [weight.detach().clone() for weight in model.generator.parameters()]

        before = expected or now()
        losses = train_step(model, x, y, config)
        means = zip(before, now(), strict=True)
        expected[:] = [0.75 * mean + 0.25 * weight for mean, weight in means]
        return losses

    monkeypatch.setattr(train, "train_step", watched)
    assert train.train(config_for(pairs, tmp_path / "run", ema_decay=0.75, epochs=1)) == 0
    saved = load_checkpoint(tmp_path / "run")["average"]
    for mean, value in zip(saved.values(), expected, strict=True):
        assert torch.allclose(mean, value, atol=1e-6)


def test_the_ema_keeps_no_history_of_its_weights():
    """A graph that grows at every step would use up the memory of a long run."""
    _, model, *_ = setting(ema_decay=0.5)
    train.update_average(model, 0.5)
    assert all(mean.grad_fn is None for mean in model.average.parameters())


def test_the_ema_of_the_weights_lies_in_memory_as_they_do():
    config, model, *_ = setting(ema_decay=0.5, precision="bf16", depth=5)
    model = prepare(model, config)
    strides = set()
    for mean, weight in zip(model.average.parameters(), model.generator.parameters(), strict=True):
        assert torch.equal(mean, weight) and mean.stride() == weight.stride()
        strides.add(weight.is_contiguous())
    assert strides == {True, False}


# ---- What is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("make", BAD_DATA, ids=lambda make: make.__name__)
def test_each_kind_of_bad_data_ends_in_its_line_and_exit_code_2(tmp_path, capsys, make):
    (tmp_path / "data").mkdir()
    make(tmp_path / "data")
    line = refusal(capsys, train.main, config_for(tmp_path / "data", tmp_path / "run"))
    assert re.search(BAD_DATA[make], line)


def test_a_run_is_not_overwritten_nor_changed_on_the_way(pairs, finished, capsys):
    config = config_for(pairs, finished)
    assert f"train.py --resume {finished}" in refusal(capsys, train.main, config)
    changed = refusal(capsys, train.main, "--resume", finished, "--base_channels", 8)
    assert "base_channels was 4" in changed
    nowhere = finished / "nowhere"
    assert f"{nowhere} does not exist" in refusal(capsys, train.main, "--resume", nowhere)
    assert not nowhere.exists()


def test_a_run_without_a_name_takes_the_next_free_one(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "facades").mkdir(parents=True)
    named = train.parse_arguments(["facades", "--output", "runs/facades"])
    for folder in ("facades", "facades_2", "facades_3"):
        options = train.parse_arguments(["facades"])
        assert options.config.folder == Path("runs", folder)
        assert named.config.folder == Path("runs/facades")  # as given, to be refused
        with pytest.raises(UserError):  # there are no images
            train.main(["facades"])
        assert f"training {Path('runs', folder)}" in capsys.readouterr().out
        shutil.copytree(finished, options.config.folder, dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["maps"], "data_root data/maps does not exist; python -m tools.download maps makes it"),
        (["day2night"], "python -m tools.download night2day makes it"),
        (["--data_root", "mine"], "data_root mine does not exist; it must be a folder of images"),
    ],
)
def test_a_missing_dataset_names_the_command_that_makes_it(tmp_path, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=line):
        train.main(words)
    assert not (tmp_path / "runs").exists()


def test_a_missing_dataset_names_its_folder(tmp_path, capsys):
    config = config_for(tmp_path / "nowhere", tmp_path / "run")
    line = refusal(capsys, train.main, config)
    assert f"data_root {tmp_path / 'nowhere'} does not exist" in line
    assert not (tmp_path / "run" / "config.json").exists()  # nothing has begun


def one_bad_pair(root):
    for name in ("train/1.png", "val/1.png"):
        (root / name).parent.mkdir(parents=True)
        Image.new("RGB", (64, 32)).save(root / name)
    (root / "train" / "2.png").write_bytes(b"no image")


@pytest.mark.parametrize("extra", [{}, {"cache_gb": 0, "num_workers": 1}], ids=["cached", "worker"])
def test_bad_data_is_found_before_training_or_by_a_worker(tmp_path, capsys, monkeypatch, extra):
    one_bad_pair(tmp_path / "pairs")
    monkeypatch.chdir(tmp_path)
    line = refusal(capsys, train.main, *arguments(data_root="pairs", epochs=1, **TINY, **extra))
    assert line.startswith("error: pairs/train/2.png cannot be read as an image")


def test_bad_data_ends_a_real_process_in_one_line(tmp_path):
    one_bad_pair(tmp_path / "pairs")
    fields = {**TINY, "data_root": "pairs", "cache_gb": 0, "num_workers": 1}
    result = run_script("train.py", *arguments(**fields), cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: pairs/train/2.png cannot be read as an image")


def test_only_what_differs_from_the_paper_is_printed(capsys):
    with Processes(torch.device("cpu")) as processes:
        train.resolve_config(Config(), processes)
        assert capsys.readouterr().out.endswith("the paper's facades recipe\n")
        train.resolve_config(Config(batch_size=4), processes)
        *_, but, field = capsys.readouterr().out.splitlines()
    assert but.endswith("recipe, but:") and field.split() == ["batch_size", "4"]
