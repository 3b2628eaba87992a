"""Train Pix2Pix. config.py holds every hyperparameter.

python train.py                                    the demo: draws its data, runs on a laptop
python train.py facades                            an experiment of the paper
python train.py facades --epochs 10 --output runs/mine
python train.py --resume runs/mine                 resumes a run
torchrun --nproc-per-node 8 train.py maps          on the 8 GPUs of a machine
"""

import json
from argparse import Namespace
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam

import utils
from config import DEFAULT, PRESETS, Config, UserError, differences, require_data, resume_config
from dataset import PairedDataset, load_pairs
from discriminator import PatchDiscriminator
from engine import cli, fast
from engine.devices import device_of
from engine.fields import parse_preset
from engine.files import report_skipped, write_text
from engine.graphs import GraphedStep
from engine.order import TrainingOrder
from engine.processes import Processes, lock_run
from engine.resume import resume
from engine.run import Run, report
from engine.schedule import Schedule
from evaluate import validate
from generator import UNetGenerator
from images.pixels import to_device
from metrics.palettes import palette_name

# The losses of train_step: column of log.csv -> name in the progress bar.
LOSSES = {"loss_d": "D", "loss_g_gan": "G", "loss_g_l1": "L1"}
SCORES = ["val_l1", "val_psnr", "val_ssim"]
DEMO_DATA = PRESETS["demo"].data_root
COLUMNS = ["step", "epoch", *LOSSES, *SCORES, "learning_rate", "images_per_second"]

# ---- The objective and the step ---------------------------------------------------------------


class Model(NamedTuple):
    """Networks and optimizers; a checkpoint holds them all. Those not in use are None."""

    generator: UNetGenerator
    discriminator: PatchDiscriminator | None  # None without an adversarial loss
    optimizer_g: Adam
    optimizer_d: Adam | None
    average: UNetGenerator | None  # EMA of the generator's weights


def build_model(config: Config, device: torch.device) -> Model:
    """Networks and optimizers, initialized from the configuration's seed."""
    torch.manual_seed(config.seed)
    generator = utils.build_generator(config).to(device)
    discriminator = utils.build_discriminator(config).to(device) if config.gan_weight else None
    if config.init:
        utils.start_from(config.init, config, generator, discriminator)
    betas, eps = (config.beta1, config.beta2), fast.adam_epsilon(config.precision)
    adam = partial(Adam, lr=config.learning_rate, betas=betas, eps=eps)
    return Model(
        generator,
        discriminator,
        adam(generator.parameters()),
        adam(discriminator.parameters()) if discriminator else None,
        deepcopy(generator).requires_grad_(False) if config.ema_decay else None,
    )


def prepare(model: Model, config: Config) -> Model:
    """Applies engine/fast.py: networks change in place, optimizers may be replaced."""
    if not config.fast:
        return model
    networks = list(filter(None, (model.generator, model.discriminator)))
    shape = (config.batch_size, config.in_channels, config.crop_size, config.crop_size)
    fuse_adam = fast.speed_up(networks, config.precision, torch.empty(shape, device="meta"))
    if fuse_adam:
        fused_d = fast.fused(model.optimizer_d) if model.optimizer_d else None
        model = model._replace(optimizer_g=fast.fused(model.optimizer_g), optimizer_d=fused_d)
    if model.average:
        fast.match_layout(model.average, model.generator)
    return model


def step_function(model: Model, config: Config, graph: bool = True):
    """(x, y) -> losses: `train_step`, on a GPU as a CUDA graph."""
    step = partial(train_step, model, config=config)
    on_gpu = next(model.generator.parameters()).is_cuda
    return GraphedStep(step, model[:4]) if graph and config.fast and on_gpu else step


def cross_entropy(logits: Tensor, label: float) -> Tensor:
    """The paper's loss: binary cross-entropy with all real (1) or all generated (0)."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def least_squares(logits: Tensor, label: float) -> Tensor:
    """The alternative of LSGAN (Mao et al., ICCV 2017)."""
    return F.mse_loss(logits, torch.full_like(logits, label))


GAN_LOSSES = {"cross_entropy": cross_entropy, "least_squares": least_squares}


def train_step(model: Model, x: Tensor, y: Tensor, config: Config) -> dict[str, Tensor]:
    """Updates the discriminator, then the generator (Sections 3.1 and 3.3). x: (B, C, H, W) input,
    y: (B, C', H, W) target, both in [-1, 1]. Returns the LOSSES in use. On a GPU it is
    recorded as a CUDA graph: no branch may depend on a tensor's value (`--fast false` to debug)."""
    generator, discriminator, optimizer_g, optimizer_d, _ = model
    gan_loss = GAN_LOSSES[config.gan_loss]
    condition = (x,) if config.conditional else ()  # unconditional: D sees y alone (Section 4.2)
    mixed_precision = fast.mixed_precision(config.precision, x.device)
    scale = fast.loss_scale(config.precision)
    losses = {}
    optimizer_g.zero_grad()  # frees G's gradients before D's step
    with mixed_precision:
        fake = generator(x)  # G(x, z): (B, C', H, W); z is dropout

    # ---- D: maximize log D(x, y) + log(1 - D(x, G(x, z))), halved as in Section 3.3
    if discriminator:
        discriminator.requires_grad_(True)
        with mixed_precision:
            real_logits = discriminator(*condition, y)  # (B, 1, h, w)
            fake_logits = discriminator(*condition, fake.detach())  # (B, 1, h, w)
        loss_d = (gan_loss(real_logits, 1.0) + gan_loss(fake_logits, 0.0)) / 2
        optimizer_d.zero_grad()
        (scale * loss_d).backward()
        optimizer_d.step()
        losses["loss_d"] = loss_d

    # ---- G: maximize log D(x, G(x, z)), with the D just updated, and minimize λ·|y - G(x, z)|
    loss_l1 = F.l1_loss(fake, y)
    objective = config.lambda_l1 * loss_l1
    if discriminator:
        discriminator.requires_grad_(False)  # G's step needs no gradients of D's weights
        with mixed_precision:
            fake_logits = discriminator(*condition, fake)
        loss_gan = gan_loss(fake_logits, 1.0)
        objective = config.gan_weight * loss_gan + objective
        losses["loss_g_gan"] = loss_gan
    (scale * objective).backward()
    optimizer_g.step()
    losses["loss_g_l1"] = loss_l1
    return {name: loss.detach() for name, loss in losses.items()}


def set_learning_rate(model: Model, config: Config, epoch: int) -> float:
    """Sets, and returns, the learning rate of an epoch, counted from 0: constant, as in the paper,
    or decaying linearly over the last `decay_epochs` epochs, as in the PyTorch port."""
    remaining = (config.epochs - epoch) / (config.decay_epochs + 1)  # above 0 in the last epoch
    rate = config.learning_rate * min(1.0, remaining)
    for optimizer in filter(None, (model.optimizer_g, model.optimizer_d)):
        fast.set_learning_rate(optimizer, rate)
    return rate


def update_average(model: Model, decay: float) -> None:
    """Moves the EMA of the generator's weights, if there is one, toward the weights."""
    if model.average:
        weights = model.generator.parameters()
        for mean, weight in zip(model.average.parameters(), weights, strict=True):
            mean.lerp_(weight.detach(), 1 - decay)


# ---- The run ----------------------------------------------------------------------------------


def train(config: Config, checkpoint: dict | None = None) -> int:
    """Trains to the end of `config.epochs`, from the start or from a checkpoint. Returns the exit
    code: 0, or 128 + the number of the signal that stopped it. Raises UserError."""
    with Processes(device_of(config.device)) as processes:
        data = PairedDataset(resolve_config(config, processes), "train")
        config = data.config  # with measured ranges in place of percentiles
        validation = PairedDataset(config, "val", validating=True) if processes.first else None
        print(f"{len(data)} training pairs, {len(validation or data)} validation pairs")
        start = replace(config, init="") if checkpoint else config  # its weights are loaded below
        model = prepare(build_model(start, processes.device), config)
        processes.seed_noise(config.seed)
        run = build_run(config, data, model, processes)
        if checkpoint:
            resume(run, checkpoint)
        if reason := run.schedule.why_finished():
            print(f"{run.folder} {reason}")
            return 0
        if processes.first:
            write_text(run.folder / "config.json", json.dumps(asdict(config), indent=2) + "\n")
        step = train_on(config, data, validation, model, run)
        if processes.first:
            report_skipped([*data.skipped, *validation.skipped], run.folder)
        return report(run, step)


def train_on(
    config: Config, data: PairedDataset, validation: PairedDataset | None, model: Model, run: Run
) -> int:
    """The loop. `validation` is None in all processes but the first. Returns the last step."""
    processes, schedule, order = run.processes, run.schedule, run.schedule.order
    generator, discriminator = map(processes.data_parallel, (model.generator, model.discriminator))
    shared = model._replace(generator=generator, discriminator=discriminator)
    # Several processes exchange gradients within a step, which GraphedStep does not record.
    take_step = step_function(shared, config, graph=processes.size == 1)

    def validate_and_save(step: int) -> None:
        if schedule.validation_due(step):
            results = validate(model.average or model.generator, validation) if validation else None
            run.add_validation(step, results)
        if schedule.checkpoints_due(step):  # after the validation, which decides what is best
            run.save(step)

    with run:
        if not run.resumed:
            validate_and_save(step=0)
        for step, batch in enumerate(load_pairs(data, order), order.start + 1):
            rate = set_learning_rate(model, config, epoch=order.position(step - 1)[0])
            x, y = (to_device(batch[key], processes.device) for key in ("input", "target"))
            losses = take_step(x, y)
            update_average(model, config.ema_decay)

            run.record_step(step, losses, batch["name"], learning_rate=rate)
            validate_and_save(step)
            if schedule.stopping:
                break
    return step


def resolve_config(config: Config, processes: Processes) -> Config:
    """Decides what the configuration leaves open, prints what differs from the paper's recipe, and
    draws the demo's data if they are missing."""
    precision, reason = fast.agree_on_precision(config.precision, processes)
    print(f"device {processes}, torch {torch.__version__}")
    print(f"precision {precision}: {reason}")
    changed = differences(replace(config, output="", precision="auto"))
    print(f"the paper's facades recipe{', but:' if changed else ''}", *changed, sep="\n  ")
    config = replace(config, precision=precision, palette=palette_name(config))
    if config.data_root == DEMO_DATA and not Path(DEMO_DATA).exists() and processes.first:
        from tools.make_demo import make_demo  # only if needed

        make_demo()
    processes.wait()
    return config


def build_run(config: Config, data: PairedDataset, model: Model, processes: Processes) -> Run:
    """The run, which logs and saves."""
    arguments = (len(data), config.batch_size, config.epochs, config.seed)
    order = TrainingOrder(*arguments, rank=processes.rank, processes=processes.size)
    return Run(
        folder=config.folder,
        parts={name: part for name, part in model._asdict().items() if part is not None},
        schedule=Schedule(order, config),
        data=data.fingerprint(),
        processes=processes,
        losses={k: v for k, v in LOSSES.items() if model.discriminator or k == "loss_g_l1"},
        columns=COLUMNS,
        save_checkpoint=partial(utils.save_checkpoint, config=config),
    )


# ---- The command line -------------------------------------------------------------------------


def parse_arguments(argv=None) -> Namespace:
    """Returns resume (a run folder or None), fields (those given) and config (None when resuming).
    Raises UserError."""
    parser = cli.Parser(__doc__, usage="python train.py [PRESET] [--field value ...]")
    parser.add_argument("--resume", metavar="RUN", help="resume the run in this folder")
    options, preset, given = parse_preset(parser, PRESETS, DEFAULT, argv)
    if options.resume is not None:
        if options.preset or not options.resume:
            raise UserError("--resume takes a run folder, and no preset")
        return Namespace(resume=options.resume, fields=given, config=None)
    config = replace(preset, **given)
    if not config.output:
        free = cli.next_free_folder(config.folder)
        config = replace(config, output="" if free == config.folder else str(free))
    return Namespace(resume=None, fields=given, config=config)


def main(argv=None) -> int:
    """Starts or resumes a run. Returns the exit code; raises UserError."""
    options = parse_arguments(argv)
    if options.resume:
        print(f"resuming {options.resume}")
        return resume_run(options.resume, options.fields)
    config = options.config
    if config.data_root != DEMO_DATA:  # which is drawn if it is missing
        require_data(config)
    print(f"training {config.folder}")
    with lock_run(config.folder):
        if utils.checkpoint_files(config.folder):
            raise UserError(
                f"{config.folder} holds a run; resume it with python train.py --resume "
                f"{cli.shell_quote(config.folder)}, or give another --output"
            )
        return train(config)


def resume_run(path: str, changes: dict) -> int:
    """Resumes a run, given its folder or a checkpoint, with some fields changed."""
    if not utils.checkpoint_files(path):
        utils.load_checkpoint(path)  # raises, before a folder is created
    folder = utils.run_folder(path)
    with lock_run(folder):
        checkpoint = utils.load_checkpoint(path)
        utils.with_weights(utils.build_generator, checkpoint, "generator", folder)  # do they fit?
        config = resume_config(checkpoint["config"], changes)
        return train(replace(config, output=str(folder)), checkpoint)


if __name__ == "__main__":
    cli.run(main)
