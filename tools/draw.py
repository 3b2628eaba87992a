"""A page to draw on: the generator translates while you draw.

    python -m tools.draw                            the generators in pretrained/
    python -m tools.draw runs/mine runs/other       switch between them in the page
    python -m tools.draw runs                       all runs of a folder
    python -m tools.draw runs/mine --port 8000 --no_browser

The page is served to this machine only and needs no network. A run in training is reloaded when it
saves a checkpoint. docs/draw.md describes the page.
"""

import argparse
import contextlib
import webbrowser

from PIL import Image

from engine import cli
from engine.cli import UserError
from pages.server import Server
from sharing.exports import export_folder


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = cli.Parser(__doc__, "python -m tools.draw [RUN ...] [--port N] [--no_browser] ...")
    add = parser.add_argument
    add("runs", nargs="*", default=["pretrained"], metavar="RUN", help="runs or folders of runs")
    add("--port", type=int, default=0, help="of 127.0.0.1 (default: a free one)")
    add("--no_browser", action="store_true", help="print the address, do not open it")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    return parser.parse_args(argv)


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
