"""Train Pix2Pix.

    python train.py                                    the demo: makes its own data, laptop CPU
    python train.py facades                            an experiment of the paper
    python train.py facades --epochs 10 --output runs/mine
    python train.py --resume runs/mine                 goes on where it stopped
    torchrun --nproc-per-node 8 train.py maps          on the 8 GPUs of a machine

What is trained, and how, is in config.py; what makes it fast in fast.py.
"""

from config import one_line_errors, parse_train_arguments

if __name__ == "__main__":  # before the slow imports, so that --help and mistakes answer at once
    with one_line_errors():
        ARGUMENTS = parse_train_arguments(__doc__)

import json
import math
import os
import shlex
import statistics
import sys
import time
from copy import deepcopy
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

if os.environ.get("RANK", "0") != "0":
    os.environ["TQDM_DISABLE"] = "1"  # of several processes, only the first shows its progress

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from config import Config, UserError, config_from_dict, continued
from data.make_demo import DEMO_ROOT, make_demo
from dataset import PairedDataset, TrainingOrder, list_skipped, load_batches
from discriminator import PatchDiscriminator
from evaluate import translations
from fast import GraphedStep, choose_precision, lay_out_as, prepare
from files import check_fits, replacing, tensors_of
from generator import UNetGenerator
from log import LOSSES, Log, Meter, Watch, draw_curves, draw_progress
from processes import Background, Processes, StopRequest, alone_in, device_of, origin
from scores import score
from utils import (
    build_discriminator,
    build_generator,
    checkpoint_files,
    load_checkpoint,
    on_cpu,
    rng_state,
    run_folder,
    sample_grid,
    save_checkpoint,
    save_image,
    set_rng_state,
)


class Model(NamedTuple):
    """What training changes. Where there is no adversarial loss, there is no discriminator."""

    generator: UNetGenerator
    discriminator: PatchDiscriminator | None
    optimizer_g: Adam
    optimizer_d: Adam | None

    def parts(self) -> dict:
        """Those that there are, by name."""
        return {name: part for name, part in self._asdict().items() if part is not None}


def build_model(config: Config, device: torch.device) -> Model:
    """The networks and their optimisers, from the seed of the configuration."""
    torch.manual_seed(config.seed)
    generator = build_generator(config).to(device)
    optimizer_g = build_adam(generator, config)
    if config.gan_weight == 0:
        return Model(generator, None, optimizer_g, None)
    discriminator = build_discriminator(config).to(device)
    return Model(generator, discriminator, optimizer_g, build_adam(discriminator, config))


def build_adam(network: torch.nn.Module, config: Config) -> Adam:
    betas = (config.beta1, config.beta2)
    return Adam(network.parameters(), config.learning_rate, betas=betas)


def train_step(model: Model, x: Tensor, y: Tensor, config: Config) -> Tensor:
    """One step of the discriminator, then one of the generator (Sections 3.1 and 3.3).

    x: (B, C, H, W) input, y: (B, C', H, W) target, both in [-1, 1].
    Returns (3,): the losses of the discriminator, of the generator's GAN term and of its L1 term;
    the first two are 0 without a discriminator.
    """
    generator, discriminator, optimizer_g, optimizer_d = model
    gan_loss = GAN_LOSSES[config.gan_loss]
    seen = (x,) if config.conditional else ()  # by D beside y (cGAN), or not (GAN, Section 4.2)
    optimizer_g.zero_grad()  # not only before its backward pass: this one can use the memory
    fake = generator(x)  # (B, C', H, W)
    loss_d = loss_gan = x.new_zeros(())

    # ---- D: maximise log D(x, y) + log(1 - D(x, G(x, z))), halved to slow it down beside G
    if discriminator:
        discriminator.requires_grad_(True)
        real_logits = discriminator(*seen, y)  # (B, 1, h, w)
        fake_logits = discriminator(*seen, fake.detach())  # (B, 1, h, w)
        loss_d = (gan_loss(real_logits, 1.0) + gan_loss(fake_logits, 0.0)) / 2
        optimizer_d.zero_grad()
        loss_d.backward()
        optimizer_d.step()

    # ---- G: maximise log D(x, G(x, z)), judged by the D just updated, and minimise λ·|y - G(x, z)|
    if discriminator:
        discriminator.requires_grad_(False)
        loss_gan = gan_loss(discriminator(*seen, fake), 1.0)
    loss_l1 = F.l1_loss(fake, y)
    (config.gan_weight * loss_gan + config.lambda_l1 * loss_l1).backward()
    optimizer_g.step()

    return torch.stack([loss_d, loss_gan, loss_l1]).detach()


def cross_entropy(logits: Tensor, label: float) -> Tensor:
    """Against all real (1) or all generated (0), the sigmoid included: the paper's loss."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def least_squares(logits: Tensor, label: float) -> Tensor:
    """The same by squared distance (LSGAN, Mao et al., ICCV 2017), as many like it."""
    return F.mse_loss(logits, torch.full_like(logits, label))


GAN_LOSSES = {"cross_entropy": cross_entropy, "least_squares": least_squares}


def step_of(model: Model, config: Config, graph: bool = True):
    """(x, y) -> losses: the step as it is, or on a GPU, if wanted, its replayed recording."""
    step = partial(train_step, model, config=config)
    on_gpu = next(model.generator.parameters()).is_cuda
    return GraphedStep(step) if graph and config.fast and on_gpu else step


def restore(optimizer: Adam, state: dict) -> None:
    """Takes the moments of a checkpoint, but not its options and its layout in memory: these suit
    the device on which it was trained."""
    options = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["state"], "param_groups": options})
    for parameter, moments in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            moments[name] = torch.empty_like(parameter).copy_(moments[name])


def averaged(generator: UNetGenerator, config: Config) -> UNetGenerator | None:
    """A copy that becomes a running mean of the generator's weights, if `config.ema_decay` asks for
    one."""
    return deepcopy(generator).requires_grad_(False) if config.ema_decay else None


def set_learning_rate(model: Model, rate: float) -> None:
    for optimizer in filter(None, (model.optimizer_g, model.optimizer_d)):
        (group,) = optimizer.param_groups
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def learning_rate(config: Config, epoch: int) -> float:
    """That of an epoch, counted from 0. Constant, as in the paper, unless `decay_epochs` is set:
    then it falls linearly over the last of them, as in the PyTorch port."""
    return config.learning_rate * min(1.0, (config.epochs - epoch) / (config.decay_epochs + 1))


def validate(
    generator: UNetGenerator, dataset: PairedDataset, folder: Path, epoch: int, log: Log, step: int
):
    """Mean scores over the validation pairs, by their names in the log, and a grid of the first of
    them as a picture. Prints them with the change since the last validation.

    Draws noise of its own, so it leaves no trace in the training.
    """
    scores, grid = [], []
    device = next(generator.parameters()).device
    on = device if device.type == "cuda" else "cpu"  # SSIM takes long on a CPU
    results = translations(generator, dataset)
    # disable=None: a bar within the bar only where there is a terminal to draw it on.
    results = tqdm(results, "validating", len(dataset), leave=False, disable=None)
    for _, x, output, y in results:
        scores.append(score(output[None].to(on), y[None].to(on)))
        if len(grid) < dataset.config.sample_images:
            grid.append((x, output, y))
    means = {f"val_{name}": statistics.fmean(row[name] for row in scores) for name in scores[0]}
    path = folder / "samples" / f"epoch_{epoch:04d}.png"
    picture = sample_grid(grid)
    save_image(picture, path)
    log.picture("samples", picture, step)
    words = []
    for name, title, digits in (("l1", "L1", 4), ("psnr", "PSNR", 2), ("ssim", "SSIM", 4)):
        value, before = means[f"val_{name}"], log.scores.get(f"val_{name}")
        change = f" ({value - before:+.{digits}f})" if before is not None else ""
        words.append(f"{title} {value:.{digits}f}{change}")
    tqdm.write(f"epoch {epoch:4d}  step {step:7d}  val {'  '.join(words)}  {path}")
    return means


def save_config(config: Config) -> None:
    """Writes config.json into the run's folder."""
    with replacing(Path(config.output) / "config.json") as temporary:
        temporary.write_text(json.dumps(asdict(config), indent=2) + "\n")


def train(config: Config, checkpoint: dict | None = None) -> int:
    """Trains from the start, or on from a checkpoint, to the end of `config.epochs`.

    Returns 0, or after a stop by a signal what a shell expects then, 128 + its number.
    """
    device = device_of(config)
    with Processes(device) as processes:
        precision, reason = choose_precision(config.precision, device)
        if processes.largest(precision == "fp32")[0]:
            precision = "fp32"
        # Saved with the run, which so keeps them.
        palette = config.label_palette() or "none"
        config = replace(config, precision=precision, palette=palette)
        together = f", {processes.size} processes" if processes.size > 1 else ""
        print(f"device {device}{together}, torch {torch.__version__}")
        print(f"precision {precision}: {reason}")
        print("configuration:")
        for name, value in asdict(config).items():
            print(f"  {name:24} {value}")
        if Path(config.data_root) == DEMO_ROOT and not DEMO_ROOT.exists() and processes.first:
            make_demo(DEMO_ROOT)
        processes.wait()
        return train_on(device, processes, config, checkpoint)


def continue_order(order: TrainingOrder, checkpoint: dict, data: PairedDataset) -> None:
    """Puts the order where the checkpoint stopped, be it with another number of processes, which is
    said. Raises UserError if the data have changed since."""
    now, before = order.processes, len(checkpoint["rng"])
    config, pairs, shift = order.config, order.pairs, checkpoint["shift"]
    old = TrainingOrder(pairs, config, order.start, processes=before, shift=shift)
    if checkpoint["steps_per_epoch"] != old.steps_per_epoch:
        raise UserError(
            f"{config.data_root} gives {old.steps_per_epoch} steps an epoch, but gave "
            f"{checkpoint['steps_per_epoch']} when this run began; put its training pairs back"
        )
    if checkpoint.get("pairs", data.fingerprint()) != data.fingerprint():
        raise UserError(
            f"{config.data_root} has as many training pairs as when this run began, but others; "
            "put those back"
        )
    order.take_over(old)
    if now != before:
        print(
            f"now with {now} processes instead of {before}: a step sees {now * config.batch_size} "
            f"pairs, not {before * config.batch_size}, and an epoch has {order.steps_per_epoch} "
            f"steps, not {old.steps_per_epoch}; the learning rate stays {config.learning_rate:g}, "
            "and the result will not be that of an uninterrupted run"
        )


def check_resumable(checkpoint: dict, config: Config, folder: Path) -> None:
    """Raises UserError unless the checkpoint holds all that the run needs to go on."""
    with torch.device("meta"):
        model = build_model(config, torch.device("meta"))
    checkpoint.setdefault("shift", 0)
    checkpoint.setdefault("seconds", math.nan)  # of an earlier version, which did not count them
    counts = ("steps_per_epoch", "shift", "losses_steps")
    expected = {**dict.fromkeys(counts, 0), "seconds": 0.0, "losses": torch.zeros(3), "rng": []}
    for name, part in model.parts().items():
        if isinstance(part, Adam):
            (group,) = part.param_groups
            moments = {
                number: {"step": torch.zeros(()), "exp_avg": weight, "exp_avg_sq": weight}
                for number, weight in enumerate(group["params"])
            }
            expected[name] = {"state": moments if checkpoint["step"] else {}, "param_groups": []}
        else:
            expected[name] = part.state_dict()
    if config.ema_decay:
        expected["average"] = expected["generator"]
    for name, value in expected.items():
        check_fits(checkpoint.get(name), value, f"the checkpoint of {folder}: {name}")
    most = checkpoint["step"]
    for name, least in (("shift", -(2**63)), ("losses_steps", 0)):
        if not least <= checkpoint[name] <= most:
            raise UserError(f"the checkpoint of {folder}: {name} is {checkpoint[name]}")
    if not (math.isnan(checkpoint["seconds"]) or 0 <= checkpoint["seconds"] < 1e10):
        raise UserError(f"the checkpoint of {folder}: seconds is {checkpoint['seconds']}")
    if not checkpoint["rng"]:
        raise UserError(f"the checkpoint of {folder}: rng is empty")


def check_finite(state: dict, step: int) -> None:
    """Raises UserError if a tensor is not finite: a gradient may overflow where the losses do not.
    The next losses would show it, but then it would have been saved."""
    if not all(tensor.isfinite().all() for tensor in tensors_of(state)):
        raise UserError(
            f"after step {step} some weights are not finite, though its losses were; the last "
            "checkpoint is from before that; a new run with a lower learning_rate may help"
        )


def train_on(
    device: torch.device, processes: Processes, config: Config, checkpoint: dict | None
) -> int:
    """`train` in one of the processes, on its device."""
    folder = Path(config.output)
    latest = folder / "checkpoints" / "latest.pt"
    begun, here = time.monotonic(), origin(device)
    if checkpoint:
        check_resumable(checkpoint, config, folder)
    elif processes.first:
        save_config(config)
    data = PairedDataset(config, "train")
    validation = PairedDataset(config, "val") if processes.first else None
    if processes.first:
        given, made = ("A", "B") if config.direction == "AtoB" else ("B", "A")
        direction = f"; {given} is given, {made} is to be made" if config.task == "pairs" else ""
        print(f"{len(data)} to train on, {len(validation)} to validate with{direction}")
    start, seconds = (checkpoint["step"], checkpoint["seconds"]) if checkpoint else (0, 0.0)
    if processes.largest(start, -start) != [start, -start]:
        raise UserError(f"the processes found different checkpoints in {folder}; start them again")
    order = TrainingOrder(len(data), config, start, processes.rank, processes.size)
    if checkpoint:
        continue_order(order, checkpoint, data)
    if start >= order.total_steps:
        done, _ = order.position(start)
        print(
            f"{folder} is trained to the end of epoch {done}, and {config.epochs} were asked for; "
            "--epochs N for more"
        )
        return 0

    # ---- The model, as built or as saved, and the step that trains it
    model = build_model(config, device)
    average = averaged(model.generator, config)  # before `prepare` ties it to the original
    model = prepare(model, config)
    if average:
        lay_out_as(average, model.generator)
    follow = get_ema_multi_avg_fn(config.ema_decay)
    if checkpoint:
        for name, part in model.parts().items():
            state = checkpoint.pop(name)  # pop frees it: together they are as large as the model
            restore(part, state) if isinstance(part, Adam) else part.load_state_dict(state)
        if average:
            average.load_state_dict(checkpoint.pop("average"))
        meter = Meter(checkpoint["losses"].to(device), checkpoint["losses_steps"], processes)
        if processes.rank < len(checkpoint["rng"]):
            set_rng_state(checkpoint["rng"][processes.rank], device)
        else:
            torch.manual_seed(config.seed + processes.rank)
        print(f"going on after step {start} of {order.total_steps}")
    else:
        meter = Meter(torch.zeros(3, device=device), 0, processes)
        if processes.rank > 0:
            torch.manual_seed(config.seed + processes.rank)  # noise of its own
    # Several processes exchange gradients within a step, which a graph would have to record.
    take_step = step_of(processes.share(model), config, graph=processes.size == 1)

    # ---- What is written
    translator = average or model.generator
    if processes.first:
        log = Log(folder, start if checkpoint else -1)
        if checkpoint:
            save_config(config)  # not before its changes have proved to fit the run
    writer, watch = Background(), Watch()

    def save(path: Path, step: int) -> None:
        watch.look(wait=True)
        losses, rng = meter.sums(), processes.gather(rng_state(device))
        if not processes.first:
            return
        log.flush()  # no checkpoint may know of more than the log
        state = {
            "step": step,
            "steps_per_epoch": order.steps_per_epoch,
            "shift": order.shift,
            "pairs": data.fingerprint(),
            "seconds": seconds + time.monotonic() - begun,
            "origin": here,
            "losses": losses,
            "losses_steps": meter.steps,
            "rng": rng,
            **{name: part.state_dict() for name, part in model.parts().items()},
        }
        if average:
            state["average"] = average.state_dict()
        check_finite(state, step)
        if device.type == "cpu":  # a copy to write from would need the memory, the writing little
            save_checkpoint(path, config, **state)
        else:
            writer.do(save_checkpoint, path, config, **on_cpu(state))

    if not checkpoint:
        if processes.first:
            log.write(0, epoch=0, **validate(translator, validation, folder, 0, log, 0))
        save(latest, 0)
    saved_at = time.monotonic()
    meter.restart_clock()
    step_images = config.batch_size * processes.size
    bar = tqdm(
        total=order.total_steps * step_images,
        initial=start * step_images,
        unit="image",
        # A terminal shows a moving bar, a log file a line now and then.
        mininterval=0.2 if sys.stderr.isatty() else 30,
    )
    with bar, StopRequest() as stop, writer:
        for step, batch in enumerate(load_batches(data, order), start + 1):
            epoch_before, step_before = order.position(step - 1)
            if step_before == 0 or step == start + 1:
                rate = learning_rate(config, epoch_before)
                set_learning_rate(model, rate)
            x = batch["input"].to(device, non_blocking=True)
            y = batch["target"].to(device, non_blocking=True)
            losses = take_step(x, y)
            watch.add(step, losses, batch["name"])
            meter.add(losses, step_images)
            if average:
                follow([*average.parameters()], [*model.generator.parameters()], step)
            bar.update(step_images)

            # ---- What is due after this step: a row of the log, a validation, a checkpoint
            epoch, step_of_epoch = order.position(step)
            last = step == order.total_steps
            stopping, overdue = 0, 0
            if step % processes.agree_steps == 0:
                late = time.monotonic() - saved_at > config.save_minutes * 60
                stopping, overdue = processes.largest(stop.signal, int(late))
            row = {}
            if step % config.log_steps == 0 or last:
                watch.look(wait=True)
                row = {"learning_rate": rate, **meter.row(model.discriminator is not None)}
                means = [f"{LOSSES[name]} {row[name]:.3f}" for name in LOSSES if name in row]
                bar.set_postfix_str("  ".join(means), refresh=False)
            if step % config.log_steps == 0:
                meter.reset()
            validating = last or (step_of_epoch == 0 and epoch % config.validate_epochs == 0)
            if validating and processes.first:
                watch.look(wait=True)
                check_finite(translator.state_dict(), step)
                row |= validate(translator, validation, folder, epoch, log, step)
                meter.restart_clock()
            if row and processes.first:
                log.write(step, epoch=epoch + step_of_epoch / order.steps_per_epoch, **row)

            if step_of_epoch == 0 and config.keep_epochs and epoch % config.keep_epochs == 0:
                save(latest.with_name(f"epoch_{epoch:04d}.pt"), step)
            due = step_of_epoch == 0 and epoch % config.save_epochs == 0
            if due or overdue or last or stopping:
                save(latest, step)
                if processes.first and (last or stopping or overdue):
                    draw_curves(folder)
                saved_at = time.monotonic()
                meter.restart_clock()
            if stopping:
                break
    if processes.first:
        log.close()
        draw_progress(folder)
        list_skipped(list(dict.fromkeys(data.skipped + validation.skipped)), folder)

    quoted = shlex.quote(str(folder))
    if step < order.total_steps:
        print(f"stopped after step {step} of {order.total_steps}; to go on:")
        print(f"  python train.py --resume {quoted}")
        return 128 + stopping
    took = seconds + time.monotonic() - begun
    in_all = "" if math.isnan(took) else f" in {timedelta(seconds=round(took))}"
    print(f"trained to the end of epoch {config.epochs}{in_all}")
    newest = folder / "samples" / f"epoch_{epoch:04d}.png"
    print(f"  samples     {newest}  (input | output | target)")
    print(f"  progress    {folder / 'progress.gif'}  (and .png: the samples over the epochs)")
    print(f"  checkpoint  {latest}")
    print(f"  curves      {folder / 'curves.png'}  (or tensorboard --logdir {quoted})")
    print(f"next: python evaluate.py {quoted}")
    return 0


def main(config: Config | None, changes: dict, resume: str | None) -> int:
    """Starts or resumes a run, as `config.parse_train_arguments` read it. Returns an exit code."""
    if resume and not checkpoint_files(resume):
        load_checkpoint(resume)  # says what is missing, before a folder is made
    folder = run_folder(resume) if resume else Path(config.output)
    with alone_in(folder):
        checkpoint = None
        if resume:
            checkpoint = load_checkpoint(resume)
            config = continued(config_from_dict(checkpoint["config"]), changes)
            config = replace(config, output=str(folder))
        elif checkpoint_files(folder):
            raise UserError(
                f"{folder} already holds a run; go on with it by `python train.py --resume "
                f"{shlex.quote(config.output)}`, or give another --output"
            )
        return train(config, checkpoint)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main(*ARGUMENTS))
