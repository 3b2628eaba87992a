"""The configuration: the paper's values, the command line, and what is refused."""

import dataclasses
import subprocess
import sys

import pytest
from conftest import REPOSITORY, run_script

from config import PRESETS, Config, UserError, continued, field_comments, parse_train_arguments

# PAPER.md's table: direction of the released files, epochs, batch size, jitter, mirror.
RECIPES = {
    "facades": ("BtoA", 200, 1, True, True),
    "maps": ("AtoB", 200, 1, True, True),
    "cityscapes": ("BtoA", 200, 1, True, True),
    "edges2shoes": ("AtoB", 15, 4, False, False),
    "edges2handbags": ("AtoB", 15, 4, False, False),
    "day2night": ("BtoA", 17, 4, True, True),
}


@pytest.mark.parametrize("name", RECIPES)
def test_presets_are_the_papers_recipes(name):
    config = PRESETS[name]
    direction, epochs, batch_size, jitter, mirror = RECIPES[name]
    assert (config.direction, config.epochs, config.batch_size) == (direction, epochs, batch_size)
    assert (config.load_size, config.crop_size) == (286 if jitter else 256, 256)
    assert config.mirror == mirror
    assert (config.base_channels, config.depth, config.dropout) == (64, 8, 0.5)
    assert (config.discriminator_channels, config.receptive_field) == (64, 70)
    assert (config.lambda_l1, config.learning_rate) == (100, 2e-4)
    assert (config.beta1, config.beta2, config.decay_epochs) == (0.5, 0.999, 0)


def test_demo_is_the_default():
    config, given, resume = parse_train_arguments("", [])
    assert config == PRESETS["demo"] == Config()
    assert (given, resume) == ({}, None)


def test_any_field_can_be_given_by_name():
    for field in dataclasses.fields(Config):
        value = getattr(PRESETS["maps"], field.name)
        config, _, _ = parse_train_arguments("", ["maps", f"--{field.name}", str(value)])
        assert config == PRESETS["maps"]
    config, _, _ = parse_train_arguments("", ["facades", "--lambda-l1=10", "--mirror", "false"])
    assert (config.lambda_l1, config.mirror) == (10, False)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["facade"], "did you mean 'facades'"),
        (["--epoch", "3"], "did you mean '--epochs'"),
        (["--lamda_l1", "3"], "did you mean '--lambda_l1'"),
        (["--lr", "1"], r"no option --lr \(see --help\)"),
        (["--epochs", "many"], "--epochs"),
        (["--mirror", "maybe"], "neither true nor false"),
        (["facades", "--resume", "runs/x"], "leave out 'facades'"),
        (["--resume", ""], "--resume is empty"),
    ],
)
def test_mistakes_on_the_command_line(words, hint):
    with pytest.raises(UserError, match=hint):
        parse_train_arguments("", words)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crop_size", 100),
        ("crop_size", 0),
        ("load_size", 64),
        ("depth", 1),
        ("lambda_l1", -1.0),
        ("direction", "BtoC"),
        ("in_channels", 2),
        ("receptive_field", 71),
        ("receptive_field", 500),
        ("generator", "vnet"),
        ("dropout", 1.0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("beta1", 1.0),
        ("batch_size", 0),
        ("epochs", 0),
        ("epochs", 2.5),
        ("decay_epochs", 26),
        ("device", "gpu"),
        ("num_workers", -2),
        ("save_minutes", 0.0),
        ("seed", -1),
        ("seed", 2**63),
        ("lambda_l1", float("inf")),
        ("learning_rate", float("inf")),
        ("output", ""),
        ("mirror", 1),
    ],
)
def test_impossible_values_are_refused_by_name(name, value):
    with pytest.raises(UserError) as refusal:
        dataclasses.replace(Config(), **{name: value})
    line = str(refusal.value)
    assert line.startswith(f"{name} is {value!r}; it ") and "\n" not in line


def test_values_that_do_not_go_together_are_refused():
    with pytest.raises(UserError, match="load_size is 143; it can't be less than crop_size, 256"):
        dataclasses.replace(Config(), crop_size=256)
    with pytest.raises(UserError, match=r"crop_size is 128; .* 2\*\*depth = 512, such as 512"):
        dataclasses.replace(Config(), depth=9)


def test_a_crop_too_small_for_the_discriminator_is_refused():
    small = dataclasses.replace(Config(), crop_size=32, load_size=32, depth=4)
    with pytest.raises(UserError, match="crop_size"):
        dataclasses.replace(small, receptive_field=286)


def test_help_lists_every_field_without_importing_torch():
    script = (
        "import runpy, sys\n"
        "sys.argv = ['train.py', '--help']\n"
        "try:\n    runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit as exit:\n    assert not exit.code\n"
        "assert 'torch' not in sys.modules and 'albumentations' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    text = " ".join(result.stdout.split())
    for field in dataclasses.fields(Config):
        assert f"--{field.name} {field.type.__name__.upper()}" in text
        comment = " ".join(field_comments()[field.name].split())
        assert f"{comment} (default: {field.default})" in text


def test_help_with_a_preset_shows_its_defaults():
    result = run_script("train.py", "edges2shoes", "--help", cwd=REPOSITORY)
    text = " ".join(result.stdout.split())
    assert "(paper: 200 for facades) (default: 15)" in text
    assert "(default: data/edges2shoes)" in text


def test_a_mistake_ends_in_one_line_and_exit_code_2(tmp_path):
    for words in (["--lambda_l1", "-1"], ["mops"], ["--colour", "3"]):
        result = run_script("train.py", *words, cwd=tmp_path)
        assert result.returncode == 2
        assert result.stdout == ""
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_importing_config_has_no_side_effects(tmp_path):
    script = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import config"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_continued_run_keeps_what_made_it():
    config = Config()
    assert continued(config, {"epochs": 99, "device": "cpu"}).epochs == 99
    with pytest.raises(UserError, match="base_channels was 32"):
        continued(config, {"base_channels": 16})
