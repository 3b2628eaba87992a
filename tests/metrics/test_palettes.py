"""Palettes: the known ones, palette.json, and which of them a configuration means."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from config import Config
from engine.cli import UserError
from metrics.palettes import (
    PALETTES,
    Palette,
    copy_palette,
    find_palette,
    palette_name,
    parse_palette,
    spread_colors,
    to_palette,
    to_values,
    trained_palette,
)

MINE = Palette({"a": (1, 2, 3), 'the "other" één': (4, 5, 6)}, ((0, 0, 0), (255, 255, 255)))


def write_palette(palette: Palette, folder: Path) -> None:
    (folder / "palette.json").write_text(json.dumps(palette._asdict()))


def test_known_palettes():
    assert {name: len(palette.classes) for name, palette in PALETTES.items()} == {
        "cityscapes": 19,
        "facades": 12,
        "demo": 13,
    }
    for palette in PALETTES.values():
        colors = [*palette.classes.values(), *palette.void]
        assert len(set(colors)) == len(colors)
        # JPEG changes a color by a few counts, so no two may be close.
        assert min(math.dist(a, b) for i, a in enumerate(colors) for b in colors[:i]) > 15


@pytest.mark.parametrize("palette", [*PALETTES.values(), MINE])
def test_written_palettes_are_read_unchanged(palette, tmp_path):
    write_palette(palette, tmp_path)
    config = Config(data_root=str(tmp_path))
    assert find_palette(config) == palette
    assert list(find_palette(config).classes) == list(palette.classes)
    by_path = replace(config, data_root="elsewhere", palette=str(tmp_path / "palette.json"))
    assert find_palette(by_path) == palette


def test_which_palette_a_configuration_means(tmp_path):
    demo = Config(data_root=str(tmp_path / "demo"))
    assert find_palette(demo) == PALETTES["demo"]  # by the name of its folder
    assert find_palette(replace(demo, palette="none")) is None
    assert find_palette(replace(demo, palette="facades")) == PALETTES["facades"]
    assert find_palette(replace(demo, task="edges", in_channels=1)) is None
    assert find_palette(replace(demo, data_root=str(tmp_path / "maps"))) is None
    (tmp_path / "demo").mkdir()
    write_palette(MINE, tmp_path / "demo")  # its own palette takes precedence over its name
    assert find_palette(demo) == MINE
    assert find_palette(replace(demo, palette="demo")) == PALETTES["demo"]


def test_the_name_that_a_run_keeps(tmp_path):
    config = Config(data_root=str(tmp_path))
    for name in ("auto", "none", "cityscapes"):
        assert palette_name(replace(config, palette=name)) == name
    assert palette_name(Config(data_root="data/facades")) == "facades"
    write_palette(MINE, tmp_path)
    assert palette_name(config) == "auto"  # it moves with its data
    copy_palette("demo", tmp_path)  # a known one does not need to
    assert palette_name(config) == "demo"
    assert find_palette(replace(config, palette=palette_name(config))) == PALETTES["demo"]


def test_an_unknown_palette(tmp_path):
    config = Config(data_root=str(tmp_path), palette="facade")
    with pytest.raises(UserError, match=r"palette is 'facade', .*cityscapes, demo, facades"):
        find_palette(config)
    with pytest.raises(UserError, match=r"palette is 'none\.json'"):
        find_palette(replace(config, palette="none.json"))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("{", 'is not a palette like {"classes"'),
        ("\udcff", "is not a palette"),
        ([[0, 0, 0]], "is not a palette"),
        ({}, 'is not a palette like {"classes"'),
        ({"classes": {}}, "is not a palette"),
        ({"classes": [[0, 0, 0]]}, "is not a palette"),
        ({"classes": {"a": [0, 0, 0]}, "void": None}, "is not a palette"),
        ({"classes": {"a": [0, 0, 256]}}, "[0, 0, 256] is not a color, [r, g, b]"),
        ({"classes": {"a": [0, 0.5, 1]}}, "[0, 0.5, 1] is not a color"),
        ({"classes": {"a": [0, 0, True]}}, "[0, 0, True] is not a color"),
        ({"classes": {"a": "#000000"}}, "is not a palette"),
        ({"classes": {"a": [0, 0, 0]}, "void": [0, 0, 0]}, "is not a palette"),
        ({"classes": {"a": [0, 0, 0], "b": [0, 0, 0]}}, "used once"),
        ({"classes": {"a": [9, 9, 9]}, "void": [[9, 9, 9]]}, "used once"),
        ({"classes": {"a": 0, "b": [0, 0, 0]}}, "[0, 0, 0] is not a class number, from 0 to 65535"),
        ({"classes": {"a": 1, "b": 1}}, "one number, used once"),
        ({"classes": {"a": 1}, "void": [1]}, "used once"),
        ({"classes": {"a": 1}, "void": 255}, "is not a palette"),
        ({"classes": {"a": -1}}, "-1 is not a class number"),
        ({"classes": {"a": 1, "b": True}}, "True is not a class number"),
        ({"classes": {str(number): number for number in range(1025)}}, "more than 1024"),
    ],
)
def test_a_bad_palette_file_is_an_error_in_one_line(tmp_path, content, line):
    file = tmp_path / "palette.json"
    text = content if isinstance(content, str) else json.dumps(content)
    file.write_text(text, "utf-8", "surrogateescape")
    with pytest.raises(UserError) as error:
        find_palette(Config(data_root=str(tmp_path)))
    assert str(file) in str(error.value) and line in str(error.value)


# ---- Class numbers ----------------------------------------------------------------------------

NUMBERS = '{"classes": {"road": 7, "ground": 0, "sky": 300}, "void": [255]}'


def test_class_numbers_have_distinct_colors():
    palette = parse_palette(NUMBERS, "here")
    assert palette.numbers == (7, 0, 300, 255)
    assert palette.classes["ground"] == (0, 0, 0) and palette.classes["road"] == (255, 255, 255)
    for count in (1, 2, 8, 9, 34, 300):
        colors = np.array(spread_colors(list(range(count))))
        distance = np.linalg.norm(colors[:, None] - colors, axis=2) + 1e9 * np.eye(count)
        levels = next(levels for levels in range(2, 9) if levels**3 >= count)
        assert distance.min() >= 255 // (levels - 1)


def test_class_numbers_have_even_grays_in_one_channel(tmp_path):
    config = Config(palette=NUMBERS, in_channels=1)
    palette = find_palette(config)
    assert palette.classes == {"road": (85,) * 3, "ground": (0,) * 3, "sky": (255,) * 3}
    assert palette.void == ((170, 170, 170),)
    assert find_palette(replace(config, direction="AtoB")) == parse_palette(NUMBERS, "here")


def test_palettes_as_values_of_json():
    for palette in (PALETTES["cityscapes"], PALETTES["facades"], parse_palette(NUMBERS, "here")):
        values = to_values(palette)
        assert to_palette(values) == to_palette(json.loads(json.dumps(values))) == palette


def test_a_run_keeps_its_class_numbers(tmp_path):
    (tmp_path / "palette.json").write_text(NUMBERS)
    config = Config(data_root=str(tmp_path))
    kept = replace(config, palette=palette_name(config), data_root="elsewhere")
    assert json.loads(kept.palette) == json.loads(NUMBERS)
    assert find_palette(kept) == find_palette(config) == trained_palette(kept)
    with pytest.raises(UserError, match="has class numbers, but this run was trained without"):
        trained_palette(config)
    assert find_palette(replace(config, input_range="0 300")) is None  # B holds arrays
