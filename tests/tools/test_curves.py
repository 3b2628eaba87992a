"""Redrawing the curves and samples of a run."""

import pytest
import torch

from engine.cli import UserError
from engine.images import save_image
from tools.curves import main
from utils import sample_grid


def test_curves_and_samples_are_redrawn(tmp_path, capsys):
    (tmp_path / "log.csv").write_text("step,epoch,loss_g_l1,val_l1\n0,0,,0.5\n50,1,0.4,0.3\n")
    assert main([tmp_path]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "curves.png")]
    for epoch in (0, 1):
        images = tuple(torch.full((3, 16, 16), value) for value in (-1.0, epoch, 1.0))
        save_image(sample_grid([images, images]), tmp_path / "samples" / f"epoch_{epoch:04d}.png")
    assert main([tmp_path]) == 0
    drawn = [tmp_path / name for name in ("curves.png", "progress.png")]
    assert capsys.readouterr().out.split() == list(map(str, drawn))
    assert all(path.stat().st_size > 100 for path in [*drawn, tmp_path / "progress.gif"])


@pytest.mark.parametrize(
    ("content", "complaint"), [(None, "no log.csv"), ("step,epoch\n", "logged nothing yet")]
)
def test_a_folder_without_measurements_is_one_line(tmp_path, content, complaint):
    if content:
        (tmp_path / "log.csv").write_text(content)
    with pytest.raises(UserError, match=complaint):
        main([tmp_path])
