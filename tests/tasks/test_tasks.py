"""Tasks that make their own pairs: the pairs, training, and images of any size."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY, refusal, save_pair
from PIL import Image

import evaluate
import train
from config import PRESETS, Config
from dataset import PairedDataset
from engine.cli import UserError
from images.pixels import to_image, to_tensor
from images.tiles import apply_in_tiles
from tasks import TASKS, task_of
from tasks.base import PhotoTask, at_training_size
from tasks.colorization import from_lab, to_lab
from tasks.edges import draw
from tasks.inpainting import read_masks
from utils import build_generator, load_generator, translate

FIELDS = {
    "colorization": {"in_channels": 1, "out_channels": 2},
    "inpainting": {},
    "super_resolution": {},
    "edges": {"in_channels": 1},
    "style": {},
}


def photo(width=50, height=40, seed=0) -> Image.Image:
    """Smooth colors with a few hard edges."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (5, 6, 3), np.uint8)
    pixels = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    pixels[height // 3 : height // 2, width // 3 : width // 2] = random.integers(0, 256, 3)
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of 20 photos of several sizes, without folders for the splits."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(1, 21):
        photo(48 + number, 60 - number, seed=number).save(root / f"{number}.png")
    return root


def config_for(task: str, photos: Path, output: Path | str = "runs/none", **fields) -> Config:
    settings = {**TINY, "task": task, "epochs": 1, "log_steps": 50, **FIELDS[task], **fields}
    return Config(data_root=str(photos), output=str(output), **settings)


# ---- Finding the photos -----------------------------------------------------------------------


def test_a_tenth_each_of_one_folder_is_set_aside(photos):
    splits = {}
    for split in ("train", "val", "test"):
        dataset = PairedDataset(config_for("inpainting", photos), split)
        splits[split] = {pair.name for pair in dataset.pairs}
    assert splits["val"] == {"9", "19"} and splits["test"] == {"10", "20"}
    assert splits["train"] == {str(n) for n in range(1, 21)} - {"9", "19", "10", "20"}


def test_folders_of_splits_are_used_as_they_are(photos, tmp_path, capsys):
    (tmp_path / "train").mkdir()
    for number in range(1, 4):
        photo(seed=number).save(tmp_path / "train" / f"{number}.png")
    assert len(PairedDataset(config_for("style", tmp_path), "train")) == 3
    assert len(PairedDataset(config_for("style", tmp_path), "val")) == 3
    assert "using 'train'" in capsys.readouterr().out


def test_a_few_photos_are_used_for_every_split(tmp_path, capsys):
    for number in range(3):
        photo(seed=number).save(tmp_path / f"{number}.png")
    for split in ("train", "val", "test"):
        assert len(PairedDataset(config_for("edges", tmp_path), split)) == 3
    assert "too few" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["A", "B"])
def test_halves_of_side_by_side_files_can_be_the_photos(pairs, part):
    config = config_for("inpainting", pairs, part=part)
    for side, name in ((0, "A"), (48, "B")):
        image = Image.open(pairs / "val" / "1.png").crop((side, 0, side + 48, 48))
        expected = to_tensor(np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)))
        equal = torch.equal(PairedDataset(config, "val")[0]["target"], expected)
        assert equal == (name == part)


def test_halves_in_folders_of_their_own_can_be_the_photos(tmp_path):
    for side, seed in (("A", 1), ("B", 2)):
        (tmp_path / side / "train").mkdir(parents=True)
        photo(32, 32, seed).save(tmp_path / side / "train" / "x.png")
    dataset = PairedDataset(config_for("inpainting", tmp_path, part="B"), "val")
    assert to_image(dataset[0]["target"]) == photo(32, 32, 2)


def test_limit_takes_the_first_images_of_each_split(photos, pairs):
    assert len(PairedDataset(config_for("style", photos, limit=3), "train")) == 3
    config = Config(**{**TINY, "data_root": str(pairs), "limit": 2})
    names = [pair.name for pair in PairedDataset(config, "train").pairs]
    assert names == ["1", "2"]


# ---- The pairs they make ----------------------------------------------------------------------


def both(task, photos, split="train", **fields):
    return PairedDataset(config_for(task, photos, **fields), split)[0, 1]


def test_colorization_is_lab_as_in_the_lua_code():
    colors = np.array([[[255, 0, 0], [0, 255, 0], [255, 255, 255], [0, 0, 0]]], np.uint8)
    light, color = to_lab(to_tensor(colors))
    # CIE Lab (D65) of sRGB red, green, white and black
    lab = [(53.24, 80.09, 67.20), (87.73, -86.18, 83.18), (100, 0, 0), (0, 0, 0)]
    for i, (lightness, a, b) in enumerate(lab):
        assert light[0, 0, i].item() == pytest.approx(lightness / 50 - 1, abs=0.01)
        assert color[:, 0, i].tolist() == pytest.approx([a / 110, b / 110], abs=0.01)
    assert np.abs(np.asarray(to_image(from_lab(light, color))).astype(int) - colors).max() <= 1


def test_the_hole_of_inpainting_is_the_white_center(photos):
    pair = both("inpainting", photos)
    hole = torch.zeros(1, 32, 32, dtype=torch.bool)
    hole[:, 8:24, 8:24] = True
    assert torch.equal(pair["mask"], hole)
    assert (pair["input"][:, hole[0]] == 1).all()
    assert torch.equal(pair["input"][:, ~hole[0]], pair["target"][:, ~hole[0]])


def test_random_holes_differ_by_epoch_and_can_be_repeated(photos):
    dataset = PairedDataset(config_for("inpainting", photos, mask="random"), "train")
    holes = [dataset[epoch, 0]["mask"] for epoch in range(8)]
    assert len({hole.numpy().tobytes() for hole in holes}) == 8
    assert all(0 < hole.float().mean() < 0.8 for hole in holes)
    assert torch.equal(dataset[3, 0]["mask"], holes[3])


def test_masks_from_a_folder(photos, tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[:16] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    pair = both("inpainting", photos, mask=str(tmp_path))
    assert pair["mask"][0, :8].all() and not pair["mask"][0, 8:].any()
    with pytest.raises(UserError, match=r"nowhere.*center, random"):
        PairedDataset(config_for("inpainting", photos, mask=str(tmp_path / "nowhere")), "train")


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_super_resolution_reduces_and_enlarges(photos, factor):
    pair = both("super_resolution", photos, factor=factor)
    assert pair["input"].shape == pair["target"].shape == (3, 32, 32)
    # Like Pillow's own bicubic filter, there and back, except for rounding.
    small = to_image(pair["target"]).resize((32 // factor,) * 2, Image.Resampling.BICUBIC)
    expected = to_tensor(np.asarray(small.resize((32, 32), Image.Resampling.BICUBIC)))
    assert (pair["input"] - expected).abs().max() < 0.05
    assert (pair["input"] - pair["target"]).abs().mean() > 0.01


def test_edges_are_black_lines_where_the_photo_has_edges():
    pixels = np.full((32, 32, 3), 60, np.uint8)
    pixels[:, 16:] = 200
    drawing = draw(to_tensor(pixels))
    assert set(drawing.unique().tolist()) == {-1.0, 1.0}
    assert (drawing[0, :, 14:18] == -1).any(dim=1).all()
    assert (drawing[0, :, :12] == 1).all() and (drawing[0, :, 20:] == 1).all()


def test_both_get_the_same_crop_and_flip(photos):
    """A painting is made from the whole photo, and then cropped with it."""
    config = config_for("style", photos)
    dataset = PairedDataset(config, "train")
    photo_pixels, painting = dataset.cache[0]
    found = 0
    for epoch in range(6):
        pair = dataset[epoch, 0]
        for top in range(5):
            for left in range(5):
                for flip in (1, -1):
                    place = (slice(top, top + 32), slice(left, left + 32))
                    if torch.equal(pair["input"], to_tensor(photo_pixels[place][:, ::flip])):
                        assert torch.equal(pair["target"], to_tensor(painting[place][:, ::flip]))
                        found += 1
    assert found >= 6
    assert (photo_pixels != painting).any()


# ---- Training, evaluating and translating -----------------------------------------------------


@pytest.fixture(scope="session", params=FIELDS)
def run(request, photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / request.param
    assert train.train(config_for(request.param, photos, folder)) == 0
    return folder


def test_each_task_trains_evaluates_and_translates_any_size(run, tmp_path):
    generator = load_generator(run)
    summary = evaluate.evaluate_split(generator, "test", tmp_path)
    assert summary["images"] == 2 and np.isfinite(summary["ssim"])
    for kind in ("output", "target"):
        assert Image.open(tmp_path / kind / "10.png").mode == "RGB"
    factor = 4 if run.name == "super_resolution" else 1
    for size in ((32, 32), (50, 40), (1, 70), (130, 61)):
        result = translate(generator, photo(*size))
        assert result.mode == "RGB" and result.size == (size[0] * factor, size[1] * factor)


def test_the_script_translates_an_image(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo().save(tmp_path / "x.png")
    words = ["--input", "x.png", "--output", "y.png"]
    if run.name == "inpainting":
        mask = np.zeros((40, 50), np.uint8)
        mask[3:20, 7:30] = 255
        Image.fromarray(mask).save(tmp_path / "mask.png")
        words += ["--mask", "mask.png"]
    if run.name == "edges":
        words += ["--draw"]
    assert evaluate.main([run, "--device", "cpu", *words]) == 0
    y = Image.open(tmp_path / "y.png")
    assert y.size == ((200, 160) if run.name == "super_resolution" else (50, 40))
    if run.name == "inpainting":
        known = mask == 0
        assert (np.asarray(y)[known] == np.asarray(photo())[known]).all()
        assert (np.asarray(y)[~known] != np.asarray(photo())[~known]).any()


def generator_of(task, photos, **fields):
    torch.manual_seed(0)
    config = config_for(task, photos, **fields)
    generator = build_generator(config).requires_grad_(False)
    generator.config = config
    return generator


def test_a_colorized_image_keeps_the_lightness_of_every_pixel(photos):
    generator = generator_of("colorization", photos)
    gray = photo(131, 77).convert("L")
    result = np.asarray(translate(generator, gray), np.float32) / 255
    lightness = cv2.cvtColor(result, cv2.COLOR_RGB2LAB)[..., 0]
    three = np.asarray(gray.convert("RGB"), np.float32) / 255
    expected = cv2.cvtColor(three, cv2.COLOR_RGB2LAB)[..., 0]
    difference = np.abs(lightness - expected)  # of 100; clipping to RGB can change it
    assert np.median(difference) < 0.5 and np.mean(difference < 2) > 0.9
    # It depends on the lightness alone, so the color of the input does not matter.
    color = np.asarray(photo(131, 77))
    again = from_lab(to_lab(to_tensor(color))[0], torch.zeros(2, 77, 131))
    near = np.abs(
        np.asarray(translate(generator, to_image(again))).astype(int)
        - np.asarray(translate(generator, photo(131, 77))).astype(int)
    )
    assert np.mean(near) < 2


@pytest.mark.parametrize("size", [(32, 32), (77, 131), (200, 90)])
def test_known_pixels_keep_their_exact_values(photos, size):
    generator = generator_of("inpainting", photos)
    image = photo(*size)
    before, after = np.asarray(image), np.asarray(translate(generator, image))
    width, height = size
    hole = np.zeros((height, width), bool)
    hole[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    assert (before[~hole] == after[~hole]).all()
    assert (before[hole] != after[hole]).any(axis=-1).mean() > 0.9
    empty = Image.new("L", size)
    assert translate(generator, image, mask=empty) == image


def test_masks_that_do_not_fit_are_refused(photos):
    generator = generator_of("inpainting", photos, mask="random")
    with pytest.raises(UserError, match="--mask"):
        translate(generator, photo())
    with pytest.raises(UserError, match=r"20x20.*50x40"):
        translate(generator, photo(), mask=Image.new("L", (20, 20), 255))
    with pytest.raises(UserError, match="inpainting"):
        translate(generator_of("style", photos), photo(), mask=Image.new("L", (50, 40)))


def test_the_network_sees_images_at_the_size_of_training(photos):
    """Resized as a whole or, for super resolution, in tiles."""
    sizes = {"colorization": (32, 54), "inpainting": (32, 54), "super_resolution": (32, 32)}
    for name, size in sizes.items():
        seen = []
        task = task_of(config_for(name, photos))

        def run(x, seen=seen, channels=task.config.out_channels):
            seen.append(tuple(x.shape[-2:]))
            return x.expand(channels, -1, -1)

        tiled = (
            partial(apply_in_tiles, run, side=task.tile) if task.tile else run
        )  # as translate does
        result = task.translate(torch.zeros(3, 77, 131), tiled)
        assert set(seen) == {size}, name
        factor = 4 if name == "super_resolution" else 1
        assert result.shape == (3, 77 * factor, 131 * factor)


@pytest.mark.parametrize("size", [(32, 32), (77, 131)])
def test_nothing_under_the_hole_is_seen(photos, size):
    generator = generator_of("inpainting", photos)
    image = np.array(photo(*size))
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[5:20, 7:25] = 255
    results = []
    for value in (0, 255):
        image[mask > 0] = value
        results.append(translate(generator, Image.fromarray(image), mask=Image.fromarray(mask)))
    difference = np.abs(np.subtract(*[np.asarray(result, int) for result in results]))
    assert (difference == 0).all()


def test_a_thin_mask_is_not_lost_when_the_image_is_reduced(photos):
    generator = generator_of("inpainting", photos)
    image = photo(300, 200)
    for row in range(90, 110):
        mask = np.zeros((200, 300), np.uint8)
        mask[row] = 255
        result = np.asarray(translate(generator, image, mask=Image.fromarray(mask)))
        assert (result[row] != np.asarray(image)[row]).any(axis=-1).mean() > 0.9


def test_the_central_square_of_a_photo_is_used(tmp_path):
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = photo(32, 32)
    Image.fromarray(wide).save(tmp_path / "1.png")
    pair = PairedDataset(config_for("inpainting", tmp_path), "val")[0]
    assert to_image(pair["target"]) == photo(32, 32)


def test_tiles_leave_no_seams():
    x = torch.rand(3, 150, 107)
    assert torch.allclose(apply_in_tiles(lambda tile: tile * 0.5, x, 32), x * 0.5, atol=1e-6)
    # Tiles of different tones blend without a step.
    tones = torch.Generator().manual_seed(0)
    toned = apply_in_tiles(
        lambda tile: tile + torch.rand(1, generator=tones), torch.zeros(1, 150, 107), 32
    )
    steps = max(toned.diff(dim=1).abs().max(), toned.diff(dim=2).abs().max())
    assert toned.std() > 0.1 and steps < 0.15
    small = x[:, :20, :30]
    assert apply_in_tiles(lambda tile: tile, small, 32) is small


def test_every_task_has_a_preset_that_fits_it():
    for name in FIELDS:
        assert PRESETS[name].task == name
        assert isinstance(task_of(PRESETS[name]), PhotoTask)
    with pytest.raises(UserError, match=r"in_channels.*colorization"):
        Config(task="colorization")
    with pytest.raises(UserError, match=r"out_channels.*style"):
        Config(task="style", out_channels=1)
    with pytest.raises(UserError, match=r"crop_size.*factor"):
        Config(task="super_resolution", factor=8, crop_size=20, load_size=20, depth=2)


def test_options_that_would_be_ignored_are_refused(tmp_path):
    for words, line in (
        (["--mask", "m.png"], "--mask needs --input"),
        (["--draw"], "--draw needs --input"),
        (["--input", "x.png", "--scorer", "r"], "--scorer cannot be combined with --input"),
    ):
        with pytest.raises(UserError, match=line):
            evaluate.main(["run", *words])
    (tmp_path / "A").mkdir()
    with pytest.raises(UserError, match="--part A"):
        PairedDataset(config_for("edges", tmp_path), "train")


def test_the_size_of_training_is_limited():
    assert at_training_size(torch.zeros(1, 100, 200), 32).shape == (1, 32, 64)
    assert at_training_size(torch.zeros(1, 1, 1000), 32).shape == (1, 1, 128)


def test_pairs_can_teach_a_style(pairs, tmp_path):
    fields = replace(PRESETS["style"], task="pairs", direction="AtoB")
    fields = replace(fields, **{**TINY, "data_root": str(pairs), "epochs": 1, "batch_size": 1})
    assert train.train(replace(fields, output=str(tmp_path / "run"))) == 0


def test_a_gray_photo_is_read_from_half_of_a_file(tmp_path):
    a, b = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    save_pair(tmp_path / "train" / "1.png", a, b)
    config = config_for("inpainting", tmp_path, part="B", in_channels=1, out_channels=1)
    pair = PairedDataset(config, "train")[0]
    assert pair["target"].shape == (1, 32, 32) and (pair["target"] == 1).all()


# ---- The interface ----------------------------------------------------------------------------


def test_channels_of_photos_and_of_the_cache(photos):
    """What dataset.py asks a task: channels that are translated, read and cached."""
    expected = {"colorization": (3, 3, 3), "edges": (1, 3, 3), "style": (3, 3, 6)}
    assert TASKS.keys() == {"pairs", *FIELDS}
    for name in FIELDS:
        task = task_of(config_for(name, photos))
        found = (task.channels, task.photo_channels, task.bytes_per_pixel)
        assert found == expected.get(name, (3, 3, 3)), name
        pair = PairedDataset(task.config, "val").load(0)
        different = pair[:1] if pair[0] is pair[1] else pair
        assert sum(image.shape[-1] for image in different) == task.bytes_per_pixel
    pairs = task_of(Config(in_channels=1))
    assert not isinstance(pairs, PhotoTask) and (pairs.channels, pairs.bytes_per_pixel) == (1, 4)
    gray = task_of(config_for("inpainting", photos, in_channels=1, out_channels=1))
    assert (gray.channels, gray.photo_channels, gray.bytes_per_pixel) == (1, 1, 1)


def test_bad_masks_are_refused(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    refused = []
    with pytest.raises(UserError, match="none of the masks in"):
        read_masks(tmp_path, 16, refused.append)
    Image.new("L", (8, 8), 255).save(tmp_path / "good.png")
    (mask,) = read_masks(tmp_path, 16, refused.append)
    assert mask.shape == (1, 16, 16) and mask.all()
    assert len(refused) == 2 and "bad.png" in str(refused[0])
    Image.new("L", (8, 8), 100).save(tmp_path / "empty.png")
    assert len(read_masks(tmp_path, 16, refused.append)) == 1
    assert "empty.png has no white pixels at 16 px" in str(refused[-1])


def test_an_empty_mask_of_an_input_is_refused(photos, tmp_path, capsys):
    config = config_for("inpainting", photos, output=tmp_path / "run")
    assert train.train(config) == 0
    photo().save(tmp_path / "x.png")
    Image.new("L", photo().size).save(tmp_path / "mask.png")
    words = [config.output, "--input", tmp_path / "x.png", "--mask", tmp_path / "mask.png"]
    assert "mask.png has no white pixels; the hole must be white" in refusal(
        capsys, evaluate.main, *words
    )
