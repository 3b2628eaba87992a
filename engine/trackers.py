"""Weights & Biases, an experiment tracker, beside log.csv and TensorBoard: `--wandb PROJECT`."""

import dataclasses
from pathlib import Path
from typing import Any
from uuid import uuid4

from PIL import Image

from engine.cli import UserError
from engine.files import write_text


class Tracker:
    """Mirrors the run in W&B: configuration, scalars and sample grids. Later failures, such as a
    lost connection, are left to its upload process."""

    def __init__(self, folder: Path, config: Any, resumed: bool):
        """Raises UserError if the package or access is missing."""
        try:
            from wandb import Image as WandbImage  # takes a second
            from wandb import init
        except ImportError as error:
            raise UserError("--wandb needs a package: pip install wandb") from error
        self.image_of = WandbImage
        try:
            self.run = init(
                project=config.wandb,
                name=folder.name,
                id=self.identity(folder, resumed),
                resume="allow",
                dir=folder,
                config=dataclasses.asdict(config),
                allow_val_change=True,  # of what may change when a run resumes
            )
        except Exception as error:  # no access, no network, a name that it does not accept
            hint = "WANDB_MODE=offline logs without it"
            raise UserError(f"--wandb {config.wandb} cannot start: {error}; {hint}") from error

    def identity(self, folder: Path, resumed: bool) -> str:
        """The name of the run there, kept in its folder, so that a resumed run continues it."""
        file = folder / "wandb" / "run_id"
        if not (resumed and file.exists()):
            write_text(file, uuid4().hex[:8])
        return file.read_text(encoding="utf-8")

    def log(self, step: int, values: dict[str, float]) -> None:
        """Adds a row. It ignores steps before its last: a run that resumes repeats them exactly."""
        self.run.log(values, step=step)

    def image(self, step: int, name: str, image: Image.Image) -> None:
        self.run.log({name: self.image_of(image)}, step=step)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))
