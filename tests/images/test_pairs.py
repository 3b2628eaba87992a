"""Which files are pairs, in which split."""

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
