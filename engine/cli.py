"""Command lines. Every script has the same frame, so that --help and mistakes are answered at once:

if __name__ == "__main__":
    cli.early(parse_arguments)
import torch  # and all else that is slow
...
if __name__ == "__main__":
    cli.run(main)
"""

import argparse
import contextlib
import dataclasses
import difflib
import inspect
import math
import os
import re
import shlex
import signal
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


@contextlib.contextmanager
def one_line_errors():
    """Ends the process with one line on stderr: exit code 2 for a UserError, a file that cannot be
    read or written, or lack of memory; 130 for Ctrl-C. Other exceptions keep their traceback."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set by `early`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:  # each device of torch words it in its own way
        if re.search("MemoryError|out of memory|allocate memory|enough memory", repr(error)):
            line = "out of memory; a smaller batch_size or crop_size needs less"
        elif isinstance(error, NotImplementedError) and "for the MPS device" in str(error):
            line = str(error).partition(". ")[0] + "; --device cpu has it"
        elif re.search(r"DataLoader worker.*(killed|exited)", str(error)):
            line = "a loading process was killed; a lower --num_workers needs less memory"
        else:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def early(parse, show=None) -> None:
    """Parses the command line before the slow imports, and calls `show` with the result, so that
    the script prints something at once. Of several processes, only the first shows its progress."""
    with contextlib.suppress(AttributeError):  # a notebook's stdout prints everything
        sys.stdout.reconfigure(errors="backslashreplace")
    with one_line_errors():
        parsed = parse()
        if os.environ.get("RANK", "0") != "0":
            os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported
        elif show:
            show(parsed)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback


def run(main) -> None:
    """Runs `main`, which returns the exit code, as a script."""
    with one_line_errors():
        sys.exit(main())


def quoted(word: str | Path) -> str:
    """A word of a printed command for the shell at hand. On Windows, / in paths needs no quotes."""
    if sys.platform != "win32":
        return shlex.quote(str(word))
    word = str(word).replace("\\", "/")
    return word if re.fullmatch(r"[\w./:=+-]+", word) else f'"{word}"'


def nearest(word: str, known, prefix: str = "") -> str:
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
            self.error(f"unknown option {word}{nearest(word.removeprefix('--'), known, '--')}")
        return options


def check_mode(options, mode: str, needed_by: list[str], excludes: list[str]) -> None:
    """Raises UserError if an option in `needed_by` is given without --mode, or one in `excludes`
    with it."""
    given = getattr(options, mode) is not None
    for name in excludes if given else needed_by:
        if getattr(options, name):
            relation = "cannot be combined with" if given else "needs"
            raise UserError(f"--{name} {relation} --{mode}")


def boolean(text: str) -> bool:
    values = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.lower()]


def add_fields(parser: argparse.ArgumentParser, defaults, title: str) -> None:
    """Adds an option for each field of the dataclass instance `defaults`. The comment behind a
    field is its help. Options that are not given are absent from the parsed result."""
    source = inspect.getsource(type(defaults))
    comments = dict(re.findall(r"^ +(\w+): \w+ = .*?# *(.*)$", source, re.MULTILINE))
    group = parser.add_argument_group(title)
    for field in dataclasses.fields(defaults):
        text = f"{comments.get(field.name, '')} (default: {getattr(defaults, field.name)})"
        group.add_argument(
            f"--{field.name}",
            type=boolean if field.type is bool else field.type,
            default=argparse.SUPPRESS,
            metavar=field.type.__name__.upper(),
            help=text.replace("%", "%%"),
        )


def parse_preset(parser: Parser, presets: dict, default: str, argv=None):
    """Parses `[PRESET] [--field value ...]` besides the options that `parser` already has. Returns
    the parsed options, with `.preset` the name given or None, the preset, and the given fields.
    Raises UserError."""
    known = ", ".join(presets)
    parser.add_argument("preset", nargs="?", metavar="PRESET", help=f"{known} (default: {default})")
    words = sys.argv[1:] if argv is None else list(argv)
    shown = next((word for word in words if word in presets), default)  # for `facades --help`
    fields = dataclasses.fields(presets[shown])
    add_fields(parser, presets[shown], f"fields of config.py, with the defaults of {shown}")
    options = parser.parse_args(words)
    name = options.preset or default
    if name not in presets:
        raise UserError(f"unknown preset {name!r}{nearest(name, presets)} (known: {known})")
    given = {f.name: options.__dict__.pop(f.name) for f in fields if f.name in options}
    return options, presets[name], given


def free_folder(folder: Path) -> Path:
    """The folder, or if it holds a run the next free one: runs/demo_2, runs/demo_3 ..."""
    numbered = (folder.with_name(f"{folder.name}_{number}") for number in count(2))
    return next(f for f in chain([folder], numbered) if not any(f.glob("checkpoints/*.pt")))


# ---- Values -----------------------------------------------------------------------------------


def check_fields(values, choices: dict, ranges: dict, rules: list) -> None:
    """Raises UserError, naming the field and the rule, if a dataclass instance breaks its annotated
    types or: `choices`, {field: values}; `ranges`, {text: ((least, greatest), "field field ...")};
    `rules`, [(field, predicate of the instance, text or a function of the instance)]."""

    def check(name: str, holds, rule) -> None:
        if not holds:
            text = rule(values) if callable(rule) else rule
            raise UserError(f"{name} is {getattr(values, name)!r}; it {text}")

    check_types(values)
    for name, allowed in choices.items():
        *others, last = map(str, allowed)
        check(name, getattr(values, name) in allowed, f"must be {', '.join(others)} or {last}")
    for rule, ((least, greatest), names) in ranges.items():
        for name in names.split():
            check(name, least <= getattr(values, name) <= greatest, f"must be {rule}")
    for name, holds, rule in rules:
        check(name, holds(values), rule)


def is_range(text: str, channels: int) -> bool:
    """Whether a text is LOW HIGH, such a pair for each channel, or percentiles such as 1% 99%; or
    empty."""
    words = text.split()
    try:
        numbers = [float(word.removesuffix("%")) for word in words]
    except ValueError:
        return False
    if not all(low < high for low, high in zip(numbers[::2], numbers[1::2], strict=False)):
        return False
    if "%" in text:
        return text.count("%") == len(words) == 2 and numbers[0] >= 0 and numbers[1] <= 100
    return len(words) in (0, 2, 2 * channels) and all(map(math.isfinite, numbers))


def check_types(values) -> None:
    """Raises UserError unless every field of a dataclass instance has its annotated type."""
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        kinds = (int, float) if field.type is float else field.type
        if not isinstance(value, kinds) or isinstance(value, bool) != (field.type is bool):
            raise UserError(f"{field.name} is {value!r}; it must be of type {field.type.__name__}")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(f"{field.name} is {value!r}; it must be below 2**63")
