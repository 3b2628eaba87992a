"""The notebook, as it was saved and as it runs on another checkpoint."""

import base64
import re

import nbformat
import pytest
from conftest import REPOSITORY, TINY

import train
from config import Config

NOTEBOOK = REPOSITORY / "pix2pix.ipynb"


def images(notebook) -> list[bytes]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.outputs]
    return [base64.b64decode(data["image/png"]) for data in outputs if "image/png" in data]


def printed(notebook) -> str:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "".join(output.get("text", "") for cell in cells for output in cell.outputs)


def test_it_was_saved_with_the_outputs_of_a_run_from_top_to_bottom():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert len(images(notebook)) == 5 and NOTEBOOK.stat().st_size < 1_000_000
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"display_data", "stream"}  # no errors
    assert "Warning" not in printed(notebook) and str(REPOSITORY) not in printed(notebook)


def test_its_first_cell_says_what_it_needs():
    first = nbformat.read(NOTEBOOK, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert "Needs" in first.source and "`python train.py`" in first.source


def executed(pairs, folder, run: str, start=REPOSITORY):
    """The notebook after a run with a tiny training, of another RUN, from another folder."""
    from nbclient import NotebookClient

    tiny = {**TINY, "data_root": str(pairs), "receptive_field": 16, "epochs": 2}
    tiny |= {"validate_epochs": 1, "output": str(folder / "trained")}
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    changes = {
        r'RUN = "runs/demo"': f"RUN = {run!r}",
        r"TRAINED = .*": f"TRAINED = {tiny['output']!r}",
        r"config = replace\(.*": f"config = replace(PRESETS['demo'], **{tiny!r})",
    }
    for pattern, other in changes.items():
        cell = next(cell for cell in notebook.cells if re.search(f"^{pattern}", cell.source, re.M))
        cell.source = re.sub(f"^{pattern}", lambda _, text=other: text, cell.source, flags=re.M)
    for cell in notebook.cells:
        cell.outputs = []
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": start}})
    client.execute()
    made, saved = images(notebook), images(nbformat.read(NOTEBOOK, as_version=4))
    assert len(made) == 5 and not set(made[2:]) & set(saved)
    assert "Warning" not in printed(notebook)
    return notebook


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"conditional": False, "in_channels": 1}])
def test_it_runs_on_another_checkpoint(pairs, tmp_path, fields):
    fields = {**TINY, "epochs": 1, "receptive_field": 16, **fields}
    train.train(Config(data_root=str(pairs), output=str(tmp_path / "run"), **fields))
    notebook = executed(pairs, tmp_path, str(tmp_path / "run"))
    assert "does not exist" not in printed(notebook)


@pytest.mark.slow
def test_it_runs_without_a_run_from_a_folder_below(pairs, tmp_path):
    notebook = executed(pairs, tmp_path, "runs/nothing of this name", REPOSITORY / "docs")
    assert "runs/nothing of this name does not exist yet; using pretrained/facades" in printed(
        notebook
    )
    assert "pretrained/facades is an export, which has no discriminator" in printed(notebook)
