"""Tasks: how a pair is made, and how an image of any size is translated.

`pairs` reads both images from files. The other tasks make input, target or both from ordinary
photos. docs/tasks.md shows them all.
"""

from config import Config
from tasks.base import Task
from tasks.colorization import Colorization
from tasks.edges import Edges
from tasks.inpainting import Inpainting
from tasks.style import Style
from tasks.super_resolution import SuperResolution

TASKS = {
    "pairs": Task,
    "colorization": Colorization,
    "inpainting": Inpainting,
    "super_resolution": SuperResolution,
    "edges": Edges,
    "style": Style,
}


def task_of(config: Config) -> Task:
    """The task of a configuration."""
    return TASKS[config.task](config)
