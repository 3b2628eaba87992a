"""Runs with untrained generators, requests to a server, and a page in a real browser."""

import base64
import http.client
import io
import json
import threading
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from conftest import untrained as untrained  # pages/conftest.py has the name conftest, too
from PIL import Image

from engine.fast import speed_up_inference
from utils import load_generator

DESKTOP = {"viewport": {"width": 1400, "height": 900}}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "is_mobile": True,
    "has_touch": True,
    "device_scale_factor": 2,
}

RUNS = {
    "facades": {"palette": "facades"},
    "edges": {"task": "edges", "in_channels": 1},
    "hole": {"task": "inpainting"},
    "color": {"task": "colorization", "in_channels": 1, "out_channels": 2},
    "sketches": {"direction": "AtoB"},
}


def fast_generator(run: Path):
    """The generator as the server has it."""
    generator = load_generator(run)
    speed_up_inference(generator)
    return generator


def write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def blocks(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(server, path: str, body: bytes | None = None, **headers) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    method = "GET" if body is None else "POST"
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def image_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def translated(server, name: str, image: Image.Image, seed: int = 0, noise: int = 1) -> np.ndarray:
    status, content = ask(server, f"/translate?run={name}&seed={seed}&noise={noise}", png(image))
    assert status == 200, content
    return image_of(content)


def declared(width: int, height: int) -> bytes:
    """A PNG that only says how large it is."""
    content = bytearray(png(Image.new("L", (1, 1))))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def until(page, condition: str, seconds: float = 30) -> None:
    """Waits. Not by page.wait_for_function, which the page's security policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(f"Boolean({condition})"):
        assert time.monotonic() < end, condition
        time.sleep(0.02)


def settled(page) -> None:
    """Waits for the output of what is drawn."""
    until(page, "state() && !sending && wanted === null && element('time').textContent")


def visible_channels(page, name: str) -> np.ndarray:
    """The pixels of a canvas."""
    return image_of(base64.b64decode(page.evaluate(f"{name}.toDataURL().split(',')[1]")))


def place(page, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the canvas is in the window."""
    box = page.locator("#canvas").bounding_box()
    size = page.evaluate("[canvas.width, canvas.height]")
    return box["x"] + (x + 0.5) * box["width"] / size[0], box["y"] + (y + 0.5) * box[
        "height"
    ] / size[1]


def drag(page, *points: tuple[float, float]) -> None:
    page.mouse.move(*place(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*place(page, *point), steps=3)
    page.mouse.up()


def drop(page, name: str, content: bytes) -> None:
    data = base64.b64encode(content).decode()
    page.evaluate(
        """([name, data]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name));
          for (const type of ["dragover", "drop"])
            document.body.dispatchEvent(new DragEvent(type, {
              dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        [name, data],
    )
