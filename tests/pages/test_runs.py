"""What is drawn for a run."""

import json
import shutil

import numpy as np
import pytest
from browsing import ask, blocks, image_of, serving, translated, untrained, write_json

from engine.cli import UserError
from metrics.palettes import PALETTES, copy_palette
from pages.runs import describe, find_runs
from pages.server import Server
from tools import export


def test_runs_are_found_alone_in_folders_and_as_exports(runs, tmp_path):
    assert list(find_runs([str(runs)])) == ["facades", "color", "edges", "hole", "sketches"]
    export.export_generator(runs / "edges", tmp_path / "edges")
    checkpoint = str(runs / "hole" / "checkpoints" / "latest.pt")
    found = find_runs([str(tmp_path), checkpoint, str(runs / "edges")])
    assert list(found.values()) == [str(tmp_path / "edges"), checkpoint, str(runs / "edges")]
    assert next(iter(found)) == str(tmp_path / "edges")  # two of a name are told apart
    with pytest.raises(UserError, match="nothing is no run"):
        find_runs(["nothing"])


def test_the_listing_tells_what_to_draw(server):
    listed = json.loads(ask(server, "/runs.json")[1])["runs"]
    assert [run["name"] for run in listed] == ["facades", "color", "edges", "hole", "sketches"]
    assert [run["kind"] for run in listed] == ["labels", "photo", "edges", "mask", "image"]
    assert [run["size"] for run in listed] == [32] * 5
    classes = {name: tuple(color) for name, color in listed[0]["palette"].items()}
    assert classes == PALETTES["facades"].classes and listed[1]["palette"] == {}
    (example,) = listed[3]["examples"]
    assert (image_of(ask(server, "/" + example)[1]) == np.asarray(blocks(48, 40))).all()


def test_a_palette_of_its_own_and_edges_of_the_paper(tmp_path):
    copy_palette("demo", tmp_path)
    write_json(tmp_path / "config.json", {"data_root": "data/mine"})
    about = describe(str(tmp_path))
    assert about["kind"] == "labels" and "roof" in about["palette"]
    (tmp_path / "palette.json").unlink()
    assert about["title"] == "label map → image"
    values = {"direction": "AtoB", "inputs": "drawings", "translates": "edges -> shoe"}
    write_json(tmp_path / "config.json", values)
    about = describe(str(tmp_path))
    assert (about["kind"], about["title"]) == ("edges", "edges → shoe")


def test_a_run_that_cannot_be_used_leaves_the_others_alone(runs, tmp_path):
    shutil.copytree(runs / "edges", tmp_path / "edges")
    untrained(tmp_path / "bad", palette="none")
    write_json(tmp_path / "bad" / "config.json", {"palette": "gone.json"})
    with serving(Server([str(tmp_path)], device="cpu")) as server:
        bad, good = json.loads(ask(server, "/runs.json")[1])["runs"]
        assert "gone.json" in bad["error"] and "error" not in good
        translated(server, "edges", blocks(32, 32))


def test_runs_of_arrays_are_refused(runs, tmp_path):
    run = tmp_path / "scans"
    shutil.copytree(runs / "facades", run)
    (run / "config.json").write_text('{"input_range": "0 100"}')
    with pytest.raises(UserError, match="scans translates arrays"):
        describe(str(run))
    for broken in ('{"config": null}', '{"config": 5}'):  # listed beside the others
        (run / "config.json").write_text(broken)
        with Server([tmp_path]) as server:
            (listed,) = server.listing()
        assert "holds no configuration" in listed["error"]


def test_examples_are_those_of_the_run_or_else_its_test_images(runs, tmp_path):
    for name, tested in (("sketches", "input"), ("color", "target")):
        run = shutil.copytree(runs / name, tmp_path / name)
        assert describe(str(run))["examples"] == []
        for folder in ("test/input", "test/target", "examples"):
            (run / folder).mkdir(parents=True)
            for number in ("10", "2"):
                blocks(32, 32).save(run / folder / f"{number}.png")
            if folder == "test/target":
                expected = [run / "test" / tested / f"{number}.png" for number in (2, 10)]
                assert describe(str(run))["examples"] == expected
        assert describe(str(run))["examples"] == [run / "examples" / f"{i}.png" for i in (2, 10)]
