"""Videos: real clips of 64x48 px with a sine, translated frame by frame."""

import base64
import os
import signal
import struct
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, TINY, refusal, truncate
from PIL import Image

import evaluate
from config import Config
from images.video import Clip, translate_videos
from utils import build_generator, load_generator, save_checkpoint, translate

av = pytest.importorskip("av")

COLORS = [(200, 30, 60), (10, 220, 90), (20, 40, 230), (128, 128, 128), (250, 250, 5)]


def block(number: int, size=(64, 48)) -> np.ndarray:
    """A frame of one color."""
    return np.full((size[1], size[0], 3), COLORS[number % len(COLORS)], np.uint8)


def make_clip(
    path: Path,
    times=range(16),
    picture=block,
    codec="libx264",
    sound="aac",
    rate=25,
    time_base=None,
    pixels="yuv420p",
    layout="mono",
    **context,
) -> Path:
    """A clip whose frames `picture(number)` are shown at `times`, in units of `time_base`."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as output:
        video = output.add_stream(codec, rate=rate)
        video.height, video.width = picture(0).shape[:2]
        video.pix_fmt = pixels
        video.codec_context.time_base = time_base or Fraction(1, rate)
        for name, value in context.items():
            setattr(video.codec_context, name, value)
        track = output.add_stream(sound, rate=48000, layout=layout) if sound else None
        for number, start in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = start, video.codec_context.time_base
            output.mux(video.encode(frame))
            if track:
                samples = np.arange(number * 1920, (number + 1) * 1920)
                wave = 0.3 * np.sin(2 * np.pi * 440 * samples / 48000)
                wave = np.stack([wave] * track.layout.nb_channels).astype("f4")
                frame = av.AudioFrame.from_ndarray(wave, "fltp", layout)
                frame.sample_rate, frame.pts = 48000, samples[0]
                output.mux(track.encode(frame))
        for stream in output.streams:
            output.mux(stream.encode(None))
    return path


def convert(source: Path, result: Path, change=lambda image: image, beside=False) -> Path:
    translate_videos({source: result}, change, beside, hint=lambda width, height: None)
    return result


def seconds(path: Path) -> list[float]:
    clip = Clip(path)
    return [float(frame.start * clip.time_base) for frame in clip.frames()]


def images(path: Path) -> list[np.ndarray]:
    return [np.asarray(frame.image) for frame in Clip(path).frames()]


def sound_of(path: Path) -> list[tuple[bytes, float]]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        return [(bytes(packet), float(packet.pts * packet.time_base)) for packet in packets]


def assert_close(one, other, levels: int) -> None:
    """Images equal but for some levels of 255."""
    for a, b in zip(one, other, strict=True):
        assert np.abs(a.astype(int) - b).max() <= levels


# ---- Frames and sound -------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".m4v"])
def test_frames_their_times_and_the_sound_are_kept(tmp_path, ending):
    clip = make_clip(tmp_path / f"clip{ending}", times=range(32))
    result = convert(clip, tmp_path / "result.mp4")
    assert len(images(result)) == 32
    assert seconds(result) == pytest.approx(seconds(clip))
    assert seconds(result) == pytest.approx(np.arange(32) / 25)
    assert_close(images(clip), images(result), levels=3)
    assert [data for data, _ in sound_of(result)] == [data for data, _ in sound_of(clip)]
    times = [start for _, start in sound_of(clip)]
    assert [start for _, start in sound_of(result)] == pytest.approx(times, abs=1e-4)
    with av.open(str(result)) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.pix_fmt) == ("h264", "yuv420p")
        assert video.average_rate == 25
    content = result.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # it plays while it is loaded


def test_a_variable_frame_rate_is_kept(tmp_path):
    times = [0, 40, 50, 55, 200, 1000, 1001, 1500]
    clip = make_clip(tmp_path / "clip.mkv", times, time_base=Fraction(1, 1000), sound=None)
    result = convert(clip, tmp_path / "result.mp4")
    assert seconds(result) == pytest.approx([time / 1000 for time in times])


def test_avi_whose_frames_have_no_times(tmp_path):
    clip = make_clip(tmp_path / "clip.avi", sound="mp3")
    result = convert(clip, tmp_path / "result.mp4")
    assert seconds(result) == pytest.approx(np.arange(16) / 25)
    assert sound_of(result) == sound_of(clip)


@pytest.mark.parametrize(
    ("name", "sound"), [("a.mov", "pcm_s16le"), ("b.avi", "pcm_s16le"), ("c.mkv", "mp2")]
)
def test_sound_that_mp4_cannot_hold_becomes_aac(tmp_path, name, sound):
    clip = make_clip(tmp_path / name, sound=sound, layout="stereo")
    result = convert(clip, tmp_path / "result.mp4")
    with av.open(str(result)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        wave = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert len(wave) / 48000 == pytest.approx(16 / 25, abs=0.05)
    spectrum = np.abs(np.fft.rfft(wave[4800:28800]))
    assert spectrum.argmax() * 48000 / 24000 == pytest.approx(440, abs=2)


def test_vp9_and_opus_become_h264_and_opus(tmp_path):
    clip = make_clip(tmp_path / "clip.webm", codec="libvpx-vp9", sound="libopus")
    result = convert(clip, tmp_path / "result.mp4")
    assert seconds(result) == pytest.approx(seconds(clip))
    assert [data for data, _ in sound_of(result)] == [data for data, _ in sound_of(clip)]


# ---- Pixels -----------------------------------------------------------------------------------


def test_sizes_are_made_even(tmp_path):
    """H.264 in yuv420p has even sides."""
    clip = make_clip(tmp_path / "clip.mp4")
    odd = convert(clip, tmp_path / "odd.mp4", lambda image: image.crop((0, 0, 45, 33)))
    assert Clip(odd).size == (46, 34)
    expected = [block(number, (46, 34)) for number in range(16)]
    assert_close(images(odd), expected, levels=4)
    odd = make_clip(
        tmp_path / "odd.mkv", picture=lambda n: block(n, (45, 33)), codec="ffv1", pixels="bgr0"
    )
    assert Clip(convert(odd, tmp_path / "result.mp4")).size == (46, 34)
    assert images(convert(odd, tmp_path / "result.gif"))[0].shape == (33, 45, 3)


@pytest.mark.parametrize("matrix", [1, 5])  # BT.709, BT.601
@pytest.mark.parametrize("color_range", [1, 2])  # limited, full
def test_colors_are_read_as_the_file_says(tmp_path, matrix, color_range):
    def picture(number):
        return block(number)

    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = color_range
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            colors = {"dst_colorspace": matrix, "dst_color_range": color_range}
            frame = frame.reformat(format="yuv420p", src_color_range=2, **colors)
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    expected = [picture(number) for number in range(8)]
    assert_close(images(path), expected, levels=4)
    result = convert(path, tmp_path / "result.mp4")
    assert_close(images(result), expected, levels=5)
    with av.open(str(result)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
        assert context.color_range == 1


def test_a_phone_held_upright(tmp_path):
    def picture(number):
        pixels = block(0)
        pixels[:16, :16] = COLORS[1]
        return pixels

    clip = make_clip(tmp_path / "clip.mp4", picture=picture)
    content = bytearray(clip.read_bytes())
    matrix = content.index(b"tkhd") + 44
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    content[matrix : matrix + 36] = turned  # clockwise
    clip.write_bytes(content)
    result = convert(clip, tmp_path / "result.mp4")
    assert Clip(result).size == (48, 64)
    assert np.abs(images(result)[0].astype(int) - np.rot90(picture(0), -1)).mean() < 5
    assert np.abs(images(result)[0][4, 44].astype(int) - COLORS[1]).max() < 8  # top right


@pytest.mark.slow
def test_browsers_play_it_and_show_its_colors(tmp_path, browser):
    clip = make_clip(tmp_path / "clip.mp4", picture=lambda number: block(0))
    content = base64.b64encode(convert(clip, tmp_path / "result.mp4").read_bytes()).decode()
    page = browser.new_page()
    supported = "document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.64001f\"')"
    if not page.evaluate(supported):
        pytest.skip("this Chromium has no H.264")
    found = page.evaluate(
        """async source => {
            const video = document.createElement("video");
            video.src = source;
            video.muted = true;
            const shown = new Promise(done => video.requestVideoFrameCallback(done));
            await video.play();
            await shown;
            const canvas = document.createElement("canvas");
            const context = canvas.getContext("2d");
            context.drawImage(video, 0, 0);
            return [video.videoWidth, video.videoHeight, ...context.getImageData(9, 9, 1, 1).data];
        }""",
        f"data:video/mp4;base64,{content}",
    )
    page.close()
    assert found[:2] == [64, 48]
    assert found[2:5] == pytest.approx(COLORS[0], abs=4)


# ---- GIF --------------------------------------------------------------------------------------


def test_gif_out_and_in(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")
    gif = convert(clip, tmp_path / "result.gif")
    with Image.open(gif) as image:
        assert (image.n_frames, image.size, image.info["loop"]) == (16, (64, 48), 0)
        for number in range(16):
            image.seek(number)
            assert image.info["duration"] == 40
            found = np.asarray(image.convert("RGB")).astype(int)
            assert np.abs(found - block(number)).max() <= 5
    back = convert(gif, tmp_path / "back.mp4")
    assert seconds(back) == pytest.approx(seconds(clip))
    assert_close(images(back), images(clip), levels=8)


def test_gif_of_pillow_with_transparency_and_its_own_times(tmp_path):
    frames = [Image.fromarray(block(number)).convert("RGBA") for number in range(3)]
    frames[0].putpixel((5, 5), (0, 0, 0, 0))
    file = tmp_path / "moving.gif"
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=[100, 500, 700])
    result = convert(file, tmp_path / "result.gif")
    assert images(result)[0][5, 5].min() > 250  # white
    with Image.open(result) as image:
        durations = []
        for number in range(image.n_frames):
            image.seek(number)
            durations.append(image.info["duration"])
    assert durations == [100, 500, 700]
    with av.open(str(convert(file, tmp_path / "result.mp4"))) as container:
        assert container.duration / 1e6 == pytest.approx(1.3)


def test_a_gif_has_at_most_50_frames_a_second(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", times=range(60), rate=60, sound=None)
    times = seconds(convert(clip, tmp_path / "result.gif"))
    assert 30 <= len(times) <= 50 and np.diff(times).min() >= 0.0199


# ---- The script -------------------------------------------------------------------------------


def test_each_frame_is_translated_with_one_seed(run, tmp_path, capsys):
    clip = make_clip(tmp_path / "clip.mp4", picture=lambda number: block(0))
    words = [run, "--input", clip, "--output", tmp_path / "out.mp4", "--seed", 3]
    assert evaluate.main([*words, "--device", "cpu"]) == 0
    assert f"wrote {tmp_path / 'out.mp4'}" in capsys.readouterr().out
    expected = translate(load_generator(run), Image.fromarray(images(clip)[0]), seed=3)
    found = images(tmp_path / "out.mp4")
    assert len(found) == 16
    for image in found:  # no flicker
        assert np.abs(image.astype(int) - found[0]).mean() < 1
        assert np.abs(image.astype(int) - np.asarray(expected)).mean() < 12


def test_side_by_side(run, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")
    words = [run, "--side_by_side", "--device", "cpu", "--output", tmp_path]
    assert evaluate.main([*words[:-1], tmp_path / "out", "--input", clip]) == 0
    pairs = images(tmp_path / "out" / "clip.mp4")
    assert pairs[0].shape == (48, 128, 3)
    assert_close([pair[:, 8:56] for pair in pairs], [i[:, 8:56] for i in images(clip)], levels=6)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    photo.save(tmp_path / "photo.png")
    assert evaluate.main([*words[:-1], tmp_path / "out", "--input", tmp_path / "photo.png"]) == 0
    both = Image.open(tmp_path / "out" / "photo.png")
    assert both.crop((0, 0, 50, 40)) == photo
    assert both.crop((50, 0, 100, 40)) == translate(load_generator(run), photo)


def test_outputs_larger_than_inputs(tmp_path):
    """As super-resolution makes them."""
    clip = make_clip(tmp_path / "clip.mp4")
    result = convert(clip, tmp_path / "result.mp4", lambda image: image.resize((128, 96)), True)
    assert Clip(result).size == (256, 96)
    assert_close(images(result)[:1], [block(0, (256, 96))], levels=4)


def untrained(folder: Path, **fields) -> Path:
    """A run of a task whose network has learned nothing yet."""
    config = Config(**TINY, **fields)
    state = {"generator": build_generator(config).state_dict(), "step": 0}
    save_checkpoint(folder / "checkpoints" / "latest.pt", config, **state)
    return folder


TASKS = {
    "colorization": ({"in_channels": 1, "out_channels": 2}, [], (64, 48)),
    "inpainting": ({}, ["--mask", "mask.png"], (64, 48)),
    "super_resolution": ({"factor": 2}, [], (128, 96)),
    "edges": ({}, ["--draw"], (64, 48)),
    "pairs": ({}, ["--tile", "32", "--side_by_side"], (128, 48)),
}


@pytest.mark.parametrize("task", TASKS)
def test_tasks(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fields, words, size = TASKS[task]
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 10:20] = 255
    Image.fromarray(mask).save("mask.png")
    clip = make_clip(Path("clip.mp4"), times=range(4))
    run = untrained(tmp_path / "run", task=task, **fields)
    words = [run, "--input", clip, "--output", "out.mp4", "--device", "cpu", *words]
    assert evaluate.main(words) == 0
    assert Clip(Path("out.mp4")).size == size
    frames = images(Path("out.mp4"))
    assert len(frames) == 4
    if task == "inpainting":  # the mask is that of every frame
        assert_close([frame[30:] for frame in frames], [i[30:] for i in images(clip)], levels=8)


def test_runs_for_arrays_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_clip(Path("clip.mp4"))
    run = untrained(tmp_path / "run", input_range="0 1")
    words = [run, "--device", "cpu", "--input"]
    line = refusal(capsys, evaluate.main, *words, "clip.mp4")
    assert line == "error: clip.mp4 has 8-bit colors; this run is for arrays, 0 1"
    np.save("x.npy", np.zeros((32, 32, 3), "f4"))
    line = refusal(capsys, evaluate.main, *words, "x.npy", "--side_by_side")
    assert line == "error: --side_by_side is for 8-bit colors; this run translates arrays"
    assert not (run / "translated").exists()


def test_several_videos(run, tmp_path, capsys):
    make_clip(tmp_path / "a.mp4", times=range(3))
    make_clip(tmp_path / "b.webm", times=range(3), codec="libvpx", sound=None)
    files = [tmp_path / "a.mp4", tmp_path / "b.webm"]
    words = [run, "--device", "cpu", "--input", *files, "--output", tmp_path / "out"]
    assert evaluate.main(words) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "b.mp4"]


# ---- Mistakes ---------------------------------------------------------------------------------


def test_mistakes_end_in_one_line(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_clip(Path("clip.mp4"))
    Image.fromarray(block(0)).save("photo.png")
    Image.new("L", (64, 48), 255).save("white.png")
    for name in ("cut.mp4", "cut.mkv", "cut.avi", "cut.webm"):
        codecs = {"codec": "libvpx", "sound": None} if name == "cut.webm" else {}
        truncate(make_clip(Path(name), times=range(32), **codecs))
    Path("text.mp4").write_text("no video")
    Path("empty.mp4").write_bytes(b"")
    Path("list.mp4").write_text("ffconcat version 1.0\nfile clip.mp4\n")
    with av.open("sound.m4v", "w", format="mp4") as output:
        track = output.add_stream("aac", rate=48000, layout="mono")
        output.mux(track.encode(None))
    before = sorted(Path().iterdir())
    cases = {
        ("cut.mp4",): "cut.mp4 is damaged or incomplete at 0.",
        ("cut.mkv",): "cut.mkv is incomplete: it has ",
        ("cut.avi",): "cut.avi is ",
        ("cut.webm",): "cut.webm is incomplete: it has ",
        ("text.mp4",): "text.mp4 cannot be read as a video: ",
        ("empty.mp4",): "empty.mp4 cannot be read as a video: ",
        ("list.mp4",): "list.mp4 cannot be read as a video: ",
        ("sound.m4v",): "sound.m4v",
        ("missing.mp4",): "missing.mp4 does not exist",
        ("clip.mp4", "photo.png"): "--input has clip.mp4 and images; translate them separately",
        ("clip.mp4", "--output", "clip.mp4"): "would overwrite clip.mp4",
        (
            "clip.mp4",
            "--output",
            "out.avi",
        ): "--output out.avi is neither a folder nor a .mp4, .gif",
        (
            "clip.mp4",
            "--output",
            "out.png",
        ): "--output out.png is neither a folder nor a .mp4, .gif",
        ("photo.png", "--output", "out.mp4"): "--output out.mp4 is neither a folder nor a .png",
        ("clip.mp4", "--mask", "white.png"): "a mask is for inpainting",
    }
    for words, line in cases.items():
        found = refusal(capsys, evaluate.main, run, "--device", "cpu", "--input", *words)
        assert line in found
    assert sorted(Path().iterdir()) == before
    assert not list((run / "translated").glob("*"))
    assert refusal(capsys, evaluate.main, run, "--side_by_side").endswith("needs --input")


def test_without_the_package(run, tmp_path, capsys, monkeypatch):
    clip = make_clip(tmp_path / "clip.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    line = refusal(capsys, evaluate.main, run, "--device", "cpu", "--input", clip)
    assert line == "error: videos need a package: pip install av"


def test_an_error_midway_leaves_no_file(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")
    for name in ("result.mp4", "result.gif"):
        (tmp_path / name).write_text("of yesterday")
        left = [1] * 8
        with pytest.raises(IndexError):
            convert(clip, tmp_path / name, lambda image, left=left: left.pop() and image)
        assert (tmp_path / name).read_text() == "of yesterday"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
def test_ctrl_c_leaves_no_half_file(run, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", times=range(3000), sound=None)
    command = [sys.executable, "evaluate.py", run, "--input", clip, "--device", "cpu"]
    command += ["--output", tmp_path / "out.mp4"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        [str(word) for word in command], cwd=REPOSITORY, stderr=subprocess.PIPE, env=environment
    )
    while not any(path.name.endswith(".tmp") for path in tmp_path.iterdir()):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130 and "interrupted" in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == [clip]
