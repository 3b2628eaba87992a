"""A CUDA graph neither ends a run nor changes its result. Where there is no GPU, a stand-in takes
the steps that a graph would."""

from contextlib import nullcontext
from functools import partial
from unittest.mock import MagicMock

import pytest
import torch
from conftest import TINY, config_for, equal, refusal, same_training, weights
from torch import nn

import train
from config import Config
from engine.devices import rng_state, set_rng_state
from engine.graphs import Graph, GraphedStep
from train import build_model, prepare, step_function, train_step

pytestmark = pytest.mark.usefixtures("undrawn")


class Faithful(Graph):
    """Takes the plain step when it is to be replayed."""

    def __init__(self, step):
        self.step = step
        self.abandoned = False

    def plain(self, x, y):
        self.losses = self.step(x, y)
        return self.losses

    def record(self, x, y):
        pass

    def replay(self, x, y):
        return self.step(x, y)

    def abandon(self):
        self.abandoned = True


class RaisesAtOnce(Faithful):
    def record(self, x, y):
        raise RuntimeError("operation not permitted\nCompile with TORCH_USE_CUDA_DSA")


class RaisesAfterwards(Faithful):
    """As PyTorch does if the end of a recording fails because the step did."""

    def record(self, x, y):
        try:
            self.step(x, y)
            raise ValueError("the step reads a tensor")
        finally:
            raise RuntimeError("the recording is invalid")


class RunsOutOfMemory(Faithful):
    def record(self, x, y):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class RaisesAtTheReplay(Faithful):
    def replay(self, x, y):
        self.step(x, y)
        raise RuntimeError("an illegal memory access was encountered")


class LosesLosses(Faithful):
    def replay(self, x, y):
        return {name: loss * float("nan") for name, loss in self.step(x, y).items()}


class ReturnsOldLosses(Faithful):
    def replay(self, x, y):
        return {name: loss * 1.1 for name, loss in self.step(x, y).items()}


class ChangesNothing(Faithful):
    def replay(self, x, y):
        return self.losses


class ChangesOneNetwork(Faithful):
    """With the right losses, which are computed before."""

    def replay(self, x, y):
        model = self.step.args[0]
        before = [weight.detach().clone() for weight in model.discriminator.parameters()]
        losses = self.step(x, y)
        for weight, old in zip(model.discriminator.parameters(), before, strict=True):
            weight.data.copy_(old)
        return losses


class LeavesGarbage(Faithful):
    def replay(self, x, y):
        losses = self.step(x, y)
        nn.init.normal_(self.step.args[0].generator.encoder[1][1].weight)
        return losses


class LeavesNoNumbers(Faithful):
    def replay(self, x, y):
        losses = self.step(x, y)
        nn.init.constant_(self.step.args[0].generator.output[1].bias, float("nan"))
        return losses


class SeesAnotherBatch(Faithful):
    def replay(self, x, y):
        return self.step(y, x)


FAILURES = {
    RaisesAtOnce: "RuntimeError: operation not permitted",
    RaisesAfterwards: "ValueError: the step reads a tensor",
    RunsOutOfMemory: "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
    RaisesAtTheReplay: "RuntimeError: an illegal memory access was encountered",
    LosesLosses: "its losses are nan, nan, nan; those of the plain step are ",
    ReturnsOldLosses: "its losses are ",
    ChangesNothing: "it does not change the weights as the plain step does",
    ChangesOneNetwork: "it does not change the weights as the plain step does",
    LeavesGarbage: "it does not change the weights as the plain step does",
    LeavesNoNumbers: "it does not change the weights as the plain step does",
    SeesAnotherBatch: "its losses are ",
}


def graphed(graph_type, model, config, graph=True):
    """What `step_function` returns on a GPU."""
    return GraphedStep(partial(train_step, model, config=config), model[:4], graph_type)


@pytest.fixture(scope="module")
def plain_run(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "plain"
    assert train.train(config_for(pairs, folder, epochs=2)) == 0
    return folder


@pytest.mark.parametrize("graph_type", [*FAILURES, Faithful])
def test_a_run_ends_as_without_a_graph(pairs, tmp_path, monkeypatch, capsys, plain_run, graph_type):
    monkeypatch.setattr(train, "step_function", partial(graphed, graph_type))
    assert train.train(config_for(pairs, tmp_path / "run", epochs=2)) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "graph" in line]
    if graph_type is Faithful:
        assert not lines
    else:
        (line,) = lines
        start = "warning: training without a CUDA graph, slower: "
        assert line.startswith(start + FAILURES[graph_type])
    assert same_training(tmp_path / "run", plain_run)


def test_a_network_without_a_discriminator_is_checked_as_well(pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "step_function", partial(graphed, ChangesNothing))
    config = config_for(pairs, tmp_path / "run", epochs=1, gan_weight=0.0)
    assert train.train(config) == 0
    assert "it does not change the weights" in capsys.readouterr().err


def test_a_graph_that_failed_is_given_up_for_good(batch):
    config = Config(**TINY)
    step = graphed(RaisesAtOnce, build_model(config, torch.device("cpu")), config)
    graph = step.graph
    for _ in range(GraphedStep.warm_up + 1):
        step(*batch)
    assert graph.abandoned and step.graph is None
    assert all(loss.isfinite() for loss in step(*batch).values())


def test_a_mistake_in_the_step_is_not_blamed_on_the_graph(batch, capsys):
    config = Config(**TINY)
    step = graphed(Faithful, build_model(config, torch.device("cpu")), config)
    for _ in range(GraphedStep.warm_up):
        step(*batch)
    with pytest.raises(ValueError, match="takes multiples of"):
        step(batch[0][..., 1:], batch[1])
    assert not capsys.readouterr().err


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(2, 1, 3, 32, 32).mul(2).sub(1)


@pytest.fixture
def cuda(monkeypatch):
    """Names of torch.cuda, without a GPU; and the streams that were used."""
    used = []
    names = ("Stream", "CUDAGraph", "current_stream", "set_stream", "synchronize", "empty_cache")
    for name in names:
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "default_generators", [MagicMock()])
    monkeypatch.setattr(torch.cuda, "stream", lambda s: used.append(s) or nullcontext())
    monkeypatch.setattr(
        torch.cuda, "graph", lambda g, stream=None, **options: used.append(stream) or nullcontext()
    )
    return used


def test_a_graph_is_recorded_on_the_stream_of_the_first_steps(cuda, batch):
    graph = Graph(lambda x, y: {"loss": (x + y).mean()})
    graph.plain(*batch)
    graph.record(*batch)
    assert cuda == [graph.side] * 2
    graph.replay(*batch)
    assert graph.graph.replay.called


def test_after_a_failure_work_goes_back_to_the_main_stream(cuda, batch):
    graph = Graph(lambda x, y: {"loss": (x + y).mean()})
    graph.abandon()
    torch.cuda.set_stream.assert_called_once_with(graph.main)
    (generator,) = torch.cuda.default_generators
    generator.graphsafe_set_state.assert_called_once_with(generator.clone_state())


def test_a_gpu_that_takes_no_more_work_is_one_line(pairs, tmp_path, monkeypatch, capsys, cuda):
    torch.cuda.synchronize.side_effect = RuntimeError("CUDA error: an illegal memory access\nmore")

    class Broken(RaisesAtTheReplay):
        def __init__(self, step):
            Graph.__init__(self, step)

        abandon = Graph.abandon

    monkeypatch.setattr(train, "step_function", partial(graphed, Broken))
    line = refusal(capsys, train.main, config_for(pairs, tmp_path / "run", epochs=1))
    assert "(RuntimeError: CUDA error: an illegal memory access); resume with --fast false" in line


# ---- GPU --------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PRECISIONS = ["fp32", "fp16"]
if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False):
    PRECISIONS.append("bf16")


def on_gpu(**fields):
    """A configuration, its model and a batch."""
    device = torch.device("cuda")
    config = Config(**{**TINY, "device": "cuda", **fields})
    torch.manual_seed(1)
    x, y = torch.rand(2, 1, 3, 32, 32, device=device) * 2 - 1
    return config, prepare(build_model(config, device), config), x, y


def stacked(losses) -> torch.Tensor:
    return torch.stack(list(losses.values())).clone()


@needs_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_replayed_step_is_the_plain_one(precision, capsys):
    """With dropout: both draw the same noise."""
    config, model, x, y = on_gpu(precision=precision)
    other = on_gpu(precision=precision)[1]
    torch.manual_seed(2)
    noise = rng_state(x.device)
    graphed = step_function(model, config)
    for step in range(8):
        set_rng_state(noise, x.device)
        replayed = stacked(graphed(x * (1 - step / 10), y))
        set_rng_state(noise, x.device)
        plain = stacked(train_step(other, x * (1 - step / 10), y, config))
        assert torch.allclose(replayed, plain, rtol=0.02), step
        torch.manual_seed(step)
        noise = rng_state(x.device)
    assert graphed.graph is not None and not capsys.readouterr().err


@needs_gpu
def test_every_replay_draws_its_own_noise_and_can_be_repeated():
    config, model, x, y = on_gpu(precision="fp32", learning_rate=1e-30)
    graphed = step_function(model, config)
    for _ in range(GraphedStep.warm_up + 1):
        graphed(x, y)
    state = rng_state(x.device)
    first = [stacked(graphed(x, y)) for _ in range(3)]
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])
    set_rng_state(state, x.device)
    assert all(torch.allclose(stacked(graphed(x, y)), losses) for losses in first)


@needs_gpu
@pytest.mark.parametrize("fails", ["reading a tensor", "before it ends"])
def test_after_a_recording_that_failed_a_gpu_trains_on(fails, capsys):
    config, model, x, y = on_gpu(precision="fp32")

    def step(x, y):
        losses = train_step(model, x, y, config)
        if fails == "reading a tensor":
            losses["loss_d"].item()
        elif torch.cuda.is_current_stream_capturing():
            raise ValueError("not while it is recorded")
        return losses

    graphed = GraphedStep(step, model[:4])
    for _ in range(8):
        assert stacked(graphed(x, y)).isfinite().all()
    assert graphed.graph is None
    assert capsys.readouterr().err.count("training without a CUDA graph") == 1


@needs_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_on_a_gpu_resumes_and_moves_to_the_cpu(pairs, tmp_path, precision, capsys):
    fields = {"device": "cuda", "precision": precision, "epochs": 2, "decay_epochs": 1}
    assert train.train(config_for(pairs, tmp_path / "run", **fields)) == 0
    before = weights(tmp_path / "run")
    assert train.main(["--resume", tmp_path / "run", "--epochs", 3]) == 0
    assert not equal(before, weights(tmp_path / "run"))
    words = ["--device", "cpu", "--precision", "fp32", "--epochs", 4]
    assert train.main(["--resume", tmp_path / "run", *words]) == 0
    assert "graph" not in capsys.readouterr().err
