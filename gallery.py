"""The page on which the pictures of a split are looked at: gallery.html, filled with data.

It needs no network and no server. Small pictures are part of it, so that it can be sent alone;
opened where it was written, beside input/, output/ and target/, it shows large ones, too.
"""

import base64
import io
import json
import math
import os
import urllib.parse
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from config import Config
from files import replacing

TEMPLATE = Path(__file__).with_name("gallery.html")
THUMBNAIL = 160  # px, the longer side


class Gallery:
    """Gathers the pictures of a split and their scores, and writes the page.

    `title` and `command` stand above them, with the run's configuration.
    """

    def __init__(self, title: str, command: str, config: Config):
        self.page = {"title": title, "command": command, "config": asdict(config)}
        self.images = []
        self.scores = []

    def add(self, name: str, pictures: list[Image.Image], scores: dict[str, float]) -> None:
        """One picture: its input, output and target, and its scores by name."""
        self.scores = list(scores)
        self.images.append(
            {
                # A file name need not be text; its bytes go into the address as they are.
                "name": os.fsencode(name).decode(errors="replace"),
                "file": urllib.parse.quote(os.fsencode(f"{name}.png")),
                "scores": [finite(value) for value in scores.values()],
                "thumbnails": [thumbnail(picture) for picture in pictures],
            }
        )

    def write(self, path: Path, means: dict[str, float]) -> None:
        """Writes the page, whole or not at all. `means` are the scores of the split."""
        means = {name: finite(value) for name, value in means.items()}
        page = {**self.page, "means": means, "scores": self.scores, "images": self.images}
        data = json.dumps(page).replace("<", "\\u003c")  # so that no name can end the script
        template = TEMPLATE.read_text(encoding="utf-8")
        with replacing(path) as temporary:
            temporary.write_text(template.replace("{{data}}", data), encoding="utf-8")


def finite(value: float) -> float | None:
    """JSON has no infinity, which is the PSNR of two equal pictures."""
    return round(value, 6) if math.isfinite(value) else None


def thumbnail(picture: Image.Image) -> str:
    """A small copy as an address that holds the picture itself."""
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
