"""Scientific data: arrays of any number of channels and 16-bit files, in their own units."""

import base64
import dataclasses
import gc
import io
import json
import shutil
import struct
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY, arguments, config_for, same_training
from PIL import ExifTags, Image

import dataset
import evaluate
import train
from dataset import PairedDataset
from engine.cli import UserError
from engine.fast import speed_up_inference
from engine.files import read_json
from generator import UNetGenerator
from images.arrays import read_array, write_array
from images.gallery import thumbnail
from images.ranges import from_unit, is_eight_bit, to_unit
from images.reading import read_image
from tools import reproduce
from utils import load_generator, translate

CHANNELS = {"in_channels": 5, "out_channels": 2}
RANGES = {"input_range": "0 100", "target_range": "-5 5 0 4000"}


def scan(seed: int, shape=(40, 48)) -> tuple[np.ndarray, np.ndarray]:
    """Five input channels from 0 to 100, and two targets that depend on them."""
    random = np.random.default_rng(seed)
    x = random.uniform(0, 100, (shape[0] // 8, shape[1] // 8, 5)).repeat(8, 0).repeat(8, 1)
    y = np.stack([x[..., 0] / 10 - 5, x[..., 1] * 40], axis=2)
    return x.astype(np.float32), y.astype(np.float64)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A set of .npy files in folders A and B."""
    root = tmp_path_factory.mktemp("scans")
    for split, count in {"train": 6, "val": 2, "test": 2}.items():
        for folder in ("A", "B"):
            (root / folder / split).mkdir(parents=True)
        for number in range(count):
            for folder, array in zip("AB", scan(number), strict=True):
                np.save(root / folder / split / f"{number}.npy", array)
    return root


@pytest.fixture(scope="module")
def run(scans, tmp_path_factory):
    config = config_for(
        scans, tmp_path_factory.mktemp("run"), direction="AtoB", **CHANNELS, **RANGES
    )
    assert train.train(config) == 0
    return config.folder


def test_five_channels_train_resume_and_are_scored_in_their_units(scans, run, tmp_path):
    words = arguments(**{**TINY, **CHANNELS, **RANGES, "direction": "AtoB", "data_root": scans})
    assert train.main([*words, "--epochs", "1", "--output", tmp_path / "parts"]) == 0
    assert train.main(["--resume", tmp_path / "parts", "--epochs", "3"]) == 0
    assert same_training(run, tmp_path / "parts")

    assert evaluate.main([run, "--output", tmp_path / "test", "--device", "cpu"]) == 0
    scores = json.loads((tmp_path / "test" / "scores.json").read_text())
    errors = []
    config = config_for(scans, run, direction="AtoB", **CHANNELS, **RANGES)
    for pair in PairedDataset(config, "test"):
        truth = from_unit(pair["target"].permute(1, 2, 0).numpy(), RANGES["target_range"])
        errors.append(abs(np.load(tmp_path / "test" / "values" / f"{pair['name']}.npy") - truth))
    assert scores["mae"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert "mae" in (tmp_path / "test" / "scores.csv").read_text().partition("\n")[0]
    values = np.load(tmp_path / "test" / "values" / "0.npy")
    assert values.shape == (32, 32, 2) and values.dtype == np.float32
    assert values[..., 0].min() >= -5 and 5 < values[..., 1].max() <= 4000
    for name in ("grid.png", "gallery.html", "output/0.png"):
        assert (tmp_path / "test" / name).stat().st_size > 100


def test_crops_are_aligned_and_scaled(scans):
    config = config_for(scans, scans, direction="AtoB", resize="none", **CHANNELS, **RANGES)
    for index in range(3):
        x, y = (PairedDataset(config, "train")[1, index][name] for name in ("input", "target"))
        assert x.shape == (5, 32, 32) and y.shape == (2, 32, 32)
        assert np.allclose(x[:2], y, atol=1e-5)  # both are 0..100, as -1..1
    config = config_for(scans, scans, direction="AtoB", resize="fit", **CHANNELS, **RANGES)
    assert PairedDataset(config, "test")[0]["input"].shape == (5, 36, 43)


def test_translating_arrays_and_files(scans, run, tmp_path):
    generator = load_generator(run)
    speed_up_inference(generator)  # as evaluate.py does
    x, _ = scan(0)
    y = translate(generator, x)
    assert y.shape == (40, 48, 2) and np.ptp(y[..., 1]) > 5
    source = scans / "A" / "test" / "0.npy"
    assert evaluate.main([run, "--input", source, "--output", tmp_path / "y.npy"]) == 0
    assert np.array_equal(np.load(tmp_path / "y.npy"), y)
    assert evaluate.main([run, "--input", source.parent, "--output", tmp_path / "all"]) == 0
    assert {file.name for file in (tmp_path / "all").iterdir()} == {"0.npy", "1.npy"}
    with pytest.raises(UserError, match=r"has the shape \(40, 48, 3\)"):
        translate(generator, x[..., :3])
    with pytest.raises(UserError, match=r"y\.png cannot hold 2 channels; \.npy can"):
        evaluate.main([run, "--input", source, "--output", tmp_path / "y.png"])
    assert not (tmp_path / "y.png").exists()


def test_percentiles_are_measured_and_kept(scans, tmp_path):
    fields = {**CHANNELS, "input_range": "1% 99%", "target_range": "0% 100%", "epochs": 1}
    config = config_for(scans, tmp_path / "run", direction="AtoB", **fields)
    assert train.train(config) == 0
    saved = read_json(tmp_path / "run" / "config.json")
    low, high = np.array(saved["target_range"].split(), float).reshape(2, 2).T
    targets = np.concatenate([scan(number)[1].reshape(-1, 2) for number in range(6)])
    assert np.allclose([low, high], [targets.min(0), targets.max(0)], rtol=1e-5)
    assert len(saved["input_range"].split()) == 10
    shutil.rmtree(tmp_path / "run" / "samples")
    assert train.main(["--resume", str(tmp_path / "run"), "--epochs", "2"]) == 0
    assert read_json(tmp_path / "run" / "config.json")["input_range"] == saved["input_range"]


def test_percentiles_are_measured_wherever_pairs_are_read(scans, tmp_path, capsys):
    fields = {**CHANNELS, "direction": "AtoB", "data_root": scans, "input_range": "1% 99%"}
    words = arguments(**{**TINY, **fields, "target_range": "0% 100%"})
    assert dataset.main(words) == 0
    assert "train: 6 good, 0 bad" in capsys.readouterr().out
    del fields["direction"]
    words = arguments(**{**TINY, **fields, "target_range": "0% 100%", "epochs": 1})
    words += ["--output", tmp_path / "table"]
    assert reproduce.main(["table6", *words]) == 0
    assert reproduce.main(["table6", *words]) == 0
    assert capsys.readouterr().out.count("is finished") == 3


def test_percentiles_are_those_of_the_usable_files(scans, tmp_path, capsys):
    data = shutil.copytree(scans, tmp_path / "data")
    (data / "A" / "train" / "0.npy").write_bytes(b"")
    np.save(data / "A" / "train" / "1.npy", np.full((40, 48, 3), 9999.0))
    np.save(data / "A" / "train" / "alone.npy", scan(0)[0])
    fields = {**CHANNELS, "input_range": "0% 100%", "bad_files": "skip", "direction": "AtoB"}
    config = config_for(data, tmp_path, **fields, target_range="-5 5 0 4000")
    pairs = PairedDataset(config, "train")
    assert len(pairs) == 4 and len(pairs.skipped) == 3
    used = np.concatenate([scan(number)[0].reshape(-1, 5) for number in range(2, 6)])
    ends = np.array(pairs.config.input_range.split(), float).reshape(5, 2).T
    assert np.allclose(ends, [used.min(0), used.max(0)], rtol=1e-5)
    assert (
        dataset.main(arguments(**{**TINY, **fields, "data_root": data, "target_range": "-5 5"}))
        == 2
    )
    assert "train: 4 good, 3 bad" in capsys.readouterr().out


def test_a_channel_without_a_range_is_named(scans, tmp_path):
    data = shutil.copytree(scans, tmp_path / "data")
    fields = {**CHANNELS, "direction": "AtoB", "input_range": "1% 99%", "target_range": "0 1"}
    with pytest.raises(UserError, match=r"A has \[5\] channels, not 4, to measure 1% 99%"):
        PairedDataset(config_for(data, tmp_path, **{**fields, "in_channels": 4}), "train")
    for file in (data / "A" / "train").iterdir():
        array = np.load(file)
        array[..., 2] = 7
        np.save(file, array)
    with pytest.raises(UserError, match="1% 99% are both 7 in channel 3 of A; give LOW HIGH"):
        PairedDataset(config_for(data, tmp_path, **fields), "train")


def test_unreadable_pairs_are_named_before_their_range_is_measured(scans, tmp_path):
    fields = {"direction": "AtoB", "out_channels": 2, "target_range": "1% 99%"}
    with pytest.raises(UserError, match=r"0\.npy: an array needs an input_range"):
        PairedDataset(config_for(scans, tmp_path, **fields), "train")


def test_measuring_a_range_takes_little_memory(tmp_path):
    for folder in ("A", "B"):
        (tmp_path / folder / "train").mkdir(parents=True)
        for number in range(20):
            array = np.random.default_rng(number).random((1024, 1024))
            np.save(tmp_path / folder / "train" / f"{number}.npy", array)
    fields = {"in_channels": 1, "out_channels": 1, "cache_gb": 0.0}
    config = config_for(tmp_path, tmp_path / "run", **fields, input_range="1% 99%")
    config = dataclasses.replace(config, target_range="1% 99%")
    tracemalloc.start()
    measured = dataset.resolve_ranges(config)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6  # all pairs would take 168 MB
    assert np.allclose(np.array(measured.input_range.split(), float), [0.01, 0.99], atol=0.002)


def test_targets_in_units_of_their_own_have_no_classes(pairs, tmp_path):
    fields = {"direction": "AtoB", "palette": "demo", "target_range": "0 3"}
    config = dataclasses.replace(config_for(pairs, tmp_path / "run", epochs=1), **fields)
    assert train.train(config) == 0
    scores = evaluate.evaluate_split(load_generator(config.folder), "test", tmp_path / "test")
    assert "pixel_accuracy" not in scores and scores["mae"] > 0


def test_an_image_of_another_kind_is_refused(run, pairs):
    x, y = Image.new("RGB", (32, 32)), np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(UserError, match="image is of type Image; this generator takes an array"):
        translate(load_generator(run), x)
    generator = UNetGenerator(depth=4, base_channels=4)
    generator.config = config_for(pairs, run)
    for image in (y, "x.png"):
        with pytest.raises(UserError, match="; this generator takes a PIL image"):
            translate(generator, image)


def test_array_files_may_have_capital_endings(scans, tmp_path):
    source = scans / "A" / "test" / "0.npy"
    shutil.copy(source, tmp_path / "0.NPY")
    assert np.array_equal(read_array(tmp_path / "0.NPY"), np.load(source))


def test_sixteen_bit_files_in_and_out_and_stacked_inputs(tmp_path):
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for folder in ("A1", "A2", "B"):
            (tmp_path / folder / split).mkdir(parents=True)
            shape = (40, 40, 3) if folder == "A1" else (40, 40)
            image = random.integers(0, 60000, shape, np.uint16)
            ending = "tif" if folder == "A2" else "png"
            cv2.imwrite(str(tmp_path / folder / split / f"1.{ending}"), image)
    fields = {"in_channels": 4, "out_channels": 1, "input_range": "0 65535"}
    config = config_for(
        tmp_path, tmp_path / "run", direction="AtoB", epochs=1, batch_size=1, **fields
    )
    config = type(config)(**{**vars(config), "target_range": "0 60000"})
    assert train.train(config) == 0
    generator = load_generator(tmp_path / "run")
    speed_up_inference(generator)  # as evaluate.py does
    stacked = [
        read_array(tmp_path / folder / "test" / f"1.{e}")
        for folder, e in (("A1", "png"), ("A2", "tif"))
    ]
    result = translate(generator, np.concatenate(stacked, axis=2))
    np.save(tmp_path / "x.npy", np.concatenate(stacked, axis=2))
    for ending in ("png", "tif"):
        words = ["--input", tmp_path / "x.npy", "--output", tmp_path / f"y.{ending}"]
        assert evaluate.main([tmp_path / "run", *words]) == 0
        written = read_array(tmp_path / f"y.{ending}")
        assert np.abs(written - result).max() <= (0.51 if ending == "png" else 1e-3)
    assert cv2.imread(str(tmp_path / "y.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint16


def test_values_survive_a_round_trip(tmp_path):
    array = np.random.default_rng(0).uniform(-3, 3, (5, 6, 3)).astype(np.float32)
    for name in ("x.npy", "x.tif"):
        write_array(array, tmp_path / name)
        assert np.array_equal(read_array(tmp_path / name), array)
    text = "-3 3 -3 3 -4 4"
    assert np.allclose(from_unit(to_unit(array, text), text), array, atol=1e-5)
    assert to_unit(np.float32([[[9]]]), "0 1") == 1


def save_tiff(path: Path, array: np.ndarray, planes: int, photometric: int) -> None:
    """Writes (H, W, C) with its bands interleaved by pixel (planes 1), or one after the other (2),
    as RGB (photometric 2) or as bands of gray (1)."""
    height, width, bands = array.shape
    data = (array if planes == 1 else np.moveaxis(array, 2, 0)).tobytes()
    strips = 1 if planes == 1 else bands
    size = len(data) // strips
    kind = 3 if array.dtype.kind == "f" else 1
    offsets = [8 + i * size for i in range(strips)]
    tags = {256: [width], 257: [height], 258: [8 * array.itemsize] * bands, 259: [1]}
    tags |= {262: [photometric], 273: offsets, 277: [bands], 278: [height]}
    tags |= {279: [size] * strips, 284: [planes], 339: [kind] * bands}
    entries, values = struct.pack("<H", len(tags)), b""
    for tag, numbers in tags.items():
        number, code = (4, "I") if tag in (273, 279) else (3, "H")
        packed = struct.pack(f"<{len(numbers)}{code}", *numbers)
        entries += struct.pack("<HHI", tag, number, len(numbers))
        if len(packed) > 4:
            entries += struct.pack("<I", 8 + len(data) + len(values))
            values += packed
        else:
            entries += packed.ljust(4, b"\0")
    start = 8 + len(data) + len(values)
    path.write_bytes(b"II*\0" + struct.pack("<I", start) + data + values + entries + bytes(4))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("layout", [(1, 1), (1, 2), (2, 1), (2, 2)], ids=str)
def test_a_tiff_is_read_as_it_is_or_refused(tmp_path, dtype, bands, layout):
    """OpenCV reads some layouts of several bands as other values."""
    array = np.random.default_rng(0).integers(0, 250, (24, 32, bands)).astype(dtype)
    save_tiff(tmp_path / "x.tif", array, *layout)
    try:
        read = read_array(tmp_path / "x.tif")
    except UserError as error:
        assert ".npy" in str(error) and (bands > 1 or layout[1] == 2)
    else:
        assert np.array_equal(read, array)


def test_pages_of_a_tiff_are_not_dropped(tmp_path):
    pages = [Image.fromarray(np.full((16, 16), i, np.uint16)) for i in range(3)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=r"x\.tif cannot be read as an array: it has pages"):
        read_array(tmp_path / "x.tif")


@pytest.mark.parametrize("values", [(-1, 1), (-5, 300), (0, 70000)])
def test_a_png_holds_whole_numbers_or_is_refused(tmp_path, values):
    with pytest.raises(UserError, match=r"x\.png cannot hold values from .*; \.npy and \.tif can"):
        write_array(np.linspace(*values, 256).reshape(16, 16, 1), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_threads_read_at_the_same_time(tmp_path):
    """Python 3.11 cannot parse in several threads at once, as NumPy does with headers."""
    np.save(tmp_path / "x.npy", np.zeros((4, 4, 5)))
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    switch = lambda *_: time.sleep(0)  # noqa: E731
    try:
        sys.setswitchinterval(1e-6)
        gc.freeze()  # collections are quick
        gc.set_threshold(1)
        gc.callbacks.append(switch)
        with ThreadPoolExecutor(8) as pool:
            arrays = list(pool.map(read_array, [tmp_path / "x.npy"] * 3000))
    finally:
        gc.callbacks.remove(switch)
        gc.set_threshold(*threshold)
        gc.unfreeze()
        sys.setswitchinterval(interval)
    assert len(arrays) == 3000


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("x.npy", b"no array", "cannot be read as an array"),
        ("x.tif", b"no image", "it is not an image"),
        ("x.npy", np.zeros((2, 2, 2, 2)), r"its shape is \(2, 2, 2, 2\)"),
        ("x.npy", np.float32([[np.nan]]), "not finite"),
        ("x.npy", np.array([[{}]], object), "cannot be read as an array"),
        ("x.npy", np.array([["a"]]), "cannot be read as an array"),
    ],
)
def test_bad_arrays_are_refused_by_name(tmp_path, name, content, line):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content)
    with pytest.raises(UserError, match=rf"{name} .*{line}"):
        read_array(tmp_path / name)


def test_what_does_not_fit_the_configuration_is_refused_by_name(scans, tmp_path):
    wrong = {**CHANNELS, "in_channels": 4}
    config = config_for(scans, tmp_path, direction="AtoB", **wrong, **RANGES)
    with pytest.raises(UserError, match=r"0\.npy has 5 channels of input.* are 4 and 2"):
        PairedDataset(config, "train")
    config = config_for(scans, tmp_path, direction="AtoB")
    with pytest.raises(UserError, match=r"0\.npy: an array needs an input_range"):
        PairedDataset(config, "train")


def test_a_range_acts_on_its_side_of_a_pair_alone(tmp_path):
    pair = np.full((48, 96), 30000, np.uint16)
    (tmp_path / "train").mkdir()
    cv2.imwrite(str(tmp_path / "train" / "1.png"), pair)
    channels = {"in_channels": 1, "out_channels": 1, "input_range": "0 60000"}
    item = PairedDataset(
        config_for(tmp_path, tmp_path / "run", direction="AtoB", **channels), "train"
    )[0]
    assert item["input"].mean() == pytest.approx(0, abs=1e-3)
    assert item["target"].mean() == pytest.approx(30000 / 65535 * 2 - 1, abs=0.01)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_arrays_are_upright_as_images_are(tmp_path, ending, turn):
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (3, 4, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    quality = {"jpg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}
    path = tmp_path / f"1.{ending}"
    Image.fromarray(blocks).save(path, exif=exif, **quality.get(ending, {}))
    seen = np.asarray(read_image(path))
    assert np.abs(read_array(path) - seen).max() < (6 if ending == "jpg" else 1)


def test_damaged_exif_data_leave_the_array_as_it_is(tmp_path):
    Image.new("L", (5, 4), 9).save(tmp_path / "1.png", exif=b"Exif\0\0no exif")
    assert np.array_equal(read_array(tmp_path / "1.png"), np.full((4, 5, 1), 9))


def photo(number: int, channels: int = 3) -> np.ndarray:
    """(40, 40, channels) uint8; the last of four is an alpha channel of 0 and 255."""
    random = np.random.default_rng(number)
    pixels = random.integers(0, 256, (5, 5, channels), np.uint8).repeat(8, 0).repeat(8, 1)
    if channels == 4:
        pixels[..., 3] = (pixels[..., 3] > 127) * 255
    return pixels


def save_folders(root, channels: int, *folders: str) -> None:
    for split, count in {"train": 3, "test": 2}.items():
        for number in range(count):
            for place, folder in enumerate(folders):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(photo(10 * place + number, channels))
                image.save(root / folder / split / f"{number}.png")


BYTES = {"direction": "AtoB", "epochs": 1, "input_range": "0 255", "target_range": "0 255"}


def test_new_stacked_inputs_are_translated_to_8_bit_images(tmp_path):
    save_folders(tmp_path / "data", 3, "A1", "A2", "B")
    config = config_for(tmp_path / "data", tmp_path / "run", in_channels=6, **BYTES)
    assert train.train(config) == 0
    new = tmp_path / "new"
    for number, folder in enumerate(("A1", "A2")):
        (new / folder / "day").mkdir(parents=True)
        Image.fromarray(photo(number)).save(new / folder / "day" / "7.png")
    assert evaluate.main([config.folder, "--input", new, "--output", tmp_path / "out"]) == 0
    written = Image.open(tmp_path / "out" / "day" / "7.png")
    stacked = np.concatenate([photo(0), photo(1)], axis=2)
    expected = translate(load_generator(config.folder), stacked)
    assert written.mode == "RGB" and np.ptp(np.asarray(written)) > 50
    assert np.array_equal(np.asarray(written), expected.round())

    with pytest.raises(UserError, match=r"x\.npy is one file; it must be a folder"):
        evaluate.main([config.folder, "--input", new, "--output", tmp_path / "x.npy"])
    (new / "A2" / "day" / "7.png").unlink()
    Image.fromarray(photo(1)).save(new / "A2" / "8.png")
    with pytest.raises(UserError, match=r"7\.png has no partner of that name in .*A2"):
        evaluate.main([config.folder, "--input", new, "--output", tmp_path / "out"])


def test_sprites_are_written_with_their_transparency(tmp_path):
    save_folders(tmp_path / "data", 4, "A", "B")
    channels = {"in_channels": 4, "out_channels": 4}
    config = config_for(tmp_path / "data", tmp_path / "run", **channels, **BYTES)
    assert train.train(config) == 0
    source = tmp_path / "data" / "A" / "test"
    assert evaluate.main([config.folder, "--input", source, "--output", tmp_path / "out"]) == 0
    generator = load_generator(config.folder)
    expected = translate(generator, photo(0, 4))
    written = Image.open(tmp_path / "out" / "0.png")
    assert written.mode == "RGBA" and np.array_equal(np.asarray(written), expected.round())

    evaluate.evaluate_split(generator, "test", tmp_path / "test")
    for kind in ("input", "output", "target"):
        assert Image.open(tmp_path / "test" / kind / "0.png").mode == "RGBA"
    shown = np.asarray(Image.open(tmp_path / "test" / "input" / "0.png").resize((5, 5), 0))
    assert np.array_equal(shown[..., 3] > 127, photo(0, 4)[4::8, 4::8, 3] > 127)


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_four_channels_survive_a_round_trip(tmp_path, ending):
    array = np.random.default_rng(3).integers(0, 60000, (6, 5, 4)).astype(np.float32)
    write_array(array, tmp_path / f"x.{ending}")
    assert np.array_equal(read_array(tmp_path / f"x.{ending}"), array)


def test_what_counts_as_8_bit():
    for text in ("0 255", "0 255 0 255 0 255", "0.0 255.0"):
        assert is_eight_bit(text, 3)
    assert is_eight_bit("0 255", 1, "0") and not is_eight_bit("0 255", 1, "-9999")
    for text in ("", "0 1", "0% 100%", "0 255 0 1 0 255", "-1 255"):
        assert not is_eight_bit(text, 3)
    assert not is_eight_bit("0 255", 2)


def test_the_gallery_keeps_transparency():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    data = base64.b64decode(thumbnail(clear).partition(",")[2])
    assert Image.open(io.BytesIO(data)).convert("RGBA").getpixel((4, 4))[3] == 0


def test_jitter_changes_the_brightness_of_arrays_too(scans):
    config = config_for(scans, scans, direction="AtoB", jitter=0.3, **CHANNELS, **RANGES)
    data, plain = (PairedDataset(c, "train") for c in (config, replace(config, jitter=0.0)))
    ours, theirs = data[0, 0], plain[0, 0]
    assert torch.equal(ours["target"], theirs["target"])
    assert ours["input"].shape == theirs["input"].shape == (5, 32, 32)
    assert 0 < (ours["input"] - theirs["input"]).abs().mean() < 0.5
    assert ours["input"].min() >= -1 and ours["input"].max() <= 1
