"""Tasks: how a pair is made, and how an image of any size is translated.

`pairs` reads both images from files. The other tasks make input, target or both from ordinary
photos. docs/tasks.md shows them all.
"""

from importlib import import_module

from config import Config
from tasks.base import Task

# Imported by name, so that a task's own imports, such as OpenCV, cost nothing elsewhere.
TASKS = {
    "pairs": "tasks.base.Task",
    "colorization": "tasks.colorization.Colorization",
    "inpainting": "tasks.inpainting.Inpainting",
    "super_resolution": "tasks.super_resolution.SuperResolution",
    "edges": "tasks.edges.Edges",
    "style": "tasks.style.Style",
}


def task_of(config: Config) -> Task:
    """The task of a configuration."""
    module, _, name = TASKS[config.task].rpartition(".")
    return getattr(import_module(module), name)(config)
