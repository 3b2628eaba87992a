"""The fields of a configuration, a dataclass: their types, checked, and as command-line options."""

import argparse
import dataclasses
import inspect
import math
import re
import sys
from pathlib import Path
from typing import get_args

from engine.cli import Parser, UserError, did_you_mean, shell_quote


def check_types(values) -> None:
    """Raises UserError unless every field of a dataclass instance has its annotated type, which is
    bool, int, float, str or a Literal. Floats must be finite."""
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        if choices := get_args(field.type):
            if value not in choices or type(value) is not type(choices[0]):
                *others, last = map(str, choices)
                rule = f"must be {', '.join(others)} or {last}"
                raise UserError(f"{field.name} is {value!r}; it {rule}")
            continue
        kinds = (int, float) if field.type is float else field.type
        if not isinstance(value, kinds) or isinstance(value, bool) != (field.type is bool):
            raise UserError(f"{field.name} is {value!r}; it must be of type {field.type.__name__}")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(f"{field.name} is {value!r}; it must be below 2**63")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{field.name} is {value!r}; it must be a finite number")


def boolean(text: str) -> bool:
    values = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.lower()]


def add_fields(parser: argparse.ArgumentParser, defaults, title: str) -> None:
    """Adds an option for each field of the dataclass instance `defaults`. The comment after a
    field is its help. Options that are not given are absent from the parsed result."""
    source = inspect.getsource(type(defaults))
    comments = dict(re.findall(r"^ +(\w+): .*?# *(.*)$", source, re.MULTILINE))
    group = parser.add_argument_group(title)
    for field in dataclasses.fields(defaults):
        text = f"{comments.get(field.name, '')} (default: {getattr(defaults, field.name)})"
        choices = get_args(field.type)
        kind = type(choices[0]) if choices else field.type
        group.add_argument(
            f"--{field.name}",
            type=boolean if kind is bool else kind,
            choices=choices or None,
            default=argparse.SUPPRESS,
            metavar=None if choices else kind.__name__.upper(),
            help=text.replace("%", "%%"),
        )


def parse_preset(parser: Parser, presets: dict, default: str, argv=None):
    """Parses `[PRESET] [--field value ...]` besides the options that `parser` already has. Returns
    the parsed options, with `.preset` the name given or None, the preset, and the given fields.
    Raises UserError."""
    known = ", ".join(presets)
    parser.add_argument("preset", nargs="?", metavar="PRESET", help=f"{known} (default: {default})")
    words = sys.argv[1:] if argv is None else list(argv)
    named = next((word for word in words if word in presets), default)  # for `facades --help`
    fields = dataclasses.fields(presets[named])
    add_fields(parser, presets[named], f"fields of config.py, with the defaults of {named}")
    options = parser.parse_args(words)
    name = options.preset or default
    if name not in presets:
        hint = did_you_mean(name, presets)
        if Path(name).is_dir():
            hint = f"; a dataset is given as --data_root {shell_quote(name)}"
        raise UserError(f"unknown preset {name!r}{hint} (known: {known})")
    given = {f.name: options.__dict__.pop(f.name) for f in fields if f.name in options}
    return options, presets[name], given
