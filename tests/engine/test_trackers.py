"""Weights & Biases, offline: what it would upload, as its own files have it."""

import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from conftest import TINY, CrashError, arguments, crash_at, log_rows

import train
from engine.cli import UserError

FIELDS = {**TINY, "epochs": 2, "log_steps": 4, "validate_epochs": 1, "save_epochs": 1}


@pytest.fixture
def offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))


def records(file: Path):
    """The records of a .wandb file: a log of LevelDB's form, blocks of 32 KB with parts of records,
    each behind its checksum, length and kind."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole, or its last part
            yield Record.FromString(record)
            record = b""


def uploaded(run: Path) -> tuple[list, dict, dict[int, dict]]:
    """Of all processes of a run: (id, project, name), the last configuration, values by step."""
    runs, config, history = [], {}, defaultdict(dict)
    for file in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for record in records(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                runs.append((record.run.run_id, record.run.project, record.run.display_name))
                config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
            elif kind == "history":
                items = record.history.item
                row = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in items}
                step = record.history.step.num
                history[row.get("_step", step)] |= row
    return runs, config, dict(history)


def check(run: Path, epochs: int) -> None:
    """Each row of log.csv and each sample grid is there, at its step."""
    _, config, history = uploaded(run)
    assert (config["epochs"], config["data_root"]) == (epochs, config["data_root"])
    for row in log_rows(run):
        there = history[int(row.pop("step"))]
        for name, value in row.items():
            title = name.replace("loss_", "loss/").replace("val_", "val/")
            assert (title in there) == (value != "")
            assert not value or there[title] == pytest.approx(float(value), rel=1e-4)
    grids = {step for step, row in history.items() if "samples" in row}
    assert grids == {6 * epoch for epoch in range(epochs + 1)}


@pytest.mark.slow
def test_a_run_and_its_continuation_are_one_run_there(offline, pairs, tmp_path):
    run = tmp_path / "mine"
    fields = {**FIELDS, "data_root": pairs, "output": run, "wandb": "shoes"}
    assert train.main(arguments(**fields)) == 0
    check(run, epochs=2)
    assert train.main(["--resume", run, "--epochs", 3]) == 0
    check(run, epochs=3)
    runs, _, _ = uploaded(run)
    assert len(set(runs)) == 1 and runs[0][1:] == ("shoes", "mine")
    # A new run in its folder is another there.
    shutil.rmtree(run / "checkpoints")
    assert train.main(arguments(**{**fields, "epochs": 1})) == 0
    runs, _, _ = uploaded(run)
    assert len({name for name, _, _ in runs}) == 2


@pytest.mark.slow
def test_a_crash_and_the_steps_that_are_computed_again(offline, pairs, tmp_path):
    run = tmp_path / "mine"
    fields = {**FIELDS, "data_root": pairs, "output": run, "wandb": "shoes"}
    with pytest.raises(CrashError), crash_at(8):
        train.main(arguments(**fields))
    assert train.main(["--resume", run]) == 0
    check(run, epochs=2)


def test_a_run_that_cannot_be_tracked_is_one_line(pairs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    fields = {**FIELDS, "data_root": pairs, "output": tmp_path / "mine", "wandb": "shoes"}
    with pytest.raises(UserError, match="--wandb needs a package: pip install wandb"):
        train.main(arguments(**fields))
    assert not list((tmp_path / "mine").rglob("*.pt"))
    # It can be resumed without.
    del fields["wandb"]
    assert train.main(arguments(**fields)) == 0
    assert not (tmp_path / "mine" / "wandb").exists()


def test_a_project_that_is_refused_is_one_line(offline, pairs, tmp_path):
    fields = {**FIELDS, "data_root": pairs, "output": tmp_path / "mine", "wandb": "a/b"}
    with pytest.raises(UserError, match=r"--wandb a/b cannot start: .*WANDB_MODE=offline"):
        train.main(arguments(**fields))
