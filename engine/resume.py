"""Restores the state of a run from a checkpoint, so that it continues bit for bit."""

import math

import torch
from torch import nn
from torch.optim import Optimizer

from engine.cli import UserError
from engine.devices import set_rng_state
from engine.run import Run


def resume(run: Run, checkpoint: dict) -> None:
    """Restores what `Run.save` saved. Raises UserError if anything does not fit."""
    step, processes = checkpoint["step"], run.processes
    if processes.largest(step, -step) != [step, -step]:
        raise UserError("the processes found different checkpoints; start them again")
    if checkpoint.get("pairs", run.data) != run.data:
        them = "restore them (or the numbers in palette.json)"
        raise UserError(f"the training pairs are not those this run began with; {them}")
    try:
        rng = checkpoint["rng"]
        run.order.resume(step, checkpoint.get("shift", 0), len(rng))
        for name, part in run.parts.items():
            restore(part, checkpoint.pop(name))  # pop frees the memory
        if processes.rank < len(rng):
            set_rng_state(rng[processes.rank], processes.device)
        run.meter.resume(checkpoint["losses"], checkpoint["losses_steps"])
        run.seconds = float(checkpoint.get("seconds", math.nan))  # earlier versions: unknown
        run.schedule.waited = int(checkpoint.get("waited", 0))
    except UserError:
        raise
    except Exception as error:  # a damaged checkpoint can hold anything
        raise UserError(f"the checkpoint of {run.folder} does not fit: {error}") from error
    run.resumed = True
    print(f"resuming after step {step} of {run.order.total_steps}")


def restore(part: nn.Module | Optimizer, state: dict) -> None:
    """Loads a state dict. An optimizer keeps its own options, which suit its device, and takes only
    the moments, in the memory layout of the weights."""
    if not isinstance(part, Optimizer):
        part.load_state_dict(state)
        return
    options = part.state_dict()["param_groups"]
    part.load_state_dict({"state": state["state"], "param_groups": options})
    # fp16 scales gradients and eps alike, see engine.fast, and other precisions do not.
    scale = options[0]["eps"] / state["param_groups"][0]["eps"]
    for parameter, moments in part.state.items():
        for name, factor in (("exp_avg", scale), ("exp_avg_sq", scale**2)):
            moments[name] = torch.empty_like(parameter).copy_(moments[name]).mul_(factor)
