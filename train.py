"""Train Pix2Pix. config.py holds every hyperparameter.

python train.py                                    the demo: draws its data, runs on a laptop
python train.py facades                            an experiment of the paper
python train.py facades --epochs 10 --output runs/mine
python train.py --resume runs/mine                 resumes a run
torchrun --nproc-per-node 8 train.py maps          on the 8 GPUs of a machine
"""

from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path

from config import DEFAULT, PRESETS, Config, UserError, config_from_dict, require_data, resumed
from engine import cli


def parse_arguments(argv=None) -> Namespace:
    """`resume`, a run folder or None; `fields`, those given; `config` of a new run. Raises
    UserError."""
    parser = cli.Parser(__doc__, usage="python train.py [PRESET] [--field value ...]")
    parser.add_argument("--resume", metavar="RUN", help="resume the run in this folder")
    options, preset, given = cli.parse_preset(parser, PRESETS, DEFAULT, argv)
    config = None
    if options.resume is None:
        config = replace(preset, **given)
        if "output" not in given and config.folder != (folder := cli.free_folder(config.folder)):
            config = replace(config, output=str(folder))
    elif options.preset or not options.resume:
        raise UserError("--resume takes a run folder, and no preset")
    return Namespace(resume=options.resume, fields=given, config=config)


def describe(options: Namespace) -> None:
    """Raises UserError if a new run lacks its data; the demo's will be drawn."""
    if options.config and options.config.data_root != PRESETS["demo"].data_root:
        require_data(options.config)
    print(f"resuming {options.resume}" if options.resume else f"training {options.config.folder}")


if __name__ == "__main__":
    cli.early(parse_arguments, describe)  # --help and mistakes answer before the slow imports

import json
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam

import utils
from data.make_demo import DEMO_ROOT, make_demo
from dataset import PairedDataset, load_pairs
from discriminator import PatchDiscriminator
from engine import fast
from engine.devices import device_of
from engine.files import write_text
from engine.loading import TrainingOrder, to_device
from engine.pairs import list_skipped
from engine.processes import Processes, alone_in
from engine.run import Run
from evaluate import validate
from generator import UNetGenerator
from metrics.palettes import palette_name

# What train_step returns, which are columns of log.csv, and their names in the progress bar.
LOSSES = {"loss_d": "D", "loss_g_gan": "G", "loss_g_l1": "L1"}
SCORES = ["val_l1", "val_psnr", "val_ssim"]
COLUMNS = ["step", "epoch", *LOSSES, *SCORES, "learning_rate", "images_per_second"]

# ---- The objective and the step ---------------------------------------------------------------


class Model(NamedTuple):
    """Networks and optimizers; a checkpoint holds them all. Those not in use are None."""

    generator: UNetGenerator
    discriminator: PatchDiscriminator | None  # None without an adversarial loss
    optimizer_g: Adam
    optimizer_d: Adam | None
    average: UNetGenerator | None  # EMA of the generator's weights

    @property
    def for_inference(self) -> UNetGenerator:
        return self.average or self.generator


def build_model(config: Config, device: torch.device) -> Model:
    """The networks and their optimizers, initialized from the configuration's seed."""
    torch.manual_seed(config.seed)
    generator = utils.build_generator(config).to(device)
    discriminator = utils.build_discriminator(config).to(device) if config.gan_weight else None
    if config.init:
        utils.start_from(config.init, config, generator, discriminator)
    adam = partial(Adam, lr=config.learning_rate, betas=(config.beta1, config.beta2))
    return Model(
        generator,
        discriminator,
        adam(generator.parameters()),
        adam(discriminator.parameters()) if discriminator else None,
        deepcopy(generator).requires_grad_(False) if config.ema_decay else None,
    )


def prepare(model: Model, config: Config) -> Model:
    """Applies the configuration's precision and optimizations (engine/fast.py): networks change in
    place, optimizers may be replaced."""
    if config.fast:
        networks = [network for network in model[:2] if network]
        size = (config.batch_size, config.in_channels, config.crop_size, config.crop_size)
        if fast.speed_up(networks, config.precision, torch.empty(size, device="meta")):
            fused_d = model.optimizer_d and fast.fused(model.optimizer_d)
            model = model._replace(optimizer_g=fast.fused(model.optimizer_g), optimizer_d=fused_d)
        if model.average:
            fast.match_layout(model.average, model.generator)
    if config.precision == "bf16":
        for network in filter(None, model[:2]):
            fast.use_bfloat16(network, network.output)
    return model


def step_function(model: Model, config: Config, graph: bool = True):
    """(x, y) -> losses: `train_step`, on a GPU as a CUDA graph."""
    step = partial(train_step, model, config=config)
    on_gpu = next(model.generator.parameters()).is_cuda
    return fast.GraphedStep(step) if graph and config.fast and on_gpu else step


def cross_entropy(logits: Tensor, label: float) -> Tensor:
    """The paper's loss: binary cross-entropy with all real (1) or all generated (0)."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def least_squares(logits: Tensor, label: float) -> Tensor:
    """The alternative of LSGAN (Mao et al., ICCV 2017)."""
    return F.mse_loss(logits, torch.full_like(logits, label))


GAN_LOSSES = {"cross_entropy": cross_entropy, "least_squares": least_squares}


def train_step(model: Model, x: Tensor, y: Tensor, config: Config) -> dict[str, Tensor]:
    """Updates the discriminator, then the generator (Sections 3.1 and 3.3). x: (B, C, H, W) input,
    y: (B, C', H, W) target, both in [-1, 1]. Returns the LOSSES in use. On a GPU it is recorded as
    a CUDA graph: nothing in it may depend on the value of a tensor (`--fast false` to debug)."""
    generator, discriminator, optimizer_g, optimizer_d, _ = model
    gan_loss = GAN_LOSSES[config.gan_loss]
    condition = (x,) if config.conditional else ()  # a GAN's D sees y alone (Section 4.2)
    losses = {}
    optimizer_g.zero_grad()  # G's gradients take no memory during D's step
    fake = generator(x)  # (B, C', H, W)

    # ---- D: maximize log D(x, y) + log(1 - D(x, G(x, z))), halved to slow D down
    if discriminator:
        discriminator.requires_grad_(True)
        real_logits = discriminator(*condition, y)  # (B, 1, h, w)
        fake_logits = discriminator(*condition, fake.detach())  # (B, 1, h, w)
        loss_d = (gan_loss(real_logits, 1.0) + gan_loss(fake_logits, 0.0)) / 2
        optimizer_d.zero_grad()
        loss_d.backward()
        optimizer_d.step()
        losses["loss_d"] = loss_d

    # ---- G: maximize log D(x, G(x, z)), by the updated D, and minimize λ·|y - G(x, z)|
    loss_l1 = F.l1_loss(fake, y)
    objective = config.lambda_l1 * loss_l1
    if discriminator:
        discriminator.requires_grad_(False)
        loss_gan = gan_loss(discriminator(*condition, fake), 1.0)
        objective = config.gan_weight * loss_gan + objective
        losses["loss_g_gan"] = loss_gan
    objective.backward()
    optimizer_g.step()

    losses["loss_g_l1"] = loss_l1
    return {name: loss.detach() for name, loss in losses.items()}


def set_learning_rate(model: Model, config: Config, epoch: int) -> float:
    """Sets, and returns, the learning rate of an epoch, counted from 0: constant, as in the paper,
    or with `decay_epochs` linear decay over the last of them, as in the PyTorch port."""
    remaining = (config.epochs - epoch) / (config.decay_epochs + 1)
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
        data = PairedDataset(settle(config, processes), "train")
        config = data.config  # with the numbers of measured ranges
        validation = PairedDataset(config, "val") if processes.first else None
        print(f"{len(data)} training pairs, {len(validation or data)} validation pairs")
        fresh = replace(config, init="") if checkpoint else config
        model = prepare(build_model(fresh, processes.device), config)
        processes.draw_own_noise(config.seed)
        run = build_run(config, data, model, processes)
        if checkpoint:
            run.resume(checkpoint)
        if run.is_over():
            return 0
        if processes.first:
            write_text(run.folder / "config.json", json.dumps(asdict(config), indent=2) + "\n")
        step = train_on(config, data, validation, model, run)
        if processes.first:
            list_skipped([*data.skipped, *validation.skipped], run.folder)
        return run.report(step)


def train_on(
    config: Config, data: PairedDataset, validation: PairedDataset | None, model: Model, run: Run
) -> int:
    """The loop. Returns the last step."""
    processes, device = run.processes, run.processes.device
    shared = model._replace(
        generator=processes.share(model.generator),
        discriminator=processes.share(model.discriminator),
    )
    # Several processes exchange gradients within a step, which a graph cannot record.
    take_step = step_function(shared, config, graph=processes.size == 1)
    with run:
        if not run.resumed:
            if run.validation_due(0):
                run.add_validation(0, *validate(model.for_inference, validation))
            run.save(0)

        for step, batch in enumerate(load_pairs(data, run.order), run.order.start + 1):
            rate = set_learning_rate(model, config, run.order.position(step - 1)[0])
            x, y = (to_device(batch[key], device) for key in ("input", "target"))
            losses = take_step(x, y)
            update_average(model, config.ema_decay)

            run.record(step, losses, batch["name"], learning_rate=rate)
            if run.validation_due(step):
                run.add_validation(step, *validate(model.for_inference, validation))
            if run.checkpoint_due(step):
                run.save(step)
            if run.stopping:
                break
    return step


def settle(config: Config, processes: Processes) -> Config:
    """Decides what the configuration leaves open, prints what differs from the paper's recipe, and
    draws the demo's data if they are missing."""
    precision, reason = fast.choose_precision(config.precision, processes.device)
    if processes.largest(precision == "fp32")[0]:
        precision = "fp32"
    config = replace(config, precision=precision, palette=palette_name(config))
    several = f", {processes.size} processes" if processes.size > 1 else ""
    print(f"device {processes.device}{several}, torch {torch.__version__}")
    print(f"precision {precision}: {reason}")
    recipe = asdict(Config(output=config.output, precision=precision, palette=config.palette))
    changed = [f"{k:24} {v}" for k, v in asdict(config).items() if v != recipe[k]]
    print(f"the paper's facades recipe{', but:' if changed else ''}", *changed, sep="\n  ")
    if Path(config.data_root) == DEMO_ROOT and not DEMO_ROOT.exists() and processes.first:
        make_demo(DEMO_ROOT)
    processes.wait()
    return config


def build_run(config: Config, data: PairedDataset, model: Model, processes: Processes) -> Run:
    """The run, which logs and saves, and knows when to validate and when to save."""
    sizes = (len(data), config.batch_size, config.epochs, config.seed)
    return Run(
        folder=config.folder,
        parts={name: part for name, part in model._asdict().items() if part is not None},
        order=TrainingOrder(*sizes, rank=processes.rank, processes=processes.size),
        data=data.fingerprint(),
        schedule=config,
        processes=processes,
        losses={k: v for k, v in LOSSES.items() if model.discriminator or k == "loss_g_l1"},
        columns=COLUMNS,
        save_checkpoint=partial(utils.save_checkpoint, config=config),
    )


def main(argv=None) -> int:
    """Starts or resumes a run. Returns the exit code; raises UserError."""
    options = parse_arguments(argv)
    if options.resume and not utils.checkpoint_files(options.resume):
        utils.load_checkpoint(options.resume)  # raises before a folder is created
    folder = options.config.folder if options.config else utils.run_folder(options.resume)
    with alone_in(folder):
        if options.resume:
            checkpoint = utils.load_checkpoint(options.resume)
            utils.with_weights(utils.build_generator, checkpoint, "generator", folder)  # or raises
            config = resumed(config_from_dict(checkpoint["config"]), options.fields)
            return train(replace(config, output=str(folder)), checkpoint)
        if utils.checkpoint_files(folder):
            raise UserError(
                f"{folder} holds a run; resume it by python train.py --resume "
                f"{cli.quoted(folder)}, or give another --output"
            )
        return train(options.config)


if __name__ == "__main__":
    cli.run(main)
