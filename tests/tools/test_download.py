"""The downloader, against a local server that breaks off, and hostile archives."""

import errno
import io
import math
import random
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import REPOSITORY, make_pairs

from config import Config
from engine.cli import UserError
from metrics.palettes import PALETTES, find_palette
from tools import download
from tools.download import DATASETS, SOURCE, main, unpack


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
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)

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
    assert len(serve.handler.asked) == download.ATTEMPTS


def test_without_space_nothing_is_unpacked(tmp_path, monkeypatch):
    def fail(*words, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = archive_of(tmp_path / "facades.tar.gz", (file("facades/train/1.jpg"), b"x"))
    monkeypatch.setattr(tarfile.TarFile, "makefile", fail)
    with pytest.raises(UserError, match=r"facades.tar.gz cannot be unpacked: .*No space left"):
        unpack(archive, tmp_path / "facades")
    assert list(tmp_path.iterdir()) == [archive]  # to try again


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


def test_mistakes_of_the_script_exit_with_code_2():
    words = [sys.executable, "-m", "tools.download", "facade"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: unknown dataset 'facade'; did you mean 'facades'?\n"


# ---- Archives ---------------------------------------------------------------------------------


def archive_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def file(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


HOSTILE = {
    "up": [(file("../escaped.txt"), b"x")],
    "up within": [(file("facades/../../escaped.txt"), b"x")],
    "link": [
        (file("facades/link", tarfile.SYMTYPE, "{outside}"), b""),
        (file("facades/link/escaped.txt"), b"x"),
    ],
    "hard link": [(file("facades/passwd", tarfile.LNKTYPE, "../../secret"), b"")],
    "device": [(file("facades/null", tarfile.CHRTYPE), b"")],
    "another folder": [(file("maps/train/1.jpg"), b"x")],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE.keys())
def test_nothing_in_an_archive_gets_out_of_its_folder(tmp_path, members):
    outside, home = tmp_path / "outside", tmp_path / "home"
    outside.mkdir()
    home.mkdir()
    (tmp_path / "secret").write_text("secret")
    for member, _ in members:
        member.name = member.name.replace("{outside}", str(outside))
        member.linkname = member.linkname.replace("{outside}", str(outside))
    archive = archive_of(home / "facades.tar.gz", (file("facades/train/1.jpg"), b"x"), *members)
    if members == HOSTILE["another folder"]:
        archive = archive_of(archive, *members)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        unpack(archive, home / "facades")
    assert str(archive) in str(error.value) and "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_absolute_path_in_an_archive_is_dropped(tmp_path):
    outside = tmp_path / "outside"
    members = [(file("facades/train/1.jpg"), b"x"), (file(f"{outside}/escaped.txt"), b"x")]
    unpack(archive_of(tmp_path / "facades.tar.gz", *members), tmp_path / "facades")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["1.jpg", "facades.tar.gz"]
    assert not outside.exists()


def test_a_damaged_archive_leaves_nothing(serve, tmp_path):
    data = (tmp_path / "served" / "facades.tar.gz").read_bytes()
    place = random.Random(0)
    broken_ones = [data[: len(data) // 2], b"<html>404</html>", b""]
    for _ in range(40):
        flipped = bytearray(data)
        flipped[place.randrange(30, len(data))] ^= 1 << place.randrange(8)
        broken_ones.append(bytes(flipped))
    for broken in broken_ones:
        archive = tmp_path / "facades.tar.gz"
        archive.write_bytes(broken)
        with pytest.raises(UserError, match=r"was damaged"):
            unpack(archive, tmp_path / "facades")
        assert not list(tmp_path.glob("facades*/"))


def test_the_readme_has_the_address():
    text = (REPOSITORY / "data" / "README.md").read_text()
    assert SOURCE in text and all(name in text for name in DATASETS)
