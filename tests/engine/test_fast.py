"""What is fast computes the same as what is plain."""

import copy
import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, arguments, config_for, refusal, same_training
from half import use_half_convolutions
from torch import nn

import train
from config import Config
from engine.fast import (
    HALVES,
    DownProduct,
    UpProduct,
    choose_precision,
    loss_scale,
    matching_gradient,
    mixed_precision,
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


@pytest.mark.parametrize("precision, rounding", [("bf16", 0.02), ("fp16", 0.002)])
def test_half_precision_keeps_losses_weights_and_moments_in_fp32(precision, rounding):
    for enabled in (True, False):
        model, plain = prepared(precision=precision, fast=enabled)
        x, y = batch()
        losses, expected = (
            stacked_step(one, x, y, Config(precision=kind))
            for one, kind in ((model, precision), (plain, "fp32"))
        )
        assert losses.dtype == torch.float32
        assert torch.allclose(losses, expected, rtol=rounding)
        assert not torch.equal(losses, expected)  # it did compute in bf16 or fp16
        output = model.generator(x)  # but for the last layers, whose rounding would be seen
        assert not torch.equal(output, output.to(HALVES[precision]).float())
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


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("size", [1, 2])
def test_gradients_of_the_fast_step_are_those_of_the_plain_one(size, precision):
    """PyTorch's batch norm may give wrong gradients for unusual strides, with right outputs."""
    fields = {"precision": precision, "depth": 5, "base_channels": 16, "receptive_field": 34}
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


@pytest.mark.parametrize(
    "there, back", [("bf16", "fp32"), ("fp32", "bf16"), ("fp32", "fp16"), ("fp16", "bf16")]
)
def test_a_run_resumes_in_another_precision(pairs, tmp_path, there, back):
    """Moments laid out for one are laid out anew for the other. Their values stay, but for the
    scale of fp16."""
    train.train(config_for(pairs, tmp_path / "run", precision=there, epochs=1))
    saved = load_checkpoint(tmp_path / "run")
    scale = loss_scale(back) / loss_scale(there)
    model, _ = prepared(precision=back, fast=back != "fp32")
    for name, optimizer in (("optimizer_g", model[2]), ("optimizer_d", model[3])):
        restore(optimizer, saved[name])
        states = saved[name]["state"].values()
        for (weight, moments), before in zip(optimizer.state.items(), states, strict=True):
            assert torch.equal(moments["exp_avg"], before["exp_avg"] * scale)
            assert torch.equal(moments["exp_avg_sq"], before["exp_avg_sq"] * scale**2)
            assert moments["step"] == before["step"]
            assert moments["exp_avg"].stride() == weight.stride()
            assert moments["exp_avg_sq"].stride() == weight.stride()
    words = ["--resume", tmp_path / "run", "--precision", back, "--epochs", 2]
    assert train.main(words) == 0
    assert load_checkpoint(tmp_path / "run")["config"]["precision"] == back


# ---- fp16 -------------------------------------------------------------------------------------


def test_the_scale_of_fp16_leaves_the_updates_as_they_are(pairs, tmp_path, monkeypatch):
    """Bit by bit, in fp32, where a scale of 2**8 rounds nothing; also after changes on the way."""
    monkeypatch.setattr("engine.fast.HALVES", {})
    for name, (first, second) in {"plain": ("fp32", "fp32"), "scaled": ("fp16", "fp32")}.items():
        config = config_for(pairs, tmp_path / name, precision=first, epochs=1)
        assert train.train(config) == 0
        words = ["--precision", second, "--epochs", 2]
        assert train.main(["--resume", tmp_path / name, *words]) == 0
    assert same_training(tmp_path / "plain", tmp_path / "scaled")


def test_gradients_too_small_for_fp16_reach_the_weights():
    x, _ = batch()

    def gradient(precision: str, scaled: bool = True) -> torch.Tensor:
        network = prepared(precision=precision)[0].generator
        scale = loss_scale(precision) if scaled else 1.0
        with mixed_precision(precision, CPU):
            y = network(x)
        (scale * 1e-4 * y.square().mean()).backward()
        return network.encoder[0][0].weight.grad / scale

    expected = gradient("fp32")
    assert not gradient("fp16", scaled=False).any()
    assert (gradient("fp16") - expected).norm() < 0.3 * expected.norm()


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_the_convolutions_of_the_measurement_are_those_of_fp16(kind, monkeypatch):
    monkeypatch.setattr(kind, "forward", kind.forward)  # restores it in the end
    torch.manual_seed(0)
    layer, x = kind(8, 6, 4, stride=2, padding=1), torch.randn(2, 8, 8, 8, requires_grad=True)
    results = []
    for replaced in (False, True):
        if replaced:
            use_half_convolutions(kind)
        with mixed_precision("fp16", CPU):
            y = layer(x)
        loss = (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum()
        results.append([y, *torch.autograd.grad(loss, [x, layer.weight, layer.bias])])
    for expected, found in zip(*results, strict=True):
        assert found.dtype == expected.dtype
        assert (found - expected).norm() < 1e-3 * expected.norm()


def test_a_run_in_fp16_resumes_bit_by_bit(pairs, tmp_path):
    fields = {"precision": "fp16", "keep_epochs": 1}
    assert train.train(config_for(pairs, tmp_path / "whole", epochs=2, **fields)) == 0
    part = tmp_path / "part" / "checkpoints" / "latest.pt"
    part.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "whole" / "checkpoints" / "epoch_0001.pt", part)
    assert train.main(["--resume", tmp_path / "part"]) == 0
    assert same_training(tmp_path / "whole", tmp_path / "part")


@pytest.mark.parametrize("precision, advice", [
    ("fp16", "Resume with --precision fp32: fp16 overflows above 65504"),
    ("bf16", "Try a lower learning_rate"),
])  # fmt: skip
def test_what_overflows_ends_in_a_line_with_advice(pairs, tmp_path, capsys, precision, advice):
    """Weights this large give losses above what fp16 holds, and a discriminator that is not
    finite."""
    words = ["--data_root", pairs, *arguments(**{**TINY, "precision": precision, "epochs": 1})]
    words += ["--lambda_l1", 1e30 if precision == "bf16" else 1e6, "--output", tmp_path / "run"]
    line = refusal(capsys, train.main, *words)
    assert "not finite" in line and line.endswith(advice)


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
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: version)

    be(8, 0)
    return be


@pytest.mark.parametrize("precision, version, expected", [
    ("fp32", (7, 5), False), ("fp16", (7, 5), True), ("fp32", (8, 0), True),
    ("bf16", (8, 0), True), ("fp32", (12, 0), True),
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


# ---- The choice of a precision ----------------------------------------------------------------


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bf16_on_a_cpu_built_for_it(monkeypatch, native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert choose_precision("auto", CPU)[0] == ("bf16" if native else "fp32")
    assert choose_precision("auto", torch.device("mps"))[0] == "fp32"
    assert choose_precision("fp32", CPU) == ("fp32", "as configured")


@pytest.mark.parametrize("version, hint", [((7, 5), True), ((7, 0), True), ((6, 1), False)])
def test_a_gpu_without_bf16_trains_in_fp32_and_names_fp16(capability, monkeypatch, version, hint):
    capability(*version)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: False)
    precision, reason = choose_precision("auto", torch.device("cuda"))
    assert precision == "fp32" and "this GPU has no bf16" in reason
    assert ("--precision fp16" in reason) == hint
    assert choose_precision("fp16", torch.device("cuda")) == ("fp16", "as configured")
    assert "very slow on this cpu" in choose_precision("fp16", CPU)[1]


def test_auto_is_settled_once_and_kept(pairs, tmp_path, monkeypatch, capsys):
    for native in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        if native:
            train.train(config_for(pairs, tmp_path, epochs=1, precision="auto"))
        else:
            train.main(["--resume", tmp_path, "--epochs", 2])
        assert load_checkpoint(tmp_path)["config"]["precision"] == "bf16"
        assert "precision bf16: " in capsys.readouterr().out
