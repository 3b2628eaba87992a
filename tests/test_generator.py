"""The generator against the paper's numbers and definitions."""

import pytest
import torch
from conftest import check_initialization, parameters
from torch import nn

from generator import EncoderDecoderGenerator, UNetGenerator


def small_generator(kind=UNetGenerator, depth=5, **options) -> UNetGenerator:
    torch.manual_seed(0)
    return kind(base_channels=4, depth=depth, **options)


def test_generator_has_the_papers_parameters():
    assert parameters(UNetGenerator()) == 54_413_955
    # The decoder's inputs are half as wide without the skips: 8 layers less 4*4*in*out each.
    joined = [(512, 512)] * 4 + [(512, 256), (256, 128), (128, 64), (64, 3)]
    skips = sum(16 * a * b for a, b in joined) - 16 * 512 * 512  # the bottleneck has none
    assert parameters(EncoderDecoderGenerator()) == 54_413_955 - skips


def test_weights_begin_as_the_paper_says():
    torch.manual_seed(0)
    check_initialization(UNetGenerator())


def test_activations_are_the_papers():
    """Leaky of slope 0.2 in the encoder, plain in the decoder."""
    generator = UNetGenerator(base_channels=2)
    assert not any(isinstance(module, nn.LeakyReLU) for module in generator.encoder[0])
    for layer in generator.encoder[1:]:
        assert isinstance(layer[0], nn.LeakyReLU) and layer[0].negative_slope == 0.2
    for layer in [*generator.decoder, generator.output]:
        assert isinstance(layer[0], nn.ReLU)
    assert isinstance(generator.output[-1], nn.Tanh)


@pytest.mark.parametrize("depth", [6, 7, 8, 9, 10])
def test_depths_for_64_to_1024_px(depth):
    generator = UNetGenerator(base_channels=2, depth=depth)
    side = 2**depth
    with torch.no_grad():
        output = generator(torch.randn(1, 3, side, side))
    assert output.shape == (1, 3, side, side)
    assert output.abs().max() <= 1


def test_any_multiple_of_the_bottleneck_runs_and_others_are_refused():
    generator = small_generator(in_channels=1, out_channels=2)
    assert generator(torch.randn(2, 1, 32, 96)).shape == (2, 2, 32, 96)
    with pytest.raises(ValueError, match=r"40x32.*multiples of 32"):
        generator(torch.randn(1, 1, 32, 40))


@pytest.mark.parametrize(
    ("layers", "depth", "expected"),
    [("paper", 6, {0, 1, 2}), ("port", 6, {1}), ("port", 8, {1, 2, 3})],
)
def test_noise_enters_where_it_should_and_skips_join_their_mirror(layers, depth, expected):
    generator = small_generator(depth=depth, dropout_layers=layers)
    outputs, inputs, skips = {}, {}, {}
    for i, layer in enumerate(generator.encoder):
        layer.register_forward_hook(lambda _, __, y, i=i: skips.update({i: y}))
    following = [*generator.decoder[1:], generator.output]
    for i, (layer, after) in enumerate(zip(generator.decoder, following, strict=True)):
        layer.register_forward_hook(lambda _, __, y, i=i: outputs.update({i: y}))
        after.register_forward_pre_hook(lambda _, x, i=i: inputs.update({i: x[0]}))
    generator(torch.randn(1, 3, 2**depth, 2**depth))

    for i, before in outputs.items():
        channels = before.shape[1]
        after, skip = inputs[i][:, :channels], inputs[i][:, channels:]
        assert torch.equal(skip, skips[len(skips) - 2 - i])  # decoder i and encoder n - i
        dropped = after == 0
        if i in expected:
            assert dropped.float().mean() == pytest.approx(0.5, abs=0.2)
            assert torch.equal(after[~dropped], 2 * before[~dropped])
        else:
            assert torch.equal(after, before)


def test_noise_stays_on_in_eval_and_can_be_switched_off():
    generator = small_generator().eval()
    x = torch.randn(1, 3, 32, 32)
    assert not torch.equal(generator(x), generator(x))
    assert torch.equal(generator(x, noise=False), generator(x, noise=False))


def test_norms_use_the_batch_in_eval_as_in_training():
    generator = small_generator()
    assert not dict(generator.named_buffers())  # nowhere to keep running averages
    x = torch.randn(2, 3, 32, 32)
    trained = generator.train()(x, noise=False)
    assert torch.equal(trained, generator.eval()(x, noise=False))
    alone = generator(x[:1], noise=False)
    assert not torch.allclose(alone, trained[:1], atol=1e-3)  # its neighbour matters

    norm = generator.encoder[1][2]
    features = torch.randn(1, norm.num_features, 4, 4)
    by_instance = nn.functional.instance_norm(features, weight=norm.weight, bias=norm.bias)
    assert torch.allclose(norm(features), by_instance, atol=1e-6)


def test_the_bottleneck_lets_the_input_through():
    """With a norm there, one pixel at batch 1 would be zero whatever came in."""
    generator = small_generator(EncoderDecoderGenerator)
    x = torch.randn(2, 1, 3, 32, 32)
    first, second = (generator(image, noise=False) for image in x)
    assert (first - second).abs().max() > 1e-4
    norms = [any(isinstance(m, nn.BatchNorm2d) for m in layer) for layer in generator.encoder]
    assert norms == [False, True, True, True, False]


# ---- Beyond the paper -------------------------------------------------------------------------


def test_instance_norm_is_batch_norm_at_batch_1_and_keeps_images_apart_beyond():
    torch.manual_seed(0)
    batch, instance = (UNetGenerator(3, 3, 4, 4, 0.0, norm) for norm in ("batch", "instance"))
    instance.load_state_dict(batch.state_dict())
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    together = instance(x)
    assert torch.allclose(together[:1], batch(x[:1]), atol=1e-5)
    assert torch.allclose(together[:1], instance(x[:1]), atol=1e-5)
    assert not torch.allclose(batch(x)[:1], batch(x[:1]), atol=1e-3)


@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
def test_a_plain_image_stays_plain_through_the_resizing_decoder(upsampling):
    """The checkerboard: a flat input shows the pattern of the upsampling itself."""
    torch.manual_seed(0)
    generator = UNetGenerator(3, 3, 16, 4, 0.0, upsampling=upsampling)
    inside = generator(torch.full((1, 3, 128, 128), 0.3))[..., 48:80, 48:80]
    roughness = (inside - inside.mean(dim=(2, 3), keepdim=True)).abs().max().item()
    assert (roughness < 1e-3) == (upsampling == "resize"), roughness
