"""The server of the page to draw on."""

import http.client
import io
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from browsing import RUNS, ask, blocks, declared, image_of, png, serving, translated, untrained
from PIL import Image

from engine.fast import speed_up_inference
from images.reading import MAX_PIXELS
from pages.server import Server
from utils import load_generator, translate


@pytest.mark.parametrize("name", RUNS)
def test_it_translates_as_utils_does(server, runs, name):
    generator, image, mask = load_generator(runs / name), blocks(40, 24), None
    sent = image
    if name == "hole":
        mask = Image.new("L", image.size)
        mask.paste(255, (3, 5, 20, 12))
        sent = Image.new("RGB", (40, 48))
        sent.paste(image, (0, 0))
        sent.paste(mask, (0, 24))
    expected = translate(generator, image, 0, False, mask).convert("RGB")
    result = translated(server, name, sent, noise=0)
    assert np.abs(result - np.asarray(expected).astype(int)).max() <= 1  # rounded otherwise
    speed_up_inference(generator)
    for seed in (0, 7):
        expected = translate(generator, image, seed, True, mask).convert("RGB")
        result = translated(server, name, sent, seed)
        assert (result == np.asarray(expected)).all() and not (result == image_of(png(image))).all()


def test_a_run_is_loaded_again_when_it_has_saved(tmp_path):
    untrained(tmp_path / "run")
    with serving(Server([str(tmp_path / "run")], device="cpu")) as server:
        before = translated(server, "run", blocks(32, 32))
        stamp = json.loads(ask(server, "/runs.json")[1])["runs"][0]["stamp"]
        assert (translated(server, "run", blocks(32, 32)) == before).all()
        untrained(tmp_path / "run", seed=1)
        assert not (translated(server, "run", blocks(32, 32)) == before).all()
        assert json.loads(ask(server, "/runs.json")[1])["runs"][0]["stamp"] != stamp


def test_it_answers_pages_of_this_server_only(server):
    assert server.server_address[0] == "127.0.0.1"
    port = server.server_port
    own, body = f"http://127.0.0.1:{port}", png(blocks(8, 8))
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", ""):
        assert ask(server, "/", Host=host)[0] == 403
    for origin in (
        "http://evil.example",
        "null",
        f"https://127.0.0.1:{port}",
        own + ".evil.example",
    ):
        status, answer = ask(server, "/translate?run=edges&seed=0&noise=1", body, Origin=origin)
        assert status == 403 and b"PNG" not in answer
    assert ask(server, "/read", body, Origin=own)[0] == 200
    assert ask(server, "/", Host=f"localhost:{port}", Origin=f"http://localhost:{port}")[0] == 200
    for path in ("/draw.py", "/../config.py", "//etc/passwd", "/example?run=..&number=0"):
        assert ask(server, path)[0] == 404


def test_bad_uploads_are_one_line_and_the_server_lives_on(server):
    good = png(blocks(32, 32))
    cases = {
        b"": "empty",
        b"hello": "none of PNG",
        good[: len(good) // 2]: "cannot be read as an image",
        declared(MAX_PIXELS // 64 + 1, 64): "over 67 megapixels",
    }
    for body, line in cases.items():
        for path in ("/read?name=a.png", "/translate?run=edges&seed=0&noise=1"):
            status, answer = ask(server, path, body)
            assert status == 400 and line in answer.decode() and b"\n" not in answer
    queries = {
        "run=nobody&seed=0&noise=1": "the run nobody is no longer there; choose another",
        "run=edges&seed=x&noise=1": "x",
        f"run=edges&seed={10**30}&noise=1": "",
        "run=edges": "seed",
    }
    for query, line in queries.items():
        status, answer = ask(server, f"/translate?{query}", good)
        assert status >= 400 and line in answer.decode()
    translated(server, "edges", blocks(32, 32))


def test_a_body_that_is_too_long_is_not_read(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    for length in (str(16 * 2**20 + 1), "-5", "many"):
        connection.putrequest("POST", "/read")
        connection.putheader("Content-Length", length)
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 400 and b"at most 16 MB" in answer.read()
        assert answer.getheader("Connection") == "close"
        connection.close()


def test_uploads_become_eight_bit_rgb(server):
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    status, content = ask(server, "/read", png(Image.fromarray(deep)))
    assert status == 200 and (image_of(content)[..., 0] == np.arange(256).reshape(16, 16)).all()
    tiff = io.BytesIO()
    blocks(30, 20).save(tiff, "TIFF")
    assert (image_of(ask(server, "/read", tiff.getvalue())[1]) == np.asarray(blocks(30, 20))).all()
    large = image_of(ask(server, "/read", png(Image.new("RGB", (5000, 100))))[1])
    assert large.shape == (41, 2048, 3)


def test_nothing_is_written_and_several_pages_work(server, runs):
    before = {file: file.stat().st_mtime_ns for file in runs.rglob("*")}
    images = [blocks(32, 32, seed) for seed in range(6)]
    alone = [translated(server, "sketches", image) for image in images]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(partial(translated, server, "sketches"), images))
    assert all((one == other).all() for one, other in zip(alone, together, strict=True))
    assert {file: file.stat().st_mtime_ns for file in runs.rglob("*")} == before
