"""The command that opens a page to draw on."""

import shutil

import pytest
from browsing import untrained
from conftest import refusal

from pages.server import Server
from tools import draw


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of two runs."""
    folder = tmp_path_factory.mktemp("runs")
    untrained(folder / "facades", palette="facades")
    untrained(folder / "edges", task="edges", in_channels=1)
    return folder


@pytest.fixture
def server(runs):
    with Server([str(runs)], device="cpu") as server:
        yield server


def test_mistakes_of_the_command_are_one_line(server, runs, capsys):
    assert "nothing is no run" in refusal(capsys, draw.main, "nothing", "--no_browser")
    taken = str(server.server_port)
    line = refusal(capsys, draw.main, str(runs / "edges"), "--port", taken, "--no_browser")
    assert f"--port {taken} cannot be used" in line
    assert "--port 70000" in refusal(capsys, draw.main, str(runs / "edges"), "--port", "70000")
    assert "did you mean" in refusal(capsys, draw.main, "--no_browsr")


def test_a_folder_may_begin_with_a_run_of_arrays(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Server, "serve_forever", lambda self: None)
    scans = shutil.copytree(runs / "facades", tmp_path / "a")
    (scans / "config.json").write_text('{"input_range": "0 100"}')
    words = [str(tmp_path), "--device", "cpu", "--no_browser"]
    assert "a translates arrays" in refusal(capsys, draw.main, *words)
    shutil.copytree(runs / "edges", tmp_path / "b")
    assert draw.main(words) == 0
    assert "drawing with b at" in capsys.readouterr().out


def test_the_command_opens_the_page_and_ends_with_ctrl_c(runs, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(draw.webbrowser, "open", opened.append)

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupted)
    assert draw.main([str(runs / "edges"), "--device", "cpu"]) == 0
    (address,) = opened
    assert f"drawing with edges at {address}" in capsys.readouterr().out
