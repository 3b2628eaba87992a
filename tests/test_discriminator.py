"""The discriminator against the paper's numbers and definitions."""

import pytest
import torch
from conftest import check_initialization, parameters
from torch import nn

from discriminator import PatchDiscriminator


@pytest.mark.parametrize(
    ("receptive_field", "count", "side"),
    [(1, 9_025, 256), (16, 139_585, 126), (70, 2_768_705, 30), (286, 11_159_361, 6)],
)
def test_discriminators_of_the_paper(receptive_field, count, side):
    discriminator = PatchDiscriminator(receptive_field=receptive_field)
    assert parameters(discriminator) == count
    x = torch.randn(1, 3, 256, 256)
    assert discriminator(x, x).shape == (1, 1, side, side)


@pytest.mark.parametrize("receptive_field", [1, 16, 34, 70, 142, 286])
def test_receptive_field_by_gradient(receptive_field):
    torch.manual_seed(0)
    network = PatchDiscriminator(2, base_channels=2, receptive_field=receptive_field).double()
    for name, module in list(network.layers.named_children()):
        if isinstance(module, nn.BatchNorm2d):  # its statistics depend on every pixel
            setattr(network.layers, name, nn.Identity())
    pair = torch.randn(1, 2, 640, 640, dtype=torch.double, requires_grad=True)
    logits = network(pair)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle - 1].backward()
    seen = pair.grad[0].abs().sum(0) > 0
    assert seen.any(0).sum() == seen.any(1).sum() == receptive_field
    left, top, right, bottom = network.patch(middle, middle - 1)
    assert seen[top:bottom, left:right].all() and seen.sum() == receptive_field**2


def test_weights_begin_as_the_paper_says():
    torch.manual_seed(0)
    check_initialization(PatchDiscriminator())


def test_activations_are_the_papers():
    leaky = [
        m for m in PatchDiscriminator().layers if not isinstance(m, nn.Conv2d | nn.BatchNorm2d)
    ]
    assert len(leaky) == 4 and all(m.negative_slope == 0.2 for m in leaky)


def test_unconditional_discriminator_sees_y_alone():
    discriminator = PatchDiscriminator(in_channels=3, base_channels=4)
    assert discriminator(torch.randn(2, 3, 64, 64)).shape == (2, 1, 6, 6)


def test_another_receptive_field_is_refused():
    with pytest.raises(ValueError, match="receptive_field is 71"):
        PatchDiscriminator(receptive_field=71)
