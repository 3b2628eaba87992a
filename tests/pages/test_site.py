"""The static site."""

import json
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import (
    blocks,
    drag,
    drop,
    png,
    serving,
    settled,
    until,
    untrained,
    visible_channels,
)
from conftest import REPOSITORY
from PIL import Image

from engine.cli import UserError
from pages.server import page as whole_page
from sharing.exports import quantize
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
    untrained(tmp_path / "large", task="super_resolution")
    cases = {
        (tmp_path / "large", "--web", new): "super_resolution needs more",
        ("hole", "--space", new): "a Space has no hole to paint",
        ("color", "--space", new): "a Space changes no colors",
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


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """The files of onnxruntime-web, from npm."""
    pytest.importorskip("onnx")
    from pages.site import PACKAGE

    folder, npm = tmp_path_factory.mktemp("npm"), shutil.which("npm")
    packed = npm and subprocess.run([npm, "pack", PACKAGE], cwd=folder, capture_output=True)
    if not packed or packed.returncode:
        pytest.skip("needs npm and its registry")
    (archive,) = folder.glob("*.tgz")
    shutil.unpack_archive(archive, folder)
    return folder / "package" / "dist"


class Quiet(SimpleHTTPRequestHandler):
    held = threading.Event()  # the model is sent once it is set
    held.set()

    def do_GET(self):
        if self.path.endswith("model.onnx"):
            self.held.wait(30)
        super().do_GET()

    def log_message(self, *_):
        pass


def static(folder: Path):
    return serving(ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["facades", "edges", "hole"])
def test_the_static_site_in_a_browser(runs, dist, opened, tmp_path, name):
    folder = tmp_path / "site"
    words = [str(runs / name), "--web", str(folder), "--runtime", str(dist)]
    assert export.main(words) == 0
    with static(folder) as server:
        page = opened(server)
        if name != "hole":
            drag(page, (4, 6), (20, 15), (20, 25))
        settled(page)
        noisy = visible_channels(page, "output")
        page.click("#noise")
        settled(page)
        image = Image.fromarray(visible_channels(page, "canvas").astype(np.uint8))
        mask = None
        if name == "hole":
            mask = Image.fromarray(visible_channels(page, "mask").astype(np.uint8))
        expected = translate(load_generator(runs / name), image, noise=False, mask=mask)
        output = visible_channels(page, "output")
        assert not (noisy == output).all()
        assert np.abs(output - np.asarray(expected.convert("RGB")).astype(int)).mean() < 1
        page.click("#noise")
        settled(page)
        assert (visible_channels(page, "output") == noisy).all()
        if name == "edges":
            page.click("#webcam")
            until(page, "element('time').textContent.endsWith('images/s')")
            page.keyboard.press("Escape")
        page.context.close()


@pytest.mark.slow
def test_photos_are_colored_on_a_static_site(dist, opened, tmp_path):
    folder, run = tmp_path / "site", REPOSITORY / "pretrained" / "colorization"
    assert export.main([str(run), "--web", str(folder), "--runtime", str(dist)]) == 0
    photo = Image.open(run / "examples" / "launch.jpg").convert("RGB").resize((512, 384))
    with static(folder) as files:
        page = opened(files)
        page.click("#noise")
        drop(page, "photo.png", png(photo))
        until(page, "canvas.width === 512")
        settled(page)
        gray = visible_channels(page, "canvas")
        assert (gray == gray[..., :1]).all()
        image = Image.fromarray(gray.astype(np.uint8))
        expected = np.asarray(translate(load_generator(run), image, noise=False)).astype(int)
        output = visible_channels(page, "output")
        assert np.abs(output - expected).mean() < 1 < np.abs(gray - expected).mean()
        page.click("#webcam")
        until(page, "element('time').textContent.endsWith('images/s')")
        page.keyboard.press("Escape")
        page.context.close()


@pytest.mark.slow
def test_one_can_draw_while_the_model_is_loading(runs, dist, opened, tmp_path):
    folder = tmp_path / "site"
    words = [str(runs / "facades"), "--web", str(folder), "--runtime", str(dist)]
    assert export.main(words) == 0
    Quiet.held.clear()
    with static(folder) as server:
        page = opened(server, loaded=False)
        bar = "element('loading').lastElementChild.value"
        until(page, f"{bar} > 0.5")  # the runtime is the larger part
        assert page.locator("#loading").is_visible() and page.evaluate(bar) < 1
        assert "MB" in page.inner_text("#loading")
        drag(page, (4, 6), (20, 15))
        drawn = visible_channels(page, "canvas")
        assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 2
        Quiet.held.set()
        settled(page)
        assert page.locator("#loading").is_hidden()
        assert visible_channels(page, "output").std() > 0
        page.context.close()


def test_the_model_is_a_quarter_of_its_weights(tmp_path):
    """The error of int8 is under 1 of 255 levels, for a generator that was trained."""
    onnx, runtime_ = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from sharing.onnx_graph import onnx_model

    generator = load_generator(REPOSITORY / "pretrained" / "facades")  # int8: make them floats
    torch.manual_seed(0)
    for layer in generator.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            _, scale = quantize(layer.weight, int(isinstance(layer, torch.nn.ConvTranspose2d)))
            layer.weight += scale * (torch.rand_like(layer.weight) - 0.5)
    model = onnx_model(generator, web=True).SerializeToString()
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    weights = 4 * sum(weight.numel() for weight in generator.parameters())
    assert len(model) < 0.26 * weights
    image = Image.open(REPOSITORY / "pretrained" / "facades" / "examples" / "1.png").convert("RGB")
    x = np.float32(np.asarray(image)).transpose(2, 0, 1)[None] / 127.5 - 1
    session = runtime_.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = {"input": x}
    for one in session.get_inputs()[1:]:
        side = 256 // 2 ** (7 - int(one.name[-1]))
        feeds[one.name] = np.ones((1, one.shape[1], side, side), np.float32)
    (output,) = session.run(None, feeds)
    expected = np.asarray(translate(generator, image, noise=False)).astype(float)
    made = ((output[0].transpose(1, 2, 0) + 1) * 127.5).round()
    assert 0 < np.abs(made - expected).mean() < 1
