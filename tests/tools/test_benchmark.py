"""The benchmark runs, and its figures hang together."""

import json
import time

import pytest
import torch

from config import Config
from engine.cli import UserError
from tools.benchmark import count_work, half_precisions, main
from tools.tables import described

TINY_STEP = ["demo", "--base_channels", "4", "--discriminator_channels", "4", "--device", "cpu"]
TINY_STEP += ["--turns", "1"]


@pytest.mark.slow
def test_it_measures_every_variant_and_the_loading(pairs, tmp_path, capsys):
    words = [*TINY_STEP, "--crop_size", "32", "--depth", "4", "--data_root", pairs]
    assert main([*words, "--json", tmp_path / "figures.json"]) == 0
    printed = capsys.readouterr().out
    assert "| 8 | textbook fp32 |" in printed
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert "torch" in figures["versions"] and "cores of" in figures["machine"]
    assert figures["command"].startswith("python ")
    assert printed.strip() == described(figures) and figures["command"] in printed
    for batch_size in (1, 8):
        rows = {row["variant"]: row for row in figures["steps"] if row["batch"] == batch_size}
        assert {"textbook fp32", "ours fp32"} <= rows.keys()
        textbook = rows["textbook fp32"]
        assert textbook["speed"] == 1
        for row in rows.values():
            assert row["images/s"] == pytest.approx(batch_size / row["ms/step"] * 1e3)
            assert row["speed"] == pytest.approx(textbook["ms/step"] / row["ms/step"])
            assert row["CUDA graph"] is False
    assert len(figures["loading"]) == 3 and all(rate > 0 for rate in figures["loading"].values())
    assert figures["translating"] > 0 and "Images translated per second: " in printed


@pytest.mark.slow
def test_translation_is_timed_from_start_to_end(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tools.benchmark.IMAGES", 2)
    words = ["--translate", "--json", tmp_path / "figures.json", *TINY_STEP]
    assert main([*words, "--crop_size", "32", "--depth", "4", "--precision", "bf16"]) == 0
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    rows = figures["translations"]
    assert [row["task"] for row in rows] == 2 * ["folder"] + 2 * ["split, scored"]
    assert [row["variant"] for row in rows] == 2 * ["ours fp32", "ours bf16"]
    for row in rows:
        assert row["images/s"] == pytest.approx(2 / row["seconds"]) and row["CPU seconds"] > 0.5
        assert f"| {row['task']} | {row['variant']} | {row['seconds']:.1f} |" in printed
    assert printed.strip() == described(figures)


@pytest.mark.slow
def test_a_program_that_fails_is_named(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "networks.py").write_text("raise SystemExit('no such network')")
    with pytest.raises(UserError, match=f"-c in {tmp_path} failed: no such network"):
        main(["--translate", "--junyanz", tmp_path, *TINY_STEP])


def test_a_step_of_the_papers_networks_takes_87_gflop():
    flops, adam_bytes = count_work(Config())
    assert flops / 1e9 == pytest.approx(87, abs=1) and adam_bytes / 1e9 == pytest.approx(
        1.6, abs=0.1
    )


@pytest.mark.parametrize("precision, capability, bf16, expected", [
    ("auto", (9, 0), True, ["bf16", "fp16"]), ("auto", (7, 5), False, ["fp16"]),
    ("auto", (6, 1), False, []), ("fp32", (9, 0), True, []), ("fp16", (9, 0), True, ["fp16"]),
])  # fmt: skip
def test_a_gpu_is_measured_in_what_it_is_built_for(
    monkeypatch, precision, capability, bf16, expected
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert half_precisions(Config(precision=precision), torch.device("cuda")) == expected


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["--junyanz", "nowhere"], "--junyanz nowhere holds no models/networks.py"),
        (["--turn", "1"], "did you mean '--turns'"),
        (["--turns", "0"], "--turns is 0"),
        (["--batch_size", "0"], "batch_size is 0"),
    ],
)
def test_mistakes_are_one_line(words, complaint):
    with pytest.raises(UserError) as caught:
        main([*words, "--device", "cpu"])
    assert complaint in str(caught.value)


@pytest.mark.slow
def test_the_port_is_stepped_by_its_own_networks(pairs, tmp_path, capsys):
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
    words = [*TINY_STEP, "--batch_size", "1", "--junyanz", tmp_path, "--data_root", pairs]
    assert main(words) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "| junyanz, fp32 |" in line]
    assert row.rstrip(" |").endswith("x")


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_measured_within_five_minutes(tmp_path):
    begun = time.monotonic()
    assert main(["--json", tmp_path / "figures.json"]) == 0
    assert time.monotonic() - begun < 300
    figures = json.loads((tmp_path / "figures.json").read_text())
    rows = [row for row in figures["steps"] if row["variant"].startswith("ours")]
    assert len(rows) >= 4 and all(row["CUDA graph"] and row["speed"] > 1 for row in rows)
