"""Every command of README.md and data/README.md, run as it stands there.

They run in a copy of the project whose config.py was edited to tiny networks and a single epoch,
with tiny data in all the places that the pages name.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, make_pairs
from PIL import Image

# What takes a network, long, or forever, and where it is run instead.
ELSEWHERE = {
    r"pip install .*": (".ci/run", "pip install"),
    r"pytest\b.*": (".ci/run", "pytest"),
    r"tensorboard --logdir \S+": ("tests/test_training.py", "EventAccumulator"),
    r"python data/download\.py facades": ("tests/test_download.py", '"data/download.py"'),
    r"python data/make_demo\.py": ("tests/test_demo.py", "make_demo"),
    r"python benchmark\.py( --port DIR)?( --turns \d+| --output \S+)?": (
        "tests/test_benchmark.py",
        '"--port"',
    ),
    r"python results/write_tables\.py": ("tests/test_results.py", "write_tables.py"),
    r"python tests/(kill|fuzz|soak)\.py.*": ("tests/test_reliability.py", "The short form of"),
}

# What stands for something else, or takes its time. test_distributed.py has more processes.
REPLACED = {
    r"--nproc-per-node 8": "--nproc-per-node 1",
    r"--nnodes 2": "--nnodes 1",
    r"HOST:29500": "localhost:0",
    r"--seeds 0 1 2": "--seeds 0",
    r"--load_size (72|143) .* --discriminator_channels 16 ": "",  # the sizes of results/
    r"'16 filters'": "'4 filters'",
    r"(reproduce\.py .*--epochs) \d+": r"\1 2",
    r"--decay_epochs 20": "--decay_epochs 1",
    # ImageGAN needs as much, and a reader of the same size.
    r"(table3 .*?)( --scorer \S+)?( --seeds 0)?$": r"\1\3 --load_size 96 --crop_size 96 --depth 5",
    r"(recipes .*)": r"\1 --load_size 64 --crop_size 64 --depth 6 --epochs 2",  # and the port's
}

SMALLER = {
    r"load_size: int = \d+": "load_size: int = 36",
    r"crop_size: int = \d+": "crop_size: int = 32",
    r"depth: int = \d+": "depth: int = 4",
    r"(base|discriminator)_channels: int = \d+": r"\1_channels: int = 4",
    r"epochs: int = 25": "epochs: int = 1",
    r"load_size=286": "load_size=36",
    r"(load|crop)_size=256": r"\1_size=32",
    r"depth=8": "depth=4",
    r"(base|discriminator)_channels=64": r"\1_channels=4",
    r"\bepochs=\d+": "epochs=1",
}


def code_blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of what is between ``` in a page of the project."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """The command lines of a page in its order, without what is said beside them."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    text = text.replace("\\\n", " ")
    program = r"(?:python|torchrun|pip|pytest|tensorboard)\b"
    lines = re.findall(rf"^{program} .*$|^pytest$|`{program}(?: [^`\n]*)?`", text, re.MULTILINE)
    lines = [line.strip("`").partition(" #")[0] for line in lines]
    return [re.sub(" +", " ", line).strip() for line in lines]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("readme") / "pix2pix"
    folder.mkdir()
    for file in [*REPOSITORY.glob("*.py"), *REPOSITORY.glob("*.html")]:
        shutil.copy(file, folder)
    (folder / "data").mkdir()
    shutil.copytree(REPOSITORY / "pretrained", folder / "pretrained")
    for file in (REPOSITORY / "data").glob("*.py"):
        shutil.copy(file, folder / "data")
    config = (folder / "config.py").read_text()
    for pattern, small in SMALLER.items():
        assert re.search(pattern, config), pattern
        config = re.sub(pattern, small, config)
    (folder / "config.py").write_text(config)

    for name in ("data/demo", "data/facades", "data/maps", "data/cityscapes", "mydata"):
        make_pairs(folder / name)
    make_pairs(folder / "paintings")
    random = np.random.default_rng(0)
    for number in range(12):
        photo = Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8))
        for name in ("photos", "sketches", "labels", "folder"):
            (folder / name).mkdir(exist_ok=True)
            photo.save(folder / name / f"{number}.png")
    photo.save(folder / "x.jpg")
    photo.convert("1").save(folder / "hole.png")
    return folder


def run_all(lines: list[list[str]], workspace: Path) -> list[tuple[int, str]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # tiny networks, many processes
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run_commands.py"))],
        input=json.dumps(lines),
        cwd=workspace,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_every_command_runs(workspace):
    lines = []
    for line in commands("README.md") + commands("data/README.md"):
        places = [place for pattern, place in ELSEWHERE.items() if re.fullmatch(pattern, line)]
        for file, text in places:
            assert text in (REPOSITORY / file).read_text(), (line, file)
        if not places and line not in lines:
            lines.append(line)
    assert len(lines) > 40
    words = []
    for pattern in REPLACED:
        assert any(re.search(pattern, line) for line in lines), pattern
    for line in lines:
        for pattern, other in REPLACED.items():
            line = re.sub(pattern, other, line)
        if "reproduce.py" in line and "--output" not in line:  # they differ in what was replaced
            line += f" --output runs/table_{len(words)}"
        words.append(shlex.split(line))
    results = dict(zip(lines, run_all(words, workspace), strict=True))
    failed = {line: output[-600:] for line, (code, output) in results.items() if code != 0}
    assert not failed
    for name in ("translated/1.png", "test/gallery.html", "progress.gif"):
        assert (workspace / "runs/demo" / name).is_file()
    assert Image.open(workspace / "y.png").size == (48, 40)
    assert len(list((workspace / "out_folder").iterdir())) == 12


def test_every_piece_of_python_runs(workspace):
    blocks = [text for kind, text in code_blocks("README.md") if kind == "python"]
    assert len(blocks) > 1
    for made, words in {  # by the commands above them
        "runs/mine": "train.py --data_root mydata --direction AtoB --output runs/mine",
        "runs/inpainting": "train.py inpainting --data_root photos",
        "mine.onnx": "export.py runs/mine --onnx mine.onnx --no_dropout",
    }.items():
        if not (workspace / made).exists():
            ((code, output),) = run_all([["python", *words.split()]], workspace)
            assert code == 0, output
    for number, text in enumerate(blocks):
        (workspace / f"block{number}.py").write_text(text)
    results = run_all([["python", f"block{i}.py"] for i in range(len(blocks))], workspace)
    assert [code for code, _ in results] == [0] * len(blocks), results
