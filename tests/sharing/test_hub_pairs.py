"""Paired datasets of the Hub: real parquet files with their schema, read from the disk. The library
takes a folder of that name before it asks the Hub."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import config_for
from PIL import Image

from dataset import PairedDataset
from engine.cli import UserError
from tools.download import main


def encoded(seed: int, form: str, side: int = 48) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Writes huggan/NAME as the Hub has it: parquet files with embedded images, one a split."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()

    def write(name: str, columns=("imageA", "imageB"), forms=("JPEG", "PNG"), **splits) -> dict:
        folder, contents = Path("huggan", name, "data"), {}
        folder.mkdir(parents=True)
        for split, count in splits.items():
            rows = {
                column: [{"bytes": encoded(10 * i + j, form), "path": None} for i in range(count)]
                for j, (column, form) in enumerate(zip(columns, forms, strict=True))
            }
            features = {column: datasets.Image() for column in columns}
            features["caption"] = datasets.Value("string")
            rows["caption"] = [f"row {i}" for i in range(count)]
            table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
            table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
            contents[split] = [rows[column] for column in columns]
        return contents

    return write


def test_a_dataset_of_the_hub_becomes_two_folders_and_trains(publish, tmp_path, capsys):
    contents = publish("facades", train=11, validation=2, test=3)
    assert main(["hf://huggan/facades"]) == 0
    root = tmp_path / "data" / "facades"
    for split, ours in {"train": "train", "validation": "val", "test": "test"}.items():
        for side, ending, rows in zip("AB", (".jpg", ".png"), contents[split], strict=True):
            files = sorted((root / side / ours).iterdir())
            assert {file.suffix for file in files} == {ending}
            assert [file.read_bytes() for file in files] == [row["bytes"] for row in rows]
    assert (root / "A" / "train" / "01.jpg").is_file()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["facades"]
    lines = capsys.readouterr().out.splitlines()
    assert "https://huggingface.co/datasets/huggan/facades" in lines[0]
    assert lines[-2] == "wrote data/facades: train 11, val 2, test 3 pairs"
    assert lines[-1] == "next: python train.py facades"
    assert (root / "palette.json").is_file()
    data = PairedDataset(config_for(root, tmp_path / "run", direction="AtoB"), "val", augment=False)
    assert len(data) == 2 and data[0]["input"].shape == (3, 32, 32)
    with pytest.raises(UserError, match="data/facades already exists"):
        main(["hf://huggan/facades"])


def test_other_columns_and_formats(publish, tmp_path, capsys):
    publish("shoes", ("left", "right"), ("WEBP", "BMP"), train=2, extra=1)
    with pytest.raises(UserError) as error:
        main(["hf://huggan/shoes"])
    assert "no images 'imageA' in" in str(error.value)
    assert "(its image columns are left, right)" in str(error.value)
    assert main(["hf://huggan/shoes", "--columns", "right", "left", "--output", "disk"]) == 0
    files = {path.relative_to("disk/shoes").as_posix() for path in Path("disk").rglob("*.*")}
    assert files == {"A/train/1.bmp", "A/train/2.bmp", "B/train/1.webp", "B/train/2.webp"} | {
        "A/extra/1.bmp",
        "B/extra/1.webp",
    }
    expected = "next: python train.py facades --data_root disk/shoes\n"
    assert capsys.readouterr().out.endswith(expected)


def test_what_is_missing_or_damaged_is_one_line_and_leaves_nothing(publish, tmp_path, monkeypatch):
    datasets = sys.modules["datasets"]
    publish("text", ("a", "b"), train=1)
    publish("broken", train=2)
    publish("gif", forms=("GIF", "PNG"), train=1)
    kind = datasets.Image()
    rows = {
        "imageA": [{"bytes": encoded(0, "PNG"), "path": None}, {"bytes": b"no", "path": None}],
        "imageB": [{"bytes": encoded(1, "PNG"), "path": None}, None],
    }
    features = datasets.Features(dict.fromkeys(rows, kind))
    damaged = datasets.Dataset.from_dict(rows, features=features)
    damaged.to_parquet("huggan/broken/data/train-00000-of-00001.parquet")
    cases = {
        ("hf://huggan/broken",): "imageA of row 2 of train cannot be read",
        (
            "hf://huggan/broken",
            "--columns",
            "imageB",
            "imageA",
        ): "imageB of row 2 of train cannot be read",
        ("hf://huggan/gif",): "imageA of row 1 of train cannot be read as an image",
        ("hf://huggan/text", "--columns", "a", "caption"): "no images 'caption' in train",
    }
    for words, line in cases.items():
        with pytest.raises(UserError) as error:
            main([*words])
        assert line in str(error.value) and "\n" not in str(error.value)
        assert not list(tmp_path.glob("data/*"))


def test_a_name_that_the_hub_lacks_and_a_missing_package(publish, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(sys.modules["datasets"].config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"hf://ann/none cannot be loaded from the Hugging"):
        main(["hf://ann/none"])
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"hf://ann/none needs a package: pip install datasets"):
        main(["hf://ann/none"])
