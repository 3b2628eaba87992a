"""The measures, against numbers worked out by hand and against real label pictures."""

import io
import math
import random
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from PIL import Image

import scores
from config import UserError
from data.make_demo import LABELS
from scores import (
    PALETTES,
    Distances,
    Palette,
    SplitScores,
    class_scores,
    confusion,
    eight_bits,
    far_from_palette,
    intersection,
    lab_histograms,
    nearest_colours,
    read_classes,
    score,
    sharpness,
)
from utils import to_image, to_tensor

REAL_DATA = REPOSITORY.parent / "shared" / "data"
THREE = Palette({"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}, ((0, 0, 0),))


def paint(numbers, palette: Palette) -> torch.Tensor:
    """The label picture of (H, W) numbers of colours, classes first and then void."""
    colours = np.array([*palette.classes.values(), *palette.void], np.uint8)
    return to_tensor(colours[np.asarray(numbers)])


def blocks(palette: Palette, side: int, seed: int = 0) -> np.ndarray:
    """(H, W) numbers of squares of every colour of a palette in a random order."""
    count = len(palette.classes) + len(palette.void)
    columns = math.ceil(math.sqrt(count))
    numbers = np.random.default_rng(seed).permutation(columns**2) % count
    return numbers.reshape(columns, columns).repeat(side, axis=0).repeat(side, axis=1)


def flat(*colour: int, size: int = 32) -> torch.Tensor:
    return torch.tensor(colour).view(-1, 1, 1).expand(-1, size, size) / 127.5 - 1


def noise(channels: int = 3, size: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(channels, size, size, generator=generator) * 2 - 1


def blurred(picture: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(picture[None], 5, stride=1)[0]


# ---- One picture ------------------------------------------------------------------------------


def test_scores_against_their_definitions():
    torch.manual_seed(0)
    one, other = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    result = score(one, other)
    difference = (one - other) / 2  # in a range of 1
    assert result["l1"] == pytest.approx(2 * difference.abs().mean().item(), rel=1e-5)
    psnr = -10 * np.log10(difference.square().mean().item())
    assert result["psnr"] == pytest.approx(psnr, rel=1e-4)
    assert score(one, one)["ssim"] == pytest.approx(1, abs=1e-5)
    assert result["ssim"] < 0.1
    # Of two flat pictures SSIM compares the brightness a and b alone, in [0, 1].
    a, b = 0.2, 0.7
    result = score(torch.full((1, 3, 32, 32), 2 * a - 1), torch.full((1, 3, 32, 32), 2 * b - 1))
    assert result["ssim"] == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4), abs=1e-4)
    assert score(torch.ones(1, 3, 32, 32), -torch.ones(1, 3, 32, 32))["l1"] == 2


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_measured_as_they_are_saved(channels):
    picture = 1.2 * noise(channels)  # a network's tanh keeps the range, other things need not
    saved = to_tensor(np.asarray(to_image(picture).convert("RGB")))
    assert torch.equal(eight_bits(picture).expand(3, -1, -1), eight_bits(saved))
    assert sharpness(picture) == sharpness(saved)
    assert torch.equal(lab_histograms(picture), lab_histograms(saved))


# ---- Labels -----------------------------------------------------------------------------------


def test_palettes():
    assert {name: len(palette.classes) for name, palette in PALETTES.items()} == {
        "cityscapes": 19,
        "facades": 12,
        "demo": len(LABELS),
    }
    for palette in PALETTES.values():
        colours = [*palette.classes.values(), *palette.void]
        assert len(set(colours)) == len(colours)
        # JPEG moves a colour by a few counts, so no two may be near each other.
        assert min(math.dist(a, b) for i, a in enumerate(colours) for b in colours[:i]) > 15


@pytest.mark.parametrize("name", PALETTES)
def test_every_colour_is_its_class(name):
    palette = PALETTES[name]
    numbers = blocks(palette, side=2)
    classes = read_classes(paint(numbers, palette), palette)
    assert classes.dtype == torch.int64
    assert np.array_equal(classes, numbers.clip(max=len(palette.classes)))
    assert (numbers > len(palette.classes)).any() == (name == "cityscapes")
    # No neighbours decide, nor the parts that a large picture is read in.
    shift = np.random.default_rng(0).standard_normal((3, 600, 500))
    large = paint(np.resize(numbers, (600, 500)), palette) + torch.from_numpy(shift) / 127.5
    expected = read_classes(large[:, 400:, 300:], palette)
    assert torch.equal(read_classes(large, palette)[400:, 300:], expected)
    assert np.array_equal(expected, np.resize(numbers, (600, 500))[400:, 300:].clip(max=19))


@pytest.mark.parametrize("quality", [75, 85, 95])
@pytest.mark.parametrize("name", PALETTES)
def test_labels_survive_jpeg(name, quality):
    """But for where two labels meet, as colour is stored at half the resolution (4:2:0)."""
    palette, side = PALETTES[name], 40
    numbers = blocks(palette, side)[5:, 3:]  # not along the 16 px that JPEG works in
    file = io.BytesIO()
    to_image(paint(numbers, palette)).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    picture = to_tensor(np.asarray(Image.open(file)))
    right = read_classes(picture, palette).numpy() == numbers.clip(max=len(palette.classes))
    assert right.mean() > 0.93
    distance = np.minimum(np.arange(400) % side, side - 1 - np.arange(400) % side)
    height, width = numbers.shape
    inside = np.minimum(distance[5:][:height, None], distance[3:][None, :width]) >= 15
    assert inside.mean() > 0.05 and right[inside].all()
    assert far_from_palette(picture, palette, 40) < 0.1


def test_the_share_of_pixels_far_from_the_palette():
    picture = flat(255, 0, 0)
    assert far_from_palette(picture, THREE, 0) == 0
    picture[:, :8] = flat(200, 40, 0)[:, :8]  # 55 and 40 away: 68
    picture[:, 8:12] = flat(0, 0, 30)[:, :4]  # void is a colour, too
    for distance, share in ((20, 12 / 32), (40, 8 / 32), (68, 8 / 32), (69, 0)):
        assert far_from_palette(picture, THREE, distance) == share


def test_confusion_by_hand():
    void = 3
    true = torch.tensor([[0, 0, 0, 0], [1, 1, void, void]])
    predicted = torch.tensor([[0, 0, 1, void], [1, 0, 1, void]])
    matrix = confusion(true, predicted, THREE)
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == [[2, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]]
    # Of 6 true pixels 3 are right; red 2 of 4, green 1 of 2; red's union is 4 + 3 - 2, green's
    # 2 + 2 - 1, as what was predicted where the truth is void is left out; blue is absent.
    assert class_scores(matrix) == pytest.approx(
        {
            "pixel_accuracy": 3 / 6,
            "class_accuracy": (2 / 4 + 1 / 2 + 0) / 3,
            "class_iou": (2 / 5 + 1 / 3 + 0) / 3,
            "classes_present": 2,
        },
        rel=1e-12,
    )


def test_an_absent_class_that_is_predicted_costs_the_others():
    matrix = torch.zeros(4, 4, dtype=torch.int64)
    matrix[0, 0], matrix[0, 2] = 3, 1
    result = class_scores(matrix)
    assert result["class_iou"] == pytest.approx((3 / 4 + 0 + 0) / 3)
    assert result["class_accuracy"] == pytest.approx((3 / 4 + 0 + 0) / 3)
    assert result["classes_present"] == 1


def test_nothing_but_void():
    matrix = torch.zeros(4, 4, dtype=torch.int64)
    nothing = {"pixel_accuracy": 0, "class_accuracy": 0, "class_iou": 0, "classes_present": 0}
    assert class_scores(matrix) == nothing
    matrix[3] = 5
    assert class_scores(matrix) == nothing


@pytest.mark.parametrize("name", PALETTES)
def test_the_truth_is_right(name):
    palette = PALETTES[name]
    truth = paint(blocks(palette, side=8), palette)
    split = SplitScores(name)
    assert split.add(truth, truth)["pixel_accuracy"] == 1
    result = split.summary()
    assert result["pixel_accuracy"] == result["class_accuracy"] == result["class_iou"] == 1
    assert result["classes_present"] == len(palette.classes)


# ---- Sharpness and colours --------------------------------------------------------------------


def test_sharpness_by_hand():
    assert sharpness(flat(90, 10, 200)) == 0
    columns = flat(0, 0, 0, size=33).clone()
    columns[:, :, 1::2] = 1  # from black to white, 0 to 100 in L, at each of the 32 steps
    assert sharpness(columns) == pytest.approx(100, rel=1e-4)
    assert sharpness(columns.transpose(1, 2)) == pytest.approx(100, rel=1e-4)
    assert sharpness(columns[:1]) == sharpness(columns)  # grey is a colour
    board = columns * columns.transpose(1, 2)  # a chessboard: 100 both ways
    assert sharpness(board) == pytest.approx(100 * math.sqrt(2), rel=1e-4)


def test_blur_lowers_sharpness():
    picture = noise()
    assert sharpness(blurred(picture)) < 0.3 * sharpness(picture)
    assert sharpness(blurred(blurred(picture))) < 0.5 * sharpness(blurred(picture))


def test_histograms():
    picture = noise(size=64)
    one = lab_histograms(picture)
    assert one.shape == (3, scores.LAB_BINS) and one.dtype == torch.int64
    assert one.sum(1).tolist() == [64 * 64] * 3
    # Every corner of the colours is within the ranges, and in the bin where it should be.
    for colour, bins in {
        (0, 0, 0): (0, 50, 50),
        (255, 255, 255): (99, 50, 50),
        (255, 0, 0): (53, 86, 80),  # Lab 53.2, 80.1, 67.2
        (0, 0, 255): (32, 85, 0),  # 32.3, 79.2, -107.9
        (0, 255, 0): (87, 10, 87),  # 87.7, -86.2, 83.2
    }.items():
        counts = lab_histograms(flat(*colour))
        assert counts.amax(1).tolist() == [32 * 32] * 3
        assert all(abs(a - b) <= 1 for a, b in zip(counts.argmax(1).tolist(), bins, strict=True))


def test_intersection():
    one, other = torch.tensor([[1, 3, 0]] * 3), torch.tensor([[2, 2, 4]] * 3)
    assert intersection(one, other).tolist() == pytest.approx([0.25 + 0.25] * 3)
    assert intersection(other, one).tolist() == intersection(one, other).tolist()
    assert intersection(one, 7 * one).tolist() == pytest.approx([1] * 3)
    assert intersection(one, torch.tensor([[0, 0, 9]] * 3)).tolist() == [0] * 3
    # Where the pixels are does not matter, what colour they have does.
    picture = noise(size=64)
    mirrored = lab_histograms(picture.flip(2))
    assert intersection(lab_histograms(picture), mirrored).tolist() == pytest.approx([1] * 3)
    grey = lab_histograms(picture.mean(0, keepdim=True))
    assert (intersection(lab_histograms(picture), grey)[1:] < 0.2).all()


# ---- Splits -----------------------------------------------------------------------------------


def test_classes_are_scored_over_the_split_not_by_picture(monkeypatch):
    monkeypatch.setitem(PALETTES, "three", THREE)
    red, green = flat(255, 0, 0), flat(0, 255, 0)
    half = red.clone()
    half[:, :16] = green[:, :16]
    split = SplitScores("three")
    assert split.add(half, red)["pixel_accuracy"] == 0.5
    assert split.add(green, green)["pixel_accuracy"] == 1
    assert split.add(red, flat(0, 0, 0))["pixel_accuracy"] == 0  # nothing to be right about
    result = split.summary()
    assert result["pixel_accuracy"] == 0.75  # not the mean of 0.5, 1 and 0
    assert result["class_accuracy"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert result["class_iou"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert result["classes_present"] == 2
    assert result["l1"] == pytest.approx((2 / 3 + 0 + 2 / 3) / 3, rel=1e-5)


def test_photos_are_scored_over_the_split_not_by_picture():
    sharp, soft = noise(), 0.1 * noise(seed=1)
    split = SplitScores()
    first, second = split.add(blurred(sharp), sharp[:, :28, :28]), split.add(soft, soft)
    assert first["sharpness"] < 0.3 and second["sharpness"] == 1
    assert first.keys() == second.keys() == {"l1", "psnr", "ssim", "sharpness"}
    result = split.summary()
    outputs = sharpness(blurred(sharp)) + sharpness(soft)
    targets = sharpness(sharp[:, :28, :28]) + sharpness(soft)
    assert result["sharpness"] == pytest.approx(outputs / targets, rel=1e-4)
    assert result["l1"] == pytest.approx((first["l1"] + second["l1"]) / 2)
    assert result["ssim"] == pytest.approx((first["ssim"] + second["ssim"]) / 2)
    # The colours of one picture may be those of another.
    exchanged = SplitScores()
    exchanged.add(sharp, flat(10, 200, 90))
    alone = exchanged.summary()
    exchanged.add(flat(10, 200, 90), sharp)
    both = exchanged.summary()
    for name in ("histogram_l", "histogram_a", "histogram_b"):
        assert both[name] == pytest.approx(1) and alone[name] < 0.2


def test_grey_pictures_have_no_histograms_of_colour():
    split = SplitScores()
    split.add(noise(1), noise(1))
    assert split.summary().keys() == {"l1", "psnr", "ssim", "sharpness"}
    assert split.summary()["sharpness"] == pytest.approx(1)


def test_flat_pictures():
    for output, sharp in ((flat(90, 90, 90), 1), (noise(), 1e6)):
        split = SplitScores()
        picture = split.add(output, flat(90, 90, 90))
        result = split.summary()
        assert math.isfinite(picture["sharpness"]) and math.isfinite(result["sharpness"])
        assert picture["sharpness"] >= sharp and result["sharpness"] >= sharp
    split = SplitScores()
    assert split.add(flat(90, 90, 90), noise())["sharpness"] < 1e-6


def test_an_unknown_palette():
    with pytest.raises(UserError, match="no palette 'maps', only cityscapes, facades, demo"):
        SplitScores("maps")


# ---- FID and KID ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of Inception weights as torch-fidelity reads them, of random numbers."""
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    class Untrained(inception.FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            pass

    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, path)
    network = Untrained("inception", ["2048"], str(path))
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.dim() == 4:
            torch.nn.init.kaiming_normal_(parameter)
    torch.save(network.state_dict(), path)
    return path


def test_distances(weights):
    equal, far = Distances(weights), Distances(weights)
    assert not equal.network.training
    for seed in range(4):
        picture = noise(size=64, seed=seed)
        equal.add(picture, picture)
        far.add(noise(1, 64, seed), picture)
    state = torch.get_rng_state()
    equal, far = equal.summary(), far.summary()
    assert torch.equal(state, torch.get_rng_state())
    assert equal["fid"] == pytest.approx(0, abs=1e-3 * far["fid"])
    assert equal["kid"] < far["kid"]


def test_a_distance_needs_two_pictures(weights):
    distances = Distances(weights)
    distances.add(noise(), noise())
    with pytest.raises(UserError, match="2 or more"):
        distances.summary()


def test_distances_say_what_is_missing(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
        with pytest.raises(UserError, match="pip install torch-fidelity"):
            Distances(tmp_path / "weights.pth")
    pytest.importorskip("torch_fidelity")
    with pytest.raises(UserError, match=r"no file .*weights.pth .*weights-inception-.*releases"):
        Distances(tmp_path / "weights.pth")
    for wrong in (b"no weights", {"weight": torch.zeros(1)}, Palette({})):
        path = tmp_path / "wrong.pth"
        path.write_bytes(wrong) if isinstance(wrong, bytes) else torch.save(wrong, path)
        with pytest.raises(UserError, match="does not hold Inception's weights"):
            Distances(path)


# ---- Real labels ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "share"), [("facades", 0.2), ("cityscapes", 0.08)])
def test_real_labels_are_near_the_palette(name, share):
    """Their files are reduced and JPEG: labels blend where they meet, and elsewhere are exact."""
    files = sorted((REAL_DATA / name).glob("*/*.jpg"))
    if not files:
        pytest.skip(f"{name} is not here")
    far, flat, flat_far = [], 0, 0
    for file in random.Random(0).sample(files, 40):
        labels = to_tensor(np.asarray(Image.open(file)))[:, :, 256:]
        far.append(far_from_palette(labels, PALETTES[name], 40))
        pixels = torch.cat([eight_bits(labels), -eight_bits(labels)])
        highest, lowest = torch.nn.functional.max_pool2d(pixels, 5, 1, 2).split(3)
        is_flat = (highest + lowest <= 8).all(0)
        flat += is_flat.sum()
        flat_far += (is_flat & (nearest_colours(labels, PALETTES[name])[1] > 20)).sum()
    assert 0 < np.mean(far) < share
    assert flat > 0.3 * len(far) * 256**2 and flat_far <= 1e-4 * flat
