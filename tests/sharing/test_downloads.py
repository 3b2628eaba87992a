"""Archives, hostile and damaged; downloads are tested by tests/tools/test_download.py."""

import errno
import io
import random
import tarfile
from pathlib import Path

import pytest
from conftest import make_pairs

from engine.cli import UserError
from sharing.downloads import unpack


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


def test_a_damaged_archive_leaves_nothing(tmp_path, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole") / "facades"
    make_pairs(whole)
    with tarfile.open(whole.with_name("facades.tar.gz"), "w:gz") as tar:
        tar.add(whole, "facades")
    data = whole.with_name("facades.tar.gz").read_bytes()
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


def test_without_space_nothing_is_unpacked(tmp_path, monkeypatch):
    def fail(*words, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = archive_of(tmp_path / "facades.tar.gz", (file("facades/train/1.jpg"), b"x"))
    monkeypatch.setattr(tarfile.TarFile, "makefile", fail)
    with pytest.raises(UserError, match=r"facades.tar.gz cannot be unpacked: .*No space left"):
        unpack(archive, tmp_path / "facades")
    assert list(tmp_path.iterdir()) == [archive]  # to try again
