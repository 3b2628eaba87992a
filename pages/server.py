"""The server of tools.draw: the page, the runs it lists, and their translations.

It answers this machine only, refuses requests of other sites and writes nothing.
"""

import io
import json
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from urllib.parse import parse_qsl, quote, urlsplit

from PIL import Image

from engine.cli import UserError
from images.reading import read_image
from pages.runs import MAX_SIDE, describe, find_runs, generator_of, named, runs_at, stamp_of
from utils import translate

MAX_BYTES = 16 * 2**20  # of an upload


def page() -> bytes:
    """The page as one file: draw.html with draw.css and draw.js inside."""
    folder = Path(__file__).parent
    text = (folder / "draw.html").read_text(encoding="utf-8")
    for part in ("draw.css", "draw.js"):
        text = text.replace(f"{{{{{part}}}}}", (folder / part).read_text(encoding="utf-8"))
    return text.encode()


def to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class Server(ThreadingTCPServer):
    """Serves the page and the runs at `paths`, on 127.0.0.1 alone. Raises UserError."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, paths: list[str], port: int = 0, device: str = "auto"):
        find_runs(paths)
        self.paths, self.device, self.lock = paths, device, threading.Lock()
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"--port {port} cannot be used: {error}") from error
        self.server_port = self.server_address[1]
        self.hosts = [f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")]

    def handle_error(self, *_):
        """A page was closed before its answer came."""

    def runs(self) -> dict[str, str]:
        """The runs by name: those that are there now."""
        return named([run for path in self.paths for run in runs_at(path)])

    def run(self, name: str) -> str:
        """The run of that name. Raises LookupError."""
        try:
            return self.runs()[name]
        except KeyError as error:
            raise LookupError(f"the run {name} is no longer there; choose another") from error

    def listing(self) -> list[dict]:
        """The runs as the page lists them. One that cannot be drawn for has an "error"."""
        listed = []
        for name, run in self.runs().items():
            about = {"name": name, "stamp": str(stamp_of(run))}
            link = f"example?run={quote(name, safe='')}&number="
            try:
                about |= describe(run)
                about["examples"] = [f"{link}{i}" for i in range(len(about["examples"]))]
            except UserError as error:
                about["error"] = str(error)
            listed.append(about)
        return listed

    def translated(self, name: str, image: Image.Image, seed: int = 0, noise: bool = True):
        """The translation. For inpainting, the lower half of `image` is the mask."""
        run, mask = self.run(name), None
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
        self.more = {}  # headers of this answer
        try:
            # Refuses other sites, and host names that resolve to this machine (DNS rebinding).
            if self.headers.get("Host") in hosts and origin.removeprefix("http://") in hosts:
                content, kind = self.content()
            else:
                status, content = 403, b"only for pages of this server"
        except LookupError as error:
            status, content = 404, str(error).encode()
        except Exception as error:  # a UserError, or a lack of memory; the server lives on
            status, content = 400, str(error).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        for name, value in self.more.items():
            self.send_header(name, value)
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
            return page(), "text/html; charset=utf-8"
        if url.path == "/runs.json":
            return json.dumps({"runs": server.listing()}).encode(), "application/json"
        if url.path == "/example":
            run = server.run(query["run"])
            image = read_image(describe(run)["examples"][int(query["number"])])
        elif url.path == "/read":  # an upload as 8-bit RGB
            image = self.body(query.get("name", "the image"))
            self.more["Original-Size"] = f"{image.width} {image.height}"
            image.thumbnail((MAX_SIDE, MAX_SIDE))
        elif url.path == "/translate":
            seed, noise = int(query["seed"]), query["noise"] == "1"
            image = server.translated(query["run"], self.body("the image"), seed, noise)
        else:
            raise LookupError(f"{url.path} is not found")
        return to_png(image), "image/png"

    def body(self, name: str) -> Image.Image:
        """The image that was sent. Raises UserError."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BYTES:
            raise UserError(f"an upload must have a length of at most {MAX_BYTES // 2**20} MB")
        return read_image(Path(name), self.rfile.read(int(length)))

    def log_message(self, *_):
        """Nothing is logged."""
