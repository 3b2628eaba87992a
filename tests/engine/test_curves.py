"""What a run's log and samples are warned about."""

import re

import pytest
import torch
from conftest import REPOSITORY

from engine.curves import warnings
from engine.files import save_image
from utils import sample_grid


@pytest.fixture
def run(tmp_path):
    """Writes a log with these discriminator losses, and samples with outputs of this contrast."""

    def write(losses, contrast=1.0, target_contrast=1.0, gan_loss="cross_entropy"):
        rows = [f"{50 * i},{i},{loss}" for i, loss in enumerate(losses, 1)]
        (tmp_path / "log.csv").write_text("\n".join(["step,epoch,loss_d", *rows]) + "\n")
        (tmp_path / "config.json").write_text(f'{{"gan_loss": "{gan_loss}"}}')
        noise = torch.rand(3, 16, 16) * 2 - 1
        images = (noise, noise * contrast + 0.3, noise * target_contrast)
        save_image(sample_grid([images] * 3), tmp_path / "grid.png")
        return warnings(tmp_path, tmp_path / "grid.png")

    return write


def test_a_discriminator_that_has_won_for_long_is_reported(run):
    (warning,) = run([0.5] * 20 + [0.01] * 40)
    assert "the discriminator's loss stays near 0" in warning
    assert not run([0.01] * 39)  # a run has only begun
    assert not run([0.01] * 60 + [0.3] + [0.01] * 30)  # it recovers
    assert not run([0.05] * 60)  # low, as often in good runs
    assert not run([0.02] * 60, gan_loss="least_squares")  # whose losses are smaller
    assert run([0.01] * 60, gan_loss="least_squares")
    assert not run([])


def test_outputs_of_one_color_are_reported(run):
    (warning,) = run([0.3], contrast=0.005)
    assert "the outputs have one color" in warning
    assert not run([0.3], contrast=0.2)
    assert not run([0.3], contrast=0.005, target_contrast=0.01)  # as they should


def masks(pixels: int) -> list[torch.Tensor]:
    """Three black masks, the second of which has so many white pixels."""
    found = [torch.full((3, 32, 32), -1.0) for _ in range(3)]
    found[1].flatten(1)[:, :pixels] = 1
    return found


@pytest.mark.parametrize("color", [(-1, -1, -1), (0.5, -1, -1)])
def test_outputs_of_one_color_are_reported_where_many_masks_are_empty(run, tmp_path, color):
    run([0.3])
    noise = torch.rand(3, 32, 32) * 2 - 1
    blank = torch.tensor(color, dtype=torch.float32).view(3, 1, 1).expand(3, 32, 32)
    for pixels, count in ((5, 1), (0, 0)):
        save_image(sample_grid([(noise, blank, y) for y in masks(pixels)]), tmp_path / "grid.png")
        assert len(warnings(tmp_path, tmp_path / "grid.png")) == count
    save_image(sample_grid([(noise, y, y) for y in masks(5)]), tmp_path / "grid.png")
    assert not warnings(tmp_path, tmp_path / "grid.png")


def test_the_warnings_name_what_the_faq_has(run):
    headings = (REPOSITORY / "docs" / "faq.md").read_text(encoding="utf-8")
    for warning in run([0.0] * 60, contrast=0.0):
        title = re.search(r"see '(.*)' in docs/faq\.md", warning)[1]
        assert f"### {title}\n" in headings
