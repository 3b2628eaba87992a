"""Every row of every table, end to end on tiny settings; and scores by a label reader."""

import gc
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, CrashError, arguments, crash_at
from PIL import Image

import evaluate
import train
from config import PRESETS, Config
from dataset import PairedDataset
from engine.cli import UserError
from engine.files import save_image
from evaluate import evaluate_split
from generator import UNetGenerator
from images.pairs import read_pair
from images.pixels import to_tensor
from metrics.labels import read_classes
from metrics.palettes import PALETTES
from metrics.reader import ReaderScores, load_reader
from tools import reader as reader_tool
from tools.make_demo import make_demo
from tools.reproduce import ROWS, TITLES, main, parse_arguments, run_once
from utils import load_checkpoint, load_generator

# The smallest images of which the largest receptive field leaves something.
FIELDS = {**TINY, "load_size": 100, "crop_size": 96, "depth": 5, "epochs": 1, "sample_images": 1}


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """A few pairs of the demo, in a folder whose name gives their palette."""
    root = tmp_path_factory.mktemp("data") / "demo"
    make_demo(root, train=3, val=1, test=2)
    return root


def words_for(table: str, demo: Path, output: Path, **fields) -> list[str]:
    return [table, *arguments(**{**FIELDS, "data_root": demo, "output": output, **fields})]


@pytest.mark.slow
def test_a_finished_training_leaves_no_network_in_memory(demo, tmp_path):
    def networks():
        return {id(thing) for thing in gc.get_objects() if type(thing) is UNetGenerator}

    before = networks()
    gc.disable()
    try:
        fields = {**FIELDS, "data_root": str(demo), "output": str(tmp_path)}
        run_once(Config(**fields))
        assert networks() <= before
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("table", ROWS)
def test_every_row_is_trained_scored_and_put_beside_the_papers(
    table, demo, reader_packages, tmp_path, capsys
):
    words = words_for(table, demo, tmp_path / "out")
    assert main(words) == 0
    text = (tmp_path / "out" / f"{table}.md").read_text()
    assert text.strip() in capsys.readouterr().out
    lines = text.splitlines()
    title, rows = TITLES[table], ROWS[table]
    assert lines[0].startswith(f"| {title} |")
    for name, _, paper in rows:
        (line,) = [line for line in lines if line.startswith(f"| {name} |")]
        assert line.endswith(f"| {' / '.join(f'{n:.2f}' for n in paper)} |")
        assert len(line.split("|")) == len(lines[0].split("|"))
        numbers = [float(cell) for cell in line.split("|")[2:-2]]
        assert np.isfinite(numbers).all()
    assert ("real photos" in text) == (table != "table6")
    # The columns of the grid: input, each row, target.
    columns = len(rows) + 2
    grid = Image.open(tmp_path / "out" / f"{table}.png")
    assert grid.width == columns * 100 + 4
    for column, kind in ((0, "input"), (columns - 1, "target")):
        first = tmp_path / "out" / first_run(table) / "test" / kind / "1.png"
        head = grid.height - 2 * 100  # the titles are above the two images
        box = (4 + column * 100, head, 100 + column * 100, head + 96)
        assert grid.crop(box) == Image.open(first).convert("RGB")


def first_run(table: str) -> str:
    name = {
        "table1": "gan_weight_0",
        "table2": "gan_weight_0_generator_encoder_decoder",
        "table3": "receptive_field_1",
        "table6": "gan_weight_0_direction_AtoB",
    }[table]
    return f"{name}/seed_0"


@pytest.mark.slow
def test_rows_differ_in_what_their_table_compares(demo, reader_packages, tmp_path):
    words = words_for("table1", demo, tmp_path / "out")
    assert main(words) == 0
    settings = {}
    for run in (tmp_path / "out").glob("*/seed_0/config.json"):
        values = json.loads(run.read_text())
        settings[run.parent.parent.name] = (
            values["direction"],
            values["lambda_l1"] > 0,
            values["gan_weight"] > 0,
            values["conditional"],
        )
    assert settings == {
        "gan_weight_0": ("BtoA", True, False, True),
        "lambda_l1_0_conditional_False": ("BtoA", False, True, False),
        "lambda_l1_0": ("BtoA", False, True, True),
        "conditional_False": ("BtoA", True, True, False),
        "base": ("BtoA", True, True, True),
    }
    assert (tmp_path / "out" / "reader" / "reader.pt").is_file()


@pytest.mark.slow
def test_finished_runs_are_skipped_and_stopped_ones_resumed(demo, tmp_path, capsys):
    words = [*words_for("table6", demo, tmp_path / "out", epochs=2), "--seeds", "0", "1"]
    seeds = [0, 1]
    with crash_at(5), pytest.raises(CrashError):  # in the second epoch of the first run
        main([*words, "--save_epochs", "1"])
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "resuming after step 3 of 6" in out
    text = (tmp_path / "out" / "table6.md").read_text()

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("latest.pt")}
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.count("is finished") == 3 * len(seeds)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert (tmp_path / "out" / "table6.md").read_text() == text


@pytest.mark.slow
def test_what_a_newer_reader_reads_is_scored_again(demo, reader_packages, tmp_path):
    words = words_for("table3", demo, tmp_path / "out")
    assert main(words) == 0
    scores = tmp_path / "out" / "receptive_field_1" / "seed_0" / "test" / "scores.json"
    scores.unlink()
    reader = tmp_path / "out" / "reader" / "reader.pt"
    os.utime(reader, (reader.stat().st_mtime + 9,) * 2)
    assert main(words) == 0
    assert json.loads(scores.read_text())["read_pixel_accuracy"] > 0


@pytest.mark.slow
def test_scores_of_ones_own_do_not_get_into_the_table(demo, reader_packages, tmp_path, capsys):
    """evaluate.py in a finished or a half trained row, with another seed or without the reader."""
    words = words_for("table3", demo, tmp_path / "out")
    assert main(words) == 0
    text = (tmp_path / "out" / "table3.md").read_text()
    run = tmp_path / "out" / "base" / "seed_0"
    evaluate_split(load_generator(run), "test", run / "test", seed=3, noise=False)
    assert main(words) == 0
    assert (tmp_path / "out" / "table3.md").read_text() == text


@pytest.mark.slow
def test_a_reader_can_be_shared_and_is_checked_before_hours_are_spent(demo, tmp_path, reader):
    words = [*words_for("table3", demo, tmp_path / "out"), "--scorer", str(reader)]
    assert main(words) == 0
    assert not (tmp_path / "out" / "reader").exists()
    larger = words_for("table3", demo, tmp_path / "new", load_size=128, crop_size=128)
    with pytest.raises(UserError, match="its crop_size is 96, the run's 128"):
        main([*larger, "--scorer", str(reader)])
    words = [*words_for("table3", demo, tmp_path / "new"), "--seeds", "0", "-1"]
    with pytest.raises(UserError, match="seed is -1"):
        main(words)
    with pytest.raises(UserError, match="receptive_field of 286"):
        small = words_for("table3", demo, tmp_path / "new", crop_size=32)
        main(small)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_table_says_what_its_numbers_are(demo, reader_packages, tmp_path):
    read_by = "scores by a label reader on EfficientNet-Lite0 features, not FCN-8s."
    for table, read in (("table3", True), ("table6", False)):
        words = words_for(table, demo, tmp_path / table)
        assert main(words) == 0
        text = (tmp_path / table / f"{table}.md").read_text()
        assert (read_by in text) == ("FCN-8s" in text) == read and "| per-pixel |" in text
    shutil.copytree(demo, tmp_path / "mine")
    words = words_for("table6", tmp_path / "mine", tmp_path / "own")
    assert main(words) == 0  # its palette.json is found
    assert "| per-pixel |" in (tmp_path / "own" / "table6.md").read_text()
    (tmp_path / "mine" / "palette.json").unlink()
    words = words_for("table6", tmp_path / "mine", tmp_path / "unknown")
    assert main(words) == 0
    text = (tmp_path / "unknown" / "table6.md").read_text()
    assert "per-pixel" not in text and "paper" not in text.splitlines()[0]


def test_true_classes_are_those_of_the_file_not_of_its_resized_colours(demo, runs):
    config = replace(load_generator(runs["labels"]).config, crop_size=96, load_size=96, depth=4)
    dataset = PairedDataset(config, "test")
    palette = PALETTES["demo"]
    labels = to_tensor(np.asarray(read_pair(dataset.pairs[0])[1]))
    true, whole = (read_classes(y, palette) for y in (dataset[0]["target"], labels))
    assert true.shape == (96, 96)
    for y, x in ((0, 0), (40, 17), (95, 95), (63, 50)):  # 256 px to 96: the nearest pixel
        assert true[y, x] == whole[int((y + 0.5) * 256 / 96), int((x + 0.5) * 256 / 96)]
    blended = PairedDataset(replace(config, palette="none"), "test")[0]["target"]
    assert (read_classes(blended, palette) != true).float().mean() > 0.01


def test_a_reader_is_compared_with_the_labels_of_the_file(runs, reader, tmp_path, monkeypatch):
    """The generator sees blended labels, since they tell more of where an edge is."""
    photos, labels = (load_generator(runs[kind]) for kind in ("photos", "labels"))
    found = []
    monkeypatch.setattr(ReaderScores, "add", lambda _, labels, *images: found.append(labels))
    monkeypatch.setattr(ReaderScores, "summary", lambda _: {})
    evaluate.evaluate_split(photos, "test", tmp_path, reader=load_reader(reader))
    dataset = PairedDataset(labels.config, "test")
    assert len(found) == len(dataset)
    for image, pair in zip(found, dataset, strict=True):
        assert torch.equal(image, pair["target"])


def test_the_palette_stays_with_the_run_and_can_be_given_later(
    demo, runs, tmp_path, monkeypatch, capsys
):
    shutil.copytree(demo, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    words = [runs["labels"], "--data_root", "moved", "--output", "o", "--device", "cpu"]
    assert evaluate.main(words) == 0
    assert "labels: per-pixel" in capsys.readouterr().out
    assert evaluate.main([*words, "--palette", "none"]) == 0
    assert "per-pixel" not in capsys.readouterr().out
    with pytest.raises(UserError, match="palette is 'demos'"):
        evaluate.main([*words, "--palette", "demos"])


@pytest.mark.slow
def test_seeds_give_mean_and_deviation(demo, tmp_path):
    words = [*words_for("table6", demo, tmp_path / "out"), "--seeds", "0", "1"]
    assert main(words) == 0
    content = json.loads((tmp_path / "out" / "table6.json").read_text())
    (row,) = [row for row in content["rows"] if row["name"] == "cGAN"]
    one, other = (run["l1"] for run in row["runs"])
    assert one != other
    expected = f"{(one + other) / 2:.3f} ± {abs(one - other) / 2**0.5:.3f}"
    assert expected in (tmp_path / "out" / "table6.md").read_text()


@pytest.mark.slow
def test_a_run_of_other_settings_is_not_mistaken_for_the_row(demo, tmp_path):
    words = words_for("table6", demo, tmp_path / "out", epochs=2)
    assert main(words) == 0
    for fields, line in (
        ({"learning_rate": 0.001}, r"learning_rate 0\.0002, not 0\.001"),
        ({"epochs": 1}, "epochs 2, not 1"),
        ({"precision": "fp32"}, "precision bf16, not fp32"),
        ({"decay_epochs": 1}, "decay_epochs 0, not 1"),
    ):
        words = words_for("table6", demo, tmp_path / "out", **{"epochs": 2, **fields})
        with pytest.raises(UserError, match=line):
            main(words)
        assert len(list((tmp_path / "out").rglob("row.json"))) == 3  # nothing is lost by it


@pytest.mark.slow
def test_finished_rows_are_trained_on_for_more_epochs(demo, tmp_path, capsys):
    words = {
        epochs: words_for("table6", demo, tmp_path / "out", epochs=epochs) for epochs in (1, 3)
    }
    for epochs, steps in ((1, 3), (3, 9)):
        content = content_of("table6", tmp_path / "out", words[epochs])
        assert {run["steps"] for row in content["rows"] for run in row["runs"]} == {steps}
    assert capsys.readouterr().out.count("resuming after step 3 of 9") == 3
    straight = content_of(
        "table6", tmp_path / "new", words_for("table6", demo, tmp_path / "new", epochs=3)
    )
    for one, other in zip(content["rows"], straight["rows"], strict=True):
        assert one["runs"][0]["l1"] == other["runs"][0]["l1"]
    decaying = {"decay_epochs": 1, "output": tmp_path / "decay"}
    assert main(words_for("table6", demo, **{**decaying, "epochs": 1})) == 0
    with pytest.raises(UserError, match="epochs 1, not 2"):
        main(words_for("table6", demo, **{**decaying, "epochs": 2}))


def test_the_command_line():
    options = parse_arguments(["table1"])
    assert options.base == replace(PRESETS["demo"], output="runs/reproduce_demo_128px_batch_1")
    assert options.seeds == [0] and options.scorer is None
    assert options.rows == ROWS["table1"]
    base = parse_arguments(["table2", "cityscapes", "--data_root", "x/cityscapes"]).base
    assert base.crop_size == 256 and base.batch_size == 10 and base.data_root == "x/cityscapes"
    assert base.output == "runs/reproduce_cityscapes_256px_batch_10"  # the other tables have 1
    small = ["table1", "facades", "--crop_size", "64", "--depth", "6"]
    assert parse_arguments(small).base.output == "runs/reproduce_facades_64px_batch_1"
    options = parse_arguments(["table3", "facades", "--seeds", "1", "2", "1"])
    assert options.base.epochs == 200 and options.base.batch_size == 1
    assert options.seeds == [1, 2]


@pytest.mark.slow
def test_what_tables_have_in_common_is_trained_once(demo, reader_packages, tmp_path, capsys):
    for table, finished in (("table6", 0), ("table3", 0), ("table1", 2)):
        words = words_for(table, demo, tmp_path / "out")
        assert main(words) == 0
        assert capsys.readouterr().out.count("is finished") == finished  # the reader, L1+cGAN


def content_of(name: str, folder: Path, words: list[str]) -> dict:
    assert main(words) == 0
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.slow
def test_gray_images_are_not_read(demo, tmp_path):
    words = words_for("table2", demo, tmp_path, out_channels=1)
    content = content_of("table2", tmp_path, words)
    assert "read_pixel_accuracy" not in str(content) and not (tmp_path / "reader").exists()
    assert content["reader"] is None


@pytest.mark.slow
def test_a_task_that_makes_its_own_pairs_has_a_table_too(demo, tmp_path):
    fields = {"part": "A", "batch_size": 1, "crop_size": 48, "load_size": 48, "depth": 4}
    words = words_for("table1", demo, tmp_path, **fields)
    content = content_of("table1", tmp_path, [words[0], "colorization", *words[1:]])
    assert [run["images"] for row in content["rows"] for run in row["runs"]] == [2] * 5
    header = (tmp_path / "table1.md").read_text().splitlines()[0]
    assert header.startswith("| loss | L1 | PSNR |") and "paper" not in header


@pytest.mark.slow
def test_where_a_run_was_trained_stays_with_it(demo, tmp_path):
    words = words_for("table6", demo, tmp_path)
    content = content_of("table6", tmp_path, words)
    run = content["rows"][0]["runs"][0]
    assert "cores of" in run["machine"] and "torch" in run["versions"] and run["commit"]
    row = tmp_path / "gan_weight_0_direction_AtoB" / "seed_0" / "row.json"
    checkpoint = row.parent / "checkpoints" / "latest.pt"
    state = load_checkpoint(checkpoint)
    state |= {"origin": {"machine": "another", "versions": "1", "commit": "2"}, "seconds": 120.0}
    torch.save(state, checkpoint)
    row.unlink()  # scored anew
    run = content_of("table6", tmp_path, words)["rows"][0]["runs"][0]
    assert (run["machine"], run["minutes"]) == ("another", 2.0)
    del state["origin"], state["seconds"]  # as an earlier version left it
    torch.save(state, checkpoint)
    row.unlink()
    run = content_of("table6", tmp_path, words)["rows"][0]["runs"][0]
    assert "machine" not in run and run["minutes"] is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sizes"], "sizes"),
        (["table1", "--depth", "5", "--dropout_layers", "port"], "a depth of 6 or more"),
        (["table1", "--scorer", "nowhere"], "nowhere does not exist"),
        (["table4"], "table4"),
        ([], "TABLE"),
        (["table1", "facade"], "did you mean 'facades'"),
        (["table1", "--seed", "1"], "--seeds"),
        (["table6", "--direction", "AtoB"], "--direction"),
        (["table1", "--epoch", "1"], "--epochs"),
        (["table1", "--conditional", "false"], "--conditional"),
        (["table2", "--generator", "unet"], "--generator"),
        (["table3", "--receptive_field", "16"], "--receptive_field is set by the rows of table3"),
    ],
)
def test_mistakes_are_one_line(words, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        main(words)
    assert line in str(caught.value) and not list(tmp_path.iterdir())


# ---- The label reader -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(demo, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    for direction in ("BtoA", "AtoB"):
        config = Config(
            **{**FIELDS, "data_root": str(demo), "output": str(root / direction)},
            direction=direction,
        )
        assert train.train(config) == 0
    return {"photos": root / "BtoA", "labels": root / "AtoB"}


@pytest.fixture(scope="module")
def reader(demo, reader_packages, tmp_path_factory) -> Path:
    """A reader of the photos of `runs`."""
    folder = tmp_path_factory.mktemp("reader")
    fields = {"data_root": demo, "output": folder, "crop_size": 96, "epochs": 2, "device": "cpu"}
    assert reader_tool.main(arguments(**fields)) == 0
    return folder


def test_real_photos_are_read_as_the_reader_itself_reports(runs, reader, tmp_path):
    own = json.loads((reader / "reader.json").read_text(encoding="utf-8"))
    generator = load_generator(runs["photos"])
    summary = evaluate_split(generator, "test", tmp_path, reader=load_reader(reader))
    for name in ("pixel_accuracy", "class_accuracy", "class_iou", "classes_present"):
        assert summary[f"real_{name}"] == own[name]
        assert summary[f"read_{name}"] >= 0 and name not in summary


def test_what_was_read_is_printed(runs, reader, capsys):
    words = [runs["photos"], "--scorer", reader, "--device", "cpu"]
    assert evaluate.main(words) == 0
    out = capsys.readouterr().out
    for images in ("outputs", "targets"):
        assert f"labels read from {images} (not by FCN-8s): per-pixel" in out
    assert "sharpness" in out
    assert evaluate.main([runs["labels"], "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "labels: per-pixel" in out and "sharpness" not in out


def test_a_scorer_that_does_not_fit_is_refused(runs, reader, tmp_path):
    for run, scorer, line in (
        (runs["labels"], reader, "the run must translate label maps"),
        (runs["photos"], runs["labels"], r"label reader .*AtoB.reader\.pt does not exist"),
    ):
        with pytest.raises(UserError, match=line):
            evaluate.main([run, "--scorer", scorer, "--output", tmp_path])
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named_before_anything_is_trained(demo, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match="pip install efficientnet-lite-pytorch"):
        main(words_for("table1", demo, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_images_of_any_shape_have_a_grid(tmp_path):
    for split, count in {"train": 4, "val": 1, "test": 2}.items():
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 256, (48, 96 + 16 * number, 3))
            save_image(Image.fromarray(pixels.astype(np.uint8)), tmp_path / split / f"{number}.png")
    words = words_for(
        "table6", tmp_path, tmp_path / "out", resize="fit", crop_size=32, load_size=36
    )
    assert main([*words, "--palette", "none"]) == 0
    assert (tmp_path / "out" / "table6.png").stat().st_size > 1000
