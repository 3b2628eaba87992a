"""The static site."""

import json
import shutil
import subprocess
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import blocks, drag, serving, settled, visible_channels
from PIL import Image

from engine.cli import UserError
from pages.server import page as whole_page
from tools import export
from utils import generate_any_size, load_generator, translate


@pytest.fixture
def site(monkeypatch):
    """tools.site with a runtime of its own, as small files."""
    pytest.importorskip("onnx")
    from pages import site

    checksum = "OLBgp1GsljhM2TJ+sbHjaiH9txEUvgdDTAzHv2P24donTt6/529l+9Ua0vFImLlb"  # of nothing
    monkeypatch.setattr(site, "RUNTIME", dict.fromkeys(site.RUNTIME, checksum))
    return site


@pytest.fixture
def runtime(site, tmp_path) -> Path:
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in site.RUNTIME:
        (folder / name).touch()
    return folder


def test_the_site_holds_all_that_it_needs(runs, site, runtime, tmp_path):
    runtime_ = pytest.importorskip("onnxruntime")
    words = [str(runs / "hole"), "--web", str(tmp_path / "site"), "--runtime", str(runtime)]
    assert export.main(words) == 0
    assert export.main(words) == 0  # replaces it
    folder = tmp_path / "site"
    assert (folder / "index.html").read_bytes() == whole_page()
    sizes = json.loads((folder / "runs.json").read_text())["runtime"]["sizes"]
    assert sizes == {name: (folder / name).stat().st_size for name in sizes}
    assert all((folder / "runtime" / name).is_file() for name in site.RUNTIME)
    (about,) = json.loads((folder / "runs.json").read_text())["runs"]
    assert about["examples"] == ["examples/1.png"] and about["name"] == "hole"
    assert str(runs.parent) not in (folder / "runs.json").read_text()

    image = blocks(40, 24)
    x = np.float32(np.asarray(image)).transpose(2, 0, 1)[None] / 127.5 - 1
    feeds = {"input": x}
    for i, (channels, halvings) in enumerate(about["noise"]):
        sides = [-(-side // about["multiple"]) * about["multiple"] >> halvings for side in (24, 40)]
        feeds[f"noise_{i}"] = np.ones((1, channels, *sides), np.float32)
    session = runtime_.InferenceSession(str(folder / "model.onnx"))
    (output,) = session.run(None, feeds)
    expected = generate_any_size(load_generator(runs / "hole"), torch.from_numpy(x[0]), noise=False)
    assert np.abs(output[0] - expected.numpy()).mean() < 2 / 255  # a level of 255
    sizes = [session.get_inputs()[i].shape for i in (1, 2, 3)]
    assert len(sizes) == len(about["noise"])


def test_mistakes_of_the_export_are_one_line(runs, site, runtime, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(site.urllib.request, "urlopen", offline)
    (runtime / "other").mkdir()
    for name in site.RUNTIME:
        (runtime / "other" / name).write_text("another version")
    new = tmp_path / "new"
    cases = {
        ("color", "--web", new): "colorization needs more",
        ("hole", "--space", new): "a Space has no hole to paint",
        ("edges", "--web", tmp_path / "mine"): "holds other files",
        ("edges", "--web", new): "no network; or: npm pack onnxruntime-web",
        ("edges", "--web", new, "--runtime", runtime / "other"): "another checksum",
        ("edges", "--web", new, "--runtime", tmp_path / "none"): "cannot be read",
        ("edges", "--runtime", runtime): "--runtime needs --web",
    }
    for (run, *words), line in cases.items():
        with pytest.raises(UserError) as caught:
            export.main([str(runs / run), *map(str, words)])
        assert line in str(caught.value)
    assert not new.exists() and (tmp_path / "mine" / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_the_static_site_in_a_browser(runs, opened, tmp_path):
    """With onnxruntime-web from npm."""
    pytest.importorskip("onnx")
    from pages.site import PACKAGE

    npm = shutil.which("npm")
    packed = npm and subprocess.run([npm, "pack", PACKAGE], cwd=tmp_path, capture_output=True)
    if not packed or packed.returncode:
        pytest.skip("needs npm and its registry")
    (archive,) = tmp_path.glob("*.tgz")
    shutil.unpack_archive(archive, tmp_path)
    words = ["--web", str(tmp_path / "site"), "--runtime", str(tmp_path / "package" / "dist")]
    for name in ("facades", "edges", "hole"):
        assert export.main([str(runs / name), *words]) == 0

        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

        handler = partial(Quiet, directory=str(tmp_path / "site"))
        with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
            page = opened(server)
            if name != "hole":
                drag(page, (4, 6), (20, 15), (20, 25))
            settled(page)
            noisy = visible_channels(page, "output")
            page.click("#noise")
            settled(page)
            image = Image.fromarray(visible_channels(page, "canvas").astype(np.uint8))
            mask = (
                Image.fromarray(visible_channels(page, "mask").astype(np.uint8))
                if name == "hole"
                else None
            )
            expected = translate(load_generator(runs / name), image, noise=False, mask=mask)
            output = visible_channels(page, "output")
            assert not (noisy == output).all()
            assert np.abs(output - np.asarray(expected.convert("RGB")).astype(int)).mean() < 1
            page.click("#noise")
            settled(page)
            assert (visible_channels(page, "output") == noisy).all()
            page.context.close()
        shutil.rmtree(tmp_path / "site")
