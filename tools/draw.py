"""A page to draw on: the generator translates after each stroke.

    python -m tools.draw                            the generators in pretrained/
    python -m tools.draw runs/mine runs/other       switch between them in the page
    python -m tools.draw runs                       all runs of a folder
    python -m tools.draw runs/mine --port 8000 --no_browser

The page is served to this machine only and needs no network. A run in training is reloaded when it
saves a checkpoint. docs/draw.md describes the page.
"""

import argparse
import contextlib
import io
import json
import threading
import webbrowser
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from urllib.parse import parse_qsl, quote, urlsplit

import numpy as np
import torch
from PIL import Image

from config import Config, config_from_dict
from engine import cli
from engine.cli import UserError
from engine.files import read_json
from images.pixels import to_image, to_tensor
from images.reading import find_images, natural_order, read_image
from metrics.palettes import FILE, find_palette
from sharing.exports import DESCRIPTION, WEIGHTS, export_folder
from tasks.edges import draw
from utils import checkpoint_files, load_generator, run_folder, translate


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = cli.Parser(__doc__, "python -m tools.draw [RUN ...] [--port N] [--no_browser] ...")
    add = parser.add_argument
    add("runs", nargs="*", default=["pretrained"], metavar="RUN", help="runs or folders of runs")
    add("--port", type=int, default=0, help="of 127.0.0.1 (default: a free one)")
    add("--no_browser", action="store_true", help="print the address, do not open it")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    return parser.parse_args(argv)


PAGE = Path(__file__).with_name("draw.html")
MAX_BYTES = 16 * 2**20  # of an upload
MAX_SIDE = 2048  # px; a larger upload is reduced

# ---- Runs -------------------------------------------------------------------------------------


def stamp_of(run: str | Path) -> int:
    """When the newest weights of a run or an export were saved; 0 if it is none."""
    files = [Path(run, WEIGHTS), *checkpoint_files(run)]
    return next((file.stat().st_mtime_ns for file in files if file.is_file()), 0)


def find_runs(paths: list[str]) -> dict[str, str]:
    """The runs at each of `paths`, or in a folder there, by a short name. Raises UserError."""
    found = []
    for path in paths:
        inside = filter(Path.is_dir, Path(path).glob("*"))
        inside = sorted(inside, key=lambda f: (f.name != "facades", natural_order(f)))
        runs = [path] if stamp_of(path) else [str(folder) for folder in inside if stamp_of(folder)]
        if not runs:
            raise UserError(f"{path} is no run with a checkpoint, no export and no folder of these")
        found += runs
    names = Counter(Path(run).name for run in found)
    return {run if names[Path(run).name] > 1 else Path(run).name: run for run in found}


@lru_cache(maxsize=4)
def generator_of(run: str, device: str, stamp: int) -> torch.nn.Module:
    """The generator as of that stamp. In this layout, a CPU takes two thirds of the time."""
    return load_generator(run, device).to(memory_format=torch.channels_last)


def config_of(run: str) -> Config:
    """The configuration, if possible without reading the weights. Raises UserError."""
    file = run_folder(run) / DESCRIPTION
    if not file.is_file():
        return load_generator(run).config
    values = read_json(file)
    with contextlib.suppress(TypeError):
        return config_from_dict(values.get("config", values))  # an export has it inside
    raise UserError(f"{file} holds no configuration")


def describe(run: str) -> dict:
    """What the page needs to know. `kind` is what one draws: labels, edges, the mask of a photo, an
    image in any colors, or nothing on a photo. `examples` are files. Raises UserError."""
    config = config_of(run)
    if config.input_range or config.target_range:
        raise UserError(f"{run} translates arrays, which cannot be drawn; evaluate.py can")
    own = run_folder(run) / FILE
    palette = find_palette(replace(config, palette=str(own)) if own.is_file() else config)
    kinds = {"edges": "edges", "inpainting": "mask", "style": "image", "pairs": "image"}
    kind = kinds.get(config.task, "photo")
    if palette and config.direction == "BtoA":
        kind = "labels"
    elif any(Path(name).name.startswith("edges2") for name in (config.data_root, run)):
        kind = "edges"
    return {
        "kind": kind,
        "palette": palette.classes if kind == "labels" else {},
        "task": config.task,
        "direction": config.direction,
        "size": config.crop_size,
        "longest": 1024 if config.task in ("colorization", "inpainting") else config.crop_size,
        "examples": examples_of(run, kind),
    }


def examples_of(run: str, kind: str) -> list[Path]:
    """examples/ in the run's folder, or else the test images that evaluate.py wrote."""
    for folder in ("examples", "test/target" if kind in ("mask", "photo") else "test/input"):
        with contextlib.suppress(UserError):  # it holds none
            return find_images(run_folder(run) / folder)[:12]
    return []


def to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


# ---- The server -------------------------------------------------------------------------------


class Server(ThreadingTCPServer):
    """Serves the page and the runs at `paths`, on 127.0.0.1 alone. Raises UserError."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, paths: list[str], port: int = 0, device: str = "auto"):
        self.paths, self.device, self.lock = paths, device, threading.Lock()
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"--port {port} cannot be used: {error}") from error
        self.server_port = self.server_address[1]
        self.hosts = [f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")]

    def handle_error(self, *_):
        """A page was closed before its answer came."""

    def listing(self) -> list[dict]:
        """The runs as the page lists them."""
        runs = []
        for name, run in find_runs(self.paths).items():
            about = {"name": name, "stamp": str(stamp_of(run))}
            link = f"example?run={quote(name, safe='')}&number="
            try:
                about |= describe(run)
                about["examples"] = [f"{link}{i}" for i in range(len(about["examples"]))]
            except UserError as error:
                about["error"] = str(error)
            runs.append(about)
        return runs

    def translated(self, name: str, image: Image.Image, seed: int = 0, noise: bool = True):
        """The translation. For inpainting, the lower half of `image` is the mask."""
        run, mask = find_runs(self.paths)[name], None
        with self.lock:
            generator = generator_of(run, self.device, stamp_of(run))
            if generator.config.task == "inpainting":
                width, height = image.width, image.height // 2
                mask = image.crop((0, height, width, 2 * height))
                image = image.crop((0, 0, width, height))
            return translate(generator, image, seed, noise, mask)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # a connection serves many strokes

    def do_GET(self):
        """Answers with what the path names, or with a line about what is wrong."""
        hosts, status, kind = self.server.hosts, 200, "text/plain; charset=utf-8"
        origin = self.headers.get("Origin", f"http://{hosts[0]}")
        try:
            # Refuses other sites, and host names that resolve to this machine (DNS rebinding).
            if self.headers.get("Host") in hosts and origin.removeprefix("http://") in hosts:
                content, kind = self.content()
            else:
                status, content = 403, b"only for pages of this server"
        except LookupError as error:
            status, content = 404, f"not found: {error}".encode()
        except Exception as error:  # a UserError, or a lack of memory; the server lives on
            status, content = 400, str(error).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        if status != 200:  # what was sent may not have been read
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self):
        self.do_GET()

    def content(self) -> tuple[bytes, str]:
        """What the path names, and its type. Raises UserError and others."""
        url, server = urlsplit(self.path), self.server
        query = dict(parse_qsl(url.query))
        if url.path == "/":
            return PAGE.read_bytes(), "text/html; charset=utf-8"
        if url.path == "/runs.json":
            return json.dumps({"runs": server.listing()}).encode(), "application/json"
        if url.path == "/example":
            run = find_runs(server.paths)[query["run"]]
            image = read_image(describe(run)["examples"][int(query["number"])])
        elif url.path == "/read":  # an upload as 8-bit RGB, or the edges of a photo
            image = self.body(query.get("name", "the image"))
            image.thumbnail((int(query.get("edges", MAX_SIDE)),) * 2)
            if "edges" in query:
                image = to_image(draw(to_tensor(np.asarray(image))))
        elif url.path == "/translate":
            seed, noise = int(query["seed"]), query["noise"] == "1"
            image = server.translated(query["run"], self.body("the image"), seed, noise)
        else:
            raise LookupError(url.path)
        return to_png(image), "image/png"

    def body(self, name: str) -> Image.Image:
        """The image that was sent. Raises UserError."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BYTES:
            raise UserError(f"an upload must have a length of at most {MAX_BYTES // 2**20} MB")
        return read_image(Path(name), self.rfile.read(int(length)))

    def log_message(self, *_):
        """Nothing is logged."""


def main(argv=None) -> int:
    options = parse_arguments(argv)
    paths = [str(export_folder(path)) for path in options.runs]
    with Server(paths, options.port, options.device) as server:
        listing = server.listing()
        names = [run["name"] for run in listing if "error" not in run]
        if not names:
            raise UserError(listing[0]["error"])
        server.translated(names[0], Image.new("RGB", (256, 512)))  # other mistakes end here
        address = f"http://127.0.0.1:{server.server_port}"
        print(f"drawing with {', '.join(names)} at {address}  (Ctrl-C ends it)", flush=True)
        if not options.no_browser:
            webbrowser.open(address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0


if __name__ == "__main__":
    cli.run(main)
