"""gallery.html: the images and scores of a split in one page, which needs neither network nor
server. It embeds thumbnails of the first items; beside input/, output/ and target/ it shows
full-size images, too."""

import base64
import io
import json
import math
import os
import urllib.parse
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from engine.files import write_text

TEMPLATE = Path(__file__).with_name("gallery.html")
THUMBNAIL = 160  # px, the longer side
EMBEDDED = 1000  # items with thumbnails, some 20 KB each; a larger page would open slowly


class Gallery:
    """Collects the images and scores of a split and writes the page. `title`, `command` and the
    fields of `config`, a dataclass instance, are shown at the top. `labels` names which of input,
    output and target are label maps, which are enlarged without smoothing."""

    def __init__(self, title: str, command: str, config, labels: tuple[str, ...] = ()):
        self.page = {"title": title, "command": command, "config": asdict(config)}
        self.page["labels"] = labels
        self.images = []
        self.scores = []

    def add(self, name: str, thumbnails: list[str], scores: dict[str, float]) -> None:
        """Adds one item: thumbnails of its input, output and target, and its scores by name."""
        self.scores = list(scores)
        self.images.append(
            {
                # A file name need not be valid text; the URL keeps its bytes.
                "name": os.fsencode(name).decode(errors="replace"),
                "file": urllib.parse.quote(os.fsencode(f"{name}.png")),
                "scores": [finite(value) for value in scores.values()],
                "thumbnails": thumbnails if len(self.images) < EMBEDDED else [],
            }
        )

    def write(self, path: Path, means: dict[str, float]) -> None:
        """Writes the page, atomically. `means` are the scores of the split."""
        means = {name: finite(value) for name, value in means.items()}
        page = {**self.page, "means": means, "scores": self.scores, "images": self.images}
        data = json.dumps(page).replace("<", "\\u003c")  # so that no name can end the script
        write_text(path, TEMPLATE.read_text(encoding="utf-8").replace("{{data}}", data))


def finite(value: float) -> float | None:
    """JSON has neither infinity nor NaN."""
    return round(value, 6) if math.isfinite(value) else None


def thumbnail(image: Image.Image) -> str:
    """A small copy, as a data URL."""
    small = image.copy() if image.mode == "RGBA" else image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
