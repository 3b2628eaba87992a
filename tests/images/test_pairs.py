"""Which files are pairs, in which split."""

import re
import time
import unicodedata

import pytest

from engine.cli import UserError
from images.pairs import find_pairs, find_photos


def touch(root, *names) -> None:
    """Files are not opened, so they can be empty."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(found) -> tuple[str, list[str]]:
    used, pairs = found
    return used, [pair.name for pair in pairs]


def test_side_by_side_files_in_natural_order(tmp_path):
    touch(tmp_path, "train/10.png", "train/9.jpg", "train/notes.txt", "train/._9.jpg")
    assert names(find_pairs(tmp_path, "train")) == ("train", ["9", "10"])
    assert all(pair.b == () for pair in find_pairs(tmp_path, "train")[1])


def test_two_folders_are_matched_by_name(tmp_path):
    touch(tmp_path, "A/train/1.jpg", "A/train/2.jpg", "B/train/2.png", "B/train/1.webp")
    _, pairs = find_pairs(tmp_path, "train")
    assert [(pair.a[0].name, pair.b[0].name) for pair in pairs] == [
        ("1.jpg", "1.webp"),
        ("2.jpg", "2.png"),
    ]
    touch(tmp_path, "A/train/3.jpg", "B/train/4.png", "B/train/1.png")
    refused = []
    assert names(find_pairs(tmp_path, "train", refused.append)) == ("train", ["1", "2"])
    assert [name in str(error) for name, error in zip("134", refused, strict=True)] == [True] * 3
    with pytest.raises(UserError, match=r"B.train.1\.(png|webp) and 1\.(png|webp) differ only"):
        find_pairs(tmp_path, "train")


def test_folders_with_numbers_are_stacked(tmp_path):
    files = [f"{folder}/train/{name}.npy" for folder in ("A1", "A2", "A10", "B") for name in "xy"]
    touch(tmp_path, *files)
    used, pairs = find_pairs(tmp_path, "train")
    assert (used, [pair.name for pair in pairs]) == ("train", ["x", "y"])
    assert [file.parent.parent.name for file in pairs[0].a] == ["A1", "A2", "A10"]
    assert [file.parent.parent.name for file in pairs[0].b] == ["B"]
    (tmp_path / "A2" / "train" / "x.npy").unlink()
    with pytest.raises(UserError, match=r"A1.train.x\.npy has no partner of that name in .*A2"):
        find_pairs(tmp_path, "train")


@pytest.mark.parametrize(
    ("present", "asked", "used"),
    [("train val", "test", "val"), ("train test", "val", "test"), ("train", "val", "train")],
)
def test_another_split_replaces_a_missing_one_with_a_message(
    tmp_path, capsys, present, asked, used
):
    touch(tmp_path, *(f"{split}/{split}.png" for split in present.split()))
    assert names(find_pairs(tmp_path, asked)) == (used, [used])
    assert f"has no split '{asked}'; using '{used}'" in capsys.readouterr().out


def test_nothing_replaces_train(tmp_path):
    touch(tmp_path, "val/1.png")
    with pytest.raises(UserError, match="has no folder 'train'"):
        find_pairs(tmp_path, "train")
    with pytest.raises(UserError, match="data_root must name the folder above"):
        find_pairs(tmp_path / "val", "val")


def test_every_tenth_photo_is_set_aside_twice(tmp_path):
    touch(tmp_path, *(f"{number}.jpg" for number in range(1, 21)))
    split = {name: names(find_photos(tmp_path, name))[1] for name in ("train", "val", "test")}
    assert split["val"] == ["9", "19"] and split["test"] == ["10", "20"]
    assert split["train"] == [*map(str, range(1, 9)), *map(str, range(11, 19))]
    for number in range(10, 21):
        (tmp_path / f"{number}.jpg").unlink()
    assert len(find_photos(tmp_path, "val")[1]) == 9  # too few to set some aside


# ---- Names ------------------------------------------------------------------------------------


def test_composed_and_decomposed_names_are_the_same(tmp_path):
    for name in ("Zürich café", "São Paulo"):
        touch(tmp_path, f"A/train/{unicodedata.normalize('NFC', name)}.png")
        touch(tmp_path, f"B/train/{unicodedata.normalize('NFD', name)}.jpg")
    _, pairs = find_pairs(tmp_path, "train")
    assert [unicodedata.normalize("NFC", pair.b[0].stem) for pair in pairs] == [
        "São Paulo",
        "Zürich café",
    ]
    assert [pair.name for pair in pairs] == [pair.a[0].stem for pair in pairs]


@pytest.mark.parametrize(
    ("name", "partner"),
    [
        ("Rome", "rome"),
        ("7_img", "7_mask"),
        ("img7", "mask_7"),
        ("7", "7_labels"),
        ("7", "007"),
        ("scan-12.image", "scan-12.gt"),
    ],
)
def test_a_near_miss_is_named(tmp_path, name, partner):
    touch(tmp_path, f"A/train/{name}.png", f"B/train/{partner}.png", "B/train/other.png")
    with pytest.raises(UserError, match=rf"; {re.escape(partner)}\.png there is similar"):
        find_pairs(tmp_path, "train")


def test_neighbours_in_a_series_are_no_near_misses(tmp_path):
    touch(tmp_path, "A/train/71.png", "B/train/72.png", "B/train/17.png")
    with pytest.raises(UserError, match=r"71\.png has no partner of that name in [^;]*$"):
        find_pairs(tmp_path, "train")


# ---- What is not used is named ----------------------------------------------------------------


def test_a_split_counts_only_with_both_sides(tmp_path, capsys):
    touch(tmp_path, "A/train/1.png", "B/train/1.png", "A/test/2.png")
    (tmp_path / "B" / "test").mkdir()
    assert names(find_pairs(tmp_path, "val")) == ("train", ["1"])
    printed = capsys.readouterr().out
    assert f"no images in {tmp_path / 'B' / 'test'};" in printed
    assert f"evaluate.py RUN --input {tmp_path / 'A' / 'test'}" in printed
    assert "using 'train'" in printed
    assert names(find_pairs(tmp_path, "test")) == ("train", ["1"])
    touch(tmp_path, "A/val/3.png", "B/val/3.png")
    assert names(find_pairs(tmp_path, "test")) == ("val", ["3"])
    (tmp_path / "B" / "train" / "1.png").unlink()
    with pytest.raises(UserError, match=r"B.train holds no images"):
        find_pairs(tmp_path, "train")


def test_an_empty_folder_is_no_split(tmp_path, capsys):
    touch(tmp_path, "train/1.png", "val/notes.txt")
    assert names(find_pairs(tmp_path, "val")) == ("train", ["1"])
    assert "has no split 'val'; using 'train'" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["valid", "validation", "Validation"])
def test_a_split_of_another_name_is_named(tmp_path, capsys, name):
    touch(tmp_path, "train/1.png", f"{name}/2.png")
    find_pairs(tmp_path, "val")
    assert f"({name} is not read: rename it to val)" in capsys.readouterr().out
    touch(tmp_path / "other", "training/1.png")
    with pytest.raises(UserError, match=r"\(training is not read: rename it to train\)"):
        find_pairs(tmp_path / "other", "train")


def test_files_that_are_not_read_are_counted(tmp_path, capsys):
    files = [
        "1.png",
        "2.jfif",
        "3.jpe",
        "4.gif",
        "5.gif",
        "6.psd",
        "rome/7.png",
        ".hidden",
        "Makefile",
    ]
    touch(tmp_path, *(f"train/{file}" for file in files))
    assert names(find_pairs(tmp_path, "train")) == ("train", ["1", "2", "3"])
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'train'}: not read: 2 .gif, 1 .psd, 1 folder, 1 other\n" == printed
    find_pairs(tmp_path, "val")  # train again
    assert "not read" not in capsys.readouterr().out
    touch(tmp_path / "gifs", "train/1.gif")
    with pytest.raises(UserError, match=r"train holds no images \(.*\), but 1 \.gif"):
        find_pairs(tmp_path / "gifs", "train")


def test_photos_that_are_not_read_are_counted(tmp_path, capsys):
    touch(tmp_path, *(f"{number}.png" for number in range(10)), "10.gif")
    assert len(find_photos(tmp_path, "train")[1]) == 8
    assert f"{tmp_path}: not read: 1 .gif" in capsys.readouterr().out


def test_many_names_without_partners_are_told_apart_soon(tmp_path):
    names = [f"{number}" for number in range(5000)]
    touch(tmp_path, *(f"A/train/{name}_img.png" for name in names))
    touch(tmp_path, *(f"B/train/{name}_mask.png" for name in names))
    refused = []
    begun = time.monotonic()
    assert find_pairs(tmp_path, "train", refused.append)[1] == []
    assert time.monotonic() - begun < 30  # comparing all with all takes minutes
    assert all("there is similar" in str(error) for error in refused) and len(refused) == 10_000
