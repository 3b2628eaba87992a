"""Exporting a trained generator: the Hub's folder format and the ONNX file."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import REPOSITORY, untrained
from PIL import Image

import evaluate
from config import Config
from engine.cli import UserError
from images.pixels import eight_bits, to_tensor
from images.reading import read_image
from sharing.card import CARD
from sharing.exports import DESCRIPTION, EXPORT_FILES, WEIGHTS
from tools.export import export_generator, export_onnx, main
from utils import (
    generate_any_size,
    load_checkpoint,
    load_generator,
    save_checkpoint,
    translate,
)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_generator(run, folder)
    return folder


@pytest.fixture(scope="module")
def photos(pairs) -> list[Image.Image]:
    """Images of many sizes: an output of this project, and blocks."""
    image = Image.open(REPOSITORY / "tests" / "checkpoint_format_1.png").convert("RGB")
    blocks = Image.open(pairs / "test" / "1.png").convert("RGB")
    sizes = [(32, 32), (50, 40), (40, 50), (257, 33), (70, 1), (1, 1), (64, 48)]
    return [source.resize(size) for size in sizes for source in (image, blocks)]


# ---- The folder -------------------------------------------------------------------------------


def test_what_is_exported_translates_as_the_run_does(run, exported, photos):
    assert {file.name for file in exported.iterdir()} == set(EXPORT_FILES)
    ours, theirs = load_generator(run), load_generator(exported)
    average = load_checkpoint(run)["average"]
    assert all(torch.equal(average[name], value) for name, value in theirs.state_dict().items())
    for photo in photos:
        x = to_tensor(np.asarray(photo))
        assert torch.equal(
            generate_any_size(ours, x, 3, True), generate_any_size(theirs, x, 3, True)
        )
    assert theirs.config == replace(ours.config, data_root="pairs0", output="run")
    assert not theirs.training and not any(p.requires_grad for p in theirs.parameters())


def test_half_is_half_as_large_and_translates_nearly_alike(run, exported, photos, tmp_path):
    export_generator(run, tmp_path / "half", precision="half")
    weights = safetensors.torch.load_file(tmp_path / "half" / WEIGHTS)
    assert {value.dtype for value in weights.values()} == {torch.float16}
    sizes = [(folder / WEIGHTS).stat().st_size for folder in (tmp_path / "half", exported)]
    assert sizes[0] < 0.6 * sizes[1]  # the names of the weights take the same in both
    ours, theirs = load_generator(run), load_generator(tmp_path / "half")
    assert {value.dtype for value in theirs.state_dict().values()} == {torch.float32}
    for photo in photos:
        x = to_tensor(np.asarray(photo))
        difference = generate_any_size(ours, x, 0, True) - generate_any_size(theirs, x, 0, True)
        assert difference.abs().max() < 0.01


def test_int8_is_a_quarter_as_large_and_translates_nearly_alike(run, photos, tmp_path):
    """Weights of convolutions are int8, off by at most half a step; the others are unchanged."""
    export_generator(run, tmp_path / "int8", precision="int8")
    stored = safetensors.torch.load_file(tmp_path / "int8" / WEIGHTS)
    ours, theirs = load_generator(run), load_generator(tmp_path / "int8")
    quantized = {name for name, value in stored.items() if value.dtype == torch.int8}
    layers = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    convolutions = [name for name, m in ours.named_modules() if isinstance(m, layers)]
    assert quantized == {f"{name}.weight" for name in convolutions} and len(quantized) == 8
    restored = theirs.state_dict()
    for name, weight in ours.state_dict().items():
        assert restored[name].dtype == torch.float32
        if name not in quantized:
            assert torch.equal(restored[name], weight) and torch.equal(stored[name], weight)
            continue
        layer, scale = ours.get_submodule(name.removesuffix(".weight")), stored[f"{name}.scale"]
        assert scale.numel() == layer.out_channels and scale.dtype == torch.float32
        assert ((restored[name] - weight).abs() <= scale / 2 * (1 + 1e-5)).all()
    payload = sum(value.nbytes for value in stored.values())
    assert payload < 0.3 * sum(weight.nbytes for weight in restored.values())
    for photo in photos:
        x = to_tensor(np.asarray(photo))
        ours_y, theirs_y = (generate_any_size(g, x, 0, True) for g in (ours, theirs))
        assert 0 < (ours_y - theirs_y).abs().max() < 0.05
    # An export can be exported again, in any precision.
    export_generator(tmp_path / "int8", tmp_path / "again")
    again = load_generator(tmp_path / "again").state_dict()
    assert all(torch.equal(again[name], value) for name, value in restored.items())
    formats = [
        json.loads((tmp_path / f / DESCRIPTION).read_text())["format"] for f in ("int8", "again")
    ]
    assert formats == [2, 1]  # older versions of the code read what they can


def test_the_weights_themselves_instead_of_their_ema(run, tmp_path):
    export_generator(run, tmp_path / "plain", ema=False)
    weights, state = load_generator(tmp_path / "plain").state_dict(), load_checkpoint(run)
    assert all(torch.equal(weights[name], value) for name, value in state["generator"].items())
    assert not all(torch.equal(weights[name], value) for name, value in state["average"].items())


def test_the_card_and_the_configuration_describe_the_model(run, exported):
    card = (exported / CARD).read_text()
    head, body = card.split("---\n")[1:]
    assert "pipeline_tag: image-to-image" in head and "library_name: pytorch" in head
    for fact in ("direction AtoB", "on 32 px crops", "stored as float32", "3 output"):
        assert fact in body
    for name in (DESCRIPTION, CARD):  # nothing of where it was trained
        assert str(run.parent) not in (exported / name).read_text()


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
def test_every_task_and_network_is_exported_whole(tmp_path, photos, fields):
    run = untrained(tmp_path / "run", **fields)
    export_generator(run, tmp_path / "exported")
    ours, theirs = load_generator(run), load_generator(tmp_path / "exported")
    assert translate(ours, photos[2]) == translate(theirs, photos[2])
    assert "{" not in (tmp_path / "exported" / "README.md").read_text()


def test_nothing_but_an_earlier_export_is_replaced(run, tmp_path):
    for name in ("notes.txt", "train.py"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        (tmp_path / name / "README.md").write_text("also mine")  # which alone would be no obstacle
        with pytest.raises(UserError, match=rf"holds other files \({name}\)"):
            export_generator(run, tmp_path / name)
        assert {file.name for file in (tmp_path / name).iterdir()} == {name, "README.md"}
        assert (tmp_path / name / name).read_text() == "mine"
    with pytest.raises(UserError, match="holds other files"):
        export_generator(run, run)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file"):
        export_generator(run, tmp_path / "file")

    export_generator(run, tmp_path / "new", precision="half")
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
    with pytest.raises(UserError, match="too large for half"):
        export_generator(run, tmp_path / "exported", precision="half")
    assert not (tmp_path / "exported").exists()


# ---- The command ------------------------------------------------------------------------------


def test_export_and_evaluate_as_commands(run, photos, tmp_path, monkeypatch, capsys):
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    photos[2].save("x.png")
    assert main(["run"]) == 0
    assert "python evaluate.py run/export --input" in capsys.readouterr().out
    assert evaluate.main(["run/export", "--input", "x.png", "--device", "cpu"]) == 0
    expected = translate(load_generator(run), photos[2])
    assert read_image(Path("runs/shared/export/translated/x.png")) == expected
    # The folder is unchanged, ready to be uploaded.
    assert {f.name for f in Path("run/export").iterdir()} == set(EXPORT_FILES)
    assert main(["run", "--precision", "int8", "--no_ema", "--output", "small"]) == 0
    assert "stored as int8" in Path("small", CARD).read_text()
    assert main(["run", "--precision", "half"]) == 0  # replaces the first
    assert "README.md is kept" in capsys.readouterr().out


def test_mistakes_of_export_are_one_line(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = {
        (run, "--output", run): "holds other files (checkpoints)",
        (run, "--no_dropout"): "--no_dropout needs --onnx or --program",
        (run, "--size", "64"): "--size needs --onnx or --program",
        (
            run,
            "--size",
            "100",
            "--onnx",
            "a.onnx",
        ): "--size is 100; a generator of depth 4 takes",
        (run, "--size", "-16", "--onnx", "a.onnx"): "--size is -16; a generator of depth 4 takes",
        (run, "--size", "100", "--program", "a.pt2"): "--size is 100; a generator of depth 4 takes",
        (run, "--program", "a.pt2", "--onnx", "a.onnx"): "--onnx cannot be combined with --program",
        (run, "--program", "a.pt2", "--web", "a"): "--program cannot be combined with --web",
        (run, "--program", "a.pt2", "--space", "a"): "--program cannot be combined with --space",
        (run, "--program", "a.pt2", "--push", "a/b"): "--program cannot be combined with --push",
        (run, "--program", "a.pt2", "--precision", "half"): "--precision cannot be combined with",
        (run, "--precision", "half", "--onnx", "a.onnx"): "--precision cannot be combined with",
        (run, "--precision", "int4"): "invalid choice: 'int4'",
        (run, "--space", "a", "--onnx", "a.onnx"): "--onnx cannot be combined with --space",
        (run, "--web", "a", "--precision", "half"): "--precision cannot be combined with --web",
        (run, "--precison", "half"): "did you mean '--precision'",
    }
    for words, line in cases.items():
        with pytest.raises(UserError) as caught:
            main(words)
        assert line in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_its_command(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "sharing.onnx_graph", raising=False)
    with pytest.raises(UserError, match="pip install onnx"):
        export_onnx(run, tmp_path / "model.onnx")


# ---- ONNX -------------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path):
    """Exports a run, checks the file and opens it. One thread: the machine may have others busy."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")

    def open_session(run: Path, noise: bool, size: int | None = None):
        export_onnx(run, tmp_path / "model.onnx", noise, size=size)
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
    ours, theirs = generate_any_size(generator, x, 0, False), answer(session, x)
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


NETWORKS = [
    {},
    {"norm": "instance", "upsampling": "resize", "in_channels": 1},
    {"generator": "encoder_decoder"},
]


@pytest.mark.parametrize("fields", NETWORKS)
def test_onnx_of_one_size_holds_shapes_and_no_padding(tmp_path, photos, session, fields):
    onnx = pytest.importorskip("onnx")
    run, results = untrained(tmp_path / "run", **fields), []
    generator = load_generator(run)
    x = to_tensor(np.asarray(photos[-1].convert("RGB")))[: generator.in_channels]  # 64x48
    x = torch.nn.functional.pad(x, (0, 0, 0, 16), mode="circular")
    for size in (None, 64):
        opened = session(run, noise=False, size=size)
        agrees(opened, generator, x)
        results.append(answer(opened, x))
    assert (results[0] - results[1]).abs().max() < 1e-6
    graph = onnx.load(str(tmp_path / "model.onnx")).graph
    operators = {node.op_type for node in graph.node}
    assert not operators & {"Shape", "Gather", "Range", "Mod", "Slice", "Pad"}
    known = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    for node in graph.node[:-1]:
        assert all(side.dim_value > 0 for side in known[node.output[0]]), node
    (source,), (result,) = opened.get_inputs(), opened.get_outputs()
    assert source.shape == [1, generator.in_channels, 64, 64] and result.shape == [1, 3, 64, 64]


@pytest.mark.parametrize("fields", NETWORKS)
def test_onnx_of_one_size_in_opencv(tmp_path, fields):
    pytest.importorskip("onnx")
    cv2 = pytest.importorskip("cv2")
    run = untrained(tmp_path / "run", **fields)
    export_onnx(run, tmp_path / "model.onnx", noise=False, size=32)
    net, generator = cv2.dnn.readNetFromONNX(str(tmp_path / "model.onnx")), load_generator(run)
    for seed in (0, 1):
        torch.manual_seed(seed)
        x = torch.rand(generator.in_channels, 32, 32) * 2 - 1
        net.setInput(x[None].numpy())
        theirs = torch.from_numpy(net.forward()[0])
        assert (theirs - generate_any_size(generator, x, 0, False)).abs().max() < 5e-5


def test_onnx_of_one_size_draws_noise(run, session):
    pytest.importorskip("onnxruntime").set_seed(0)
    opened, x = session(run, noise=True, size=48), torch.zeros(3, 48, 48)
    assert not torch.equal(answer(opened, x), answer(opened, x))


def test_onnx_of_an_exported_folder(exported, photos, session):
    agrees(
        session(exported, noise=False), load_generator(exported), to_tensor(np.asarray(photos[0]))
    )


def test_images_of_a_batch_leave_each_other_alone(run, photos, session):
    opened, size = session(run, noise=False), (50, 40)
    x = torch.stack([to_tensor(np.asarray(photo.resize(size))) for photo in photos[:3]])
    alone = torch.stack([answer(opened, image) for image in x])
    assert (answer(opened, x) - alone).abs().max() < 2e-5


def test_the_noise_is_that_of_pytorch(tmp_path, photos, session):
    """200 draws of each: their spread is the same, and their means are as near to each other as
    the means of 200 draws can be, and not near the image without noise."""
    run = untrained(tmp_path / "run", dropout=0.3)
    pytest.importorskip("onnxruntime").set_seed(0)
    opened, generator = session(run, noise=True), load_generator(run)
    x, count = to_tensor(np.asarray(photos[2])), 200
    ours = torch.stack([generate_any_size(generator, x, seed, True) for seed in range(count)])
    theirs = torch.stack([answer(opened, x) for _ in range(count)])
    assert not torch.equal(theirs[0], theirs[1])
    spreads = [draws.std(0).mean().item() for draws in (ours, theirs)]
    assert spreads[0] == pytest.approx(spreads[1], rel=0.1)
    error = (ours.var(0) / count + theirs.var(0) / count).sqrt()
    without = generate_any_size(generator, x, 0, False)
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
    (source,), (result,) = opened.get_inputs(), opened.get_outputs()
    assert (source.name, source.shape) == ("input", ["N", 3, "H", "W"])
    assert (result.name, result.shape) == ("output", ["N", 3, "H", "W"])


def test_onnx_as_a_command(tmp_path, capsys):
    pytest.importorskip("onnx")
    fields = {"task": "colorization", "in_channels": 1, "out_channels": 2}
    run, file = untrained(tmp_path / "run", **fields), tmp_path / "out" / "model.onnx"
    assert main([run, "--onnx", file, "--no_dropout"]) == 0
    assert f"wrote {file}" in capsys.readouterr().out
    assert file.stat().st_size > 1000
    assert not (tmp_path / "run" / "export").exists()


def test_onnx_on_the_real_facades(run, session):
    root = Path(os.environ.get("PIX2PIX_DATA", REPOSITORY / "data")) / "facades"
    files = sorted(root.rglob("*.jpg"))[:5]
    if not files:
        pytest.skip("the dataset is not there")
    opened, generator = session(run, noise=False), load_generator(run)
    for file in files:
        agrees(opened, generator, to_tensor(np.asarray(Image.open(file).convert("RGB"))))


def test_a_image_by_onnxruntime_alone(run, photos, session):
    """The lines of the README."""
    opened = session(run, noise=False)
    x = np.asarray(photos[3], np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    y = opened.run(None, {"input": x})[0][0].transpose(1, 2, 0)
    image = Image.fromarray(((y + 1) * 127.5).round().clip(0, 255).astype("uint8"))
    expected = translate(load_generator(run), photos[3], noise=False)
    difference = np.abs(np.int32(np.asarray(image)) - np.asarray(expected))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01
