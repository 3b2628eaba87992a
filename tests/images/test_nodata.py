"""Pixels without data: left out of what is measured, filled for the network, and written back."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY, arguments, config_for, refusal
from PIL import Image

import dataset
import evaluate
import train
from config import Config
from dataset import PairedDataset
from engine.cli import UserError
from images.nodata import mark_nodata, stray_value
from images.pixels import resize_with_nodata
from utils import load_generator, translate

pytestmark = pytest.mark.usefixtures("undrawn")

CHANNELS = {"in_channels": 1, "out_channels": 1, "direction": "AtoB"}
PERCENTILES = {"input_range": "1% 99%", "target_range": "1% 99%"}


def field(seed: int) -> np.ndarray:
    """160 to 440, smooth, (48, 48) float32."""
    y, x = np.mgrid[:48, :48] / 48
    return (300 + 140 * np.sin(6 * x + seed) * np.cos(5 * y)).astype(np.float32)


def make_fields(root, hole: float) -> None:
    """Fields x and (x - 300) / 10, with a hole in the corner of both."""
    for split, count in {"train": 6, "test": 2}.items():
        for number in range(count):
            x = field(number)
            for side, values in {"A": x, "B": (x - 300) / 10}.items():
                values[:12, :16] = hole
                (root / side / split).mkdir(parents=True, exist_ok=True)
                np.save(root / side / split / f"{number}.npy", values)


@pytest.mark.parametrize(("hole", "nodata"), [(-9999.0, "-9999"), (np.nan, "nan")])
def test_nodata_is_no_measurement(tmp_path, hole, nodata):
    make_fields(tmp_path, hole)
    fields = {**CHANNELS, **PERCENTILES, "nodata": nodata, "epochs": 1}
    assert train.train(config_for(tmp_path, tmp_path / "run", **fields)) == 0
    generator = load_generator(tmp_path / "run")
    low, high = map(float, generator.config.target_range.split())
    assert -14.5 < low < -10 and 10 < high < 14.5

    scores = evaluate.evaluate_split(generator, "test", tmp_path / "test")
    assert scores["mae"] < 30
    errors = []
    for number in range(2):
        values = np.load(tmp_path / "test" / "values" / f"{number}.npy")[..., 0]
        data = ~(np.isnan(values) if nodata == "nan" else values == -9999)
        assert not data[:8, :10].any() and data[8:].all() and data[:, 11:].all()
        _, y = PairedDataset(generator.config, "test").load(number)
        truth = (y[..., 0] + 1) / 2 * (high - low) + low
        errors.append(abs(values - truth)[data].mean())
    assert scores["mae"] == pytest.approx(np.mean(errors), rel=1e-4)

    source = tmp_path / "A" / "test" / "0.npy"
    result = tmp_path / "y.npy"
    assert evaluate.main([tmp_path / "run", "--input", source, "--output", result]) == 0
    written = np.load(result)[..., 0]
    assert np.array_equal(written[:12, :16], np.full((12, 16), hole), equal_nan=True)
    assert np.isfinite(written).all() or nodata == "nan"
    assert (abs(written[12:]) <= 15).all() and (abs(written[:, 16:]) <= 15).all()


def test_the_network_sees_the_low_end(tmp_path):
    make_fields(tmp_path, np.nan)
    ranges = {"input_range": "160 440", "target_range": "-14 14", "nodata": "nan", "jitter": 0.5}
    config = config_for(tmp_path, tmp_path, **CHANNELS, **ranges, resize="none", mirror=False)
    data = PairedDataset(config, "train")
    holes = 0
    for index in range(6):
        x, y = data[index]["input"], data[index]["target"]
        assert torch.isfinite(x).all() and torch.isfinite(y).all()
        hole = y == -1
        assert (x[hole] == -1).all()
        holes += hole.sum()
    assert holes > 0


def test_a_value_that_few_pixels_know_is_not_blended_with_its_neighbours():
    image = torch.full((1, 40, 40), 0.5)
    image[:, :15, :15] = torch.nan
    small = resize_with_nodata(image, (16, 16))
    data = ~small.isnan()
    assert torch.allclose(small[data], torch.tensor(0.5), atol=1e-5)
    assert not data[0, :5, :5].any() and data[0, 7:].all() and data[0, :, 7:].all()


def test_an_image_without_any_data_has_no_error(tmp_path):
    make_fields(tmp_path, np.nan)
    np.save(tmp_path / "B" / "test" / "0.npy", np.full((48, 48), np.nan))
    fields = {**CHANNELS, "input_range": "160 440", "target_range": "-14 14", "nodata": "nan"}
    assert train.train(config_for(tmp_path, tmp_path / "run", epochs=1, **fields)) == 0
    generator = load_generator(tmp_path / "run")
    evaluate.evaluate_split(generator, "test", tmp_path / "test")
    summary = (tmp_path / "test" / "scores.json").read_text()
    assert "NaN" not in summary and json.loads(summary)["mae"] > 0
    assert train.train(config_for(tmp_path, tmp_path / "other", epochs=1, **fields)) == 0


def test_a_channel_of_nothing_but_nodata_is_named(tmp_path):
    make_fields(tmp_path, np.nan)
    for file in (tmp_path / "B" / "train").iterdir():
        np.save(file, np.full((48, 48), np.nan))
    config = config_for(tmp_path, tmp_path, **CHANNELS, **PERCENTILES, nodata="nan")
    with pytest.raises(UserError, match="channel 1 of B holds nothing but nodata"):
        PairedDataset(config, "train")


@pytest.mark.parametrize("ranges", [PERCENTILES, {"input_range": "0 500", "target_range": "-9 9"}])
def test_a_stray_value_is_reported_once(tmp_path, capsys, ranges):
    make_fields(tmp_path, -9999.0)
    words = arguments(**{**TINY, **CHANNELS, **ranges, "data_root": tmp_path})
    assert dataset.main(words) == 0
    printed = capsys.readouterr().out
    assert "8.3% of the values of x are -9999, far from all others" in printed
    assert printed.count("--nodata -9999") == 1
    assert dataset.main([*words, "--nodata", "-9999"]) == 0
    assert "warning" not in capsys.readouterr().out


def test_masks_saturated_pixels_and_rain_are_no_stray_values():
    random = np.random.default_rng(0)
    rain = random.exponential(3, 10_000) * random.integers(0, 2, 10_000)
    night = random.exponential(30, 10_000).clip(0, 255)
    for values in (np.array([0, 255] * 50), np.array([0, 1, 2, 255] * 50), rain, night):
        assert stray_value(values) is None
    assert stray_value(np.where(rain < 0.1, 65535, rain)) == 65535


def test_nodata_is_refused_where_it_means_nothing(pairs, tmp_path, capsys):
    with pytest.raises(UserError, match="nodata is '-9999'; it needs an input_range or a target"):
        Config(nodata="-9999")
    with pytest.raises(UserError, match="nodata is 'none'; it must be a number or nan"):
        Config(nodata="none", input_range="0 1")
    make_fields(tmp_path, np.nan)
    words = arguments(**{**TINY, **CHANNELS, **PERCENTILES, "data_root": tmp_path})
    assert "--nodata nan marks" in refusal(capsys, train.main, *words)
    with pytest.raises(UserError, match="not finite"):
        mark_nodata(np.array([[np.inf]]), "nan")


def test_nodata_of_inputs_alone(tmp_path):
    """The target is an 8-bit image, which cannot hold it."""
    make_fields(tmp_path, np.nan)
    for split in ("train", "test"):
        for file in sorted((tmp_path / "B" / split).iterdir()):
            Image.new("L", (48, 48), 100).save(file.with_suffix(".png"))
            file.unlink()
    fields = {**CHANNELS, "input_range": "1% 99%", "nodata": "nan", "epochs": 1}
    assert train.train(config_for(tmp_path, tmp_path / "run", **fields)) == 0
    generator = load_generator(tmp_path / "run")
    assert translate(generator, np.load(tmp_path / "A/test/0.npy")[..., None]).size == (48, 48)
    evaluate.evaluate_split(generator, "test", tmp_path / "test")
