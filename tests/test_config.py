"""The configuration: the paper's values, the command line, and what is refused."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from config import DEFAULT, PRESETS, Config, config_from_dict, require_data, resume_config
from engine.cli import UserError
from train import parse_arguments

# Direction of the released files, epochs, batch size, jitter, mirror.
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


def test_config_is_the_papers_recipe_and_demo_is_trained_by_default():
    assert Config() == PRESETS["facades"]
    options = parse_arguments([])
    assert options.config == PRESETS[DEFAULT] == PRESETS["demo"]
    assert (options.fields, options.resume) == ({}, None)


def test_any_field_can_be_given_by_name():
    for field in dataclasses.fields(Config):
        value = getattr(PRESETS["maps"], field.name)
        options = parse_arguments(["maps", f"--{field.name}", str(value)])
        assert options.config == PRESETS["maps"] and options.fields == {field.name: value}
    config = parse_arguments(["facades", "--lambda_l1=10", "--mirror", "false"]).config
    assert (config.lambda_l1, config.mirror) == (10, False)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["facade"], "did you mean 'facades'"),
        (["--epoch", "3"], "did you mean '--epochs'"),
        (["--lamda_l1", "3"], "did you mean '--lambda_l1'"),
        (["--lr", "1"], r"unknown option --lr \(see --help\)"),
        (["--epochs", "many"], "--epochs"),
        (["--mirror", "maybe"], "neither true nor false"),
        (["facades", "--resume", "runs/x"], "--resume takes a run folder, and no preset"),
        (["--resume", ""], "--resume takes a run folder"),
    ],
)
def test_mistakes_on_the_command_line(words, hint):
    with pytest.raises(UserError, match=hint):
        parse_arguments(words)


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
        ("data_root", ""),
        ("palette", ""),
        ("mirror", 1),
    ],
)
def test_impossible_values_are_refused_by_name(name, value):
    with pytest.raises(UserError) as refusal:
        dataclasses.replace(PRESETS["demo"], **{name: value})
    line = str(refusal.value)
    assert line.startswith(f"{name} is {value!r}; it ") and "\n" not in line


def test_values_that_do_not_go_together_are_refused():
    demo = PRESETS["demo"]
    with pytest.raises(UserError, match="load_size is 143; it must be at least crop_size, 256"):
        dataclasses.replace(demo, crop_size=256)
    with pytest.raises(UserError, match=r"crop_size is 128; .* 2\*\*depth = 512, such as 512"):
        dataclasses.replace(demo, depth=9)
    with pytest.raises(UserError, match="in_channels is 3; it must be 1, and out_channels 2"):
        dataclasses.replace(demo, task="colorization")
    with pytest.raises(UserError, match=r"in_channels is 5; .* 1 or 3; .* an input_range"):
        dataclasses.replace(demo, in_channels=5)
    for text in (
        "1",
        "2 1",
        "0 nan",
        "1% 2",
        "a b",
        "1% 99% 1% 99%",
        "0% 150%",
        "-1% 99%",
        "0 1 0 1",
    ):
        with pytest.raises(UserError, match="it must be LOW HIGH, a pair for each channel, or"):
            dataclasses.replace(demo, in_channels=5, input_range=text)
    for text in ("0 1", "0 1 0 1", "0.5% 1e2%"):
        assert dataclasses.replace(demo, out_channels=2, target_range=text).target_range == text
    with pytest.raises(UserError, match="task is 'style'; it cannot be combined with"):
        dataclasses.replace(demo, task="style", target_range="0 1")
    with pytest.raises(UserError, match=r"gan_weight is 0.* no loss"):
        dataclasses.replace(demo, gan_weight=0.0, lambda_l1=0.0)


def test_a_crop_too_small_for_the_discriminator_is_refused():
    small = dataclasses.replace(PRESETS["demo"], crop_size=32, load_size=32, depth=4)
    with pytest.raises(UserError, match="crop_size"):
        dataclasses.replace(small, receptive_field=286)


def test_importing_config_has_no_side_effects(tmp_path):
    script = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import config"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_run_is_named_after_its_data_or_its_task(tmp_path, monkeypatch):
    assert Config().folder == Path("runs/facades")
    assert PRESETS["day2night"].folder == Path("runs/day2night")
    assert PRESETS["colorization"].folder == Path("runs/colorization")
    assert Config(output="elsewhere/x").folder == Path("elsewhere/x")
    monkeypatch.chdir(tmp_path)
    assert Config(data_root=".").folder == Path("runs", tmp_path.name)
    assert Config(data_root="set/").folder == Path("runs/set")


def test_a_missing_dataset_is_named_with_the_nearest_folder(tmp_path):
    (tmp_path / "my_photos").mkdir()
    with pytest.raises(UserError, match=r"my_photo does not exist; .* did you mean '.*/my_photos'"):
        require_data(Config(data_root=str(tmp_path / "my_photo")))
    with pytest.raises(UserError, match=r"does not exist; it must be a folder of images$"):
        require_data(Config(data_root=str(tmp_path / "no" / "photos")))


def test_unknown_presets_get_a_hint(tmp_path):
    with pytest.raises(UserError, match="unknown preset 'mops'; did you mean 'maps'"):
        parse_arguments(["mops"])
    with pytest.raises(UserError, match="a dataset is given as --data_root "):
        parse_arguments([str(tmp_path)])


def test_a_saved_configuration_is_read_back():
    config = PRESETS["inpainting"]
    assert config_from_dict(dataclasses.asdict(config)) == config
    assert config_from_dict({"epochs": 7}) == Config(epochs=7)
    with pytest.raises(UserError, match=r"fields unknown to this version.*'newer'"):
        config_from_dict({"newer": 1})


def test_a_resumed_run_keeps_what_determines_its_result():
    config = PRESETS["demo"]
    assert resume_config(dataclasses.asdict(config), {"epochs": 99, "device": "cpu"}).epochs == 99
    with pytest.raises(UserError, match="base_channels was 32"):
        resume_config(dataclasses.asdict(config), {"base_channels": 16})


def test_an_earlier_spelling_of_the_mask_is_read():
    assert config_from_dict({"mask": "centre"}).mask == "center"
