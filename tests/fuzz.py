"""Reads thousands of broken image files: each has to be read right or refused in one line.

    python -m tests.fuzz                 3000 files
    python -m tests.fuzz --files 300 --seed 1

Images of every format and kind are mutated: cut off, bits flipped, blocks overwritten, lost or
doubled, emptied, misnamed, declared as huge, with broken EXIF or color profiles. They are read in
another process, so that a crash, a hang or a grasp for memory is seen. Exit code 0 if there was
none, and nothing was read wrong that could be known to be wrong.
"""

import argparse
import io
import random
import resource
import struct
import sys
import tempfile
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from engine.cli import UserError
from images.reading import ENDINGS, MAX_PIXELS, read_image

SECONDS = 20  # for a file, at most
MEMORY = 1.5e9  # bytes of that process, at most; a picture of 67 megapixels has 0.2e9

# ---- Sound files ------------------------------------------------------------------------------


def scene(size=(64, 48), seed=0) -> Image.Image:
    """Some shapes and some noise."""
    random = np.random.default_rng(seed)
    image = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), np.uint8))
    ImageDraw.Draw(image).ellipse((5, 5, 40, 40), "teal")
    return image


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sixteen() -> Image.Image:
    return Image.fromarray(np.asarray(scene().convert("L")).astype(np.uint16) * 257)


def exif(orientation=1) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F] = "a camera"
    return tags


def sound_files() -> dict[str, bytes]:
    """By a name that ends as the format does."""
    rgb, more = scene(), [scene(seed=1), scene(seed=2)]
    text = PngInfo()
    text.add_text("comment", "x" * 500, zip=True)
    return {
        "rgb.png": saved(rgb, "PNG"),
        "text.png": saved(rgb, "PNG", pnginfo=text),
        "gray.png": saved(rgb.convert("L"), "PNG"),
        "palette.png": saved(rgb.convert("P"), "PNG"),
        "alpha.png": saved(rgb.convert("RGBA"), "PNG"),
        "bits.png": saved(rgb.convert("1"), "PNG"),
        "sixteen.png": saved(sixteen(), "PNG"),
        "one.png": saved(scene((1, 1)), "PNG"),
        "animated.png": saved(rgb, "PNG", save_all=True, append_images=more),
        "rgb.jpg": saved(rgb, "JPEG", exif=exif()),
        "turned.jpg": saved(rgb, "JPEG", exif=exif(6)),
        "progressive.jpeg": saved(rgb, "JPEG", progressive=True),
        "gray.jpg": saved(rgb.convert("L"), "JPEG"),
        "cmyk.jpg": saved(rgb.convert("CMYK"), "JPEG"),
        "one.jpg": saved(scene((1, 1)), "JPEG"),
        "rgb.webp": saved(rgb, "WEBP", exif=exif()),
        "lossless.webp": saved(rgb.convert("RGBA"), "WEBP", lossless=True),
        "animated.webp": saved(rgb, "WEBP", save_all=True, append_images=more),
        "rgb.bmp": saved(rgb, "BMP"),
        "palette.bmp": saved(rgb.convert("P"), "BMP"),
        "bits.bmp": saved(rgb.convert("1"), "BMP"),
        "rgb.tif": saved(rgb, "TIFF", exif=exif(3)),
        "lzw.tiff": saved(rgb, "TIFF", compression="tiff_lzw"),
        "deflate.tif": saved(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": saved(rgb, "TIFF", compression="jpeg"),
        "fax.tif": saved(rgb.convert("1"), "TIFF", compression="group4"),
        "sixteen.tif": saved(sixteen(), "TIFF"),
        "cmyk.tif": saved(rgb.convert("CMYK"), "TIFF"),
        "pages.tif": saved(rgb, "TIFF", save_all=True, append_images=more),
    }


# ---- Mutations: (name, bytes) -> (name, bytes) -------------------------------------------------


def cut_off(name: str, data: bytes):
    return name, data[: random.randrange(len(data))]


def flip_bits(name: str, data: bytes):
    data = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5, 30))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return name, bytes(data)


def flip_in_header(name: str, data: bytes):
    data = bytearray(data)
    for _ in range(random.choice((1, 2, 4))):
        data[random.randrange(min(80, len(data)))] = random.randrange(256)
    return name, bytes(data)


def overwrite(name: str, data: bytes):
    start, length = random.randrange(len(data)), random.randrange(1, 200)
    block = random.choice((random.randbytes(length), bytes(length), b"\xff" * length))
    return name, data[:start] + block + data[start + length :]


def lose_a_block(name: str, data: bytes):
    start = random.randrange(len(data))
    return name, data[:start] + data[start + random.randrange(1, 200) :]


def double_a_block(name: str, data: bytes):
    start = random.randrange(len(data))
    end = start + random.randrange(1, 2000)
    return name, data[:end] + data[start:end] * random.randrange(1, 4) + data[end:]


def empty(name: str, data: bytes):
    return name, random.choice((b"", b"\0" * len(data), data[:1], b"\n", b"<html>404</html>"))


def misname(name: str, data: bytes):
    others = [ending for ending in ENDINGS if ending not in (Path(name).suffix, ".npy")]
    return Path(name).stem + random.choice(others), data


def another_format(name: str, data: bytes):
    """What other programs write, PostScript among it, under the name of a picture."""
    image = scene()
    kind = random.choice(("GIF", "PPM", "EPS", "ICO", "TGA", "PCX", "PDF", "JPEG2000"))
    return name, saved(image.convert("P") if kind == "GIF" else image, kind)


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def declare_huge(name: str, data: bytes):
    """A small file that says it is a large picture."""
    width, height = random.choice(
        ((9000, 9000), (65000, 65000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (70_000_000, 1))
    )
    ending = Path(name).suffix
    if ending == ".bmp":
        return name, data[:18] + struct.pack("<ii", width, height) + data[26:]
    if ending in (".jpg", ".jpeg"):
        start = data.find(b"\xff\xc0") if b"\xff\xc0" in data else data.find(b"\xff\xc2")
        size = struct.pack(">HH", min(height, 65535), min(width, 65535))
        return name, data[: start + 5] + size + data[start + 9 :]
    if ending in (".tif", ".tiff"):
        for tag, value in ((b"\x00\x01", width), (b"\x01\x01", height)):
            start = data.find(tag, 4)
            entry = tag + struct.pack("<HII", 4, 1, value)
            data = data[:start] + entry + data[start + len(entry) :]
        return name, data
    if ending == ".webp":
        size = struct.pack("<HH", min(width, 16383), min(height, 16383))
        return name, data[:26] + size + data[30:]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(10_000_000))
    return name, data[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def compressed_text(name: str, data: bytes):
    """A bomb in what is beside the picture."""
    text = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(100_000_000)))
    return "bomb.png", FILES["rgb.png"][:33] + text + FILES["rgb.png"][33:]


def broken_exif(name: str, data: bytes):
    tags = exif(random.choice((0, 9, 77, 65535))).tobytes()
    if random.random() < 0.7:
        tags = b"Exif\0\0" + random.randbytes(random.randrange(200))
    kind = random.choice(("JPEG", "PNG", "WEBP"))
    lossless = {"lossless": True} if kind == "WEBP" else {}
    return f"exif.{kind.lower()}", saved(scene(), kind, exif=tags, **lossless)


def broken_profile(name: str, data: bytes):
    kind = random.choice(("JPEG", "PNG", "TIFF", "WEBP"))
    lossless = {"lossless": True} if kind == "WEBP" else {}
    profile = random.randbytes(random.randrange(1, 3000))
    return f"profile.{kind.lower()}", saved(scene(), kind, icc_profile=profile, **lossless)


def nothing(name: str, data: bytes):
    return name, data


# What has to come of a mutation. The picture, as if nothing had been done: RIGHT. The picture or a
# refusal: KNOWN. Where a format has no checksum, any picture or a refusal: ANY.
RIGHT, KNOWN, ANY = "right", "right or refused", "read or refused"
MUTATIONS = {
    cut_off: KNOWN,
    flip_bits: ANY,
    flip_in_header: ANY,
    overwrite: ANY,
    lose_a_block: ANY,
    double_a_block: ANY,
    empty: KNOWN,
    misname: RIGHT,
    another_format: KNOWN,
    declare_huge: ANY,
    compressed_text: KNOWN,
    broken_exif: RIGHT,
    broken_profile: RIGHT,
    nothing: RIGHT,
}
FILES = sound_files()


# ---- Reading them -----------------------------------------------------------------------------


def pixels(data: bytes, name: str) -> np.ndarray:
    path = FOLDER / f"sound_{name}"
    path.write_bytes(data)
    return np.asarray(read_image(path))


def attempt(path: str) -> tuple[str, object, int]:
    """In a process of its own: (how it ended, the pixels or the line, the most bytes it had)."""
    try:
        result = "read", np.asarray(read_image(Path(path)))
    except UserError as error:
        result = "refused", str(error)
    except BaseException as error:
        result = "failed", f"{type(error).__name__}: {error}"
    if result[0] == "read" and result[1].size > 1_000_000:
        result = "read", result[1].shape  # large ones are not compared
    return *result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def judge(path: Path, expected: str, sound: np.ndarray, outcome: str, result, memory) -> str | None:
    """What is wrong with an outcome, None if nothing is."""
    if memory > MEMORY:
        return f"took {memory / 1e9:.1f} GB"
    if outcome == "failed":
        return result
    if outcome == "refused":
        if expected == RIGHT:
            return f"refused: {result}"
        ok = str(path) in result and "\n" not in result and len(result) < 500
        return None if ok else f"a refusal that is not one line with the name: {result!r}"
    if isinstance(result, tuple):
        return None if result[0] * result[1] <= MAX_PIXELS else f"read {result} pixels"
    if expected == ANY:
        return None
    same = result.shape == sound.shape and np.abs(result.astype(int) - sound).max() <= 1
    return None if same else "read, but not as it was"


def fuzz(count: int, seed: int, progress=lambda number: None) -> tuple[Counter, list[str]]:
    """Mutates and reads so many files. Returns the outcomes by mutation, and what went wrong."""
    global FOLDER
    random.seed(seed)
    counts, wrong = Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        FOLDER = Path(folder)
        sound = {name: pixels(data, name) for name, data in FILES.items()}
        plain = np.asarray(scene())
        jpeg = pixels(saved(scene(), "JPEG"), "plain.jpg")
        pool = None
        for number in range(count):
            mutate = list(MUTATIONS)[number % len(MUTATIONS)]
            source = random.choice(list(FILES))
            name, data = mutate(source, FILES[source])
            path = FOLDER / f"{number}_{name}"
            path.write_bytes(data)
            truth, expected = sound[source], MUTATIONS[mutate]
            if expected == ANY and source.endswith("png") and mutate is not declare_huge:
                expected = KNOWN  # PNG has checksums
            if mutate in (broken_exif, broken_profile, another_format, compressed_text):
                truth = jpeg if name.endswith("jpeg") and mutate is not another_format else plain
            if pool is None:
                pool = ProcessPoolExecutor(1, get_context("spawn"))
                pool.submit(attempt, "nothing").result()  # its imports
            try:
                outcome, result, memory = pool.submit(attempt, str(path)).result(SECONDS)
                problem = judge(path, expected, truth, outcome, result, memory)
            except (BrokenProcessPool, TimeoutError) as error:
                outcome, problem = "failed", "hung" if isinstance(error, TimeoutError) else "crash"
                for process in (pool._processes or {}).values():
                    process.kill()
                pool = None
            counts[mutate.__name__, outcome] += 1
            if problem:
                wrong.append(f"{mutate.__name__} of {source} (number {number}): {problem}")
            path.unlink()
            progress(number)
        if pool:
            pool.shutdown()
    return counts, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from tqdm import tqdm

    bar = tqdm(total=given.files, unit="file")
    counts, wrong = fuzz(given.files, given.seed, lambda number: bar.update())
    bar.close()
    for mutate in MUTATIONS:
        read, refused = (counts[mutate.__name__, outcome] for outcome in ("read", "refused"))
        print(f"{mutate.__name__:16} {read:5d} read  {refused:5d} refused   {MUTATIONS[mutate]}")
    for line in wrong:
        print("WRONG", line)
    print(f"{given.files} files, {len(wrong)} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
