"""The Gradio app of a Space."""

import pytest

from tools import export


def test_the_space_has_an_app_requirements_and_a_card(runs, tmp_path):
    pytest.importorskip("onnx")
    assert export.main([str(runs / "facades"), "--space", str(tmp_path / "space")]) == 0
    names = {file.name for file in (tmp_path / "space").iterdir()}
    assert names == {"README.md", "app.py", "model.onnx", "requirements.txt", "runs.json"}
    compile((tmp_path / "space" / "app.py").read_text(), "app.py", "exec")
    assert "sdk: gradio" in (tmp_path / "space" / "README.md").read_text()
