"""The benchmark runs, and its figures hang together."""

import json

import pytest
from conftest import run_script

from benchmark import count_flops, markdown
from config import PAPER

TINY_STEP = ["--crop_size", "32", "--depth", "4", "--base_channels", "4", "--device", "cpu"]


def test_it_measures_every_variant_and_the_loading(pairs, tmp_path):
    words = [*TINY_STEP, "--batch_sizes", "1", "2", "--turns", "1", "--data_root", pairs]
    done = run_script("benchmark.py", *words, "--output", tmp_path / "figures.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| 2 | textbook fp32 |" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert "torch" in figures["versions"] and "cores of" in figures["machine"]
    assert figures["command"].startswith("python benchmark.py --crop_size 32")
    assert markdown(figures) in done.stdout.replace("\n\n", "\n")
    for batch_size in (1, 2):
        rows = {row["variant"]: row for row in figures["steps"] if row["batch"] == batch_size}
        assert {"textbook fp32", "ours fp32"} <= rows.keys()
        textbook = rows["textbook fp32"]
        assert textbook["speed"] == 1
        for row in rows.values():
            assert row["images/s"] == pytest.approx(batch_size / row["ms/step"] * 1e3)
            assert row["speed"] == pytest.approx(textbook["ms/step"] / row["ms/step"])
    assert len(figures["loading"]) == 3 and all(rate > 0 for rate in figures["loading"].values())


def test_a_step_of_the_papers_networks_takes_87_gflop():
    assert count_flops(PAPER) / 1e9 == pytest.approx(87, abs=1)


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["--port", "nowhere"], "--port nowhere holds no models/networks.py"),
        (["--turn", "1"], "did you mean '--turns'"),
        (["--batch_sizes", "0"], "batch_size is 0"),
    ],
)
def test_mistakes_end_in_one_line(words, complaint, tmp_path):
    done = run_script("benchmark.py", *words, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr and "Traceback" not in done.stderr


def test_the_port_is_stepped_by_its_own_networks(pairs, tmp_path):
    """A stand-in of the port's interface; the real one takes its place with --port."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "networks.py").write_text(
        """
import torch
from torch import nn

def define_G(input_nc, output_nc, ngf, netG, norm="batch", use_dropout=False):
    assert netG == "unet_128" and use_dropout
    return nn.Conv2d(input_nc, output_nc, 3, padding=1)

def define_D(input_nc, ndf, netD, norm="batch"):
    return nn.Conv2d(input_nc, 1, 4)

class GANLoss(nn.Module):
    def __init__(self, gan_mode):
        super().__init__()

    def forward(self, prediction, target_is_real):
        target = torch.full_like(prediction, float(target_is_real))
        return nn.functional.binary_cross_entropy_with_logits(prediction, target)
"""
    )
    words = ["--crop_size", "128", "--depth", "7", "--base_channels", "4", "--device", "cpu"]
    words += ["--batch_sizes", "1", "--turns", "1", "--port", tmp_path, "--data_root", pairs]
    done = run_script("benchmark.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if "| the port, fp32 |" in line]
    assert row.rstrip(" |").endswith("x")
