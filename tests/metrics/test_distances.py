"""FID and KID, with random weights of Inception."""

import sys

import pytest
import torch

from engine.cli import UserError
from engine.images import save_image, to_image
from metrics.distances import check_inception, distances
from metrics.palettes import Palette


def noise(channels: int = 3, size: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(channels, size, size, generator=generator) * 2 - 1


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random Inception weights, as torch-fidelity reads them."""
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


@pytest.mark.slow
def test_distances(weights, tmp_path):
    files = {"color": [], "gray": []}
    for seed in range(4):
        for name, channels in {"color": 3, "gray": 1}.items():
            files[name].append(tmp_path / name / f"{seed}.png")
            save_image(to_image(noise(channels, 64, seed)), files[name][-1])
    state, cpu = torch.get_rng_state(), torch.device("cpu")
    equal = distances(files["color"], files["color"], weights, cpu)
    far = distances(files["gray"], files["color"], weights, cpu)
    assert torch.equal(state, torch.get_rng_state())
    assert equal["fid"] == pytest.approx(0, abs=1e-3 * far["fid"])
    assert equal["kid"] < far["kid"]


def test_a_distance_needs_two_images(tmp_path):
    with pytest.raises(UserError, match="2 or more"):
        distances([tmp_path / "1.png"], [tmp_path / "1.png"], "weights.pth", torch.device("cpu"))


def test_messages_for_what_is_missing(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
        with pytest.raises(UserError, match="pip install torch-fidelity"):
            check_inception(tmp_path / "weights.pth")
    pytest.importorskip("torch_fidelity")
    with pytest.raises(UserError, match=r"weights.pth does not hold.*weights-inception-.*releases"):
        check_inception(tmp_path / "weights.pth")
    for wrong in (b"no weights", {"weight": torch.zeros(1)}, Palette({})):
        path = tmp_path / "wrong.pth"
        path.write_bytes(wrong) if isinstance(wrong, bytes) else torch.save(wrong, path)
        with pytest.raises(UserError, match="does not hold Inception's weights"):
            check_inception(path)
