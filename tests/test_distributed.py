"""One run by several processes: two of them on the CPU, started by torchrun as the README says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, TINY, arguments, log_rows, run_script, same_training

from config import Config
from train import build_model
from utils import load_checkpoint, load_generator

# Two pairs, one each; equal noise would hide nothing here, so there is none.
STEP = {**TINY, "dropout": 0.0, "precision": "fp32"}

TOGETHER = """
import sys, torch
sys.path.insert(0, {repository!r})
from config import Config
from dataset import PairedDataset, TrainingOrder, load_batches
from train import Processes, build_model, train_step

device = torch.device("cpu")
config = Config(**{fields!r})
with Processes(device) as processes:
    model = build_model(config, device)
    shared = processes.share(model)
    data = PairedDataset(config, "train")
    order = TrainingOrder(len(data), config, 0, processes.rank, processes.size)
    names, after_first = [], None
    for batch in load_batches(data, order):
        train_step(shared, batch["input"], batch["target"], config)
        names += batch["name"]
        if after_first is None:
            parameters = [list(network.parameters()) for network in model[:2]]
            after_first = [[p.detach().clone() for p in group] for group in parameters]
            gradients = [[p.grad.clone() for p in group] for group in parameters]
    state = [network.state_dict() for network in model[:2]]
    torch.save((names, after_first, gradients, state), sys.argv[1] + str(processes.rank))
"""


def torchrun(*words, cwd: Path, processes: int = 2) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_a_step_is_that_of_the_mean_gradient_and_all_processes_keep_equal_weights(pairs, tmp_path):
    fields = {**STEP, "data_root": str(pairs), "epochs": 1}
    script = tmp_path / "together.py"
    script.write_text(TOGETHER.format(repository=str(REPOSITORY), fields=fields))
    done = torchrun(script, tmp_path / "result", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one, other = (torch.load(tmp_path / f"result{rank}") for rank in range(2))

    # Together they saw each pair once, and they agree on everything.
    assert sorted(one[0] + other[0]) == ["1", "2", "3", "4", "5", "6"]
    for ours, theirs in zip(one[3], other[3], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    # The same step alone: the gradients of each pair, their mean, Adam.
    from dataset import PairedDataset  # its import takes a while

    data = PairedDataset(Config(**fields), "train")
    numbers = {pair.name: index for index, pair in enumerate(data.pairs)}
    batches = [data[0, numbers[names[0]]] for names in (one[0], other[0])]
    batches = [(batch["input"][None], batch["target"][None]) for batch in batches]
    model = build_model(Config(**fields), torch.device("cpu"))
    expected = mean_step(model, batches)
    for network, (gradients, parameters) in enumerate(expected):
        for mine, gradient in zip(one[2][network], gradients, strict=True):
            assert torch.allclose(mine, gradient, rtol=1e-4, atol=1e-7)
        for mine, parameter in zip(one[1][network], parameters, strict=True):
            assert torch.allclose(mine, parameter, atol=1e-6)


def mean_step(model, batches):
    """Gradients and weights of G and D after one step on the mean of the batches' gradients."""
    g, d = model.generator, model.discriminator
    bce = torch.nn.functional.binary_cross_entropy_with_logits

    def loss_d(x, y):
        real, fake = d(x, y), d(x, g(x).detach())
        return (bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))) / 2

    def loss_g(x, y):
        fake = g(x)
        logits = d(x, fake)
        return bce(logits, torch.ones_like(logits)) + 100.0 * (fake - y).abs().mean()

    found = {}
    for network, loss, optimizer in (
        (d, loss_d, model.optimizer_d),
        (g, loss_g, model.optimizer_g),
    ):
        parameters = list(network.parameters())
        each = [torch.autograd.grad(loss(x, y), parameters) for x, y in batches]
        mean = [sum(gradients) / len(each) for gradients in zip(*each, strict=True)]
        for parameter, gradient in zip(parameters, mean, strict=True):
            parameter.grad = gradient
        optimizer.step()
        found[network] = mean, [parameter.detach() for parameter in parameters]
    return found[g], found[d]


@pytest.fixture(scope="module")
def together(pairs, tmp_path_factory) -> Path:
    """A run of two epochs by two processes."""
    folder = tmp_path_factory.mktemp("together")
    fields = arguments(data_root=pairs, **TINY, epochs=2, output="run")
    done = torchrun(REPOSITORY / "train.py", *fields, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained to the end of epoch 2") == 1  # one of them speaks
    return folder / "run"


def test_one_process_writes_and_its_checkpoint_loads_on_one_device(together, tmp_path):
    rows = log_rows(together)
    assert [row["step"] for row in rows] == [str(step) for step in range(7)]  # 6 pairs, 2 at once
    assert float(rows[-1]["epoch"]) == 2
    assert len(list((together / "tensorboard").iterdir())) == 1
    assert load_generator(together)(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    done = run_script("evaluate.py", together, "--output", tmp_path / "test", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "test" / "scores.json").read_text())["images"] == 3


def test_a_run_of_two_processes_goes_on_as_if_never_stopped(pairs, together, tmp_path):
    fields = arguments(data_root=pairs, **TINY, epochs=1, output="run")
    assert torchrun(REPOSITORY / "train.py", *fields, cwd=tmp_path).returncode == 0
    noise = load_checkpoint(tmp_path / "run")["rng"]
    assert not torch.equal(noise[0]["cpu"], noise[1]["cpu"])

    alone = run_script("train.py", "--resume", "run", "--epochs", 2, cwd=tmp_path)
    assert alone.returncode == 2
    assert "was trained by 2 processes together and can't go on with 1" in alone.stderr

    done = torchrun(REPOSITORY / "train.py", "--resume", "run", "--epochs", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert same_training(tmp_path / "run", together)
    assert log_rows(tmp_path / "run")[-1] == log_rows(together)[-1]


def test_more_processes_than_pairs_are_refused(pairs, tmp_path):
    fields = arguments(data_root=pairs, **TINY, batch_size=4, output="run")
    done = torchrun(REPOSITORY / "train.py", *fields, cwd=tmp_path)
    assert done.returncode != 0
    assert "batch_size is 4 for each of 2 processes" in done.stderr
