"""The tables of README.md and docs/ are those of the JSON files in results/."""

import json

import pytest
from conftest import REPOSITORY

from engine.cli import UserError
from tools.tables import BLOCK, PAGES, cell, described, main, with_tables

RESULTS = REPOSITORY / "results"


def pages() -> dict[str, str]:
    return {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in PAGES}


def test_no_table_was_typed_by_hand():
    for page in pages().values():
        assert with_tables(page) == page


def test_every_result_is_shown_or_quoted():
    shown = {name for page in pages().values() for _, name, _ in BLOCK.findall(page)}
    quoted = {"demo_precision"}
    files = {f"results/{file.name}" for file in RESULTS.glob("*.json")}
    assert files == shown | {f"results/{name}.json" for name in quoted}


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_each_file_is_a_table_and_a_note_of_its_origin(file):
    content = json.loads(file.read_text(encoding="utf-8"))
    table, note = described(content).split("\n\n")
    widths = {line.count("|") for line in table.splitlines()}
    rows = next(content[key] for key in ("rows", "steps", "translations") if key in content)
    real = "real_pixel_accuracy" in str(content)
    assert len(widths) == 1 and len(table.splitlines()) == 2 + len(rows) + real
    for fact in (content["command"], " px", "; commit ", "torch 2."):
        assert fact in note


def test_mean_and_sample_deviation():
    def visible_channels(*values):
        return cell([{"l1": value} for value in values], "l1", "{:.1f}")

    assert visible_channels(1.0, 2.0, 6.0) == "3.0 ± 2.6"
    assert visible_channels(1.25) == "1.2" and visible_channels(float("inf")) == "inf"
    assert cell([{"l1": 1.0}, {}], "l1", "{:.1f}") == ""
    assert visible_channels(float("nan")) == ""


def test_other_figures_make_another_table(tmp_path):
    page = "before\n<!-- results/a.json -->\nold\n<!-- end -->\nafter <!-- end -->\n"
    source = json.loads((RESULTS / "facades_table1.json").read_text(encoding="utf-8"))
    (tmp_path / "results").mkdir()
    for value in (0.111, 0.222):
        source["rows"][0]["runs"] = source["rows"][0]["runs"][:1]
        source["rows"][0]["runs"][0]["l1"] = value
        (tmp_path / "results" / "a.json").write_text(json.dumps(source))
        page = with_tables(page, tmp_path)
        assert page.startswith("before\n") and page.endswith("<!-- end -->\nafter <!-- end -->\n")
        (row,) = [line for line in page.splitlines() if line.startswith("| L1 |")]
        assert f"| {value} |" in row and "old" not in page
        assert source["command"] in page and source["rows"][0]["runs"][0]["commit"] in page


def test_a_table_of_an_unknown_kind_is_rendered():
    source = json.loads((RESULTS / "facades_table1.json").read_text(encoding="utf-8"))
    del source["title"]
    text = described(source)
    assert text.startswith("| run | per-pixel |") and "FCN-8s" in text


@pytest.mark.parametrize("text", [None, "", "[]"])
def test_a_missing_or_damaged_file_is_named_in_one_line(tmp_path, text):
    (tmp_path / "results").mkdir()
    if text is not None:
        (tmp_path / "results" / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"results/a\.json"):
        with_tables("<!-- results/a.json -->\n<!-- end -->", tmp_path)


def test_the_command_writes_every_page(tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / "results").symlink_to(RESULTS)
    for name, page in pages().items():
        (tmp_path / name).write_text(BLOCK.sub(r"\1\3", page), encoding="utf-8")
    assert main([], tmp_path) == 0
    printed = capsys.readouterr().out
    for name, page in pages().items():
        assert f"{name}: {len(BLOCK.findall(page))} tables" in printed
        assert (tmp_path / name).read_text(encoding="utf-8") == page
