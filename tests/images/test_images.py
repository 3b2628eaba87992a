"""Image files of every kind, pixels and tensors, grids, and where translations go."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.cli import UserError
from engine.files import save_image
from images.grids import image_grid
from images.outputs import plan_outputs
from images.pixels import resize, to_image, to_tensor
from images.reading import (
    FORMATS,
    MAX_PIXELS,
    find_images,
    is_image,
    natural_order,
    note_frames,
    read_image,
    to_mode,
)

# ---- File formats and modes -------------------------------------------------------------------

# 8x6 blocks of 8 px, so that JPEG keeps them, one color each, and the same in gray.
COLORS = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
BLOCKS = COLORS.repeat(8, axis=0).repeat(8, axis=1)
GRAY = np.asarray(Image.fromarray(BLOCKS).convert("L"))


def rgb(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(BLOCKS).convert(mode)


def with_alpha() -> Image.Image:
    """The left half is transparent: a viewer shows the white page there."""
    image = rgb("RGBA")
    alpha = np.full(BLOCKS.shape[:2], 255, np.uint8)
    alpha[:, :32] = 0
    image.putalpha(Image.fromarray(alpha))
    return image


def transparent_palette() -> Image.Image:
    image = Image.new("P", (64, 48), 0)
    image.putpalette([9, 9, 9, 200, 30, 60])
    image.paste(1, (32, 0, 64, 48))
    return image


ON_WHITE = np.concatenate([np.full_like(BLOCKS[:, :32], 255), BLOCKS[:, 32:]], axis=1)
GRAY_RGB = np.stack([GRAY] * 3, axis=2)
SIXTEEN = Image.fromarray(GRAY.astype(np.uint16) * 257)
TURNED = {Image.ExifTags.Base.Orientation: 6}  # to be shown a quarter turn clockwise

READ_AS = {
    "rgb.png": (rgb(), {}, BLOCKS),
    "rgb.bmp": (rgb(), {}, BLOCKS),
    "rgb.tif": (rgb(), {}, BLOCKS),
    "rgb.tiff": (rgb(), {"compression": "tiff_lzw"}, BLOCKS),
    "rgb.webp": (rgb(), {"lossless": True}, BLOCKS),
    "rgb.jpg": (rgb(), {"quality": 100, "subsampling": 0}, BLOCKS),
    "gray.png": (rgb("L"), {}, GRAY_RGB),
    "gray.jpeg": (rgb("L"), {"quality": 100}, GRAY_RGB),
    "bits.png": (rgb("1"), {}, np.asarray(rgb("1").convert("RGB"))),
    "palette.png": (rgb("P"), {}, np.asarray(rgb("P").convert("RGB"))),
    "palette.bmp": (rgb("P"), {}, np.asarray(rgb("P").convert("RGB"))),
    "rgba.png": (with_alpha(), {}, ON_WHITE),
    "rgba.tif": (with_alpha(), {}, ON_WHITE),
    "rgba.webp": (with_alpha(), {"lossless": True}, ON_WHITE),
    "gray_alpha.png": (
        with_alpha().convert("LA"),
        {},
        np.concatenate([np.full_like(GRAY_RGB[:, :32], 255), GRAY_RGB[:, 32:]], axis=1),
    ),
    "transparent_palette.png": (
        transparent_palette(),
        {"transparency": 0},
        np.full((48, 64, 3), 255) * (np.arange(64) < 32)[None, :, None]
        + np.full((48, 64, 3), (200, 30, 60)) * (np.arange(64) >= 32)[None, :, None],
    ),
    "cmyk.jpg": (rgb("CMYK"), {"quality": 100}, BLOCKS),
    "cmyk.tif": (rgb("CMYK"), {}, BLOCKS),
    "sixteen.png": (SIXTEEN, {}, GRAY_RGB),
    "sixteen.tif": (SIXTEEN, {}, GRAY_RGB),
    "turned.jpg": (
        rgb().transpose(Image.Transpose.ROTATE_90),
        {"quality": 100, "subsampling": 0, "exif": TURNED},
        BLOCKS,
    ),
    "turned.tif": (rgb().transpose(Image.Transpose.ROTATE_90), {"exif": TURNED}, BLOCKS),
    "turned_gray.tif": (
        rgb("L").transpose(Image.Transpose.ROTATE_90),
        {"exif": TURNED},
        GRAY_RGB,
    ),
    "turned_sixteen.tif": (
        SIXTEEN.transpose(Image.Transpose.ROTATE_90),
        {"exif": TURNED},
        GRAY_RGB,
    ),
    "turned_alpha.tif": (
        with_alpha().transpose(Image.Transpose.ROTATE_90),
        {"exif": TURNED},
        ON_WHITE,
    ),
    "turned.png": (rgb().transpose(Image.Transpose.ROTATE_90), {"exif": TURNED}, BLOCKS),
    "turned.webp": (
        rgb().transpose(Image.Transpose.ROTATE_90),
        {"lossless": True, "exif": TURNED},
        BLOCKS,
    ),
}


@pytest.mark.parametrize("name", READ_AS)
def test_formats_and_modes_are_read_as_a_viewer_shows_them(tmp_path, name):
    image, options, expected = READ_AS[name]
    if "exif" in options:
        exif = Image.Exif()
        exif.update(options["exif"])
        options = {**options, "exif": exif}
    image.save(tmp_path / name, **options)
    read = read_image(tmp_path / name)
    assert read.mode == "RGB"
    difference = np.asarray(read).astype(int) - expected
    assert np.abs(difference).max() <= (12 if name.endswith(("jpg", "jpeg")) else 1)


def test_what_is_no_image_is_refused_with_its_name(tmp_path):
    rgb().save(tmp_path / "huge.bmp")
    data = bytearray((tmp_path / "huge.bmp").read_bytes())
    data[18:26] = (9000).to_bytes(4, "little") * 2  # its size, as declared
    (tmp_path / "huge.bmp").write_bytes(data)
    (tmp_path / "empty.png").touch()
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    (tmp_path / "folder.png").mkdir()
    for name, reason in {
        "huge.bmp": f"it is 9000x9000, over {MAX_PIXELS // 10**6} megapixels",
        "empty.png": "it is empty",
        "page.jpg": "it is none of PNG, JPEG, WEBP, BMP, TIFF",
        "folder.png": "missing or not a regular file",
        "missing.png": "missing or not a regular file",
    }.items():
        with pytest.raises(UserError) as refusal:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(refusal.value) and reason in str(refusal.value)


def test_32_bit_values_are_refused():
    for mode in ("I", "F"):
        with pytest.raises(UserError, match="32-bit"):
            to_mode(Image.new(mode, (4, 4)), channels=3)


def test_images_are_found_in_natural_order_and_other_files_ignored(tmp_path):
    for name in ("10.png", "2.JPG", "1.webp", "._1.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "sub.d").mkdir()
    assert [file.name for file in find_images(tmp_path)] == ["1.webp", "2.JPG", "10.png"]
    assert sorted(["a10b2", "a9", "a10b1"], key=natural_order) == ["a9", "a10b1", "a10b2"]
    assert not is_image(Path("x.gif"))
    with pytest.raises(UserError, match="holds no images"):
        find_images(tmp_path / "sub.d")
    with pytest.raises(UserError, match="missing holds no images"):
        find_images(tmp_path / "missing")


# ---- Pixels and tensors -----------------------------------------------------------------------


def test_pixels_survive_the_way_to_a_tensor_and_back():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    tensor = to_tensor(values)
    assert tensor.shape == (1, 16, 16) and (tensor.min(), tensor.max()) == (-1, 1)
    assert np.array_equal(np.asarray(to_image(tensor)), values)
    assert np.array_equal(np.asarray(to_image(to_tensor(BLOCKS))), BLOCKS)
    assert np.asarray(to_image(torch.full((3, 2, 2), 1.5))).max() == 255  # beyond the range


def test_resize_keeps_the_range():
    image = to_tensor(BLOCKS)
    assert resize(image, (48, 64)) is image
    enlarged = resize(image, (97, 130))
    assert enlarged.shape == (3, 97, 130) and enlarged.abs().max() <= 1
    assert resize(image, (0, 5)).shape == (3, 1, 5)


# ---- Grids ------------------------------------------------------------------------------------


def test_a_grid_holds_its_images_in_their_places():
    gray = to_tensor(GRAY)
    grid = image_grid([[rgb(), gray], [to_tensor(BLOCKS), rgb("L")]])
    assert grid.size == (2 * 68 + 4, 2 * 52 + 4)
    pixels = np.asarray(grid)
    assert (pixels[:4] == 255).all() and (pixels[:, 68:72] == 255).all()
    for row, column, expected in ((0, 0, BLOCKS), (0, 1, GRAY_RGB), (1, 0, BLOCKS)):
        top, left = 4 + 52 * row, 4 + 68 * column
        assert np.array_equal(pixels[top : top + 48, left : left + 64], expected)


def test_titles_stand_above_the_grid():
    images = [[rgb(), rgb()]]
    plain = image_grid(images)
    titled = image_grid(images, ["input", "a title of several words"])
    assert titled.width == plain.width
    above = titled.height - plain.height
    assert titled.crop((0, above, *titled.size)) == plain
    ink = np.asarray(titled.convert("L"))[:above] < 128
    assert ink[:, :70].any() and ink[:, 70:].any()


def test_images_are_saved_as_png_in_a_new_folder(tmp_path):
    save_image(rgb(), tmp_path / "new" / "1")
    assert read_image(tmp_path / "new" / "1") == rgb()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["1"]


# ---- Where translations go --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["a/1.jpg", "b/1.png", "2.webp", ".hidden.png"], {"2.png", "a/1.png", "b/1.png"}),
        (["1.jpg", "1.png", "1.jpg.png"], {"1.jpg.png", "1.png.png", "1.jpg.png.png"}),
    ],
)
def test_a_folder_of_images_none_of_them_lost(tmp_path, sources, expected):
    for name in sources:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        rgb().save(tmp_path / "in" / name)
    plan = plan_outputs([tmp_path / "in"], tmp_path / "out")
    assert {str(result.relative_to(tmp_path / "out")) for result in plan.values()} == expected


def test_results_are_png(tmp_path):
    rgb().save(tmp_path / "1.png")
    for name in ("out.jpg", "out.npy", "out.gif"):
        with pytest.raises(UserError, match=rf"{name} is neither a folder nor a \.png"):
            plan_outputs([tmp_path / "1.png"], tmp_path / name)


def test_a_folder_for_results_may_have_a_dot(tmp_path):
    rgb().save(tmp_path / "1.jpg")
    for name in ("v1.0", "x.png"):
        (tmp_path / name).mkdir()
        plan = plan_outputs([tmp_path / "1.jpg"], tmp_path / name)
        assert list(plan.values()) == [tmp_path / name / "1.png"]


def test_nothing_to_translate_is_refused(tmp_path):
    for source, line in (
        ("missing.png", "image or folder .* does not exist"),
        ("", "holds no images"),
    ):
        with pytest.raises(UserError, match=line):
            plan_outputs([tmp_path / source], tmp_path / "out")


def test_a_source_is_never_overwritten(tmp_path):
    rgb().save(tmp_path / "1.png")
    rgb().save(tmp_path / "2.jpg")
    for source, output, reason in (
        (tmp_path / "1.png", tmp_path / "1.png", "would overwrite"),
        (tmp_path, tmp_path, "would be lost"),
    ):
        with pytest.raises(UserError, match=reason):
            plan_outputs([source], output)
    with pytest.raises(UserError, match="would overwrite"):  # such as a mask
        plan_outputs([tmp_path / "2.jpg"], tmp_path / "1.png", [tmp_path / "1.png"])


def test_avif_and_jfif_are_images(tmp_path):
    rgb().save(tmp_path / "1.jfif", format="JPEG", quality=100, subsampling=0)
    assert np.abs(np.asarray(read_image(tmp_path / "1.jfif")) - BLOCKS.astype(int)).max() < 4
    if "AVIF" not in FORMATS:
        pytest.skip("this Pillow cannot read AVIF")
    rgb().save(tmp_path / "2.avif", quality=100, subsampling="4:4:4")
    assert is_image(tmp_path / "2.avif")
    assert np.abs(np.asarray(read_image(tmp_path / "2.avif")) - BLOCKS.astype(int)).max() < 8


def test_links_to_folders_are_followed_once(tmp_path, capsys):
    save_image(rgb(), tmp_path / "elsewhere" / "2.png")
    save_image(rgb(), tmp_path / "in" / "1.png")
    (tmp_path / "in" / "3.gif").touch()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    plan = plan_outputs([tmp_path / "in"], tmp_path / "in" / "out")
    assert [str(file.relative_to(tmp_path / "in")) for (file,) in plan] == ["1.png", "linked/2.png"]
    assert "in: not read: 1 .gif" in capsys.readouterr().out


def test_several_inputs_and_outputs_of_any_name(tmp_path):
    for name in ("a/1.png", "b/2.jpg", "b/1.jpg", "3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        rgb().save(tmp_path / name)
    sources = [tmp_path / "a" / "1.png", tmp_path / "b" / "2.jpg", tmp_path / "3.png"]
    plan = plan_outputs(sources, tmp_path / "out")
    assert {path.name for path in plan.values()} == {"1.png", "2.png", "3.png"}
    plan = plan_outputs([tmp_path / "a", tmp_path / "b" / "1.jpg"], tmp_path / "out")
    assert {path.name for path in plan.values()} == {"1.png.png", "1.jpg.png"}
    for output in ("Y.PNG", "result_v1.2"):
        (written,) = plan_outputs(sources[:1], tmp_path / output).values()
        assert written == tmp_path / output / ("" if output == "Y.PNG" else "1.png")
    rgb().save(tmp_path / "b" / "3.png")
    with pytest.raises(UserError, match="two of the images have the same name"):
        plan_outputs([tmp_path / "b", tmp_path / "3.png"], tmp_path / "out")
    with pytest.raises(UserError, match=r"y\.png is one file; it must be a folder"):
        plan_outputs(sources, tmp_path / "y.png")


@pytest.mark.parametrize("ending", ["tif", "webp", "png"])
def test_of_several_frames_the_first_is_taken_with_a_message(tmp_path, capsys, ending):
    note_frames.cache_clear()
    rgb().save(tmp_path / f"0.{ending}")
    read_image(tmp_path / f"0.{ending}")
    assert "frames" not in capsys.readouterr().out
    frames = [Image.new("RGB", (64, 48), color) for color in ("red", "blue", "lime")]
    for number in (1, 2):
        frames[0].save(tmp_path / f"{number}.{ending}", save_all=True, append_images=frames[1:])
        red, _, blue = read_image(tmp_path / f"{number}.{ending}").getpixel((5, 5))
        assert red > 240 and blue < 15
    assert capsys.readouterr().out.count("have several frames or pages; the first is used") == 1


def test_heic_is_an_image_where_its_package_is_installed(tmp_path):
    pytest.importorskip("pillow_heif")
    rgb().save(tmp_path / "1.heic", quality=100)
    assert is_image(tmp_path / "1.heic")
    assert np.abs(np.asarray(read_image(tmp_path / "1.heic")) - BLOCKS.astype(int)).mean() < 8
