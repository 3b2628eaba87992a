"""One run by several processes: two of them on the CPU, started by torchrun as the README says."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, TINY, arguments, log_rows, same_training

import evaluate
import train
from config import Config
from dataset import PairedDataset
from engine.order import TrainingOrder
from train import build_model
from utils import load_checkpoint, load_generator

# Two pairs, one each; equal noise would hide nothing here, so there is none.
STEP = {**TINY, "dropout": 0.0, "precision": "fp32"}

TOGETHER = """
import sys, torch
from config import Config
from dataset import PairedDataset, load_pairs
from engine.order import TrainingOrder
from images.pixels import to_device
from engine.processes import Processes
from train import build_model, train_step

device = torch.device("cpu")
config = Config(**{fields!r})
with Processes(device) as processes:
    model = build_model(config, device)
    shared = model._replace(
        generator=processes.data_parallel(model.generator),
        discriminator=processes.data_parallel(model.discriminator),
    )
    data = PairedDataset(config, "train")
    order = TrainingOrder(len(data), 1, 1, 0, rank=processes.rank, processes=processes.size)
    names, after_first = [], None
    for batch in load_pairs(data, order):
        x, y = (to_device(batch[side], device) for side in ("input", "target"))
        train_step(shared, x, y, config)
        names += batch["name"]
        if after_first is None:
            parameters = [list(network.parameters()) for network in model[:2]]
            after_first = [[p.detach().clone() for p in group] for group in parameters]
            gradients = [[p.grad.clone() for p in group] for group in parameters]
    state = [network.state_dict() for network in model[:2]]
    torch.save((names, after_first, gradients, state), sys.argv[1] + str(processes.rank))
"""


def torchrun_command(*words, processes: int = 2) -> list[str]:
    """--standalone: on a free port, so that tests can run beside each other."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*command, "--nproc-per-node", str(processes), *map(str, words)]


def torchrun(*words, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    options = {"cwd": cwd, "env": environment, "capture_output": True, "text": True}
    return subprocess.run(torchrun_command(*words), timeout=500, **options)


@pytest.mark.slow
def test_a_step_is_that_of_the_mean_gradient_and_all_processes_keep_equal_weights(pairs, tmp_path):
    fields = {**STEP, "data_root": str(pairs), "epochs": 1}
    script = tmp_path / "together.py"
    script.write_text(TOGETHER.format(fields=fields))
    done = torchrun(script, tmp_path / "result", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one, other = (torch.load(tmp_path / f"result{rank}") for rank in range(2))

    # Together they saw each pair once, and they agree on everything.
    assert sorted(one[0] + other[0]) == ["1", "2", "3", "4", "5", "6"]
    for ours, theirs in zip(one[3], other[3], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    # The same step alone: the gradients of each pair, their mean, Adam.
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
    assert done.stdout.count("trained for 2 epochs") == 1  # one of them speaks
    return folder / "run"


@pytest.mark.slow
def test_one_process_writes_and_its_checkpoint_loads_on_one_device(together, tmp_path):
    rows = log_rows(together)
    assert [row["step"] for row in rows] == [str(step) for step in range(7)]  # 6 pairs, 2 at once
    assert float(rows[-1]["epoch"]) == 2
    assert len(list((together / "tensorboard").iterdir())) == 1
    assert load_generator(together)(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    words = [together, "--output", tmp_path / "test", "--device", "cpu"]
    assert evaluate.main(words) == 0
    assert json.loads((tmp_path / "test" / "scores.json").read_text())["images"] == 3


@pytest.mark.slow
def test_a_run_of_two_processes_resumes_as_if_never_stopped(pairs, together, tmp_path):
    fields = arguments(data_root=pairs, **TINY, epochs=1, output="run")
    assert torchrun(REPOSITORY / "train.py", *fields, cwd=tmp_path).returncode == 0
    noise = load_checkpoint(tmp_path / "run")["rng"]
    assert not torch.equal(noise[0]["cpu"], noise[1]["cpu"])

    done = torchrun(REPOSITORY / "train.py", "--resume", "run", "--epochs", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert same_training(tmp_path / "run", together)
    assert log_rows(tmp_path / "run")[-1] == log_rows(together)[-1]


@pytest.mark.slow
def test_more_processes_than_pairs_are_refused(pairs, tmp_path):
    fields = arguments(data_root=pairs, **TINY, batch_size=4, output="run")
    done = torchrun(REPOSITORY / "train.py", *fields, cwd=tmp_path)
    assert done.returncode != 0
    assert "takes 8 training pairs, but there are only 6; lower batch_size" in done.stderr


@pytest.mark.slow
def test_a_run_resumes_with_another_number_of_processes_and_prints_what_changes(
    together, tmp_path, capsys
):
    """2 epochs of 3 steps of 2 pairs, then 1 of 6 steps of 1, then 1 of 3 of 2 again."""
    shutil.copytree(together, tmp_path / "run")
    assert train.main(["--resume", tmp_path / "run", "--epochs", 3]) == 0
    printed = capsys.readouterr().out
    assert "1 processes instead of 2: the result will differ" in printed
    checkpoint = load_checkpoint(tmp_path / "run")
    assert (checkpoint["step"], len(checkpoint["rng"])) == (12, 1)

    done = torchrun(REPOSITORY / "train.py", "--resume", "run", "--epochs", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 processes instead of 1" in done.stdout
    rows = log_rows(tmp_path / "run")
    assert [int(row["step"]) for row in rows] == list(range(16))
    epochs = [float(row["epoch"]) for row in rows]
    assert epochs == sorted(epochs) and epochs[-4:] == pytest.approx([3, 10 / 3, 11 / 3, 4], 1e-4)
    assert rows[:7] == log_rows(together)


@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 1), (2, 3), (4, 3), (3, 3)])
def test_no_pair_of_an_epoch_is_passed_over_when_the_processes_change(before, now):
    stop = 72 // (2 * before) + 5  # in the second epoch
    old = [TrainingOrder(72, 2, 3, 0, rank=rank, processes=before) for rank in range(before)]
    new = [TrainingOrder(72, 2, 3, 0, rank=rank, processes=now) for rank in range(now)]
    for order in new:
        order.resume(stop, old[0].shift, before)
    seen = {pair for order in old for batch in list(order)[:stop] for pair in batch}
    rest = [pair for order in new for batch in order for pair in batch]
    everything = {(epoch, index) for epoch in range(3) for index in range(72)}
    assert seen | set(rest) == everything
    again = len(seen & set(rest))
    assert again < 2 * now and len(rest) == len(set(rest))
    assert {order.total_steps - stop for order in new} == {len(order) for order in new}


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_end_with_a_message_when_a_process_is_killed(pairs, tmp_path, victim):
    fields = arguments(data_root=pairs, **{**TINY, "save_epochs": 1}, epochs=1000, output="run")
    process = subprocess.Popen(
        torchrun_command(REPOSITORY / "train.py", *fields),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log, deadline = tmp_path / "run" / "log.csv", time.monotonic() + 300
    while not log.exists() or len(log.read_text().split()) < 10:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    ranks = {}
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks.update({entry: int(child) for entry in environment if entry.startswith(b"RANK=")})
    os.kill(ranks[b"RANK=%d" % victim], signal.SIGKILL)
    _, errors = process.communicate(timeout=200)
    assert process.returncode != 0
    assert f"process {1 - victim} of 2 lost the others" in errors
    steps = load_checkpoint(tmp_path / "run")["step"]
    assert steps >= 6
    epochs = str(steps // 3 + 2)  # a few more are enough
    words = ["--resume", "run", "--epochs", epochs]
    done = torchrun(REPOSITORY / "train.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    logged = [int(row["step"]) for row in log_rows(tmp_path / "run")]
    assert logged == list(range(3 * int(epochs) + 1))
