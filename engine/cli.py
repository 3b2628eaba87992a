"""Command lines: parsing, and mistakes that end in one line."""

import argparse
import contextlib
import difflib
import errno
import re
import shlex
import sys
from itertools import chain, count
from pathlib import Path


class UserError(ValueError):
    """A mistake the user can fix. The message is one line: what is wrong, where, what to do."""

    def __init__(self, message: str):
        if message.startswith("Caught "):  # a DataLoader worker has put its traceback in front
            message = message.rpartition("UserError: ")[2]
        line = " ".join(message.splitlines())
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)  # of file names
        super().__init__(line[:1000])


TOO_MANY_FILES = "too many open files; raise the limit (ulimit -n 4096) or give --num_workers 0"


@contextlib.contextmanager
def one_line_errors():
    """Ends the process with one line on stderr: exit code 2 for a UserError, a file that cannot be
    read or written, or lack of memory; 130 for Ctrl-C. Other exceptions keep their traceback."""
    try:
        yield
    except (UserError, OSError) as error:
        line = TOO_MANY_FILES if getattr(error, "errno", 0) == errno.EMFILE else error
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:  # each device of torch words it in its own way
        if re.search("MemoryError|out of memory|allocate memory|enough memory", repr(error)):
            line = "out of memory; a smaller batch_size or crop_size needs less"
        elif isinstance(error, NotImplementedError) and "for the MPS device" in str(error):
            line = str(error).partition(". ")[0] + "; --device cpu has it"
        elif re.search(r"shared memory|shm", str(error)):
            line = (
                "/dev/shm, the shared memory of loading processes, is full; a lower --num_workers"
            )
            line += " needs less, and docker run --shm-size=8g gives more"
        elif re.search(r"DataLoader worker.*(killed|exited)", str(error)):
            line = "a loading process was killed; a lower --num_workers needs less memory"
        elif "Too many open files" in str(error):
            line = TOO_MANY_FILES
        else:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def run(main) -> None:
    """Runs `main`, which returns the exit code, as a script."""
    if hasattr(sys.stdout, "reconfigure"):  # not in a notebook
        # In a log file, lines appear as they are printed; file names need not be valid text.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    with one_line_errors():
        sys.exit(main())


def shell_quote(word: str | Path) -> str:
    """A word of a printed command for the shell at hand. On Windows, / in paths needs no quotes."""
    if sys.platform != "win32":
        return shlex.quote(str(word))
    word = str(word).replace("\\", "/")
    return word if re.fullmatch(r"[\w./:=+-]+", word) else f'"{word}"'


def plural(number: int, one: str, many: str = "") -> str:
    """plural(1, "epoch") is "1 epoch", plural(2, "epoch") "2 epochs"."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def did_you_mean(word: str, known, prefix: str = "") -> str:
    """A hint such as "; did you mean 'facades'?", empty if nothing known is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError and names the nearest option."""

    def __init__(self, description: str, usage: str | None = None):
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(None, usage, description, formatter_class=raw, allow_abbrev=False)

    def error(self, message: str):
        raise UserError(f"{message} (see --help)")

    def parse_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else map(str, args)
        options, unknown = self.parse_known_args(words, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            known = [option[2:] for option in self._option_string_actions]
            self.error(f"unknown option {word}{did_you_mean(word.removeprefix('--'), known, '--')}")
        return options


def check_mode(options, mode: str, needed_by: list[str], excludes: list[str]) -> None:
    """Raises UserError if an option in `needed_by` is given without --mode, or one in `excludes`
    with it."""
    given = getattr(options, mode) is not None
    for name in excludes if given else needed_by:
        if getattr(options, name):
            relation = "cannot be combined with" if given else "needs"
            raise UserError(f"--{name} {relation} --{mode}")


def next_free_folder(folder: Path) -> Path:
    """The folder, or if it holds a run the next free one: runs/demo_2, runs/demo_3 ..."""
    numbered = (folder.with_name(f"{folder.name}_{number}") for number in count(2))
    return next(f for f in chain([folder], numbered) if not any(f.glob("checkpoints/*.pt")))
