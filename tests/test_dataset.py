"""Pairs from files: split, cropped and mirrored alike, and bad files reported by name."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, TINY, save_pair
from PIL import Image

import train
from config import Config
from dataset import PairedDataset, load_pairs
from engine.cli import UserError
from engine.order import TrainingOrder
from images.pixels import eight_bits

FACADES = REPOSITORY / "data" / "facades"  # if it was downloaded


def config_for(root: Path, **fields) -> Config:
    return Config(**{"data_root": str(root), "direction": "AtoB", **TINY, **fields})


def coordinates(side: int) -> np.ndarray:
    """An image that holds coordinates: red is 5 times the column, green 5 times the row."""
    rows, columns = np.mgrid[:side, :side] * 5
    return np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)


def to_pixels(tensor: torch.Tensor) -> np.ndarray:
    return ((tensor + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


def image(width: int = 64, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def mapped(tmp_path) -> Path:
    """Pairs whose halves hold their coordinates, B marked by blue; no resize blurs them at 36."""
    a = coordinates(36)
    for number in range(20):
        save_pair(tmp_path / "train" / f"{number}.png", a, a + np.uint8([0, 0, 200]))
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    return tmp_path


# ---- Augmentation -----------------------------------------------------------------------------


def crop_of(pixels: np.ndarray) -> tuple[int, int, bool]:
    """(left, top, mirrored) of a crop of `coordinates`, checked in every pixel."""
    columns, rows = pixels[0, :, 0].astype(int) // 5, pixels[:, 0, 1].astype(int) // 5
    mirrored = columns[0] > columns[-1]
    left, top = columns.min(), rows[0]
    expected = coordinates(36)[top : top + 32, left : left + 32]
    assert np.array_equal(pixels[:, :, :2], (expected[:, ::-1] if mirrored else expected)[:, :, :2])
    return left, top, mirrored


def test_crop_and_mirror_are_the_same_for_both_halves_in_every_pixel(mapped):
    data = PairedDataset(config_for(mapped), "train")
    seen = set()
    for epoch in range(30):
        for index in range(len(data)):
            pair = data[epoch, index]
            x, y = to_pixels(pair["input"]), to_pixels(pair["target"])
            assert x.shape == y.shape == (32, 32, 3)
            assert np.array_equal(x[:, :, :2], y[:, :, :2])
            assert (x[:, :, 2] == 0).all() and (y[:, :, 2] == 200).all()
            seen.add(crop_of(x))
    assert {left for left, _, _ in seen} == {top for _, top, _ in seen} == set(range(5))
    # All 5 * 5 * 2 occur: mirroring does not depend on the place of the crop.
    assert len(seen) == 50


def test_nothing_is_random_outside_training(mapped):
    data = PairedDataset(config_for(mapped), "val")
    whole = Image.fromarray(coordinates(36)).resize((32, 32), Image.Resampling.BICUBIC)
    for epoch in range(5):
        assert np.array_equal(to_pixels(data[epoch, 3]["input"]), np.asarray(whole))


def test_mirror_and_jitter_can_be_turned_off(mapped):
    data = PairedDataset(config_for(mapped, mirror=False), "train")
    assert not any(crop_of(to_pixels(data[0, i]["input"]))[2] for i in range(20))
    data = PairedDataset(config_for(mapped, mirror=False, load_size=32), "train")
    assert torch.equal(data[0, 0]["input"], data[7, 0]["input"])


def test_rotate_turns_and_flips_both_halves_alike(mapped):
    data = PairedDataset(config_for(mapped, rotate=True, load_size=32), "train")
    whole = to_pixels(PairedDataset(config_for(mapped), "val")[0]["input"])
    turned = [np.rot90(image, turns) for image in (whole, whole[:, ::-1]) for turns in range(4)]
    seen = set()
    for epoch in range(10):
        for index in range(len(data)):
            pair = data[epoch, index]
            x, y = to_pixels(pair["input"]), to_pixels(pair["target"])
            assert np.array_equal(x[:, :, :2], y[:, :, :2])
            seen.add([np.array_equal(x[:, :, :2], one[:, :, :2]) for one in turned].index(True))
    assert seen == set(range(8))


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_changes_the_input_alone(mapped, channels):
    config = config_for(mapped, jitter=0.3, in_channels=channels)
    data = PairedDataset(config, "train")
    plain = PairedDataset(replace(config, jitter=0.0), "train")
    for index in range(5):
        ours, theirs = data[0, index], plain[0, index]
        assert torch.equal(ours["target"], theirs["target"])
        assert ours["input"].shape == theirs["input"].shape == (channels, 32, 32)
        assert 0 < (ours["input"] - theirs["input"]).abs().mean() < 0.5
        assert torch.equal(data[0, index]["input"], ours["input"])  # it is seeded
        assert not torch.equal(data[1, index]["input"], ours["input"])


def test_an_item_follows_from_seed_epoch_and_index_alone(mapped):
    config = config_for(mapped)
    first, second = PairedDataset(config, "train"), PairedDataset(config, "train")
    second[3, 1], second[5, 2]  # earlier items do not matter
    other = PairedDataset(replace(config, seed=1), "train")

    def crops(data: PairedDataset, epoch: int) -> list:
        return [crop_of(to_pixels(data[epoch, index]["input"])) for index in range(20)]

    assert crops(first, 4) == crops(second, 4)
    assert crops(first, 4) != crops(first, 5)
    assert crops(first, 4) != crops(other, 4)
    assert len(set(crops(first, 4))) > 5


def order_of(config: Config, start: int = 0) -> TrainingOrder:
    """Of the 20 pairs of `mapped`."""
    return TrainingOrder(20, config.batch_size, config.epochs, config.seed, start)


def test_items_are_those_of_a_list(pairs, tmp_path):
    data = PairedDataset(Config(data_root=str(pairs), **TINY), "val")
    assert [item["name"] for item in data] == ["1", "2"]
    assert data[-1]["name"] == "2"
    for index in (2, -3):
        with pytest.raises(IndexError):
            data[index]


@pytest.mark.parametrize("cache_gb", [0.0, 4.0])
def test_workers_and_resumes_change_nothing(mapped, cache_gb):
    config = config_for(mapped, batch_size=3, epochs=2, cache_gb=cache_gb)
    batches = {}
    for workers, start in ((0, 0), (2, 0), (2, 5)):
        data = PairedDataset(replace(config, num_workers=workers), "train")
        order = order_of(config, start)
        batches[workers, start] = list(load_pairs(data, order))
    assert len(batches[0, 0]) == 2 * (20 // 3)
    assert len(batches[2, 5]) == len(batches[0, 0]) - 5
    for one, other in ((batches[2, 0], batches[0, 0]), (batches[2, 5], batches[0, 0][5:])):
        for a, b in zip(one, other, strict=True):
            assert a["name"] == b["name"]
            assert torch.equal(a["input"], b["input"]) and torch.equal(a["target"], b["target"])


def test_loading_leaves_the_random_numbers_of_training_alone(mapped):
    config = config_for(mapped, num_workers=2)
    state = torch.get_rng_state()
    data = PairedDataset(config, "train")
    next(iter(load_pairs(data, order_of(config))))
    assert torch.equal(state, torch.get_rng_state())


# ---- Layouts, splits, directions --------------------------------------------------------------


def test_only_training_on_a_gpu_pins_memory(mapped, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (6, 1))
    monkeypatch.setattr("dataset.load_batches", lambda data, order, workers, pin, collate: pin)
    for device, codes, expected in (
        ("auto", "sm_60", True),
        ("auto", "sm_80", False),
        ("cpu", "sm_60", False),
    ):
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda codes=codes: [codes])
        data = PairedDataset(config_for(mapped, device=device), "train")
        assert load_pairs(data, TrainingOrder(len(data), 1, 1, 0)) == expected


def test_direction_decides_which_half_is_the_input(mapped):
    forward = PairedDataset(config_for(mapped), "val")[0]
    backward = PairedDataset(config_for(mapped, direction="BtoA"), "val")[0]
    assert torch.equal(forward["input"], backward["target"])
    assert torch.equal(forward["target"], backward["input"])
    assert not torch.equal(forward["input"], forward["target"])


def test_two_folders_match_by_name_without_its_ending(tmp_path):
    for number in (1, 2, 10):
        for side, ending in (("A", "jpg"), ("B", "png")):
            path = tmp_path / side / "train" / f"{number}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            color = (20 * number, 0, 0) if side == "A" else (0, 20 * number, 0)
            Image.new("RGB", (50, 40), color).save(path)
    data = PairedDataset(config_for(tmp_path), "train")
    assert [data[i]["name"] for i in range(3)] == ["1", "2", "10"]
    for i, number in enumerate((1, 2, 10)):
        x, y = to_pixels(data[i]["input"]), to_pixels(data[i]["target"])
        assert abs(int(x[0, 0, 0]) - 20 * number) <= 3 and y[0, 0, 1] == 20 * number


@pytest.mark.parametrize(
    ("present", "asked", "used"),
    [
        (["train", "val"], "test", "val"),
        (["train", "test"], "val", "test"),
        (["train"], "val", "train"),
    ],
)
def test_a_missing_split_is_replaced_with_a_message(tmp_path, capsys, present, asked, used):
    for split in present:
        save_pair(tmp_path / split / f"{split}.png", coordinates(36), coordinates(36))
    data = PairedDataset(config_for(tmp_path), asked)
    assert data[0]["name"] == used
    assert not data.augmented
    assert f"has no split '{asked}'; using '{used}'" in capsys.readouterr().out


def test_a_set_that_fits_in_memory_is_read_once(mapped):
    data = PairedDataset(config_for(mapped), "train")
    uncached = PairedDataset(config_for(mapped, cache_gb=0.0), "train")
    assert (data.cached, uncached.cached) == (True, False)
    assert torch.equal(data[1, 5]["input"], uncached[1, 5]["input"])
    for file in (mapped / "train").iterdir():
        file.unlink()
    data[2, 5]
    with pytest.raises(UserError, match=r"5\.png"):
        uncached[2, 5]


@pytest.fixture
def wide(tmp_path) -> Path:
    """Pairs of 96x48 halves; a pixel's red is its column, its green its row."""
    rows, columns = np.mgrid[:48, :96]
    a = np.stack([2 * columns, 4 * rows, 0 * rows], axis=2).astype(np.uint8)
    for split in ("train", "val", "test"):
        for number in range(3):
            save_pair(tmp_path / split / f"{number}.png", a, 255 - a)
    return tmp_path


@pytest.mark.parametrize(
    ("resize", "whole", "step"),
    # A step to the right changes red by 2 in the file, and by more once it is shrunk.
    [("stretch", (32, 32), 96 / 36), ("fit", (36, 72), 48 / 36), ("none", (48, 96), 1)],
)
def test_images_keep_their_shape_if_asked(wide, resize, whole, step):
    config = config_for(wide, resize=resize)
    train, test = PairedDataset(config, "train"), PairedDataset(config, "test")
    for epoch in range(5):
        x, y = (train[epoch, 0][name] for name in ("input", "target"))
        assert x.shape == y.shape == (3, 32, 32)
        assert (x + y).abs().max() < 0.03  # both have the same crop and flip
        slope = (y[0, 16, 20] - y[0, 16, 10]).abs() * 127.5 / 10
        assert slope == pytest.approx(2 * step, rel=0.12)
    assert test[0]["input"].shape == test[0]["target"].shape == (3, *whole)
    assert train.cached == test.cached and len({x.tobytes() for x, _ in train.cache}) == 1


def test_stretching_is_reported_and_small_images_are_refused(wide, capsys):
    PairedDataset(config_for(wide), "train")
    assert "96x48 is stretched to a square; --resize fit" in capsys.readouterr().out
    PairedDataset(config_for(wide, resize="fit"), "train")
    assert "stretched" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"0\.png is 96x48, less than crop_size;"):
        PairedDataset(config_for(wide, resize="none", crop_size=64, load_size=64), "train")


def test_target_label_maps_are_resized_without_inventing_colors(tmp_path):
    """Those of the input are blended, as in the paper, which tells more of where an edge is."""
    colors = np.array([(0, 0, 170), (255, 170, 0), (255, 0, 0)], np.uint8)
    labels = colors[np.random.default_rng(0).integers(0, 3, (48, 48))]
    for split in ("train", "val"):
        save_pair(tmp_path / split / "1.png", labels, labels)
    for palette, exact in (("demo", True), ("none", False)):
        for direction, kind in (("BtoA", "input"), ("AtoB", "target")):
            config = config_for(tmp_path, palette=palette, direction=direction)
            for split in ("train", "val"):
                image = PairedDataset(config, split)[0][kind]
                found = eight_bits(image).flatten(1).T.unique(dim=0).numpy()
                known = all((colors == color).all(axis=1).any() for color in found)
                assert known == (exact and kind == "target")


def test_one_channel(mapped):
    pair = PairedDataset(config_for(mapped, in_channels=1), "train")[0]
    assert (pair["input"].shape, pair["target"].shape) == ((1, 32, 32), (3, 32, 32))
    pair = PairedDataset(config_for(mapped, out_channels=1), "val")[0]
    assert (pair["input"].shape, pair["target"].shape) == ((3, 32, 32), (1, 32, 32))
    gray = np.asarray(Image.fromarray(coordinates(36) + np.uint8([0, 0, 200])).convert("L"))
    expected = Image.fromarray(gray).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(to_pixels(pair["target"])[:, :, 0], np.asarray(expected))


def test_a_turned_pair_is_split_upright(tmp_path):
    exif = Image.Exif()
    exif[Image.ExifTags.Base.Orientation] = 6  # to be shown a quarter turn clockwise
    pair = np.concatenate([coordinates(36), coordinates(36) + np.uint8([0, 0, 200])], axis=1)
    (tmp_path / "val").mkdir()
    turned = Image.fromarray(pair).transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "val" / "1.png", exif=exif)
    pair = PairedDataset(config_for(tmp_path), "val")[0]
    assert (to_pixels(pair["input"])[:, :, 2] == 0).all()
    assert (to_pixels(pair["target"])[:, :, 2] == 200).all()


# ---- What is refused --------------------------------------------------------------------------


def write(path: Path, content: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content.save(path)


def broken(root: Path):
    write(root / "train" / "1.png", image())
    data = (root / "train" / "1.png").read_bytes()
    (root / "train" / "1.png").write_bytes(data[: len(data) // 2])


def no_image(root: Path):
    (root / "train").mkdir()
    (root / "train" / "1.jpg").write_text("<html>404</html>")


def odd_width(root: Path):
    write(root / "train" / "1.png", Image.new("RGB", (65, 32)))


def float_values(root: Path):
    write(root / "train" / "1.tif", Image.new("F", (64, 32)))


def empty_folder(root: Path):
    (root / "train").mkdir()
    (root / "train" / "notes.txt").write_text("no images yet")


def no_split(root: Path):
    write(root / "1.png", image())


def no_folder(root: Path):
    root.rmdir()


def no_partner(root: Path):
    for name in ("A/train/1.png", "A/train/2.png", "B/train/2.png"):
        write(root / name, image())


def no_partner_in_a(root: Path):
    for name in ("A/train/2.png", "B/train/1.png", "B/train/2.png"):
        write(root / name, image())


def halves_differ(root: Path):
    write(root / "A" / "train" / "1.png", Image.new("RGB", (64, 32)))
    write(root / "B" / "train" / "1.png", Image.new("RGB", (64, 33)))


def same_name_twice(root: Path):
    write(root / "train" / "1.png", image())
    write(root / "train" / "1.jpg", image())


BAD_DATA = {
    broken: r"train.1\.png cannot be read as an image",
    no_image: r"train.1\.jpg cannot be read as an image",
    odd_width: r"train.1\.png is 65 px wide",
    float_values: r"train.1\.tif: 32-bit values .* have no known range",
    empty_folder: r"train holds no images",
    no_split: r"has no folder 'train'",
    no_folder: r"data_root .* does not exist",
    no_partner: r"A.train.1\.png has no partner of that name in .*B.train",
    no_partner_in_a: r"B.train.1\.png has no partner of that name in .*A.train",
    halves_differ: r"A.train.1\.png is 64x32 but .*B.train.1\.png is 64x33",
    same_name_twice: r"1\.(png|jpg) and 1\.(png|jpg) differ only in the ending",
}


@pytest.mark.parametrize("make", BAD_DATA, ids=lambda make: make.__name__)
@pytest.mark.parametrize("cache_gb", [0.0, 4.0])
def test_bad_data_is_refused_with_its_name(tmp_path, make, cache_gb):
    make(tmp_path)
    with pytest.raises(UserError, match=BAD_DATA[make]) as refusal:
        PairedDataset(config_for(tmp_path, cache_gb=cache_gb), "train")[0]
    assert "\n" not in str(refusal.value)


def test_a_folder_too_deep_is_refused(tmp_path):
    write(tmp_path / "train" / "1.png", image())
    with pytest.raises(UserError, match="'train'; data_root must name the folder above"):
        PairedDataset(config_for(tmp_path / "train"), "train")


def test_folders_without_any_pair_are_refused_also_if_bad_files_are_skipped(tmp_path):
    write(tmp_path / "A" / "train" / "1.png", image())
    write(tmp_path / "B" / "train" / "2.png", image())
    with pytest.raises(UserError, match=r"none of the pairs can be used; the first: .*1\.png"):
        PairedDataset(config_for(tmp_path, bad_files="skip"), "train")


def test_bad_data_found_by_a_worker_is_still_one_line(tmp_path):
    broken(tmp_path)
    config = config_for(tmp_path, cache_gb=0.0, num_workers=1)
    data = PairedDataset(config, "train")
    with pytest.raises(UserError, match=BAD_DATA[broken]) as refusal:
        list(load_pairs(data, TrainingOrder(1, batch_size=1, epochs=1, seed=0)))
    assert "\n" not in str(refusal.value) and "UserError" not in str(refusal.value)


def test_files_that_are_no_images_are_passed_over(tmp_path):
    save_pair(tmp_path / "train" / "1.png", coordinates(36), coordinates(36))
    for name in (".DS_Store", "._1.png", "Thumbs.db", "list.txt"):
        (tmp_path / "train" / name).write_bytes(b"\0")
    assert len(PairedDataset(config_for(tmp_path), "train")) == 1


# ---- Real data --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not FACADES.is_dir(), reason="needs data/facades")
def test_real_facades_are_labels_to_photo():
    config = config_for(FACADES, direction="BtoA")
    assert [len(PairedDataset(config, split)) for split in ("train", "val", "test")] == [
        400,
        100,
        106,
    ]
    test = PairedDataset(config, "test")
    # Label maps hold strong blues and no grays; photos do not.
    spread = {
        key: np.mean([test[i][key].std(dim=0).mean().item() for i in range(20)])
        for key in ("input", "target")
    }
    assert spread["input"] > 3 * spread["target"]


# ---- Validation -------------------------------------------------------------------------------


def test_a_stand_in_for_val_is_a_hundred_pairs_at_most(tmp_path, capsys):
    for number in range(230):
        save_pair(tmp_path / "train" / f"{number}.png", *np.full((2, 16, 16, 3), number, np.uint8))
    config = config_for(tmp_path)
    chosen = PairedDataset(config, "val", validating=True)
    numbers = [int(pair.name) for pair in chosen.pairs]
    assert len(numbers) == len(chosen.cache) == 100 and numbers == sorted(set(numbers))
    assert numbers[0] == 0 and numbers[-1] == 229 and max(np.diff(numbers)) == 3
    assert "validating on 100 of 230 train pairs, evenly chosen" in capsys.readouterr().out
    assert len(PairedDataset(config, "val")) == 230  # evaluate.py scores them all


def test_a_limit_also_counts_where_bad_files_are_skipped(mapped):
    fields = {"limit": 2, "validate_images": 1, "bad_files": "skip"}
    data = PairedDataset(config_for(mapped, **fields), "train", validating=True)
    everything = PairedDataset(config_for(mapped, bad_files="skip"), "train")
    assert data.pairs == everything.pairs[:1] or data.pairs == everything.pairs[1:2]


def test_any_validation_can_be_limited(pairs, tmp_path, undrawn, capsys):
    assert len(PairedDataset(config_for(pairs), "val", validating=True)) == 2
    config = config_for(pairs, output=str(tmp_path / "run"), epochs=1, validate_images=1)
    assert train.train(config) == 0
    assert "6 training pairs, 1 validation pairs" in capsys.readouterr().out
    words = ["--resume", tmp_path / "run", "--epochs", "2", "--validate_images", "2"]
    assert train.main(words) == 0
    assert "6 training pairs, 2 validation pairs" in capsys.readouterr().out


def test_sizes_that_differ_name_the_command_that_mends_them(tmp_path):
    for side, width in (("A", 48), ("B", 47)):
        (tmp_path / side / "train").mkdir(parents=True)
        image(width).save(tmp_path / side / "train" / "1.png")
    with pytest.raises(UserError, match=r"47x48; sizes must be equal .*combine --resize"):
        PairedDataset(config_for(tmp_path), "train")
