"""The rules of the tree, see CONTRIBUTING.md: which module may import which, and how long it is."""

import ast
import dataclasses
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from config import CHANGEABLE, Config

SEVEN = ["config.py", "dataset.py", "generator.py", "discriminator.py", "utils.py", "evaluate.py"]
SEVEN += ["train.py"]
FOLDERS = ("engine", "images", "sharing", "tasks", "metrics", "pages", "tools")
FILES = [REPOSITORY / name for name in SEVEN]
FILES += [file for folder in FOLDERS for file in sorted((REPOSITORY / folder).glob("*.py"))]
FILES += sorted((REPOSITORY / "results").glob("*.py"))
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}

# What each may import besides modules of its own folder.
MAY_IMPORT = {
    "engine": "",
    "images": "engine",
    "config": "engine images",
    "generator": "",
    "discriminator": "generator",
    "sharing": "engine config generator discriminator",
    "metrics": "engine images config",
    "tasks": "engine images config metrics",
    "utils": "engine images config generator discriminator sharing tasks",
    "dataset": "engine images config tasks",
    "evaluate": "engine images config metrics tasks sharing utils dataset",
    "train": "engine images config metrics utils dataset evaluate generator discriminator",
    "pages": "engine images config sharing metrics tasks utils",
}
DEMO = {"tools.make_demo", "tools.make_demo.make_demo"}  # which train.py draws if it is missing
OURS = {*MAY_IMPORT, "tools", "data", "results", "tests"}


def imports(file) -> set[str]:
    """The project's modules that a file imports anywhere, such as engine.files or config."""
    found = set()
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.partition(".")[0] in OURS}


def top(file) -> str:
    """The folder of a file, or its module."""
    name = file.relative_to(REPOSITORY).parts[0]
    return name.removesuffix(".py")


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_imports_run_one_way(name):
    allowed = {name, *MAY_IMPORT[name].split()}
    for file in FILES:
        if top(file) == name:
            found = {module.partition(".")[0] for module in imports(file) - DEMO}
            assert found <= allowed, f"{file} imports {found - allowed}"


def test_nothing_imports_tools():
    for file in FILES:
        if top(file) not in ("tools", "results"):
            found = {name for name in imports(file) if name.startswith("tools")}
            assert found <= (DEMO if top(file) == "train" else set()), file


def test_only_tools_imports_pages():
    for file in FILES:
        if top(file) not in ("pages", "tools"):
            assert not {name for name in imports(file) if name.startswith("pages")}, file


def test_there_are_no_circles():
    names = {file: ".".join(file.relative_to(REPOSITORY).with_suffix("").parts) for file in FILES}
    graph = {name: (imports(file) - DEMO) & set(names.values()) for file, name in names.items()}
    while graph:  # take away what imports nothing that is left
        leaves = {name for name, found in graph.items() if not found & graph.keys() - {name}}
        assert leaves, f"a circle of imports among {sorted(graph)}"
        graph = {name: found for name, found in graph.items() if name not in leaves}


def test_no_script_changes_the_path_of_imports():
    for file in FILES:
        for node in ast.walk(TREES[file]):
            path = isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"
            assert not path, f"{file}, line {getattr(node, 'lineno', 0)}"


def test_files_and_functions_are_short():
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    seven = [lines[REPOSITORY / name] for name in SEVEN]
    assert sum(seven) < 1800
    assert max(seven) <= 320, dict(zip(SEVEN, seven, strict=True))
    for folder in FOLDERS:
        share = sum(n for file, n in lines.items() if top(file) == folder) / sum(lines.values())
        assert share < 0.3, f"{folder} holds {share:.0%} of the lines"
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            length = getattr(node, "end_lineno", 0) - getattr(node, "lineno", 0) + 1
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert length <= 60, f"{file}: {node.name} has {length} lines"
            if isinstance(node, ast.ClassDef):
                assert length <= 150, f"{file}: {node.name} has {length} lines"


def test_rules_name_fields():
    """A field that is renamed in `Config` is renamed in its rules."""
    fields = {field.name for field in dataclasses.fields(Config)}
    for node in ast.walk(TREES[REPOSITORY / "config.py"]):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "require":
            named = node.args[2]
            assert not isinstance(named, ast.Constant) or named.value in fields, named.value
    assert fields >= CHANGEABLE


def test_text_files_name_their_encoding():
    """The default is another one on Windows."""
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                call = ast.unparse(node)
                if re.match(r"open\(|[^()]*(\(.*\))?\.(read|write)_text\(", call):
                    assert re.search(r"encoding=|'utf-8'|'[rwa]b\+?'", call), f"{file}: {call}"


def test_importing_train_costs_little_more_than_torch():
    """So that --help and mistakes are answered soon."""
    slow = ["albumentations", "torchvision", "torchmetrics", "matplotlib", "tensorboard", "scipy"]
    code = f"import sys, train; print(sorted(set({slow}) & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr + done.stdout


def test_a_translation_imports_little_more_than_torch(tmp_path):
    """Half of the time for one image was torch._dynamo and sympy, for tensors on "meta"."""
    words = ["pretrained/facades", "--input", "pretrained/facades/examples/1.png"]
    words += ["--output", str(tmp_path / "photo.png")]
    slow = ["torch._dynamo", "sympy", "albumentations", "torchvision", "matplotlib", "cv2"]
    code = f"""
import sys, torch, evaluate
before = set(sys.modules)
evaluate.main({words})
print(sorted(set({slow}) & sys.modules.keys() - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr + done.stdout
