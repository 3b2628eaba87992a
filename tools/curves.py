"""Redraws curves.png, progress.png and progress.gif of a run, also while it trains.

    python -m tools.curves runs/mine

train.py draws them at the end, and the curves with checkpoints in between.
"""

import argparse

from engine import cli
from engine.cli import UserError


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = cli.Parser(__doc__, "python -m tools.curves RUN")
    parser.add_argument("run", metavar="RUN", help="a run folder")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.early(parse_arguments)  # --help and mistakes answer before the slow imports

from engine.curves import draw_curves, draw_progress


def main(argv=None) -> int:
    run = parse_arguments(argv).run
    drawn = [path for path in (draw_curves(run), draw_progress(run)) if path]
    if not drawn:
        raise UserError(f"{run} has logged nothing yet")
    print(*drawn, sep="\n")
    return 0


if __name__ == "__main__":
    cli.run(main)
