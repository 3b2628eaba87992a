"""Starting from trained weights: runs, exports, and the PyTorch port's files."""

import shutil
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import config_for, equal, same_training
from torch import nn

import train
from discriminator import PatchDiscriminator
from engine.cli import UserError
from tools.export import export_generator
from train import build_model
from utils import generate, load_checkpoint, load_generator

SMALL = {"epochs": 1, "ema_decay": 0.9}


class PortBlock(nn.Module):
    """A level of the port's unet, written after its description: what is inside comes between down
    and up, and the skip is joined before what comes from inside."""

    def __init__(self, outer, inner, inside=None, channels=None, norm=nn.BatchNorm2d):
        super().__init__()
        bias = norm is nn.InstanceNorm2d
        self.outermost = channels is not None
        down = nn.Conv2d(channels or outer, inner, 4, 2, 1, bias=bias)
        up = nn.ConvTranspose2d(inner * (2 if inside else 1), outer, 4, 2, 1, bias=bias)
        if self.outermost:
            up = nn.ConvTranspose2d(2 * inner, outer, 4, 2, 1)
            layers = [down, inside, nn.ReLU(), up, nn.Tanh()]
        elif inside is None:
            layers = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, norm(outer)]
        else:
            layers = [nn.LeakyReLU(0.2), down, norm(inner), inside, nn.ReLU(), up, norm(outer)]
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        y = self.model(x)
        return y if self.outermost else torch.cat([x, y], 1)


class PortGenerator(nn.Module):
    def __init__(self, depth=7, width=4, norm=nn.BatchNorm2d):
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(depth)]
        block = None
        for outer, inner in reversed(list(pairwise(widths))):
            block = PortBlock(outer, inner, block, norm=norm)
        self.model = PortBlock(1, width, block, channels=3, norm=norm)

    def forward(self, x):
        return self.model(x)


def port_file(path, network=None, legacy=False):
    torch.manual_seed(0)
    network = network or PortGenerator()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.1)
            nn.init.normal_(module.bias, 0, 0.1)
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    return network


@pytest.mark.parametrize("legacy", [False, True])
def test_the_ports_generators_give_the_ports_outputs(tmp_path, legacy):
    port = port_file(tmp_path / "latest_net_G.pth", legacy=legacy)
    generator = load_generator(tmp_path / "latest_net_G.pth")
    x = torch.rand(1, 3, 128, 256) * 2 - 1
    with torch.no_grad():
        assert (generate(generator, x, noise=False) - port(x)).abs().max() < 1e-4
    assert (generate(generator, x) - port(x)).abs().max() > 1e-3  # dropout, as the port's
    assert generator.dropped == range(1, 3)


@pytest.mark.parametrize(
    ("network", "line"),
    [
        (PortGenerator(norm=nn.InstanceNorm2d), "none of the port's unet generators"),
        (PortGenerator(depth=5), "none of the port's unet generators"),
        (nn.Sequential(nn.Conv2d(3, 64, 7), nn.Conv2d(64, 3, 7)), "none of the port's unet"),
        (nn.Linear(3, 3), "it holds no convolutions"),
    ],
)
def test_other_networks_of_the_port_are_refused_in_a_line(tmp_path, network, line):
    port_file(tmp_path / "latest_net_G.pth", network)
    with pytest.raises(UserError, match=line):
        load_generator(tmp_path / "latest_net_G.pth")
    (tmp_path / "x.pth").write_bytes(b"garbage")
    with pytest.raises(UserError, match="cannot be read as weights of the port"):
        load_generator(tmp_path / "x.pth")


def test_the_ports_generator_is_exported_and_fine_tuned(tmp_path, pairs):
    port_file(tmp_path / "latest_net_G.pth")
    ours = PatchDiscriminator(in_channels=4)  # the port's has the same layers in the same order
    torch.save(ours.state_dict(), tmp_path / "latest_net_D.pth")
    export_generator(tmp_path / "latest_net_G.pth", tmp_path / "export")
    loaded = load_generator(tmp_path / "export")
    assert equal(loaded.state_dict(), load_generator(tmp_path / "latest_net_G.pth").state_dict())

    fields = {"depth": 7, "out_channels": 1, "crop_size": 128, "load_size": 128}
    config = config_for(pairs, tmp_path / "run", **SMALL, **fields)
    config = replace(config, discriminator_channels=64, init=str(tmp_path / "latest_net_G.pth"))
    model = build_model(config, torch.device("cpu"))
    assert equal(model.generator.state_dict(), loaded.state_dict())
    assert equal(model.discriminator.state_dict(), ours.state_dict())


def test_a_run_starts_from_another(tmp_path, pairs, capsys):
    first = config_for(pairs, tmp_path / "first", **SMALL)
    train.train(first)
    trained = load_checkpoint(first.folder)
    second = replace(first, seed=1, init=str(first.folder), output=str(tmp_path / "second"))
    model = build_model(second, torch.device("cpu"))
    assert f"the generator and the discriminator of {first.folder}" in capsys.readouterr().out
    for name in ("generator", "discriminator"):
        assert equal(getattr(model, name).state_dict(), trained[name])
    assert equal(model.average.state_dict(), trained["generator"])

    # A discriminator of another shape starts anew.
    model = build_model(replace(second, receptive_field=16), torch.device("cpu"))
    assert f"starting from the generator of {first.folder}" in capsys.readouterr().out
    assert equal(model.generator.state_dict(), trained["generator"])

    with pytest.raises(UserError, match=r"base_channels 4, not 8; give --base_channels 4"):
        build_model(replace(second, base_channels=8), torch.device("cpu"))


def test_a_discriminator_that_does_not_fit_is_left_as_it_was(tmp_path, pairs, capsys):
    first = config_for(pairs, tmp_path / "first", **SMALL)
    train.train(first)
    second = replace(first, conditional=False, output=str(tmp_path / "second"))
    untouched = build_model(second, torch.device("cpu")).discriminator.state_dict()
    capsys.readouterr()
    model = build_model(replace(second, init=str(first.folder)), torch.device("cpu"))
    assert "starting from the generator of" in capsys.readouterr().out
    assert equal(model.discriminator.state_dict(), untouched)


def test_a_fine_tuned_run_resumes_without_what_it_started_from(tmp_path, pairs):
    first = config_for(pairs, tmp_path / "first", **SMALL)
    train.train(first)
    second = replace(first, init=str(first.folder), epochs=2, output=str(tmp_path / "whole"))
    train.train(second)
    half = replace(second, epochs=1, output=str(tmp_path / "half"))
    train.train(half)
    shutil.rmtree(first.folder)
    train.main(["--resume", str(half.folder), "--epochs", "2"])
    assert same_training(half.folder, second.folder)
