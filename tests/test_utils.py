"""Trained generators: loading, translating images of any size and mode."""

import copy
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

import train
import utils
from config import Config
from engine.cli import UserError
from engine.fast import DownProduct, UpProduct, speed_up_inference
from images.pixels import to_image, to_tensor
from images.tiles import apply_in_tiles
from utils import (
    checkpoint_files,
    generate,
    generate_any_size,
    load_checkpoint,
    load_discriminator,
    load_generator,
    run_folder,
    sample_grid,
    translate,
)


@pytest.fixture(scope="module")
def generator(run):
    return load_generator(run)


def picture(size=(50, 40), mode="RGB", seed=0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


# ---- translate --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 70), (16, 16), (17, 15), (50, 40), (64, 33), (257, 100)]
)
def test_a_translated_image_has_its_sources_size(generator, size):
    result = translate(generator, picture(size))
    assert result.size == size and result.mode == "RGB"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_any_mode_is_translated(generator, mode):
    assert translate(generator, picture(mode=mode)).size == (50, 40)


def test_sixteen_bits_are_translated_as_their_eight(generator):
    gray = np.asarray(picture(mode="L"))
    sixteen = Image.fromarray(gray.astype(np.uint16) * 257)
    assert translate(generator, sixteen) == translate(generator, Image.fromarray(gray))
    with pytest.raises(UserError, match="32-bit"):
        translate(generator, picture(mode="F"))


def test_gray_networks_take_and_give_gray(pairs, tmp_path):
    fields = {**TINY, "epochs": 1, "in_channels": 1, "out_channels": 1}
    train.train(Config(data_root=str(pairs), output=str(tmp_path), **fields))
    result = translate(load_generator(tmp_path), picture((30, 70)))
    assert (result.size, result.mode) == ((30, 70), "L")


def test_what_is_padded_is_cut_off_again(generator):
    """Without padding, the result is the network's output, pixel by pixel."""
    image = picture((48, 32))
    x = to_tensor(np.asarray(image))[None]
    assert translate(generator, image) == to_image(generate(generator, x)[0])


def test_a_large_image_is_translated_in_tiles(generator, monkeypatch):
    image, sizes = picture((100, 70)), []
    monkeypatch.setattr(utils, "generate", lambda g, x, *_: sizes.append(x.shape[-2:]) or x)
    tiled = translate(generator, image, tile=32)
    assert set(sizes) == {(32, 32)} and len(sizes) == 6 * 4  # overlapping by half
    assert np.abs(np.subtract(tiled, image, dtype=int)).max() <= 1  # blended without a loss
    assert translate(generator, image).size == image.size and sizes[-1] == (80, 112)


def test_the_noise_is_seeded_and_stays_on_in_eval_mode(generator):
    image = picture()
    assert translate(generator.eval(), image) == translate(generator.train(), image)
    generator.eval()
    assert translate(generator, image) == translate(generator, image, seed=0)
    assert translate(generator, image) != translate(generator, image, seed=1)
    silent = translate(generator, image, noise=False)
    assert silent == translate(generator, image, seed=1, noise=False) != translate(generator, image)


def test_the_noise_follows_from_the_seed_in_any_thread(generator):
    """As in a web server, which translates in several."""
    image = picture((192, 192))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: translate(generator, image, seed=3), range(24)))
    assert all(result == translate(generator, image, seed=3) for result in results)


def test_the_noise_does_not_depend_on_memory_layout_or_precision(generator):
    x = to_tensor(np.asarray(picture((32, 32))))[None]
    plain = generate(generator, x, seed=3)
    other = copy.deepcopy(generator).to(memory_format=torch.channels_last)
    assert torch.allclose(plain, generate(other, x, seed=3), atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = generate(generator, x, seed=3)
    assert (plain - mixed).abs().max() < (plain - generate(generator, x, seed=4)).abs().max() / 2


def test_fast_inference_changes_less_than_a_step_of_8_bits(generator):
    fast = copy.deepcopy(generator)
    speed_up_inference(fast)
    assert any(type(module) is DownProduct for module in fast.modules())
    assert any(type(module) is UpProduct for module in fast.modules())
    for size in ((32, 32), (200, 72)):  # also larger than the images of the training
        x = to_tensor(np.asarray(picture(size)))
        results = [generate_any_size(network, x, seed=3) for network in (generator, fast)]
        assert (results[0] - results[1]).abs().max() < 0.01 / 127.5


def test_translating_leaves_other_random_numbers_alone(generator):
    state = torch.get_rng_state()
    translate(generator, picture())
    assert torch.equal(state, torch.get_rng_state())


# ---- load_generator ---------------------------------------------------------------------------


def test_a_checkpoint_alone_is_enough(run, generator, tmp_path):
    shutil.copy(run / "checkpoints" / "latest.pt", tmp_path / "somewhere.pt")
    alone = load_generator(tmp_path / "somewhere.pt")
    assert translate(alone, picture()) == translate(generator, picture())
    trained = load_checkpoint(run)["average"]
    assert all(torch.equal(trained[name], value) for name, value in alone.state_dict().items())
    assert not alone.training and not any(p.requires_grad for p in alone.parameters())


def test_the_weights_themselves_can_be_loaded_where_there_is_an_ema(run, generator):
    itself = load_generator(run, ema=False)
    trained = load_checkpoint(run)["generator"]
    assert all(torch.equal(trained[name], value) for name, value in itself.state_dict().items())
    assert translate(itself, picture()) != translate(generator, picture())


def test_the_discriminator_is_loaded_too(run):
    discriminator = load_discriminator(run)
    trained = load_checkpoint(run)["discriminator"]
    weights = discriminator.state_dict()
    assert all(torch.equal(trained[name], value) for name, value in weights.items())
    assert discriminator.config.data_root == load_generator(run).config.data_root


def test_a_run_is_found_by_its_folder_or_its_checkpoint(run, tmp_path):
    latest = run / "checkpoints" / "latest.pt"
    assert run_folder(run) == run_folder(latest) == run_folder(latest.parent) == run
    assert checkpoint_files(run)[0] == latest and checkpoint_files(latest) == [latest]
    assert checkpoint_files(tmp_path / "missing") == []
    for path, reason in ((tmp_path, "holds neither checkpoints"), (run / "x.pt", "does not exist")):
        with pytest.raises(UserError, match=reason):
            load_generator(path)


# ---- sample_grid ------------------------------------------------------------------------------


def test_a_grid_has_its_groups_in_rows():
    groups = [tuple(torch.full((3, 8, 8), value) for value in (-1.0, 0.0, 1.0))] * 5
    assert sample_grid(groups).size == (3 * 12 + 4, 5 * 12 + 4)
    assert sample_grid(groups, across=3).size == (9 * 12 + 4, 2 * 12 + 4)


def test_tiles_may_have_other_channels_than_the_image():
    x = torch.rand(5, 40, 44) * 2 - 1
    y = apply_in_tiles(lambda part: part[:1] * 0.5, x, side=32)
    assert y.shape == (1, 40, 44) and torch.allclose(y, x[:1] * 0.5, atol=1e-6)
