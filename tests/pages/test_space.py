"""The Gradio app of a Space."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from browsing import untrained
from PIL import Image

from metrics.palettes import PALETTES
from tools import export

COLORS = PALETTES["facades"].classes
CLIENT = """
import shutil, sys
from gradio_client import Client, handle_file
made = Client(sys.argv[1], verbose=False).predict(handle_file(sys.argv[2]), api_name="/translate")
shutil.copy(made, sys.argv[3])
"""


def test_the_space_has_an_app_requirements_and_a_card(runs, tmp_path, capsys):
    pytest.importorskip("onnx")
    assert export.main([str(runs / "facades"), "--space", str(tmp_path / "space")]) == 0
    names = {file.name for file in (tmp_path / "space").iterdir()}
    assert names == {"README.md", "app.py", "model.onnx", "requirements.txt", "runs.json"}
    compile((tmp_path / "space" / "app.py").read_text(), "app.py", "exec")
    card = (tmp_path / "space" / "README.md").read_text()
    assert "sdk: gradio" in card and "hf upload" in card
    assert "hf upload --repo-type space" in capsys.readouterr().out


@pytest.fixture(scope="module")
def python() -> Path:
    """A Python that has Gradio: an environment of its own, installed once and kept."""
    folder = Path(tempfile.gettempdir(), "pix2pix_gradio")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    check = [python, "-c", "import gradio, onnxruntime"]
    if not python.exists() or subprocess.run(check, capture_output=True).returncode:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        packages = ["gradio>=6", "numpy", "onnxruntime>=1.17", "pillow"]
        install = [python, "-m", "pip", "install", "--quiet", *packages]
        try:
            done = subprocess.run(install, capture_output=True, timeout=900).returncode == 0
        except subprocess.TimeoutExpired:
            done = False
        if not done or subprocess.run(check, capture_output=True).returncode:
            pytest.skip("Gradio cannot be installed here")
    return python


@contextmanager
def launched(python: Path, folder: Path):
    """The app of a Space, as its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    offline = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **offline, "GRADIO_SERVER_PORT": str(port)}
    with open(folder.parent / "log.txt", "w+", encoding="utf-8") as log:
        options = {"cwd": folder, "env": environment, "stdout": log, "stderr": log}
        with subprocess.Popen([python, "app.py"], **options) as process:
            try:
                address, end = f"http://127.0.0.1:{port}/", time.monotonic() + 120
                while not answers(address):
                    assert process.poll() is None and time.monotonic() < end, log.name
                    time.sleep(0.5)
                yield address
            finally:
                process.kill()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=30):
            return True
    except (urllib.error.URLError, OSError):
        return False


def component(address: str, kind: str) -> dict:
    """The properties of the first component of a kind."""
    with urllib.request.urlopen(f"{address}config", timeout=30) as answer:
        components = json.load(answer)["components"]
    return next(one["props"] for one in components if one["type"] == kind)


@pytest.mark.slow
def test_the_app_in_gradio(python, browser, tmp_path):
    pytest.importorskip("onnx")
    run, folder = untrained(tmp_path / "run", palette="facades"), tmp_path / "space"
    (run / "examples").mkdir()
    for i, name in enumerate(("facade", "door")):
        Image.new("RGB", (32, 32), COLORS[name]).save(run / "examples" / f"{i}.png")
    assert export.main([str(run), "--space", str(folder)]) == 0
    with launched(python, folder) as address:
        brush = component(address, "imageeditor")["brush"]
        assert brush["default_size"] == 4
        assert brush["default_color"] == "#{:02x}{:02x}{:02x}".format(*COLORS["window"])

        page = browser.new_page()
        page.set_default_timeout(90_000)  # gradio's page once took over 30 seconds
        page.goto(address)
        output = page.locator("img").first

        def changes(action) -> str:
            """The address of the output after an action that changes it."""
            before = output.get_attribute("src")
            action()
            end = time.monotonic() + 60
            while output.get_attribute("src") == before:
                assert time.monotonic() < end
                page.wait_for_timeout(100)
            page.wait_for_timeout(1500)  # there may be a second event
            return output.get_attribute("src")

        page.wait_for_selector("canvas")
        page.wait_for_timeout(5000)
        canvas = page.locator("canvas").first.bounding_box()
        x, y = canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2

        def stroke():
            page.mouse.move(x - 60, y)
            page.mouse.down()
            page.mouse.move(x + 60, y + 20, steps=8)
            page.mouse.up()

        changes(stroke)
        changes(page.get_by_text("Variation").click)
        changes(page.get_by_label("Randomness").click)
        changes(page.locator(".gallery-item").nth(1).click)
        page.get_by_label("Clear canvas").first.click()
        page.wait_for_timeout(4000)
        assert page.get_by_text("Error", exact=True).count() == 0
        names = page.locator("text=/^background/").first.evaluate(
            "one => one.parentElement.innerText"
        )
        assert all(name in names for name in COLORS)
        page.close()

        source, made = folder / "examples" / "1.png", tmp_path / "made.png"
        subprocess.run([python, "-c", CLIENT, address, source, made], check=True, timeout=120)
        pixels = np.asarray(Image.open(made))
        assert pixels.shape == (32, 32, 3) and pixels.std() > 0
