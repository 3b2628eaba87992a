"""Runs command lines in the current folder, one after another, for test_readme.py.

    python tests/run_commands.py < commands.json        [[word, ...], ...] -> a line of JSON each

Each runs in its own process, forked after the slow imports of other packages, which are most of the
time of a short command. Prints its exit code and its output.
"""

import json
import os
import re
import runpy
import shutil
import sys
import tempfile
import traceback

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations  # noqa: F401
import torch
import torch.utils.tensorboard  # noqa: F401
import torchmetrics.image.fid
import torchmetrics.image.kid  # noqa: F401
from matplotlib import figure  # noqa: F401


def run(words: list[str]) -> tuple[int, str]:
    """The exit code of a script or of torchrun, and its output and errors."""
    with tempfile.TemporaryFile() as output:
        process = os.fork()
        if process == 0:
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
            code = 1
            try:
                code = execute(words)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(process, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status), output.read().decode(errors="replace")


def execute(words: list[str]) -> int:
    program, *words = words
    sys.argv = words
    try:
        if program == "torchrun":
            sys.argv = [program, *words]
            runpy.run_module("torch.distributed.run", run_name="__main__")
        else:
            sys.path[0] = os.getcwd()
            if words[0] == "-m":
                sys.argv = words[1:]
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    for words in json.load(sys.stdin):
        code, output = run(words)
        there = re.search(r"error: (\S+) already (holds a run|exists)", output)
        if code != 0 and there:  # two examples of a page make the same thing
            shutil.rmtree(there[1])
            code, output = run(words)
        print(json.dumps([code, output]), flush=True)
