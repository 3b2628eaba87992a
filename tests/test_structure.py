"""The rules of the tree, see CONTRIBUTING.md: which module may import which, and how long it is."""

import ast
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY

SEVEN = ["config.py", "dataset.py", "generator.py", "discriminator.py", "utils.py", "evaluate.py"]
SEVEN += ["train.py"]
FOLDERS = ("engine", "tasks", "metrics", "tools", "data")
FILES = [REPOSITORY / name for name in SEVEN]
FILES += [file for folder in FOLDERS for file in sorted((REPOSITORY / folder).glob("*.py"))]
FILES += sorted((REPOSITORY / "results").glob("*.py"))
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}

# What each may import besides modules of its own folder.
MAY_IMPORT = {
    "engine": "",
    "config": "engine",
    "generator": "",
    "discriminator": "generator",
    "tasks": "engine config",
    "metrics": "engine config",
    "utils": "engine config generator discriminator tasks",
    "dataset": "engine config tasks metrics utils",
    "evaluate": "engine config tasks utils dataset metrics",
    "train": "engine config tasks utils dataset metrics evaluate generator discriminator data",
}
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
            found = {module.partition(".")[0] for module in imports(file)}
            assert found <= allowed, f"{file} imports {found - allowed}"


def test_nothing_imports_tools():
    for file in FILES:
        if top(file) not in ("tools", "results"):
            assert not [name for name in imports(file) if name.startswith("tools")], file
        if top(file) != "data":
            found = {name for name in imports(file) if name.partition(".")[0] == "data"}
            demo = {"data.make_demo", "data.make_demo.DEMO_ROOT", "data.make_demo.make_demo"}
            assert top(file) == "tools" or found <= demo, file


def test_there_are_no_circles():
    names = {file: ".".join(file.relative_to(REPOSITORY).with_suffix("").parts) for file in FILES}
    graph = {name: imports(file) & set(names.values()) for file, name in names.items()}
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
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 60, f"{file}: {node.name} has {length} lines"


def test_text_files_name_their_encoding():
    """The default is another one on Windows."""
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                call = ast.unparse(node)
                if re.match(r"open\(|[^()]*(\(.*\))?\.(read|write)_text\(", call):
                    assert re.search(r"encoding=|'utf-8'|'[rwa]b\+?'", call), f"{file}: {call}"


def test_help_and_mistakes_need_no_slow_import():
    """Nor does whatever is read before `cli.early` answers them."""
    scripts = ["train.py", "dataset.py", "evaluate.py"]
    code = f"""
import sys
import config, engine.cli
for script in {scripts}:
    source = open(script, encoding="utf-8").read()
    before, found, _ = source.partition("    cli.early(parse_arguments")
    assert found, script
    exec(compile(before + "    pass", script, "exec"), {{"__name__": "__main__"}})
slow = set("torch torchvision numpy PIL matplotlib albumentations tqdm".split())
print(sorted(slow & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr + done.stdout
