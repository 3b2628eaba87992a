"""The training step as a CUDA graph: one launch instead of thousands.

A graph is a bonus: it must neither end a run nor change its result. So its first step is compared
with the plain one, and if it fails, the run trains on without it.
"""

import sys
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from engine.cli import UserError
from engine.devices import rng_state, set_rng_state
from engine.files import tensors_of

# How far a recorded step may be from the plain one, relative to the losses and to the change of a
# network's weights. A replay draws the noise that the plain step draws from the same state, so they
# differ by rounding. At the fourth step of the paper's network, on a CPU, bf16 and fp32 differed by
# 0.001 in the losses and 0.33 in the change of the weights; steps with different noise by 1.07.
LOSS_TOLERANCE = 0.02
CHANGE_TOLERANCE = 0.5


class Graph:
    """A step, (x, y) -> losses, recorded on the current GPU. Batches must have one shape."""

    def __init__(self, step):
        self.step = step
        self.main = torch.cuda.current_stream()
        self.side = torch.cuda.Stream()

    def plain(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Takes the step itself, on a side stream, as required before a recording."""
        self.side.wait_stream(self.main)
        with torch.cuda.stream(self.side):
            losses = self.step(x, y)
        self.main.wait_stream(self.side)
        return losses

    def record(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x.clone(), y.clone()
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: a loader's thread may pin memory meanwhile
        with torch.cuda.graph(self.graph, stream=self.side, capture_error_mode="thread_local"):
            self.losses = self.step(self.x, self.y)  # recorded, not computed yet

    def replay(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        self.x.copy_(x)
        self.y.copy_(y)
        self.graph.replay()
        return self.losses

    def abandon(self) -> None:
        """Frees the graph and what a failed recording left behind. Raises UserError if the GPU
        takes no more work, which only a new process can change."""
        self.graph = self.losses = None
        torch.cuda.set_stream(self.main)
        try:
            # It may still wait for the end of the recording, and refuse to draw; its copy does not.
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            generator.graphsafe_set_state(generator.clone_state())
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise UserError(
                f"the GPU failed at a CUDA graph ({first_line(error)}); resume with --fast false"
            ) from error


class Outcome(NamedTuple):
    """What a step computed, on the CPU."""

    losses: Tensor
    weights: list[Tensor]  # of each network, as a vector


class GraphedStep:
    """A training step that becomes a CUDA graph once cuDNN has chosen its algorithms and Adam has
    created its state, in the first steps. Returns losses; the next step overwrites these tensors.
    `parts` are the networks and optimizers that it changes."""

    warm_up = 3

    def __init__(self, step, parts, graph_type=Graph):
        self.step = step  # (x, y) -> losses
        self.parts = [part for part in parts if part is not None]
        self.graph = graph_type(step)  # None if it failed
        self.taken = 0

    def __call__(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        self.taken += 1
        if self.graph is None:
            return self.step(x, y)
        if self.taken <= self.warm_up:
            return self.graph.plain(x, y)
        if self.taken == self.warm_up + 1:
            return self.first_replay(x, y)
        return self.graph.replay(x, y)

    def first_replay(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Takes a step plainly, takes it back, and takes it by the graph. If that raises or
        differs, prints a line and takes it back, too: from here on, steps are plain."""
        state, numbers = self.state(), rng_state(x.device)
        start = self.weights()
        plain = self.outcome(self.graph.plain(x, y))
        self.restore(state)
        set_rng_state(numbers, x.device)
        try:
            self.graph.record(x, y)
            losses = self.graph.replay(x, y)
            problem = difference(start, plain, self.outcome(losses))
        except Exception as error:  # anything; the plain step has just worked
            problem = first_line(error)
        if not problem:
            return losses
        self.graph.abandon()
        self.graph = None
        self.restore(state)
        set_rng_state(numbers, x.device)
        tqdm.write(f"warning: training without a CUDA graph, slower: {problem}", file=sys.stderr)
        return self.step(x, y)

    def tensors(self) -> list[Tensor]:
        """Weights and Adam's state, which a step changes in place."""
        return list(tensors_of([part.state_dict() for part in self.parts]))

    def state(self) -> list[Tensor]:
        """Copies of `tensors`, on the CPU: the GPU may have no room for them."""
        return [tensor.to("cpu", copy=True) for tensor in self.tensors()]

    def restore(self, state: list[Tensor]) -> None:
        for tensor, saved in zip(self.tensors(), state, strict=True):
            tensor.copy_(saved)

    def weights(self) -> list[Tensor]:
        networks = [part for part in self.parts if isinstance(part, nn.Module)]
        return [torch.cat([p.detach().cpu().flatten() for p in n.parameters()]) for n in networks]

    def outcome(self, losses: dict[str, Tensor]) -> Outcome:
        return Outcome(torch.stack(list(losses.values())).cpu(), self.weights())


def difference(start: list[Tensor], plain: Outcome, replayed: Outcome) -> str:
    """Says in what a recorded step is not the plain one, beyond rounding; "" if in nothing."""
    if not torch.allclose(plain.losses, replayed.losses, rtol=LOSS_TOLERANCE):
        found, expected = (
            ", ".join(f"{loss:.4g}" for loss in one.losses.tolist()) for one in (replayed, plain)
        )
        return f"its losses are {found}; those of the plain step are {expected}"
    for before, weights, others in zip(start, plain.weights, replayed.weights, strict=True):
        error = (others - weights).norm()
        if not error <= CHANGE_TOLERANCE * (weights - before).norm():  # nor is nan
            return "it does not change the weights as the plain step does"
    return ""


def first_line(error: BaseException) -> str:
    """The kind and the first line of the error that came first."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
