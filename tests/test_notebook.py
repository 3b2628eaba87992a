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


def test_it_was_saved_with_the_outputs_of_a_run_from_top_to_bottom():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert len(images(notebook)) == 4 and NOTEBOOK.stat().st_size < 600_000
    outputs = [output.output_type for cell in cells for output in cell.outputs]
    assert set(outputs) == {"display_data"}  # no errors or warnings


def test_its_first_cell_says_what_it_needs():
    first = nbformat.read(NOTEBOOK, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert "Needs" in first.source and "`python train.py`" in first.source


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"conditional": False, "in_channels": 1}])
def test_it_runs_on_another_checkpoint(pairs, tmp_path, fields):
    from nbclient import NotebookClient

    fields = {**TINY, "epochs": 1, "receptive_field": 16, **fields}
    train.train(Config(data_root=str(pairs), output=str(tmp_path / "run"), **fields))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.outputs = []
        if re.match('RUN = "', cell.source):
            cell.source = f"RUN = {str(tmp_path / 'run')!r}"
            break
    else:
        raise AssertionError("the notebook names no RUN")
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": REPOSITORY}})
    client.execute()
    made, saved = images(notebook), images(nbformat.read(NOTEBOOK, as_version=4))
    assert len(made) == 4 and not set(made) & set(saved)
