"""The downloader, against a local server that breaks off."""

import math
import random
import re
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, config_for, make_pairs
from PIL import Image
from test_init import port_file

import evaluate
import train
from config import Config
from engine.cli import UserError
from images.pixels import to_tensor
from metrics.palettes import PALETTES, find_palette
from sharing import downloads, junyanz
from tools.download import DATASETS, SOURCE, main
from utils import generate, load_generator


class Server(BaseHTTPRequestHandler):
    """Serves files with ranges, and breaks each connection off after some bytes."""

    break_after = None
    ranges = True
    length = None
    most = math.inf  # answers, before it is overloaded
    asked = ()  # the ranges of all requests

    def do_GET(self):
        path = self.folder / self.path.lstrip("/")
        if not path.exists():
            return self.send_error(404)
        data, start = path.read_bytes(), 0
        asked = self.headers.get("Range")
        type(self).asked += (asked,)
        if len(self.asked) > self.most:
            return self.send_error(503)
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", self.length or str(len(data) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        end = len(data) if self.break_after is None else start + self.break_after
        self.wfile.write(data[start:end])
        return None

    def log_message(self, *words):
        pass


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Starts a server of tmp_path/served, which holds facades.tar.gz; returns its address."""
    folder = tmp_path / "served"
    make_pairs(tmp_path / "made" / "facades")
    folder.mkdir()
    with tarfile.open(folder / "facades.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "made" / "facades", "facades")
    servers = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)

    def start(**fields) -> str:
        handler = type("Handler", (Server,), {"folder": folder, **fields})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        start.handler = handler
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fetch(address: str, name: str = "facades", *words) -> None:
    assert main([name, "--source", address, *words]) == 0


def same_files(one: Path, other: Path) -> bool:
    files = [sorted(p.relative_to(root) for p in root.rglob("*.png")) for root in (one, other)]
    return files[0] == files[1] and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in files[0]
    )


@pytest.mark.parametrize("fields", [{}, {"break_after": 1000}])
def test_a_dataset_is_complete_however_often_the_connection_breaks(serve, tmp_path, capsys, fields):
    fetch(serve(**fields))
    assert "research only: https://cmp.felk.cvut.cz" in capsys.readouterr().out
    assert same_files(tmp_path / "data" / "facades", tmp_path / "made" / "facades")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["facades"]
    if fields:
        assert serve.handler.asked[1] == "bytes=1000-" and len(serve.handler.asked) > 3
    with pytest.raises(UserError, match="data/facades already exists"):
        fetch("http://127.0.0.1:9")


@pytest.mark.parametrize("ranges", [True, False])
def test_an_earlier_download_resumes(serve, tmp_path, ranges):
    data = (tmp_path / "served" / "facades.tar.gz").read_bytes()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "facades.tar.gz.part").write_bytes(data[:1000])
    fetch(serve(ranges=ranges))
    assert serve.handler.asked == ("bytes=1000-",)
    assert same_files(tmp_path / "data" / "facades", tmp_path / "made" / "facades")


@pytest.mark.parametrize("extra", [0, 50])
def test_a_part_that_is_the_whole_file_or_longer(serve, tmp_path, extra):
    data = (tmp_path / "served" / "facades.tar.gz").read_bytes()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "facades.tar.gz.part").write_bytes(data + bytes(extra))
    fetch(serve())
    assert same_files(tmp_path / "data" / "facades", tmp_path / "made" / "facades")


def test_an_archive_that_has_changed_is_downloaded_anew(serve, tmp_path):
    """At the second attempt, as its checksum differs."""
    served = tmp_path / "served" / "facades.tar.gz"
    now = served.read_bytes()
    served.write_bytes(random.Random(0).randbytes(len(now)))
    data = tmp_path / "data"
    with pytest.raises(UserError, match="503"):
        fetch(serve(break_after=700, most=1))
    assert (data / "facades.tar.gz.part").read_bytes() == served.read_bytes()[:700]
    served.write_bytes(now)
    address = serve()
    with pytest.raises(UserError, match=r"was damaged .* and is deleted; try again"):
        fetch(address)
    assert not list(data.iterdir())
    fetch(address)
    assert serve.handler.asked[0] == "bytes=700-"
    assert same_files(data / "facades", tmp_path / "made" / "facades")
    assert [path.name for path in data.iterdir()] == ["facades"]


def test_a_connection_that_stays_broken_is_an_error(serve, tmp_path):
    address = serve(break_after=0)
    with pytest.raises(UserError, match="the connection broke; try again later"):
        fetch(address)
    assert len(serve.handler.asked) == downloads.ATTEMPTS


def test_the_terms_and_what_was_written_are_printed(serve, tmp_path, capsys):
    with pytest.raises(UserError):
        fetch(serve(most=0))
    assert "cmp.felk.cvut.cz" in capsys.readouterr().out  # before anything is downloaded
    fetch(serve())
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "wrote data/facades: train 6, val 2, test 3 images"
    assert lines[-1] == "next: python train.py facades"


def test_another_folder(serve, tmp_path, capsys):
    output = tmp_path / "another disk"
    fetch(serve(), "facades", "--output", str(output))
    printed = capsys.readouterr().out
    assert printed.endswith(f"next: python train.py facades --data_root '{output / 'facades'}'\n")


def test_label_maps_come_with_their_palette(serve, tmp_path):
    fetch(serve())
    folder = (tmp_path / "data" / "facades").rename(tmp_path / "renamed")
    assert find_palette(Config(data_root=str(folder))) == PALETTES["facades"]
    made, served = tmp_path / "made" / "facades", tmp_path / "served" / "maps.tar.gz"
    with tarfile.open(served, "w:gz") as tar:
        tar.add(made, "maps")
    fetch(serve(), "maps")
    assert not (tmp_path / "data" / "maps" / "palette.json").exists()


def test_mistakes_are_errors_in_one_line(serve, tmp_path):
    address = serve()
    cases = {
        (address, "maps"): "maps.tar.gz cannot be downloaded: HTTP Error 404",
        (address, "facade"): "unknown dataset 'facade'; did you mean 'facades'?",
        (serve(length="all"), "facades"): "cannot be downloaded",
        ("http://[::1", "facades"): "cannot be downloaded",
        ("ftp.nowhere", "facades"): "cannot be downloaded: unknown url type",
    }
    for (source, name), line in cases.items():
        with pytest.raises(UserError) as error:
            fetch(source, name)
        assert line in str(error.value) and "\n" not in str(error.value)


def test_options_that_do_not_fit_are_refused():
    cases = {
        ("facades", "--columns", "a", "b"): "--columns is for datasets of the Hub",
        ("hf://ann/facades", "--weights"): "--source and --weights do not fit it",
        ("hf://ann/facades", "--source", "http://x"): "--source and --weights do not fit it",
        ("hf://facades",): "must be like hf://owner/name",
        ("facades", "--weights"): "unknown generator 'facades'; did you mean 'facades_label2photo'",
    }
    for words, line in cases.items():
        with pytest.raises(UserError, match=re.escape(line)):
            main([*words])


def test_when_the_authors_server_fails_the_hub_is_named(serve):
    with pytest.raises(UserError) as error:
        fetch(serve(most=0))
    assert str(error.value).endswith("python -m tools.download hf://huggan/facades")
    with pytest.raises(UserError) as error:
        fetch(serve(), "edges2handbags")  # the Hub has no copy
    assert "hf://" not in str(error.value)


def test_mistakes_of_the_script_exit_with_code_2():
    words = [sys.executable, "-m", "tools.download", "facade"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: unknown dataset 'facade'; did you mean 'facades'?\n"


# ---- Generators -------------------------------------------------------------------------------


@pytest.fixture
def served_generator(serve, tmp_path):
    """The port's generator, as its server has it."""
    return port_file(tmp_path / "served" / "facades_label2photo.pth", legacy=True)


def test_a_generator_of_the_port_is_downloaded_and_translates(
    served_generator, serve, tmp_path, capsys
):
    fetch(serve(break_after=100_000), "facades_label2photo")
    assert len(serve.handler.asked) > 2  # it was resumed
    printed = capsys.readouterr().out
    file = "runs/facades_label2photo/latest_net_G.pth"
    assert "label maps -> photos" in printed
    assert printed.endswith(f"next: python evaluate.py {file} --input x.jpg --output y.png\n")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["facades_label2photo"]
    Image.new("RGB", (128, 128)).save("x.jpg")
    assert evaluate.main([file, "--input", "x.jpg", "--output", "y.png", "--device", "cpu"]) == 0
    x = to_tensor(np.asarray(Image.open("x.jpg")))[None]
    with torch.no_grad():
        expected = served_generator(x)
    assert (generate(load_generator(file), x, noise=False) - expected).abs().max() < 1e-4
    with pytest.raises(UserError, match="runs/facades_label2photo already exists"):
        fetch("http://127.0.0.1:9", "facades_label2photo")


def test_a_name_of_both_is_a_dataset_unless_it_is_asked_for(serve, tmp_path):
    port_file(tmp_path / "served" / "edges2shoes.pth")
    address = serve()
    with pytest.raises(UserError, match=r"edges2shoes.tar.gz cannot be downloaded"):
        fetch(address, "edges2shoes")
    fetch(address, "edges2shoes", "--weights")
    assert (tmp_path / "runs" / "edges2shoes" / "latest_net_G.pth").is_file()


def test_a_file_that_is_no_generator_leaves_nothing(served_generator, serve, tmp_path):
    file = tmp_path / "served" / "facades_label2photo.pth"
    for content in (b"<html>", file.read_bytes()[:-1000]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot be read as weights of the port.*try again"):
            fetch(serve(), "facades_label2photo")
        assert not list((tmp_path / "runs").iterdir())


def test_an_address_in_place_of_a_file_is_answered_by_the_command(tmp_path, pairs):
    address = f"{junyanz.SOURCE}/edges2shoes.pth"
    line = "edges2shoes.pth is no file; python -m tools.download edges2shoes --weights fetches it"
    for load in (
        lambda: load_generator(address),
        lambda: evaluate.main([address, "--input", "x.jpg"]),
        lambda: train.train(config_for(pairs, tmp_path / "new", init=address)),
    ):
        with pytest.raises(UserError, match=line):
            load()
    with pytest.raises(UserError, match=r"mine.pth is no file; download it and name the file"):
        load_generator("https://example.org/mine.pth")


def test_the_readme_has_the_address():
    text = (REPOSITORY / "data" / "README.md").read_text()
    assert SOURCE in text and all(name in text for name in DATASETS)
