"""Command lines: options, hints and one-line errors."""

import dataclasses
import errno
import inspect
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import get_args

import pytest
import torch
from conftest import REPOSITORY, run_script

import config
import train
from config import PRESETS, Config
from engine import cli, fields
from engine.cli import UserError


@dataclass(frozen=True)
class Fields:
    count: int = 3  # how many, 100% sure
    rate: float = 0.5  # per second
    loud: bool = True  # say it
    name: str = ""  # of the thing


def fields_given(*words) -> dict:
    parser = cli.Parser("")
    fields.add_fields(parser, Fields(), "fields")
    return vars(parser.parse_args(words))


# ---- Options ----------------------------------------------------------------------------------


def test_fields_become_options_of_their_types():
    assert fields_given() == {}
    assert fields_given("--count", 4, "--loud=no") == {"count": 4, "loud": False}
    assert fields_given("--rate", "1e-3", "--name", "a b") == {"rate": 1e-3, "name": "a b"}
    for text, value in {"true": True, "Yes": True, "1": True, "False": False, "0": False}.items():
        assert fields_given("--loud", text) == {"loud": value}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cuont", "4"], r"unknown option --cuont; did you mean '--count'\? \(see --help\)"),
        (["--xyz"], r"unknown option --xyz \(see --help\)"),
        (["--count", "many"], "--count"),
        (["--loud", "maybe"], "neither true nor false"),
        (["--count"], "expected one argument"),
        (["surplus"], "surplus"),
        (["--cou", "4"], "did you mean '--count'"),  # no abbreviations
    ],
)
def test_mistakes_are_user_errors(words, message):
    with pytest.raises(UserError, match=message):
        fields_given(*words)


def test_the_help_of_a_field_is_its_comment(capsys):
    with pytest.raises(SystemExit) as exit_:
        fields_given("--help")
    assert not exit_.value.code
    text = " ".join(capsys.readouterr().out.split())
    assert "--count INT how many, 100% sure (default: 3)" in text
    assert "--loud BOOL say it (default: True)" in text


def test_help_with_a_preset_shows_its_defaults(capsys):
    with pytest.raises(SystemExit):
        train.parse_arguments(["edges2shoes", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "passes over the training pairs (default: 15)" in text
    assert "(default: data/edges2shoes)" in text


def test_types_are_checked():
    fields.check_types(Fields(rate=1))  # whole numbers are numbers
    for wrong in ({"count": 1.0}, {"count": True}, {"loud": 1}, {"name": None}, {"count": 2**63}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} is .*; it must be "):
            fields.check_types(Fields(**wrong))


# ---- Errors -----------------------------------------------------------------------------------


def test_a_user_error_is_one_short_printable_line():
    line = str(UserError("a\nb\x1b[31m\udcff" + "x" * 2000))
    assert line.startswith(r"a b\x1b[31m\udcff") and line.isprintable() and len(line) < 1100
    from_a_worker = "Caught UserError in DataLoader worker process 0.\n...\nUserError: 1.png is bad"
    assert str(UserError(from_a_worker)) == "1.png is bad"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("x is 1; it must be 2"), 2, "error: x is 1; it must be 2"),
        (
            FileNotFoundError(2, "no such file", "a.png"),
            2,
            "error: [Errno 2] no such file: 'a.png'",
        ),
        (MemoryError(), 2, "error: out of memory; a smaller batch_size"),
        (RuntimeError("CUDA out of memory. Tried\nx"), 2, "error: out of memory; a smaller"),
        (RuntimeError("[enforce fail] can't allocate memory: you"), 2, "error: out of memory; a"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_ends_a_script_in_one_line(capsys, error, code, line):
    def main():
        raise error

    with pytest.raises(SystemExit) as exit_:
        cli.run(main)
    written = capsys.readouterr()
    assert exit_.value.code == code and written.out == ""
    assert written.err.startswith(line) and written.err.count("\n") == 1


def test_other_errors_keep_their_traceback_and_exit_codes_pass():
    def main():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        cli.run(main)
    for code in (0, 2, 143):
        with pytest.raises(SystemExit) as exit_:
            cli.run(lambda code=code: code)
        assert exit_.value.code == code


# ---- Scripts ----------------------------------------------------------------------------------


def test_help_lists_every_field(tmp_path):
    result = run_script("train.py", "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    text = " ".join(result.stdout.split())
    source = inspect.getsource(config)
    for field in dataclasses.fields(Config):
        choices = get_args(field.type)
        kind = f"{{{','.join(map(str, choices))}}}" if choices else field.type.__name__.upper()
        assert f"--{field.name} {kind}" in text
        comment = re.search(rf"^    {field.name}: .*?  # (.*)$", source, re.MULTILINE)[1]
        assert f"{comment} (default: {getattr(PRESETS['demo'], field.name)})" in text


@pytest.mark.parametrize("script", ["dataset.py", "evaluate.py"])
def test_other_scripts_show_their_help(script, tmp_path):
    result = run_script(script, "--help", cwd=tmp_path)
    assert result.returncode == 0 and f"{script} " in result.stdout, result.stderr


def test_a_mistake_ends_in_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch):
    result = run_script("train.py", "mops", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: unknown preset") and result.stderr.count("\n") == 1
    result = run_script("train.py", "--color", "3", cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1

    monkeypatch.chdir(tmp_path)
    for words in (["--lambda_l1", "-1"], ["mops"], ["--color", "3"]):
        with pytest.raises(SystemExit) as exit_:
            cli.run(lambda words=words: train.main(words))
        written = capsys.readouterr()
        assert exit_.value.code == 2
        assert written.out == ""
        assert written.err.startswith("error: ") and written.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# ---- What is printed --------------------------------------------------------------------------


def test_commands_are_quoted_for_the_shell_at_hand(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert [cli.shell_quote(word) for word in ("runs/a", "a b", "it's")] == [
        "runs/a",
        "'a b'",
        "'it'\"'\"'s'",
    ]
    monkeypatch.setattr(sys, "platform", "win32")
    assert cli.shell_quote(r"runs\demo") == "runs/demo"
    assert cli.shell_quote(r"C:\my runs\demo") == '"C:/my runs/demo"'
    assert cli.shell_quote("a&b") == '"a&b"' and cli.shell_quote("") == '""'


def test_a_character_that_stdout_lacks_ends_nothing():
    """As on Windows, where output to a file has 256 characters."""
    code = "from engine import cli; cli.run(lambda: print('Straße', '\\udcff'))"
    words = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.stdout == "Stra\\xdfe \\udcff\n", done.stderr


def test_operations_that_mps_lacks_are_one_line(capsys):
    def main():
        raise NotImplementedError(
            "The operator 'aten::fold' is not currently implemented for the MPS device. If you "
            "want this op to be considered for addition please comment on https://github.com/"
        )

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == 2
    line = "error: The operator 'aten::fold' is not currently implemented for the MPS device"
    assert capsys.readouterr().err == f"{line}; --device cpu has it\n"
    with pytest.raises(NotImplementedError):
        cli.run(lambda: (_ for _ in ()).throw(NotImplementedError("to be written")))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_loading_process_is_one_line(capsys):
    class Killer(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            os.kill(os.getpid(), signal.SIGKILL)

    def main():
        list(torch.utils.data.DataLoader(Killer(), num_workers=1, multiprocessing_context="fork"))

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == 2
    assert "error: a loading process was killed; a lower --num_workers" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files", "1.png"),
        RuntimeError("Too many open files. Communication with the workers is no longer possible."),
    ],
)
def test_too_many_open_files_are_one_line(capsys, error):
    with pytest.raises(SystemExit) as end, cli.one_line_errors():
        raise error
    assert end.value.code == 2
    line = "error: too many open files; raise the limit (ulimit -n 4096) or give --num_workers 0\n"
    assert capsys.readouterr().err == line
