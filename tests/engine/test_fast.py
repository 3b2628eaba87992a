"""What is fast computes the same as what is plain."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, config_for, equal, same_training, weights
from torch import nn

import train
from config import Config
from engine.devices import rng_state, set_rng_state
from engine.fast import (
    DownProduct,
    GraphedStep,
    UpProduct,
    choose_precision,
    matching_gradient,
    speed_up,
)
from engine.resume import restore
from train import build_model, prepare, train_step
from utils import load_checkpoint

pytestmark = pytest.mark.usefixtures("undrawn")

CPU = torch.device("cpu")


def prepared(device=CPU, **fields):
    """A model as a run prepares it, and the plain one with the same weights."""
    config = Config(**{**TINY, "device": device.type, "dropout": 0.0, **fields})
    plain = build_model(config, device)
    return prepare(build_model(config, device), config), plain


def batch(size: int = 1, side: int = 32, device=CPU):
    torch.manual_seed(1)
    return torch.rand(2, size, 3, side, side).mul(2).sub(1).to(device)


@pytest.mark.parametrize(
    "product_kind, kind", [(DownProduct, nn.Conv2d), (UpProduct, nn.ConvTranspose2d)]
)
@pytest.mark.parametrize("size", [(2, 4), (8, 2), (16, 16)])
def test_a_layer_as_a_matrix_product_is_the_same_function(product_kind, kind, size):
    layer = kind(5, 7, 4, stride=2, padding=1, bias=False).double()
    x = torch.randn(3, 5, *size, dtype=torch.float64, requires_grad=True)
    results = []
    for function in (layer, product_kind(layer)):
        y = function(x)
        gradients = torch.autograd.grad((y * y.cos()).sum(), [x, layer.weight])
        results.append([y, *gradients])
    for native, product in zip(*results, strict=True):
        assert torch.allclose(native, product, rtol=1e-10)


def test_fast_training_in_fp32_on_a_cpu_is_the_plain_one_bit_by_bit(pairs, tmp_path):
    for name in ("fast", "plain"):
        # depth 5: the layers beyond the third are without dropout, and their gradients slices
        config = config_for(pairs, tmp_path / name, precision="fp32", depth=5, fast=name == "fast")
        assert train.train(config) == 0
    assert same_training(tmp_path / "fast", tmp_path / "plain")


def stacked_step(*arguments) -> torch.Tensor:
    return torch.stack(list(train_step(*arguments).values()))


def test_bf16_keeps_losses_weights_and_moments_in_fp32():
    for enabled in (True, False):
        model, plain = prepared(precision="bf16", fast=enabled)
        x, y = batch()
        losses, expected = (
            stacked_step(one, x, y, Config(precision=precision))
            for one, precision in ((model, "bf16"), (plain, "fp32"))
        )
        assert losses.dtype == torch.float32
        assert torch.allclose(losses, expected, rtol=0.02)
        assert not torch.equal(losses, expected)  # it did compute in bf16
        output = model.generator(x)  # but for the last layers, whose rounding would be seen
        assert not torch.equal(output, output.bfloat16().float())
        for network, optimizer in ((model[0], model[2]), (model[1], model[3])):
            for parameter in network.parameters():
                moments = optimizer.state[parameter]
                kinds = {parameter.dtype, moments["exp_avg"].dtype, moments["exp_avg_sq"].dtype}
                assert kinds == {torch.float32}


def test_in_bf16_too_g_meets_the_updated_d():
    """Autocast may keep a weight it has cast, and would hand out the old one."""
    model, _ = prepared(precision="bf16", learning_rate=0.01)
    before = copy.deepcopy(model.discriminator.state_dict())
    generator = copy.deepcopy(model.generator.state_dict())
    x, y = batch()
    loss_gan = train_step(model, x, y, Config())["loss_g_gan"].item()
    model.generator.load_state_dict(generator)
    with torch.no_grad():
        fake = model.generator(x)
        met = -F.logsigmoid(model.discriminator(x, fake)).mean().item()
        model.discriminator.load_state_dict(before)
        old = -F.logsigmoid(model.discriminator(x, fake)).mean().item()
    assert loss_gan == pytest.approx(met, rel=1e-3)
    assert abs(loss_gan - old) > 0.01


def test_gradients_arrive_in_the_layout_of_the_output():
    norms = [nn.BatchNorm2d(4, track_running_stats=False) for _ in range(2)]
    norms[0].register_forward_hook(matching_gradient)
    seen = []
    for norm in norms:
        x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
        y = norm(x)
        y.register_hook(lambda gradient: seen.append(gradient.is_contiguous()))
        torch.cat([y, y.detach()], dim=1).sin().sum().backward()
        seen.append(x.grad)
    assert seen[0] and not seen[2]
    assert torch.allclose(seen[1], seen[3], rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        norms[0](x)  # a hook has nothing to do here, and must not complain


@pytest.mark.parametrize("size", [1, 2])
def test_gradients_of_the_fast_step_are_those_of_the_plain_one(size):
    """PyTorch's batch norm may give wrong gradients for unusual strides, with right outputs."""
    fields = {"precision": "bf16", "depth": 5, "base_channels": 16, "receptive_field": 34}
    (quick, _), (plain, _) = prepared(**fields), prepared(**fields, fast=False)
    x, y = batch(size)
    for model in (quick, plain):
        (model.generator(x) - y).square().mean().backward()
        model.discriminator(x, y).square().mean().backward()
    for network in range(2):
        for (name, ours), theirs in zip(
            quick[network].named_parameters(), plain[network].parameters(), strict=True
        ):
            error = (ours.grad - theirs.grad).norm() / theirs.grad.norm()
            assert error < 0.2, f"{name}: {error}"


@pytest.mark.parametrize("there, back", [("bf16", "fp32"), ("fp32", "bf16")])
def test_a_run_resumes_in_another_precision(pairs, tmp_path, there, back):
    """Moments laid out for one are laid out anew for the other, and their values stay."""
    train.train(config_for(pairs, tmp_path / "run", precision=there, epochs=1))
    saved = load_checkpoint(tmp_path / "run")
    model, _ = prepared(precision=back, fast=back == "bf16")
    for name, optimizer in (("optimizer_g", model[2]), ("optimizer_d", model[3])):
        restore(optimizer, saved[name])
        assert equal(optimizer.state_dict()["state"], saved[name]["state"])
        for parameter, moments in optimizer.state.items():
            assert moments["exp_avg"].stride() == parameter.stride()
            assert moments["exp_avg_sq"].stride() == parameter.stride()
    words = ["--resume", tmp_path / "run", "--precision", back, "--epochs", 2]
    assert train.main(words) == 0
    assert load_checkpoint(tmp_path / "run")["config"]["precision"] == back


# ---- What other devices get, prepared here and computed on the CPU ----------------------------


def prepared_as_on(device: str, precision: str = "fp32", **fields):
    """A generator as it is sped up on another device, the plain one, and what speed_up returned."""
    config = Config(**{**TINY, "dropout": 0.0, "depth": 5, **fields})
    quick, plain = (build_model(config, CPU).generator for _ in range(2))
    weight = SimpleNamespace(device=torch.device(device))
    elsewhere = SimpleNamespace(parameters=lambda: iter([weight]), modules=quick.modules)
    return quick, plain, speed_up([elsewhere], precision, batch()[0])


def in_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def capability(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)

    def be(*version: int):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: version)

    be(8, 0)
    return be


@pytest.mark.parametrize("precision, version, expected", [
    ("fp32", (7, 5), False), ("fp32", (8, 0), True), ("bf16", (8, 0), True),
    ("fp32", (12, 0), True),
])  # fmt: skip
def test_gpus_without_tf32_keep_the_layout_in_fp32(capability, precision, version, expected):
    capability(*version)
    quick, _, fused = prepared_as_on("cuda", precision)
    layers = [m for m in quick.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert all(in_channels_last(layer.weight) == expected for layer in layers)
    assert fused and torch.backends.cudnn.benchmark


def test_mps_gets_one_pass_adam_and_nothing_else():
    quick, plain, fused = prepared_as_on("mps")
    assert fused and all(weight.is_contiguous() for weight in quick.parameters())
    assert not any(module._forward_hooks for module in quick.modules())
    x, _ = batch()
    assert torch.equal(quick(x), plain(x))


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_norms_on_a_gpu_keep_the_layout_both_ways(capability, norm):
    quick, plain, _ = prepared_as_on("cuda", norm=norm)
    seen = []

    def look(layer, inputs, output):
        seen.append(output)
        if norm == "batch":
            output.register_hook(lambda gradient: seen.append(gradient))

    for module in quick.modules():
        if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
            module.register_forward_hook(look)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    x, y = batch(2)
    results = []
    for network in (quick, plain):
        output = network(x.contiguous(memory_format=torch.channels_last))
        (output - y).square().mean().backward()
        results.append([output, *(weight.grad for weight in network.parameters())])
    assert all(map(in_channels_last, seen)) and len(seen) > 10
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_graph_is_recorded_on_the_stream_of_the_first_steps(monkeypatch):
    used = []
    for name in ("Stream", "CUDAGraph", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    monkeypatch.setattr(torch.cuda, "stream", lambda s: used.append(s) or nullcontext())
    monkeypatch.setattr(
        torch.cuda, "graph", lambda g, stream=None, **options: used.append(stream) or nullcontext()
    )
    graphed = GraphedStep(lambda x, y: x + y)
    for _ in range(GraphedStep.warm_up + 1):
        graphed(*batch())
    assert used == [graphed.side] * (GraphedStep.warm_up + 1)


# ---- The choice of a precision ----------------------------------------------------------------


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bf16_on_a_cpu_built_for_it(monkeypatch, native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert choose_precision("auto", CPU)[0] == ("bf16" if native else "fp32")
    assert choose_precision("auto", torch.device("mps"))[0] == "fp32"
    assert choose_precision("fp32", CPU) == ("fp32", "as configured")


def test_auto_is_settled_once_and_kept(pairs, tmp_path, monkeypatch, capsys):
    for native in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        if native:
            train.train(config_for(pairs, tmp_path, epochs=1, precision="auto"))
        else:
            train.main(["--resume", tmp_path, "--epochs", 2])
        assert load_checkpoint(tmp_path)["config"]["precision"] == "bf16"
        assert "precision bf16: " in capsys.readouterr().out


# ---- GPU --------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_replayed_step_is_the_recorded_one(precision):
    device = torch.device("cuda")
    model, _ = prepared(device, precision=precision)
    other, _ = prepared(device, precision=precision)
    graphed = GraphedStep(lambda x, y: stacked_step(model, x, y, Config()))
    for step in range(8):
        x, y = batch(device=device) * (1 - step / 10)
        replayed = graphed(x, y).clone()
        assert torch.allclose(replayed, stacked_step(other, x, y, Config()), rtol=0.02), step
    assert graphed.graph is not None


@needs_gpu
def test_every_replay_draws_its_own_noise_and_can_be_repeated():
    device = torch.device("cuda")
    config = Config(**{**TINY, "device": "cuda", "learning_rate": 1e-30})
    model = prepare(build_model(config, device), config)
    graphed = GraphedStep(lambda x, y: stacked_step(model, x, y, config))
    x, y = batch(device=device)
    for _ in range(GraphedStep.warm_up + 1):
        graphed(x, y)
    state = rng_state(device)
    first = [graphed(x, y).clone() for _ in range(3)]
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])
    set_rng_state(state, device)
    assert all(torch.equal(graphed(x, y), losses) for losses in first)
    set_rng_state(state, device)
    assert torch.allclose(stacked_step(model, x, y, config), first[0], rtol=0.02)


@needs_gpu
def test_training_on_a_gpu_resumes_and_moves_to_the_cpu(pairs, tmp_path):
    config = config_for(pairs, tmp_path / "run", device="cuda", epochs=2, decay_epochs=1)
    assert train.train(config) == 0
    before = weights(tmp_path / "run")
    assert train.main(["--resume", tmp_path / "run", "--epochs", 3]) == 0
    assert not equal(before, weights(tmp_path / "run"))
    words = ["--device", "cpu", "--precision", "fp32", "--epochs", 4]
    assert train.main(["--resume", tmp_path / "run", *words]) == 0
