"""Exported generators: int8 weights, damaged folders, and the Hub, played by a local server."""

import base64
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import TINY
from PIL import Image

import evaluate
from config import Config
from engine import cli
from engine.cli import UserError
from images.reading import read_image
from sharing.exports import (
    EXPORT_FILES,
    WEIGHTS,
    dequantize,
    is_export,
    quantize,
    read_export,
    write_export,
)
from tools import export
from utils import build_generator, load_generator, translate

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FIRST = "encoder.0.0.weight"


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """An export of an untrained generator, as tools/export.py writes it."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    folder.mkdir()
    config = Config(**TINY)
    torch.manual_seed(0)
    weights = build_generator(config).state_dict()
    safetensors.torch.save_file(weights, folder / WEIGHTS)
    description = {"format": 1, "config": dataclasses.asdict(config)}
    (folder / "config.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def photo() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    return Image.fromarray(pixels)


# ---- int8 weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
def test_int8_weights_are_off_by_at_most_half_a_step(axis):
    """Channels of very different ranges, one of them constant zero."""
    torch.manual_seed(0)
    weight = torch.randn(8, 8, 4, 4)
    for channel in range(8):
        weight.select(axis, channel).mul_(10.0 ** (channel - 4))
    weight.select(axis, 7).zero_()
    values, scale = quantize(weight, axis)
    assert values.dtype == torch.int8 and scale.dtype == torch.float32
    assert values.shape == weight.shape and scale.numel() == 8 and scale.shape[axis] == 8
    (restored,) = dequantize({"w": values, "w.scale": scale}).values()
    assert restored.dtype == torch.float32
    error = (weight - restored).abs()
    assert (error <= scale / 2 * (1 + 1e-5)).all()
    assert error.max() > 0 and not restored.select(axis, 7).any()
    # Symmetric, and the largest value of each channel is kept.
    mirrored, _ = quantize(-weight, axis)
    assert torch.equal(mirrored, -values) and values.min() >= -127
    others = [dimension for dimension in range(4) if dimension != axis]
    peaks = weight.abs().amax(others)
    assert torch.allclose(restored.abs().amax(others), peaks)
    again, _ = quantize(restored, axis)
    assert torch.equal(again, values)


def test_other_types_pass_through():
    kinds = [torch.float32, torch.float16, torch.int32]
    weights = {str(kind): torch.ones(2, dtype=kind) for kind in kinds}
    assert [value.dtype for value in dequantize(weights).values()] == kinds


# ---- The folder -------------------------------------------------------------------------------


def test_an_export_is_recognized_and_read(exported):
    assert is_export(exported) and is_export("hf://ann/facades") and not is_export(exported.parent)
    content = read_export(exported)
    assert content.keys() == {"config", "generator"} and content["config"]["depth"] == 4
    assert content["generator"].keys() == load_generator(exported).state_dict().keys()


def rewrite(folder: Path, **changes) -> None:
    description = json.loads((folder / "config.json").read_text())
    config = description["config"] | changes.pop("config", {})
    (folder / "config.json").write_text(json.dumps(description | {"config": config} | changes))


def reweight(folder: Path, change) -> None:
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    weights = {name: value.clone() for name, value in weights.items()}
    change(weights)
    safetensors.torch.save_file(weights, folder / WEIGHTS)


def cut(file: Path, share: float) -> None:
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])


DAMAGES = {
    "config.json cannot be read as JSON: No such file": lambda f: (f / "config.json").unlink(),
    "config.json cannot be read as JSON": lambda f: cut(f / "config.json", 0.5),
    "read as JSON: 'utf-8'": lambda f: (f / "config.json").write_bytes(b"\xff"),
    "read as JSON: maximum": lambda f: (f / "config.json").write_text("[" * 100_000),
    "config.json holds no JSON object": lambda f: (f / "config.json").write_text("[]"),
    "config.json does not describe a generator": lambda f: (f / "config.json").write_text("{}"),
    "config.json has format 3, newer than 2": lambda f: rewrite(f, format=3),
    "does not describe a generator of this project": lambda f: rewrite(f, format="2"),
    "fields unknown to this version: ['new']": lambda f: rewrite(f, config={"new": 1}),
    "depth is 'deep'": lambda f: rewrite(f, config={"depth": "deep"}),
    "its generator does not fit its configuration": lambda f: rewrite(f, config={"depth": 5}),
    "has the shape": lambda f: rewrite(f, config={"base_channels": 8}),
    "model.safetensors cannot be read as safetensors": lambda f: cut(f / WEIGHTS, 0.9),
    "model.safetensors cannot be": lambda f: (f / WEIGHTS).write_bytes(b""),
    f"{FIRST} is missing": lambda f: reweight(f, lambda w: w.pop(FIRST)),
    "more is not part of it": lambda f: reweight(f, lambda w: w.update(more=torch.ones(1))),
    f"KeyError('{FIRST}.scale')": lambda f: reweight(
        f, lambda w: w.update({FIRST: w[FIRST].to(torch.int8)})
    ),
    "holds neither checkpoints nor model.safetensors": lambda f: (f / WEIGHTS).unlink(),
}


@pytest.mark.parametrize("line", DAMAGES)
def test_damaged_and_foreign_folders_are_refused_in_one_line(exported, tmp_path, line):
    shutil.copytree(exported, tmp_path / "model")
    DAMAGES[line](tmp_path / "model")
    with pytest.raises(UserError) as caught:
        load_generator(tmp_path / "model")
    assert line in str(caught.value) and "model" in str(caught.value)


# ---- The Hub ----------------------------------------------------------------------------------


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"hf://ann/facades needs .* pip install huggingface_hub"):
        load_generator("hf://ann/facades")


@pytest.fixture
def hub(exported, tmp_path, monkeypatch):
    """A server that answers as the Hub does; huggingface_hub asks it in place of the real one."""
    constants = pytest.importorskip("huggingface_hub.constants")

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            name, _, place = self.path.strip("/").partition("/resolve/")
            revision, _, file = place.partition("/")
            content, error = b"", None
            if name in ("ann/gated", "ann/private"):
                error = (403 if name == "ann/gated" else 401, "GatedRepo")
            elif name != "ann/facades":
                error = (404, "RepoNotFound")
            elif revision not in ("main", "old"):
                error = (404, "RevisionNotFound")
            elif revision == "old" or not (exported / file).is_file():
                error = (404, "EntryNotFound")
            else:
                content = (exported / file).read_bytes()
            self.send_response(error[0] if error else 200)
            if error:
                self.send_header("X-Error-Code", error[1])
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_hub(monkeypatch, constants, f"http://127.0.0.1:{server.server_port}", tmp_path / "cache")
    yield
    server.shutdown()
    server.server_close()


def use_hub(monkeypatch, constants, endpoint: str, cache: Path) -> None:
    """Points huggingface_hub to a server. It has read its environment when it was imported."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_a_name_on_the_hub_is_translated_with(hub, exported, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photo.save("x.png")
    assert evaluate.main(["hf://ann/facades", "--input", "x.png", "--device", "cpu"]) == 0
    assert "runs/shared/facades/translated/x.png" in capsys.readouterr().out
    expected = translate(load_generator(exported), photo)
    assert read_image(tmp_path / "runs/shared/facades/translated/x.png") == expected


def test_what_the_hub_lacks_or_withholds_is_one_line(hub):
    assert load_generator("hf://ann/facades@main").config.depth == 4
    cases = {
        "ann/nothing": "Repository Not Found",
        "ann/gated": "Cannot access gated repo",
        "ann/private": "Cannot access gated repo",
        "ann/facades@new": "Revision Not Found",
        "ann/facades@old": "Entry Not Found",
        "ann": "must be like hf://owner/name",
        "ann/facades/more": "must be like hf://owner/name",
        "ann/-": "Repo id",
    }
    for name, expected in cases.items():
        with pytest.raises(UserError) as caught:
            load_generator(f"hf://{name}")
        line = str(caught.value)
        assert expected in line and name in line and "\n" not in line


def test_a_hub_that_is_gone_is_one_line_and_exit_code_2(photo, tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    use_hub(monkeypatch, constants, "http://127.0.0.1:9", tmp_path / "cache")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between its attempts
    monkeypatch.chdir(tmp_path)
    photo.save("x.png")
    errors = io.StringIO()
    with pytest.raises(SystemExit) as ended, contextlib.redirect_stderr(errors):
        cli.run(lambda: evaluate.main(["hf://ann/facades", "--input", "x.png"]))
    assert ended.value.code == 2
    last = errors.getvalue().splitlines()[-1]
    assert last.startswith("error: hf://ann/facades cannot be fetched")
    assert not (tmp_path / "runs").exists()


# ---- Uploading --------------------------------------------------------------------------------


@pytest.fixture
def empty_hub(tmp_path, monkeypatch):
    """A server that takes a model as the Hub does, and then has it. `.files` are those committed,
    `.created` what was asked for, `.refuse` an error to answer with."""
    constants = pytest.importorskip("huggingface_hub.constants")

    class Hub(BaseHTTPRequestHandler):
        files, created, uploads, refuse = {}, [], {}, 0

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            lines = [json.loads(line) for line in body.splitlines() if line.startswith(b"{")]
            answer = {}
            if self.refuse or self.headers["Authorization"] != "Bearer hf_secret":
                self.send_error(self.refuse or 401)
                return
            if self.path == "/api/repos/create":
                self.created.append(lines[0])
                answer = {"url": f"{self.address}/ann/facades"}
            elif self.path == "/api/models/ann/facades/preupload/main":
                large = (".safetensors", ".png")
                answer["files"] = [
                    {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
                    for file in lines[0]["files"]
                    for mode in ["lfs" if file["path"].endswith(large) else "regular"]
                ]
            elif self.path == "/ann/facades.git/info/lfs/objects/batch":
                upload = {"href": f"{self.address}/upload/"}
                answer = {"transfer": "basic", "objects": []}
                for item in lines[0]["objects"]:
                    href = {"href": upload["href"] + item["oid"]}
                    answer["objects"].append({**item, "actions": {"upload": href}})
            elif self.path == "/api/models/ann/facades/commit/main":
                for line in lines:
                    value = line["value"]
                    if line["key"] == "file":
                        self.files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        self.files[value["path"]] = self.uploads[value["oid"]]
                url = f"{self.address}/ann/facades/commit/{COMMIT}"
                answer = {"success": True, "commitUrl": url, "commitOid": COMMIT}
            self.respond(json.dumps(answer).encode())

        def do_PUT(self):
            content = self.rfile.read(int(self.headers["Content-Length"]))
            self.uploads[self.path.rpartition("/")[2]] = content
            self.respond(b"")

        def do_GET(self):
            file = self.path.partition("/resolve/main/")[2]
            if file in self.files:
                self.respond(self.files[file])
            else:
                self.send_error(404)

        def respond(self, content: bytes):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    use_hub(monkeypatch, constants, Hub.address, tmp_path / "cache")
    # The transfers of earlier versions: the newer ones need a server of another protocol.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield Hub
    server.shutdown()
    server.server_close()


def test_a_run_is_pushed_with_its_card_and_examples_and_comes_back(
    run, empty_hub, photo, tmp_path, monkeypatch, capsys
):
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert evaluate.main(["run", "--device", "cpu"]) == 0
    (tmp_path / "run" / "export" / "examples").mkdir(parents=True)
    (tmp_path / "run" / "export" / "examples" / "notes.txt").write_text("mine")
    assert export.main(["run", "--push", "ann/facades", "--private"]) == 0
    printed = capsys.readouterr().out
    assert f"pushed to {empty_hub.address}/ann/facades" in printed
    assert "next: python evaluate.py hf://ann/facades --input" in printed
    images = [f"{kind}/{i}.png" for kind in ("examples", "outputs") for i in (1, 2, 3)]
    assert sorted(empty_hub.files) == sorted([*EXPORT_FILES, *images])
    for name, content in empty_hub.files.items():
        assert content == (tmp_path / "run" / "export" / name).read_bytes()
    (created,) = empty_hub.created
    assert created["name"] == "facades" and created["organization"] == "ann"
    assert created.get("private") or created.get("visibility") == "private"
    expected = translate(load_generator(run), photo)
    assert translate(load_generator("hf://ann/facades"), photo) == expected


def test_the_hub_reads_the_card(run, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    folder = shutil.copytree(run, tmp_path / "run")
    generator = load_generator(folder)
    generator.config = dataclasses.replace(generator.config, data_root="data/facades")
    assert evaluate.main([str(folder), "--device", "cpu"]) == 0
    scores = json.loads((folder / "test" / "scores.json").read_text())
    write_export(generator, tmp_path / "new", "half", folder / "test", "hf://ann/facades")
    card = huggingface_hub.ModelCard.load(tmp_path / "new" / "README.md")
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("pytorch", "image-to-image")
    assert "pix2pix" in data.tags and data.datasets == ["huggan/facades"]
    assert data.metrics == ["l1", "psnr", "ssim"]
    values = {result.metric_type: result.metric_value for result in data.eval_results}
    assert values == {name: pytest.approx(scores[name], abs=1e-4) for name in data.metrics}
    assert {result.dataset_split for result in data.eval_results} == {"test"}
    first = data.widget[0]
    assert len(data.widget) == 3 and first["output"]["url"] == "outputs/1.png"
    for kind, place in {"input": first["src"], "output": first["output"]["url"]}.items():
        written = (tmp_path / "new" / place).read_bytes()
        assert written == (folder / "test" / kind / "1.png").read_bytes()
        assert f"![{kind}]({place})" in card.text
    assert "load_generator('hf://ann/facades')" in card.text
    assert f"PSNR (dB) {scores['psnr']:.4g}" in card.text


def test_scores_of_other_weights_are_not_on_the_card(run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    assert evaluate.main([str(folder), "--device", "cpu"]) == 0
    export.export_generator(folder, tmp_path / "plain", ema=False)
    os.utime(folder / "checkpoints" / "latest.pt")  # it has trained on
    export.export_generator(folder, tmp_path / "late")
    assert f"python evaluate.py {folder} makes them" in capsys.readouterr().out
    for name in ("plain", "late"):
        assert "PSNR" not in (tmp_path / name / "README.md").read_text()
        assert not (tmp_path / name / "examples").exists()


def test_what_keeps_a_push_from_happening_is_one_line(run, empty_hub, tmp_path, monkeypatch):
    words = [str(run), "--output", str(tmp_path / "new"), "--push"]
    for name in ("facades", "ann/facades/more", "ann/facades@main"):
        with pytest.raises(UserError, match="it must be owner/name"):
            export.main([*words, name])
    with pytest.raises(UserError, match="--private needs --push"):
        export.main([str(run), "--private"])
    assert not (tmp_path / "new").exists()
    empty_hub.refuse = 403
    with pytest.raises(UserError, match=r"new cannot be pushed to ann/facades: .*403") as caught:
        export.main([*words, "ann/facades"])
    assert "hf auth login" in str(caught.value) and "\n" not in str(caught.value)
    assert not empty_hub.files and (tmp_path / "new" / WEIGHTS).is_file()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="--push needs a package: pip install huggingface_hub"):
        export.main([*words, "ann/facades"])
