"""Sharing a trained generator: the folder, the Hub by a server of our own, the ONNX file."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import REPOSITORY, TINY, run_script
from PIL import Image

import train
from config import Config, UserError
from dataset import read_image
from export import export_onnx
from sharing import CARD, DESCRIPTION, SHARED_FILES, WEIGHTS
from utils import (
    build_generator,
    eight_bits,
    export_generator,
    generate_any,
    load_checkpoint,
    load_generator,
    save_checkpoint,
    to_tensor,
    translate,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def run(pairs, tmp_path_factory) -> Path:
    """With a mean of the weights, which is what has to be shared."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    fields = {**TINY, "epochs": 2, "direction": "AtoB", "ema_decay": 0.5}
    train.train(Config(data_root=str(pairs), output=str(folder), **fields))
    return folder


@pytest.fixture(scope="module")
def shared(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "model"
    export_generator(run, folder)
    return folder


@pytest.fixture(scope="module")
def photos(pairs) -> list[Image.Image]:
    """Real pictures: a drawn facade with its photo, and what a checkpoint of this project made."""
    picture = Image.open(REPOSITORY / "tests" / "checkpoint_format_1.png").convert("RGB")
    blocks = Image.open(pairs / "test" / "1.png").convert("RGB")
    sizes = [(32, 32), (50, 40), (40, 50), (257, 33), (70, 1), (1, 1), (64, 48)]
    return [source.resize(size) for size in sizes for source in (picture, blocks)]


def untrained(folder: Path, **fields) -> Path:
    """A run folder whose generator has not been trained, which makes other runs in no time. Its
    norms and weights are spread, so that every layer counts in the output."""
    config = Config(**{**TINY, "output": str(folder), **fields})
    torch.manual_seed(0)
    generator = build_generator(config)
    for parameter in generator.parameters():
        parameter.data.normal_(0.1, 0.3)
    weights = generator.state_dict()
    save_checkpoint(folder / "checkpoints" / "latest.pt", config, generator=weights, step=0)
    return folder


def error_line(result) -> str:
    """The one line of a script that ended with exit code 2."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    return last


# ---- The folder -------------------------------------------------------------------------------


def test_what_is_shared_translates_as_the_run_does(run, shared, photos):
    assert {file.name for file in shared.iterdir()} == set(SHARED_FILES)
    ours, theirs = load_generator(run), load_generator(shared)
    average = load_checkpoint(run)["average"]
    assert all(torch.equal(average[name], value) for name, value in theirs.state_dict().items())
    for photo in photos:
        x = to_tensor(np.asarray(photo))
        assert torch.equal(generate_any(ours, 3, True, x), generate_any(theirs, 3, True, x))
    assert theirs.config == replace(ours.config, data_root="pairs0", output="run")
    assert not theirs.training and not any(p.requires_grad for p in theirs.parameters())


def test_half_is_half_as_large_and_translates_nearly_alike(run, shared, photos, tmp_path):
    export_generator(run, tmp_path / "half", half=True)
    weights = safetensors.torch.load_file(tmp_path / "half" / WEIGHTS)
    assert {value.dtype for value in weights.values()} == {torch.float16}
    sizes = [(folder / WEIGHTS).stat().st_size for folder in (tmp_path / "half", shared)]
    assert sizes[0] < 0.6 * sizes[1]  # the names of the weights take the same in both
    ours, theirs = load_generator(run), load_generator(tmp_path / "half")
    assert {value.dtype for value in theirs.state_dict().values()} == {torch.float32}
    for photo in photos:
        x = to_tensor(np.asarray(photo))
        difference = generate_any(ours, 0, True, x) - generate_any(theirs, 0, True, x)
        assert difference.abs().max() < 0.01


def test_the_card_and_the_configuration_describe_the_model(run, tmp_path, shared):
    card = (shared / "README.md").read_text()
    head, body = card.split("---\n")[1:]
    assert "pipeline_tag: image-to-image" in head and "library_name: pytorch" in head
    count = sum(value.numel() for value in load_generator(run).parameters())
    for fact in ("A (the left half)", "`AtoB`", "32x32", f"{count:,}", "`base_channels`: `4`"):
        assert fact in body
    assert "`lambda_l1`" not in body and "Scores" not in body
    for name in (DESCRIPTION, CARD):  # nothing of where it was trained
        assert str(run.parent) not in (shared / name).read_text()

    shutil.copytree(run, tmp_path / "run")
    scores = {"split": "test", "images": 3, "seed": 0, "dropout": True, "l1": 0.12345}
    (tmp_path / "run" / "test").mkdir()
    (tmp_path / "run" / "test" / "scores.json").write_text(json.dumps(scores))
    export_generator(tmp_path / "run", tmp_path / "scored")
    card = (tmp_path / "scored" / "README.md").read_text()
    assert "Means of 3 test pictures" in card and "- l1: 0.1235" in card and "seed:" not in card
    os.utime(tmp_path / "run" / "checkpoints" / "latest.pt")
    os.utime(tmp_path / "run" / "test" / "scores.json", (0, 0))
    export_generator(tmp_path / "run", tmp_path / "since")  # it has been trained on since
    assert "Scores" not in (tmp_path / "since" / "README.md").read_text()


@pytest.mark.parametrize(
    "fields",
    [
        {"task": "colorization", "in_channels": 1, "out_channels": 2},
        {"task": "inpainting"},
        {"task": "super_resolution"},
        {"task": "edges", "in_channels": 1},
        {"task": "style"},
        {"norm": "instance", "upsampling": "resize", "generator": "encoder_decoder"},
    ],
)
def test_every_task_and_network_is_shared_whole(tmp_path, photos, fields):
    run = untrained(tmp_path / "run", **fields)
    export_generator(run, tmp_path / "shared")
    ours, theirs = load_generator(run), load_generator(tmp_path / "shared")
    assert translate(ours, photos[2]) == translate(theirs, photos[2])
    assert "{" not in (tmp_path / "shared" / "README.md").read_text()


def test_nothing_but_an_earlier_export_is_replaced(run, tmp_path):
    for name in ("notes.txt", "train.py"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        (tmp_path / name / "README.md").write_text("also mine")  # which alone would be no obstacle
        with pytest.raises(UserError, match=rf"holds other files \({name}\)"):
            export_generator(run, tmp_path / name)
        assert {file.name for file in (tmp_path / name).iterdir()} == {name, "README.md"}
        assert (tmp_path / name / name).read_text() == "mine"
    foreign = tmp_path / "foreign"  # someone else's model
    foreign.mkdir()
    (foreign / "model.safetensors").write_bytes(b"weights")
    (foreign / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"config\.json describes no generator"):
        export_generator(run, foreign)
    assert (foreign / "model.safetensors").read_bytes() == b"weights"
    with pytest.raises(UserError, match="holds other files"):
        export_generator(run, run)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file"):
        export_generator(run, tmp_path / "file")

    export_generator(run, tmp_path / "new", half=True)
    (tmp_path / "new" / ".gitattributes").write_text("")  # a clone of the Hub's
    export_generator(run, tmp_path / "new")
    assert (tmp_path / "new" / "config.json").exists()
    (tmp_path / "new" / "README.md").write_text("written by hand")
    export_generator(run, tmp_path / "new")
    assert (tmp_path / "new" / "README.md").read_text() == "written by hand"
    weights = safetensors.torch.load_file(tmp_path / "new" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_weights_beyond_half_precision_are_refused(tmp_path):
    run = untrained(tmp_path / "run")
    checkpoint = load_checkpoint(run)
    checkpoint["generator"]["output.1.bias"][0] = 1e6
    weights = checkpoint["generator"]
    config = Config(**checkpoint["config"])
    save_checkpoint(run / "checkpoints" / "latest.pt", config, generator=weights, step=0)
    with pytest.raises(UserError, match="too large for half precision"):
        export_generator(run, tmp_path / "shared", half=True)
    assert not (tmp_path / "shared").exists()


def rewrite(folder: Path, **changes) -> None:
    description = json.loads((folder / "config.json").read_text())
    config = description["config"] | changes.pop("config", {})
    (folder / "config.json").write_text(json.dumps(description | {"config": config} | changes))


def reweight(folder: Path, change) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights = {name: value.clone() for name, value in weights.items()}
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors")


def cut(file: Path, share: float) -> None:
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])


FIRST = "encoder.0.0.weight"
DAMAGES = {
    "config.json can't be read as JSON: No such file": lambda f: (f / "config.json").unlink(),
    "config.json can't be read as JSON: Unterminated": lambda f: cut(f / "config.json", 0.5),
    "read as JSON: 'utf-8'": lambda f: (f / "config.json").write_bytes(b"\xff"),
    "read as JSON: maximum": lambda f: (f / "config.json").write_text("[" * 100_000),
    "config.json holds no JSON object": lambda f: (f / "config.json").write_text("[]"),
    "config.json describes no generator": lambda f: (f / "config.json").write_text("{}"),
    "config.json has format 2, this version reads up to 1": lambda f: rewrite(f, format=2),
    "fields unknown to this version: ['new']": lambda f: rewrite(f, config={"new": 1}),
    "depth is 'deep'": lambda f: rewrite(f, config={"depth": "deep"}),
    "generator lacks": lambda f: rewrite(f, config={"depth": 5}),
    "is 4x3x4x4 float32, not 8x3x4x4": lambda f: rewrite(f, config={"base_channels": 8}),
    "model.safetensors can't be read as safetensors": lambda f: cut(f / "model.safetensors", 0.9),
    "model.safetensors can't be": lambda f: (f / "model.safetensors").write_bytes(b""),
    f"generator lacks '{FIRST}'": lambda f: reweight(f, lambda w: w.pop(FIRST)),
    "generator has 'more', which": lambda f: reweight(f, lambda w: w.update(more=torch.ones(1))),
    "float64, not": lambda f: reweight(f, lambda w: w.update({FIRST: w[FIRST].double()})),
    "int32, not": lambda f: reweight(f, lambda w: w.update({FIRST: w[FIRST].int()})),
    "holds neither checkpoints nor model.safetensors": lambda f: (f / "model.safetensors").unlink(),
}


@pytest.mark.parametrize("line", DAMAGES)
def test_damaged_and_foreign_folders_are_refused_in_one_line(shared, tmp_path, line):
    shutil.copytree(shared, tmp_path / "model")
    DAMAGES[line](tmp_path / "model")
    with pytest.raises(UserError) as caught:
        load_generator(tmp_path / "model")
    assert line in str(caught.value) and "model" in str(caught.value)


def test_a_configuration_of_huge_networks_costs_nothing(shared, tmp_path):
    shutil.copytree(shared, tmp_path / "model")
    rewrite(tmp_path / "model", config={"base_channels": 2**16, "depth": 12, "crop_size": 4096})
    rewrite(tmp_path / "model", config={"load_size": 4096})
    with pytest.raises(UserError, match="lacks"):
        load_generator(tmp_path / "model")


# ---- The scripts ------------------------------------------------------------------------------


def test_export_and_evaluate_as_commands(run, photos, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    photos[2].save(tmp_path / "x.png")
    result = run_script("export.py", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "python evaluate.py run/export --input" in result.stdout
    result = run_script("evaluate.py", "run/export", "--input", "x.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    expected = translate(load_generator(run), photos[2])
    assert read_image(tmp_path / "runs/shared/export/translated/x.png") == expected
    # The folder is as it was, to be uploaded.
    assert {f.name for f in (tmp_path / "run" / "export").iterdir()} == set(SHARED_FILES)


def test_mistakes_of_export_end_in_one_line_and_exit_code_2(run, tmp_path):
    cases = {
        (run, "--output", run): "holds other files (checkpoints)",
        (run, "--no_dropout"): "--no_dropout needs --onnx",
        (run, "--half", "--onnx", "a.onnx"): "--half can't be combined with --onnx",
        (run, "--hlaf"): "did you mean '--half'",
    }
    for words, line in cases.items():
        assert line in error_line(run_script("export.py", *words, cwd=tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_its_command(run, tmp_path, monkeypatch):
    for package in ("onnx", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match="pip install onnx"):
        export_onnx(run, tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"hf://ann/facades needs .* pip install huggingface_hub"):
        load_generator("hf://ann/facades")


# ---- The Hub ----------------------------------------------------------------------------------


@pytest.fixture
def hub(shared, tmp_path):
    """A server that answers as the Hub does, and the environment in which it is asked."""

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
            elif revision == "old" or not (shared / file).is_file():
                error = (404, "EntryNotFound")
            else:
                content = (shared / file).read_bytes()
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
    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HF_") and not name.lower().endswith("_proxy")
    }
    endpoint = f"http://127.0.0.1:{server.server_port}"
    yield {**plain, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache")}
    server.shutdown()
    server.server_close()


LOADING = """
import sys
from config import UserError
from utils import load_generator
for name in sys.argv[1:]:
    try:
        print("depth", load_generator(name).config.depth)
    except UserError as error:
        print(error)
"""

# It doesn't wait from one attempt to the next.
IMPATIENT = """
import runpy, sys, time
time.sleep = lambda seconds: None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_name_on_the_hub_is_translated_with(hub, run, photos, tmp_path):
    pytest.importorskip("huggingface_hub")
    photos[2].save(tmp_path / "x.png")
    words = ["hf://ann/facades", "--input", "x.png"]
    result = run_script("evaluate.py", *words, cwd=tmp_path, env=hub)
    assert result.returncode == 0, result.stderr
    assert "runs/shared/facades/translated/x.png" in result.stdout
    expected = translate(load_generator(run), photos[2])
    assert read_image(tmp_path / "runs/shared/facades/translated/x.png") == expected


def test_what_the_hub_lacks_or_withholds_is_one_line(hub):
    pytest.importorskip("huggingface_hub")
    cases = {
        "ann/facades@main": "depth 4",
        "ann/nothing": "Repository Not Found",
        "ann/gated": "Cannot access gated repo",
        "ann/private": "Cannot access gated repo",
        "ann/facades@new": "Revision Not Found",
        "ann/facades@old": "Entry Not Found",
        "ann": "has to be like hf://owner/name",
        "ann/facades/more": "has to be like hf://owner/name",
        "ann/-": "Repo id",
    }
    command = [sys.executable, "-c", LOADING, *(f"hf://{name}" for name in cases)]
    options = {"cwd": REPOSITORY, "env": hub, "capture_output": True, "text": True}
    result = subprocess.run(command, timeout=120, **options)
    lines = result.stdout.splitlines()
    for line, (name, expected) in zip(lines, cases.items(), strict=True):
        assert expected in line and (name in line or line == "depth 4")


def test_a_hub_that_is_gone_is_one_line_and_exit_code_2(hub, photos, tmp_path):
    pytest.importorskip("huggingface_hub")
    photos[2].save(tmp_path / "x.png")
    script = str(REPOSITORY / "evaluate.py")
    command = [sys.executable, "-c", IMPATIENT, script, "hf://ann/facades", "--input", "x.png"]
    environment = {**hub, "HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(REPOSITORY)}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    assert "hf://ann/facades can't be fetched" in error_line(subprocess.run(command, **options))
    assert not (tmp_path / "runs").exists()


# ---- ONNX -------------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path):
    """Exports a run, checks the file and opens it. One thread: the machine may have others busy."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")

    def open_session(run: Path, noise: bool):
        export_onnx(run, tmp_path / "model.onnx", noise)
        assert [file.name for file in tmp_path.glob("*.onnx*")] == ["model.onnx"]
        onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        return runtime.InferenceSession(str(tmp_path / "model.onnx"), options, providers)

    return open_session


def answer(session, x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) or (C, H, W) through onnxruntime."""
    batch = x.numpy() if x.ndim == 4 else x[None].numpy()
    (output,) = session.run(["output"], {"input": batch})
    return torch.from_numpy(output if x.ndim == 4 else output[0])


def agrees(session, generator, x: torch.Tensor) -> None:
    ours, theirs = generate_any(generator, 0, False, x), answer(session, x)
    assert theirs.shape == ours.shape and theirs.dtype == torch.float32
    assert (ours - theirs).abs().max() < 2e-5
    assert (eight_bits(ours) - eight_bits(theirs)).abs().max() <= 1


def test_onnx_without_dropout_is_pytorch_at_any_size(run, photos, session):
    opened, generator = session(run, noise=False), load_generator(run)
    for photo in photos:
        agrees(opened, generator, to_tensor(np.asarray(photo)))
    x = to_tensor(np.asarray(photos[2]))
    assert torch.equal(answer(opened, x), answer(opened, x))


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
@pytest.mark.parametrize("kind", ["unet", "encoder_decoder"])
def test_onnx_of_every_network(tmp_path, photos, session, norm, upsampling, kind):
    fields = {"norm": norm, "upsampling": upsampling, "generator": kind}
    run = untrained(tmp_path / "run", in_channels=1, out_channels=3, depth=3, **fields)
    opened, generator = session(run, noise=False), load_generator(run)
    for photo in photos[:8]:
        agrees(opened, generator, to_tensor(np.asarray(photo.convert("L"))))


def test_onnx_of_an_exported_folder(shared, photos, session):
    agrees(session(shared, noise=False), load_generator(shared), to_tensor(np.asarray(photos[0])))


def test_pictures_of_a_batch_leave_each_other_alone(run, photos, session):
    opened, size = session(run, noise=False), (50, 40)
    x = torch.stack([to_tensor(np.asarray(photo.resize(size))) for photo in photos[:3]])
    alone = torch.stack([answer(opened, picture) for picture in x])
    assert (answer(opened, x) - alone).abs().max() < 2e-5


def test_the_noise_is_that_of_pytorch(tmp_path, photos, session):
    """200 draws of each: their spread is the same, and their means are as near to each other as
    the means of 200 draws can be, and not near the picture without noise."""
    run = untrained(tmp_path / "run", dropout=0.3)
    pytest.importorskip("onnxruntime").set_seed(0)
    opened, generator = session(run, noise=True), load_generator(run)
    x, count = to_tensor(np.asarray(photos[2])), 200
    ours = torch.stack([generate_any(generator, seed, True, x) for seed in range(count)])
    theirs = torch.stack([answer(opened, x) for _ in range(count)])
    assert not torch.equal(theirs[0], theirs[1])
    spreads = [draws.std(0).mean().item() for draws in (ours, theirs)]
    assert spreads[0] == pytest.approx(spreads[1], rel=0.1)
    error = (ours.var(0) / count + theirs.var(0) / count).sqrt()
    without = generate_any(generator, 0, False, x)
    far, near = ((theirs.mean(0) - other) / error for other in (without, ours.mean(0)))
    assert near.pow(2).mean().sqrt() < 2 < far.pow(2).mean().sqrt() and near.abs().max() < 6


def test_the_share_that_is_dropped(tmp_path, session):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    session(untrained(tmp_path / "run", dropout=0.25), noise=True)
    model = onnx.load(str(tmp_path / "model.onnx"))
    kept = [node.output[0] for node in model.graph.node if node.op_type == "Where"]
    assert len(kept) == 3
    for name in kept:  # to see what lies inside
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    runtime.set_seed(0)
    opened = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).uniform(-1, 1, (2, 3, 128, 128)).astype(np.float32)
    for values in opened.run(kept, {"input": x}):
        error = (0.25 * 0.75 / values.size) ** 0.5
        assert abs((values == 0).mean() - 0.25) < 5 * error


def test_seeded_sessions_repeat_their_noise(run, photos, session):
    runtime = pytest.importorskip("onnxruntime")
    x, draws = to_tensor(np.asarray(photos[2])), []
    for seed in (1, 1, 2):
        runtime.set_seed(seed)
        draws.append(answer(session(run, noise=True), x))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_the_file_says_what_it_is(run, tmp_path, session):
    opened = session(run, noise=True)
    about = opened.get_modelmeta().custom_metadata_map
    config = Config(**json.loads(about["config"]))
    assert (config.depth, config.data_root) == (4, "pairs0")
    assert about["task"] == "pairs" and about["dropout"] == "on" and "[-1, 1]" in about["range"]
    (source,), (result,) = opened.get_inputs(), opened.get_outputs()
    assert (source.name, source.shape) == ("input", ["N", 3, "H", "W"])
    assert (result.name, result.shape) == ("output", ["N", 3, "H", "W"])


def test_onnx_as_a_command_and_what_stands_around_the_network(tmp_path):
    pytest.importorskip("onnx")
    fields = {"task": "colorization", "in_channels": 1, "out_channels": 2}
    untrained(tmp_path / "run", **fields)
    words = ["run", "--onnx", "out/model.onnx", "--no_dropout"]
    result = run_script("export.py", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "without dropout" in result.stdout and "the network alone" in result.stdout
    assert (tmp_path / "out" / "model.onnx").stat().st_size > 1000
    assert not (tmp_path / "run" / "export").exists()


def test_onnx_on_the_real_facades(run, session):
    root = REPOSITORY.parent / "shared" / "data" / "facades"
    files = sorted(root.rglob("*.jpg"))[:5]
    if not files:
        pytest.skip("the dataset is not there")
    opened, generator = session(run, noise=False), load_generator(run)
    for file in files:
        agrees(opened, generator, to_tensor(np.asarray(Image.open(file).convert("RGB"))))


def test_a_picture_by_onnxruntime_alone(run, photos, session):
    """The lines of the README."""
    opened = session(run, noise=False)
    x = np.asarray(photos[3], np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    y = opened.run(None, {"input": x})[0][0].transpose(1, 2, 0)
    picture = Image.fromarray(((y + 1) * 127.5).round().clip(0, 255).astype("uint8"))
    expected = translate(load_generator(run), photos[3], noise=False)
    difference = np.abs(np.int32(np.asarray(picture)) - np.asarray(expected))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01
