"""The pages: README.md, docs/ and data/README.md. Links, sizes, options, and every command.

The slow tests run each command in a copy of the project whose config.py was edited to tiny networks
and a single epoch, with tiny data in all the places that the pages name.
"""

import contextlib
import importlib
import io
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

PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (REPOSITORY / "docs").glob("*.md"))]
PAGES.append("data/README.md")

# What needs a network, takes long, or never ends; the test that runs it contains this text.
ELSEWHERE = {
    r"pip install .*": "pip install",
    r"pytest\b.*": "pytest",
    r"tensorboard --logdir \S+": "EventAccumulator",
    r"python -m tools\.download .*": "tools.download",
    r"python -m tools\.export .* --push .*": "--push",
    r"python train\.py .* --wandb .*": "WANDB_MODE",
    r"python -m tools\.make_demo": "make_demo",
    r"python evaluate\.py .* --input clip\.mp4 .*": 'make_clip(tmp_path / "clip.mp4")',
    r"python -m tools\.study.*": "tools.study",
    r"python -m tools\.benchmark.*": "tools.benchmark",
    r"python -m tools\.tables": "tools.tables",
    r"python -m tools\.draw.*": "draw.main, ",
    r"python -m tools\.export .*--web.*": "--web",
    r"python .*latest_net_G\.pth .*": "latest_net_G.pth",
    r"python -m tests\.(kill|fuzz|soak|half).*": "short form of `python -m tests.",
}

# Options of other programs: Docker, Slurm, uv, torch-fidelity.
OF_OTHERS = ("--ipc", "--shm", "--requeue", "--torch", "--cpu", "--gpu")

# Tables made by an older version name its commands.
OLD_NAMES = {
    "reproduce.py": "tools.reproduce",
    "benchmark.py --port": "tools.benchmark --junyanz",
    "benchmark.py": "tools.benchmark",
}

# What stands for something else, or takes long. test_distributed.py has more processes.
REPLACED = {
    r"--nproc-per-node 8": "--nproc-per-node 1",
    r"--nnodes 2": "--nnodes 1",
    r"HOST:29500": "localhost:0",
    r"--seeds 0 1 2": "--seeds 0",
    r"--crop_size 512 --load_size 572 --depth 9": "--crop_size 64 --load_size 72 --depth 6",
    r"--load_size (72|143) .* --discriminator_channels 16 ": "",  # the sizes of results/
    r"--epochs [1-9]\d+": "--epochs 2",
    r"--init pretrained/edges2shoes .*": "--init runs/facades",  # of the size of this config.py
    # ImageGAN needs as much, and a reader of the same size.
    r"(table3 .*?)( --scorer \S+)?( --seeds 0)?$": r"\1\3 --load_size 96 --crop_size 96 --depth 5",
}

SMALLER = {
    r"load_size: int = \d+": "load_size: int = 36",
    r"crop_size: int = \d+": "crop_size: int = 32",
    r"depth: int = \d+": "depth: int = 4",
    r"(base|discriminator)_channels: int = \d+": r"\1_channels: int = 4",
    r"\bepochs: int = \d+": "epochs: int = 1",
    r"load_size=\d+": "load_size=36",
    r"crop_size=\d+": "crop_size=32",
    r"depth=\d": "depth=4",
    r"(base|discriminator)_channels=\d+": r"\1_channels=4",
    r"\bepochs=\d+": "epochs=1",
}


def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """The command lines of a page in its order, without comments, under their present names."""
    text = text_of(page).replace("\\\n", " ")
    program = r"(?:python|torchrun|pip|pytest|tensorboard)\b"
    lines = re.findall(
        rf"^(?:\w+=\S+ )?({program} .*)$|^(pytest)$|`({program}(?: [^`\n]*)?)`", text, re.MULTILINE
    )
    lines = [next(filter(None, found)).partition(" #")[0] for found in lines]
    lines = [re.sub(" +", " ", line).strip() for line in lines]
    names = [f"python {name}" for name in OLD_NAMES] + ["python -m tools.reproduce"]
    lines = [line for line in lines if line not in names]
    for old, new in OLD_NAMES.items():
        lines = [line.replace(f"python {old}", f"python -m {new}") for line in lines]
    return lines


def script_of(line: str) -> tuple[str, list[str]] | None:
    """The module that a command starts, and its arguments; None for another program."""
    match = re.match(r"(?:python (?:-m )?|torchrun .*?)([\w.]+?)(?:\.py)?(?= |$)(.*)", line)
    if line.startswith("torchrun"):
        match = re.match(r"torchrun .*?(\w+)\.py(.*)", line)
    return (match[1], shlex.split(match[2])) if match else None


# ---- Pages ------------------------------------------------------------------------------------


def test_readme_is_short_and_links_to_every_page():
    assert (REPOSITORY / "README.md").stat().st_size < 12_000
    for page in PAGES[1:]:
        assert f"({page})" in text_of("README.md")


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_relative_links_exist(page):
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text)
    for link in [markdown or html for markdown, html in links]:
        if re.match(r"\w+:", link):  # another site
            continue
        file, _, heading = link.partition("#")
        target = ((REPOSITORY / page).parent / file) if file else REPOSITORY / page
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in anchors, link


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses(page, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "networks.py").touch()
    for line in commands(page):
        line = line.replace("--junyanz DIR", f"--junyanz {tmp_path}")  # of the port
        if not (script := script_of(line)):
            assert any(re.fullmatch(pattern, line) for pattern in ELSEWHERE), line
            continue
        module, words = script
        if module.startswith("tests."):  # these parse their arguments themselves
            source = text_of(module.replace(".", "/") + ".py")
            assert all(f'"{word}"' in source or word in source for word in words if "--" in word)
            continue
        parse = importlib.import_module(module).parse_arguments
        with contextlib.redirect_stdout(io.StringIO()):
            if "--help" in words:
                with pytest.raises(SystemExit) as end:
                    parse(words)
                assert not end.value.code
            else:
                assert parse(words) is not None, line


def options_of(module: str) -> set[str]:
    """The options in the --help of a script."""
    help_ = io.StringIO()
    with contextlib.redirect_stdout(help_), contextlib.suppress(SystemExit):
        importlib.import_module(module).parse_arguments(["--help"])
    return set(re.findall(r"--\w+", help_.getvalue()))


def test_every_option_exists():
    scripts = ["train", "dataset", "evaluate"]
    for folder in ("tools", "data"):
        for file in (REPOSITORY / folder).glob("*.py"):
            if "def parse_arguments" in file.read_text(encoding="utf-8"):
                scripts.append(f"{folder}.{file.stem}")
    known = set().union(*map(options_of, scripts))
    assert {"--data_root", "--output", "--no_ema", "--onnx", "--seeds"} <= known
    named = 0
    for page in PAGES:
        for option in re.findall(r"`(--\w+)\b[^`\n]*`", text_of(page)):
            assert option in known or option in OF_OTHERS, (page, option)
            named += 1
    assert named > 20


# ---- Commands ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("readme") / "pix2pix"
    folder.mkdir()
    for file in REPOSITORY.glob("*.py"):
        shutil.copy(file, folder)
    for package in ("engine", "images", "sharing", "tasks", "metrics", "pages", "tools"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / package, folder / package, ignore=ignored)
    (folder / "data").mkdir()
    for file in (REPOSITORY / "data").glob("*.py"):
        shutil.copy(file, folder / "data")
    shutil.copytree(REPOSITORY / "pretrained", folder / "pretrained")
    config = (folder / "config.py").read_text(encoding="utf-8")
    for pattern, small in SMALLER.items():
        assert re.search(pattern, config), pattern
        config = re.sub(pattern, small, config)
    (folder / "config.py").write_text(config, encoding="utf-8")

    for name in (
        "data/demo",
        "data/facades",
        "data/maps",
        "data/cityscapes",
        "data/shoes",
        "mydata",
    ):
        make_pairs(folder / name)
    for name in ("paintings", "data/scenes", "data/street", "data/tiles"):
        make_pairs(folder / name)
    random = np.random.default_rng(0)
    for number in range(4):
        for side, channels in (("A", 5), ("B", 1)):
            scan = random.uniform(-1000, 3000, (40, 48, channels))
            (folder / "data/scans" / side / "train").mkdir(parents=True, exist_ok=True)
            np.save(folder / "data/scans" / side / "train" / f"{number}.npy", scan)
            sprite = Image.fromarray(random.integers(0, 256, (40, 48, 4), np.uint8))
            (folder / "data/sprites" / side / "train").mkdir(parents=True, exist_ok=True)
            sprite.save(folder / "data/sprites" / side / "train" / f"{number}.png")
    for number in range(12):
        photo = Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8))
        for name in ("photos", "sketches", "labels", "folder"):
            (folder / name).mkdir(exist_ok=True)
            photo.save(folder / name / f"{number}.png")
    photo.save(folder / "x.jpg")
    photo.resize((300, 200)).save(folder / "large.tif")
    photo.resize((300, 300)).save(folder / "aerial.png")
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


@pytest.mark.slow
def test_every_command_runs(workspace):
    tests = "".join(
        file.read_text(encoding="utf-8") for file in Path(__file__).parent.rglob("*.py")
    )
    tests += text_of(".ci/run")
    lines = []
    for line in [line for page in PAGES for line in commands(page)]:
        places = [text for pattern, text in ELSEWHERE.items() if re.fullmatch(pattern, line)]
        for text in places:
            assert text in tests.replace(Path(__file__).read_text(encoding="utf-8"), ""), line
        placeholder = "evaluate.py RUN" in line
        if not places and not placeholder and line not in lines:
            lines.append(line)
    assert len(lines) > 40
    words = []
    for line in lines:
        for pattern, other in REPLACED.items():
            line = re.sub(pattern, other, line)
        if "tools.reproduce" in line and "--output" not in line:  # they differ in what was replaced
            line += f" --output runs/table_{len(words)}"
        words.append(shlex.split(line))
    for pattern in list(REPLACED)[:7]:
        assert any(re.search(pattern, line) for line in lines), pattern
    results = dict(zip(lines, run_all(words, workspace), strict=True))
    failed = {line: output[-600:] for line, (code, output) in results.items() if code != 0}
    assert not failed
    for name in ("test/gallery.html", "curves.png", "progress.gif"):
        assert (workspace / "runs/demo" / name).is_file()
    assert (workspace / "photo.png").is_file()
    assert Image.open(workspace / "y.png").size == (48, 40)
    assert len(list((workspace / "out_folder").iterdir())) == 12


@pytest.mark.slow
def test_every_piece_of_python_runs(workspace):
    blocks = [text for page in PAGES for text in python_blocks(page)]
    assert len(blocks) > 1
    for made, words in {  # by the commands above them
        "runs/mine": "train.py facades --data_root mydata --direction AtoB --output runs/mine",
        "runs/inpainting": "train.py inpainting --data_root photos",
        "mine.onnx": "-m tools.export runs/mine --onnx mine.onnx --no_dropout",
        "mine256.onnx": "-m tools.export runs/mine --onnx mine256.onnx --no_dropout --size 256",
        "mine.pt2": "-m tools.export runs/mine --program mine.pt2",
    }.items():
        if not (workspace / made).exists():
            ((code, output),) = run_all([["python", *words.split()]], workspace)
            assert code == 0, output
    for number, text in enumerate(blocks):
        (workspace / f"block{number}.py").write_text(text, encoding="utf-8")
    results = run_all([["python", f"block{i}.py"] for i in range(len(blocks))], workspace)
    assert [code for code, _ in results] == [0] * len(blocks), results
