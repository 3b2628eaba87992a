"""Files that another program holds for a while, as on Windows."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import config_for, log_rows

import train
import utils
from engine import log
from engine.cli import UserError
from engine.files import creating_folder, write_text
from engine.log import Log


@pytest.fixture
def slept(monkeypatch) -> list:
    """The seconds slept, which do not pass."""
    seconds = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def refusing(function, times: float, name: str):
    """The function, which at first refuses a file of this name, as Windows does while it is open
    elsewhere."""

    def refuse(*arguments, **options):
        nonlocal times
        if times > 0 and name in map(os.path.basename, filter(is_path, arguments)):
            times -= 1
            raise PermissionError(13, "Permission denied")
        return function(*arguments, **options)

    return refuse


def is_path(value) -> bool:
    return isinstance(value, str | os.PathLike)


def test_a_file_that_is_open_elsewhere_is_replaced_once_it_is_free(tmp_path, monkeypatch, slept):
    monkeypatch.setattr(os, "replace", refusing(os.replace, 3, "a.txt"))
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new"
    assert len(slept) == 3 and os.listdir(tmp_path) == ["a.txt"]


def test_a_file_that_stays_open_is_named(tmp_path, monkeypatch, slept):
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, "replace", refusing(os.replace, float("inf"), "a.txt"))
    with pytest.raises(UserError, match=r"a\.txt cannot be written: Permission denied"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"
    assert 5 < sum(slept) < 60 and os.listdir(tmp_path) == ["a.txt"]


def test_a_checkpoint_that_is_being_read_becomes_the_previous_one(
    pairs, tmp_path, monkeypatch, slept
):
    """evaluate.py reads latest.pt during a save."""
    config = config_for(pairs, tmp_path)
    path = tmp_path / "latest.pt"
    utils.save_checkpoint(path, config, generator={}, step=1)
    monkeypatch.setattr(os, "replace", refusing(os.replace, 3, "latest.pt"))
    utils.save_checkpoint(path, config, generator={}, step=2)
    steps = [
        utils.read_checkpoint(tmp_path / f"{name}.pt")["step"] for name in ("previous", "latest")
    ]
    assert steps == [1, 2] and len(slept) == 3


def test_a_new_folder_that_is_being_scanned_gets_its_name(tmp_path, monkeypatch, slept):
    monkeypatch.setattr(os, "rename", refusing(os.rename, 3, "made"))
    with creating_folder(tmp_path / "made") as folder:
        folder.mkdir()
    assert os.listdir(tmp_path) == ["made"]


# ---- log.csv ----------------------------------------------------------------------------------


def test_rows_are_kept_while_the_log_is_open_elsewhere(tmp_path, monkeypatch, slept):
    written = Log(tmp_path, ["step", "epoch"], -1)
    monkeypatch.setattr(log, "open", refusing(open, 2, "log.csv"), raising=False)
    monkeypatch.setattr(log, "flush_to_disk", refusing(log.flush_to_disk, 1, "log.csv"))
    for step in (1, 2, 3, 4):
        written.write(step, epoch=0)
    lines = (tmp_path / "log.csv").read_text(encoding="utf-8").split()
    assert lines == ["step,epoch", "1,0", "2,0", "3,0"] and not slept
    written.flush()
    written.close()
    lines = (tmp_path / "log.csv").read_text(encoding="utf-8").split()
    assert lines[1:] == ["1,0", "2,0", "3,0", "4,0"]


def test_the_last_rows_are_waited_for_and_then_the_log_is_named(tmp_path, monkeypatch, slept):
    for times, step in ((5, 1), (float("inf"), 2)):
        written = Log(tmp_path, ["step", "epoch"], step - 1)
        monkeypatch.setattr(log, "open", refusing(open, times, "log.csv"), raising=False)
        written.write(step, epoch=0)
        written.flush()
        if step == 1:
            written.close()
        else:
            with pytest.raises(UserError, match=r"log\.csv cannot be written: Permission denied"):
                written.close()
    assert (tmp_path / "log.csv").read_text(encoding="utf-8").split() == ["step,epoch", "1,0"]
    assert sum(slept) > 5


def test_a_run_goes_on_while_its_log_and_checkpoint_are_open_elsewhere(
    pairs, finished, tmp_path, monkeypatch, slept, undrawn
):
    monkeypatch.setattr(log, "open", refusing(open, 7, "log.csv"), raising=False)
    monkeypatch.setattr(os, "replace", refusing(os.replace, 7, "latest.pt"))
    assert train.train(config_for(pairs, tmp_path / "run", save_epochs=1)) == 0
    assert log_rows(tmp_path / "run") == log_rows(finished)


def test_a_name_of_247_bytes_can_be_written(tmp_path):
    for name in ("n" * 243 + ".txt", "\u00e9" * 121 + "n.txt"):
        write_text(tmp_path / name, "new")
        assert (tmp_path / name).read_text(encoding="utf-8") == "new"
    assert len(os.listdir(tmp_path)) == 2


def test_threads_write_names_that_begin_alike(tmp_path):
    names = [f"{'n' * 100}{number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: write_text(tmp_path / name, name), names))
    assert all((tmp_path / name).read_text(encoding="utf-8") == name for name in names)
