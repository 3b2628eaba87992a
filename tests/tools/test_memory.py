"""Memory is counted as it is used."""

from dataclasses import replace

import pytest
import torch
from conftest import REPOSITORY, TINY

from config import Config
from engine.cli import UserError
from tools.memory import Activations, count_memory, main

MEGABYTES = torch.zeros(2**20)  # 4 MiB


def test_what_the_backward_pass_needs_counts_while_it_is_kept():
    weight = MEGABYTES.clone().requires_grad_()
    with Activations([weight]) as activations:
        hidden = weight.exp()  # kept: its result
        loss = (hidden * hidden).sum()  # kept: the same memory, twice
        assert activations.peak == activations.bytes == MEGABYTES.nbytes
        hidden = hidden.sin()  # kept: exp's result again
        other = hidden.cos()  # kept: the sine
        assert activations.bytes == 2 * MEGABYTES.nbytes
        (loss + other.sum()).backward()
        del hidden, other, loss
    assert activations.bytes == 0 and activations.peak == 2 * MEGABYTES.nbytes


def test_the_papers_weights_are_57_million_and_activations_grow_with_the_batch():
    config = Config(**{**TINY, "precision": "fp32"})
    one, four = (count_memory(replace(config, batch_size=size)) for size in (1, 4))
    assert four["activations"] == pytest.approx(4 * one["activations"], rel=0.05)
    for parts in (one, four):
        assert parts["Adam"] == 2 * parts["weights"] == 2 * parts["gradients"]
        assert parts.pop("sum") == pytest.approx(sum(parts.values()))
    assert "EMA" not in one
    with_ema = count_memory(replace(config, ema_decay=0.9))
    assert 0 < with_ema["EMA"] < with_ema["weights"]  # of the generator alone


@pytest.mark.slow
def test_the_figures_of_the_documentation_are_those_it_prints(capsys):
    page = (REPOSITORY / "docs" / "performance.md").read_text(encoding="utf-8")
    assert main([]) == 0
    table = capsys.readouterr().out.partition("\n\n")[2]
    assert table and table in page


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="batch_size is 0"):
        main(["--batch_size", "0"])
