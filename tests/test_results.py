"""The README's tables are those of the figures in results/."""

import json
import shutil

import pytest
from conftest import REPOSITORY, run_script

from config import UserError
from results.write_tables import BLOCK, with_tables


def test_no_table_of_the_readme_was_typed_by_hand():
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    named = {name for _, name, _ in BLOCK.findall(page)}
    assert named == {f"results/{file.name}" for file in (REPOSITORY / "results").glob("*.json")}
    assert with_tables(page) == page


def test_other_figures_make_another_table(tmp_path):
    page = "before\n<!-- results/a.json -->\nold\n<!-- end -->\nafter <!-- end -->\n"
    source = json.loads((REPOSITORY / "results" / "demo_table1.json").read_text())
    (tmp_path / "results").mkdir()
    for value in (0.111, 0.222):
        source["rows"][0]["runs"][0]["l1"] = value
        (tmp_path / "results" / "a.json").write_text(json.dumps(source))
        page = with_tables(page, tmp_path)
        assert page.startswith("before\n") and page.endswith("<!-- end -->\nafter <!-- end -->\n")
        (row,) = [line for line in page.splitlines() if line.startswith("| L1 |")]
        assert f"| {value} |" in row and "old" not in page
        assert source["command"] in page and source["rows"][0]["runs"][0]["commit"] in page


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"rows": []}', '{"steps": [{}]}'])
def test_what_is_no_table_is_named_in_one_line(tmp_path, text):
    (tmp_path / "results").mkdir()
    if text is not None:
        (tmp_path / "results" / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"results/a\.json"):
        with_tables("<!-- results/a.json -->\n<!-- end -->", tmp_path)


def test_the_script_writes_the_readme_of_its_project(tmp_path):
    for file in REPOSITORY.glob("*.py"):
        shutil.copy(file, tmp_path)
    shutil.copytree(REPOSITORY / "results", tmp_path / "results")
    (tmp_path / "data").mkdir()
    shutil.copy(REPOSITORY / "data" / "make_demo.py", tmp_path / "data")
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    empty = BLOCK.sub(r"\1\3", page)
    assert empty != page
    (tmp_path / "README.md").write_text(empty, encoding="utf-8")
    done = run_script(tmp_path / "results" / "write_tables.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == page
