"""The paper's ablations, and what goes beyond it, as configurations that train."""

import copy
import csv
import shutil

import pytest
import torch
from conftest import TINY, equal, same_training
from test_training import config_for, weights

import train
from config import Config, UserError
from evaluate import evaluate_split
from fast import lay_out_as, prepare
from generator import UNetGenerator
from train import build_model, train_step
from utils import load_checkpoint, load_generator

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


def setting(**fields):
    config = Config(**{**TINY, "dropout": 0.0, **fields})
    model = build_model(config, torch.device("cpu"))
    torch.manual_seed(1)
    x, y = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    return config, model, x, y


@pytest.mark.parametrize("fields", LOSSES.values(), ids=LOSSES)
def test_the_generator_descends_the_objective_that_is_configured(fields):
    """With plain gradient descent a step is the gradient, which autograd gives as well."""
    config, model, x, y = setting(**fields)
    before = UNetGenerator(3, 3, 4, 4, dropout=0.0)
    before.load_state_dict(model.generator.state_dict())
    rate = 0.1
    train_step(
        model._replace(optimizer_g=torch.optim.SGD(model.generator.parameters(), rate)),
        x,
        y,
        config,
    )
    fake = before(x)
    loss = config.lambda_l1 * (fake - y).abs().mean()
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


def test_the_discriminator_learns_by_the_loss_that_is_configured():
    config, model, x, y = setting(gan_loss="least_squares")
    before = copy.deepcopy(model)
    rate = 0.1
    sgd = torch.optim.SGD(model.discriminator.parameters(), rate)
    losses = train_step(model._replace(optimizer_d=sgd), x, y, config)
    real = before.discriminator(x, y)
    fake = before.discriminator(x, before.generator(x).detach())
    loss = ((real - 1).square().mean() + fake.square().mean()) / 2
    assert losses[0].item() == pytest.approx(loss.item(), rel=1e-5)
    gradients = torch.autograd.grad(loss, list(before.discriminator.parameters()))
    old, new = before.discriminator.parameters(), model.discriminator.parameters()
    for was, now, gradient in zip(old, new, gradients, strict=True):
        assert torch.allclose(was - now, rate * gradient, atol=1e-5)


def test_without_an_adversarial_loss_there_is_no_discriminator(pairs, tmp_path):
    config = config_for(pairs, tmp_path / "run", gan_weight=0.0)
    assert build_model(config, torch.device("cpu")).parts().keys() == {"generator", "optimizer_g"}
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
    whole = config_for(pairs, tmp_path / "whole", keep_epochs=1, **fields)
    assert train.train(whole) == 0
    part = tmp_path / "part" / "checkpoints" / "latest.pt"
    part.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "whole" / "checkpoints" / "epoch_0001.pt", part)
    assert train.main(None, {}, str(tmp_path / "part")) == 0
    assert same_training(tmp_path / "whole", tmp_path / "part")
    assert load_generator(tmp_path / "part")(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_instance_norm_is_batch_norm_at_batch_1_and_keeps_pictures_apart_beyond():
    torch.manual_seed(0)
    batch, instance = (UNetGenerator(3, 3, 4, 4, 0.0, norm) for norm in ("batch", "instance"))
    instance.load_state_dict(batch.state_dict())
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    together = instance(x)
    assert torch.allclose(together[:1], batch(x[:1]), atol=1e-5)
    assert torch.allclose(together[:1], instance(x[:1]), atol=1e-5)
    assert not torch.allclose(batch(x)[:1], batch(x[:1]), atol=1e-3)


def test_the_mean_of_the_weights_is_what_is_validated_and_translated_with(pairs, tmp_path):
    config = config_for(pairs, tmp_path / "run", ema_decay=0.5, epochs=1, log_steps=1)
    assert train.train(config) == 0
    state = load_checkpoint(tmp_path / "run")
    assert not equal(state["average"], state["generator"])
    assert equal(dict(load_generator(tmp_path / "run").state_dict()), dict(state["average"]))
    # Validated: what the log has is what a translation with the mean scores.
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        logged = float(list(csv.DictReader(file))[-1]["val_l1"])
    generator = load_generator(tmp_path / "run")
    by_mean = evaluate_split(generator, "val", tmp_path / "val")["l1"]
    generator.load_state_dict(state["generator"])
    by_last = evaluate_split(generator, "val", tmp_path / "val")["l1"]
    assert abs(logged - by_mean) < abs(logged - by_last) / 5
    # The weights themselves are those of a training without.
    assert train.train(config_for(pairs, tmp_path / "plain", epochs=1, log_steps=1)) == 0
    assert equal(weights(tmp_path / "plain"), state["generator"])


def test_a_mean_of_the_weights_follows_them_step_by_step(pairs, tmp_path, monkeypatch):
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


def test_the_mean_of_the_weights_lies_in_memory_as_they_do():
    config, model, *_ = setting(ema_decay=0.5, precision="bf16", depth=5)
    average = train.averaged(model.generator, config)
    prepare(model, config)
    lay_out_as(average, model.generator)
    strides = set()
    for mean, weight in zip(average.parameters(), model.generator.parameters(), strict=True):
        assert torch.equal(mean, weight) and mean.stride() == weight.stride()
        strides.add(weight.is_contiguous())
    assert strides == {True, False}


@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
def test_a_plain_picture_stays_plain_through_the_resizing_decoder(upsampling):
    """The checkerboard: a flat input shows the pattern of the upsampling itself."""
    torch.manual_seed(0)
    generator = UNetGenerator(3, 3, 16, 4, 0.0, upsampling=upsampling)
    inside = generator(torch.full((1, 3, 128, 128), 0.3))[..., 48:80, 48:80]
    roughness = (inside - inside.mean(dim=(2, 3), keepdim=True)).abs().max().item()
    assert (roughness < 1e-3) == (upsampling == "resize"), roughness
