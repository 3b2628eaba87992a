"""The downloader, against a real server that breaks off, and archives that want to get out."""

import io
import math
import random
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import REPOSITORY, make_pairs, run_script

from config import UserError
from data import download
from data.download import DATASETS, SOURCE, unpack


class Server(BaseHTTPRequestHandler):
    """Serves files with ranges, and breaks each connection off after so many bytes."""

    break_after = None
    ranges = True
    if_range = True  # whether it minds it
    versions = ()  # headers that tell one version of a file from another
    length = None
    most = math.inf  # answers, before the server is overworked
    asked = ()  # for which ranges
    asked_if = ()  # and of which version

    def do_GET(self):
        path = self.folder / self.path.lstrip("/")
        if not path.exists():
            return self.send_error(404)
        data, start = path.read_bytes(), 0
        asked = self.headers.get("Range")
        version = self.headers.get("If-Range")
        type(self).asked += (asked,)
        if len(self.asked) > self.most:
            return self.send_error(503)
        type(self).asked_if += (version,)
        is_same = version is None or version in dict(self.versions).values()
        if asked and self.ranges and (is_same or not self.if_range):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", self.length or str(len(data) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for name, value in self.versions:
            self.send_header(name, value)
        self.end_headers()
        end = len(data) if self.break_after is None else start + self.break_after
        self.wfile.write(data[start:end])
        return None

    def log_message(self, *words):
        pass


@pytest.fixture
def serve(tmp_path):
    """Starts a server of tmp_path/served, which holds facades.tar.gz. Returns its address."""
    folder = tmp_path / "served"
    make_pairs(tmp_path / "made" / "facades")
    folder.mkdir()
    with tarfile.open(folder / "facades.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "made" / "facades", "facades")
    servers = []

    def start(**fields) -> str:
        handler = type("Handler", (Server,), {"folder": folder, **fields})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        start.handler = handler
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fetch(tmp_path: Path, address: str, name: str = "facades"):
    return run_script("data/download.py", name, "--source", address, cwd=tmp_path)


def same_files(one: Path, other: Path) -> bool:
    files = [sorted(p.relative_to(root) for p in root.rglob("*.png")) for root in (one, other)]
    return files[0] == files[1] and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in files[0]
    )


@pytest.mark.parametrize("fields", [{}, {"break_after": 1000}])
def test_a_dataset_is_downloaded_whole_however_often_it_breaks_off(serve, tmp_path, fields):
    done = fetch(tmp_path, serve(**fields))
    assert done.returncode == 0, done.stderr
    assert "CMP Facade Database" in done.stdout
    assert same_files(tmp_path / "data" / "facades", tmp_path / "made" / "facades")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["facades"]
    if fields:
        assert serve.handler.asked[1] == "bytes=1000-" and len(serve.handler.asked) > 3
    again = fetch(tmp_path, "http://127.0.0.1:9")
    assert again.returncode == 2 and "data/facades is there already" in again.stderr


@pytest.mark.parametrize("ranges", [True, False])
def test_an_earlier_download_is_gone_on_with(serve, tmp_path, ranges):
    data = (tmp_path / "served" / "facades.tar.gz").read_bytes()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "facades.tar.gz.part").write_bytes(data[:1000])
    done = fetch(tmp_path, serve(ranges=ranges))
    assert done.returncode == 0, done.stderr
    assert serve.handler.asked == ("bytes=1000-",)
    assert same_files(tmp_path / "data" / "facades", tmp_path / "made" / "facades")


@pytest.mark.parametrize("extra", [0, 50])
def test_a_part_that_is_all_of_it_or_more(serve, tmp_path, extra):
    data = (tmp_path / "served" / "facades.tar.gz").read_bytes()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "facades.tar.gz.part").write_bytes(data + bytes(extra))
    done = fetch(tmp_path, serve())
    assert done.returncode == 0, done.stderr
    assert same_files(tmp_path / "data" / "facades", tmp_path / "made" / "facades")


ETAG, DATE = ("ETag", '"1-2a"'), ("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")


@pytest.mark.parametrize(
    ("versions", "sent"),
    [
        ([ETAG, DATE], ETAG[1]),
        ([DATE], DATE[1]),
        ([("ETag", 'W/"1"'), DATE], DATE[1]),  # a weak one is not for ranges
        ([("ETag", 'W/"1"')], None),
        ([], None),
    ],
)
def test_the_rest_is_asked_for_of_the_same_version(serve, tmp_path, versions, sent):
    done = fetch(tmp_path, serve(break_after=1000, versions=versions))
    assert done.returncode == 0, done.stderr
    assert set(serve.handler.asked_if[1:]) == {sent} and serve.handler.asked_if[0] is None
    assert same_files(tmp_path / "data" / "facades", tmp_path / "made" / "facades")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["facades"]


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("kind", [0, 1])
def test_an_archive_that_has_changed_is_begun_anew(serve, tmp_path, if_range, kind):
    """Whether the server minds If-Range or not; `kind` says by what it tells versions apart."""
    served = tmp_path / "served" / "facades.tar.gz"
    now = served.read_bytes()
    served.write_bytes(random.Random(0).randbytes(len(now)))
    data = tmp_path / "data"
    done = fetch(tmp_path, serve(break_after=700, most=1, versions=[(ETAG, DATE)[kind]]))
    assert done.returncode == 2 and "answers 503" in done.stderr
    assert (data / "facades.tar.gz.part").read_bytes() == served.read_bytes()[:700]
    served.write_bytes(now)
    other = (("ETag", '"3-4b"'), ("Last-Modified", "Tue, 02 Jan 2024 00:00:00 GMT"))[kind]
    done = fetch(tmp_path, serve(if_range=if_range, versions=[other]))
    assert done.returncode == 0, done.stderr
    assert serve.handler.asked[0] == "bytes=700-"
    assert serve.handler.asked_if[0] == (ETAG, DATE)[kind][1]
    assert same_files(data / "facades", tmp_path / "made" / "facades")
    assert [path.name for path in data.iterdir()] == ["facades"]


def test_without_room_nothing_is_fetched_or_unpacked(serve, tmp_path, monkeypatch):
    done = fetch(tmp_path, serve(length=str(10**18)))  # an exabyte
    assert done.returncode == 2 and len(serve.handler.asked) == 1
    line = done.stderr.splitlines()[-1]
    assert "facades.tar.gz, to be fetched and unpacked, needs 2,000,000,000,000 MB in" in line
    assert str(tmp_path / "data") in line and "MB are free" in line
    assert not (tmp_path / "data" / "facades.tar.gz.part").stat().st_size

    archive = tmp_path / "served" / "facades.tar.gz"
    before = sorted(tmp_path.rglob("*"))
    free = archive.stat().st_size  # but unpacked it is more
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(UserError, match=r"^unpacking .*facades.tar.gz needs 0 MB in .* 0 MB are"):
        unpack(archive, archive.with_name("facades"))
    assert sorted(tmp_path.rglob("*")) == before


def test_what_it_is_and_how_much_of_it_has_come_is_said(serve, tmp_path):
    done = fetch(tmp_path, serve(most=0))
    assert done.returncode == 2  # said before anything is fetched
    for words in ("photo | labels", "terms", "cmp.felk.cvut.cz", "Isola et al.", "Tylecek, Sara"):
        assert words in done.stdout
    done = fetch(tmp_path, serve())
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "data/facades is ready, pictures: train 6, val 2, test 3" in lines
    assert "the authors' release has train 400, val 100, test 106" in lines[-2]
    assert lines[-1] == "next: python train.py facades"


def test_the_right_number_of_pictures_needs_no_warning(serve, tmp_path, monkeypatch, capsys):
    right = DATASETS["facades"]._replace(pictures={"train": 6, "val": 2, "test": 3})
    monkeypatch.setitem(DATASETS, "facades", right)
    output = tmp_path / "another disk"
    words = ["facades", "--source", serve(), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["download.py", *words])
    download.main()
    printed = capsys.readouterr().out
    assert "train 6, val 2, test 3" in printed and "warning" not in printed
    assert printed.endswith(f"next: python train.py facades --data_root '{output / 'facades'}'\n")


def test_what_cannot_be_downloaded_is_said_in_one_line(serve, tmp_path):
    address = serve()
    cases = {
        (address, "maps"): "maps.tar.gz answers 404",
        (address, "facade"): "there is no dataset 'facade'; did you mean 'facades'?",
        (serve(length="all"), "facades"): "can't be downloaded",
        ("http://[::1", "facades"): "can't be downloaded",
        ("ftp.nowhere", "facades"): "--source is 'ftp.nowhere'",
    }
    for (source, name), line in cases.items():
        done = fetch(tmp_path, source, name)
        assert done.returncode == 2, done.stdout
        assert line in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


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
    "absolute": [(file("{outside}/escaped.txt"), b"x")],
    "link": [
        (file("facades/link", tarfile.SYMTYPE, "{outside}"), b""),
        (file("facades/link/escaped.txt"), b"x"),
    ],
    "hard link": [(file("facades/passwd", tarfile.LNKTYPE, "../../secret"), b"")],
    "device": [(file("facades/null", tarfile.CHRTYPE), b"")],
    "bomb": [(file("facades/zeros"), bytes(5_000_000))],
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


def test_a_broken_archive_leaves_nothing(serve, tmp_path):
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
        with pytest.raises(UserError, match="was broken"):
            unpack(archive, tmp_path / "facades")
        assert not list(tmp_path.glob("facades*/"))


def test_the_current_address_is_the_one_of_the_readme():
    text = (REPOSITORY / "data" / "README.md").read_text()
    assert SOURCE in text and all(name in text for name in DATASETS)
