"""Videos: their frames one by one, and MP4 (H.264) and GIF files from frames.

PyAV, which brings FFmpeg, reads and writes them. It is optional: `pip install av`.
"""

import contextlib
import heapq
import sys
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from engine.cli import UserError
from engine.files import replacing
from images.grids import side_by_side
from images.outputs import VIDEOS, plan_outputs
from images.reading import to_mode

OUTPUTS = (".mp4", ".gif")
FORMATS = "mov,matroska,avi,gif"  # FFmpeg reads many more, some of which open other files
SOUND = ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac")  # copied into an MP4 as it is
AAC_RATES = (48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)

# Numbers of FFmpeg, which are those of the standard H.273.
BT709, BT601, LIMITED, FULL = 1, 5, 1, 2
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}  # of FFmpeg's scaler, by those of a file
HDR = {16: "PQ", 18: "HLG"}

GIF_TICK = Fraction(1, 100)  # in seconds
SHORTEST = 2  # ticks of a GIF's frame; browsers slow down shorter ones to 10


class Frame(NamedTuple):
    image: Image.Image
    start: int  # in units of `Clip.time_base`
    duration: int


def plan_videos(
    sources: list[Path], output: Path, others: list[Path], value_range: str
) -> dict[Path, Path]:
    """Maps each video to its output, as `plan_outputs`; empty if no source is a video. Raises
    UserError, also on videos together with images, or if the generator has a `value_range`."""
    videos = [source for source in sources if source.suffix.lower() in VIDEOS]
    if not videos:
        return {}
    if len(videos) < len(sources):
        raise UserError(f"--input has {videos[0]} and images; translate them separately")
    if value_range:
        raise UserError(f"{videos[0]} has 8-bit colors; this run is for arrays, {value_range}")
    gifs = all(video.suffix.lower() == ".gif" for video in videos)
    plan = plan_outputs(videos, output, others, OUTPUTS[::-1] if gifs else OUTPUTS)
    return {files[0]: result for files, result in plan.items()}


def translate_videos(
    plan: dict[Path, Path],
    translate: Callable[[Image.Image], Image.Image],
    beside: bool,
    hint: Callable[[int, int], str | None],
) -> None:
    """Translates videos frame by frame, of which few are in memory at a time, into MP4s with their
    sound, or GIFs. Frames keep their times. With `beside`, each input is beside its output. `hint`
    says what may be wrong with a size. Raises UserError; then, as after Ctrl-C, the video that was
    translated has no output."""
    for source, result in plan.items():
        clip = Clip(source)
        if advice := hint(*clip.size):
            print(f"{source} {advice}", file=sys.stderr)
        write = write_gif if result.suffix.lower() == ".gif" else write_mp4
        with replacing(result) as temporary, reporting_errors(f"{result} cannot be written"):
            write(temporary, translated(clip, translate, beside), clip)
        print("wrote", result)


def translated(clip: "Clip", translate: Callable, beside: bool) -> Iterator[Frame]:
    for frame in tqdm(clip.frames(), "translating", clip.count, unit="frame"):
        image = translate(frame.image)
        yield frame._replace(image=side_by_side(frame.image, image) if beside else image)


def library():
    """PyAV. Raises UserError if it is missing."""
    try:
        import av
    except ImportError as error:
        raise UserError("videos need a package: pip install av") from error
    return av


@contextlib.contextmanager
def reporting_errors(what: str):
    """Turns an error of PyAV inside the block into a UserError that begins with `what` failed."""
    av = library()
    try:
        yield
    except av.codec.codec.UnknownCodecError as error:
        raise UserError(f"this PyAV has no encoder {error}: pip install --upgrade av") from error
    except av.FFmpegError as error:
        raise UserError(f"{what}: {error.strerror}") from error


def address(path: Path) -> str:
    return f"file:{path}"  # FFmpeg would take a:b.mp4 for a file of the protocol "a"


# ---- Reading ----------------------------------------------------------------------------------


class Clip:
    """A video to read: `count` frames, whose times are in units of `time_base`, in seconds."""

    def __init__(self, path: Path):
        """Reads the file once, without decoding it, to count frames. Raises UserError, also if it
        is incomplete."""
        self.path = path
        with self.open() as container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                raise UserError(f"{path} has no video that can be read")
            self.index = stream.index
            self.size = (stream.width, stream.height)
            self.sound = [track.index for track in container.streams.audio]
            self.time_base = stream.time_base
            self.rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.aspect = stream.sample_aspect_ratio or Fraction(1)  # of a pixel
            transfer = stream.codec_context.color_trc
            if transfer in HDR:
                print(f"{path} is HDR ({HDR[transfer]}); its colors will look pale")
            self.kind = container.format.name
            self.count = self.check(container)

    def open(self):
        """The file as a container of PyAV. Raises UserError."""
        if not self.path.is_file():  # opening a pipe would wait
            raise UserError(f"{self.path} is missing or not a regular file")
        options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
        with self.reporting_errors():
            return library().open(address(self.path), container_options=options)

    def reporting_errors(self):
        return reporting_errors(f"{self.path} cannot be read as a video")

    def read(self, items: Iterable) -> Iterator:
        """Frames or packets of the file. Raises UserError."""
        with self.reporting_errors():
            yield from items

    def check(self, container) -> int:
        """Counts the frames. Raises UserError if the file ends too early."""
        count = 0
        packets = self.read(container.demux())
        for packet in tqdm(packets, "checking", unit="packet", leave=False, disable=None):
            time = time_of(packet)
            if time is not None and packet.is_corrupt:
                raise UserError(f"{self.path} is damaged or incomplete at {time:.1f} s")
            count += time is not None and packet.stream.index == self.index
        found, declared = self.path.stat().st_size, declared_size(self.path)
        if found < declared:
            raise UserError(f"{self.path} is incomplete: it has {found} of {declared} bytes")
        return count

    def frames(self) -> Iterator[Frame]:
        """The frames, upright RGB. Raises UserError."""
        start = None
        in_order = self.kind == "avi"  # it numbers packets and has no times of frames
        with self.open() as container:
            stream = container.streams[self.index]
            stream.thread_type = "AUTO"
            step = max(1, round(1 / (self.rate * self.time_base)))
            for frame in self.read(container.decode(stream)):
                time = frame.dts if in_order else frame.pts
                if start is None:
                    start = time or 0
                    offset = start if in_order else 0
                else:
                    start = start + step if time is None else max(time, start + 1)
                yield Frame(to_picture(frame), start - offset, frame.duration or step)
        if start is None:
            raise UserError(f"{self.path} has no frames")


def declared_size(path: Path) -> int:
    """The size in bytes that the header of a Matroska or AVI file declares, or 0: FFmpeg reads a
    truncated one without an error."""
    with open(path, "rb") as file:
        header = file.read(4096)
    if header.startswith(b"RIFF"):
        return 8 + int.from_bytes(header[4:8], "little")
    start = header.find(b"\x18\x53\x80\x67", 0, -8) + 4  # after the ID of Matroska's segment
    if not header.startswith(b"\x1a\x45\xdf\xa3") or start < 4:
        return 0
    length = 9 - header[start].bit_length()  # of a number whose first bit that is set tells it
    largest = 2 ** (7 * length) - 1
    size = int.from_bytes(header[start : start + length], "big") & largest
    return 0 if size == largest else start + length + size  # the largest: not known


def time_of(packet) -> float | None:
    """When a packet is decoded, in seconds; None for the one that marks the end."""
    ticks = packet.pts if packet.dts is None else packet.dts
    return None if ticks is None else float(ticks * packet.time_base)


def to_picture(frame) -> Image.Image:
    """A frame of PyAV as upright RGB, transparency blended with white."""
    # Files that do not name their colors have those of high definition from 720 lines on.
    usual = BT709 if frame.height >= 720 else BT601
    alpha = any(component.is_alpha for component in frame.format.components)
    pixels = frame.to_ndarray(
        format="rgba" if alpha or frame.format.has_palette else "rgb24",
        src_colorspace=MATRICES.get(frame.colorspace, usual),
        src_color_range=FULL if frame.color_range == FULL else LIMITED,
        dst_color_range=FULL,
    )
    turned = np.rot90(pixels, round(frame.rotation / 90))  # as phones note it
    return to_mode(Image.fromarray(np.ascontiguousarray(turned)), channels=3)


# ---- Writing ----------------------------------------------------------------------------------


def write_mp4(file: Path, frames: Iterator[Frame], clip: Clip) -> None:
    """Writes H.264 that browsers play, with the sound of a clip. Colors are BT.709. An odd width or
    height gets one more column or row, which repeats the last. Raises UserError."""
    av = library()
    first = next(frames)
    width, height = (side + side % 2 for side in first.image.size)
    options = {"movflags": "faststart"}  # players need not load all of it first
    with (
        contextlib.ExitStack() as stack,
        av.open(address(file), "w", format="mp4", options=options) as output,
    ):
        # With B-frames, an MP4 would lose how long a GIF's last frame is shown.
        quality = {"crf": "18", "bf": "0" if clip.kind == "gif" else "3"}
        stream = output.add_stream("libx264", rate=clip.rate, options=quality)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.time_base = clip.time_base
        context.sample_aspect_ratio = clip.aspect
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
        pictures = to_av(chain([first], frames), (width, height), clip.time_base)
        packets = [encoded(stream, to_h264(pictures))]
        for index in clip.sound:
            container = stack.enter_context(clip.open())
            packets.append(sound(clip, container.streams[index], output))
        for packet in heapq.merge(*packets, key=time_of):
            output.mux(packet)


def to_h264(frames: Iterable) -> Iterator:
    """RGB frames of PyAV in the colors that `write_mp4` declares."""
    for frame in frames:
        colors = {"dst_colorspace": BT709, "dst_color_range": LIMITED}
        yield frame.reformat(format="yuv420p", src_color_range=FULL, **colors)


def encoded(stream, frames: Iterable) -> Iterator:
    """The packets of frames of PyAV."""
    durations = {}  # which encoders lose
    for frame in chain(frames, [None]):  # None: asks for what the encoder still holds
        if frame is not None:
            durations[frame.pts] = frame.duration
        for packet in stream.encode(frame):
            packet.duration = durations.pop(packet.pts)
            yield packet


def to_av(frames: Iterable[Frame], size: tuple[int, int], time_base: Fraction) -> Iterator:
    """Frames as those of PyAV, RGB. The first frame's size is `size` or one pixel less; others, as
    some recordings of screens change it, are resized."""
    av = library()
    first = None
    for image, start, duration in frames:
        first = first or image.size
        pixels = np.asarray(image.convert("RGB").resize(first))
        added = ((0, size[1] - first[1]), (0, size[0] - first[0]), (0, 0))
        frame = av.VideoFrame.from_ndarray(np.pad(pixels, added, mode="edge"), format="rgb24")
        frame.pts, frame.duration, frame.time_base = start, duration, time_base
        yield frame


def sound(clip: Clip, source, output) -> Iterator:
    """The packets of a track for an MP4: the same, or AAC where it cannot hold them."""
    if source.codec_context is None:
        print(f"{clip.path}: sound of an unknown kind is left out")
        return iter(())
    if source.codec.canonical_name in SOUND:
        return copied(clip, source, output.add_stream_from_template(source))
    rate = source.rate if source.rate in AAC_RATES else AAC_RATES[0]
    # AVI files do not name the usual layouts.
    layout = {1: "mono", 2: "stereo"}.get(source.layout.nb_channels, source.layout.name)
    target = output.add_stream("aac", rate=rate, layout=layout)
    return encoded_sound(clip, source, target)


def copied(clip: Clip, source, target) -> Iterator:
    for packet in clip.read(source.container.demux(source)):
        if time_of(packet) is not None:
            packet.stream = target
            yield packet


def encoded_sound(clip: Clip, source, target) -> Iterator:
    end = None
    for frame in clip.read(source.container.decode(source)):
        start = round((frame.pts or 0) * frame.time_base * frame.sample_rate)
        frame.pts = start if end is None else max(start, end)  # times in AVI files are not exact
        frame.time_base = Fraction(1, frame.sample_rate)
        end = frame.pts + frame.samples
        yield from target.encode(frame)
    yield from target.encode(None)


def write_gif(file: Path, frames: Iterator[Frame], clip: Clip) -> None:
    """Writes a GIF, each frame with the 256 colors that suit it, at most 50 frames a second. Raises
    UserError."""
    av = library()
    first = next(frames)
    size = first.image.size
    with av.open(address(file), "w", format="gif") as output:
        # Whole frames: FFmpeg finds out what changes by numbers of colors, not by the colors.
        stream = output.add_stream("gif", rate=100, options={"gifflags": "0"})
        stream.width, stream.height, stream.pix_fmt = *size, "pal8"
        stream.codec_context.time_base = GIF_TICK
        pictures = to_av(spaced(chain([first], frames), clip.time_base), size, GIF_TICK)
        for packet in encoded(stream, quantized(pictures, size, av.filter.Graph())):
            output.mux(packet)


def spaced(frames: Iterable[Frame], time_base: Fraction) -> Iterator[Frame]:
    """Frames with times in ticks of a GIF, without those that follow too soon."""
    earliest = None
    for frame in frames:
        start = round(frame.start * time_base / GIF_TICK)
        if earliest is None or start >= earliest:
            earliest = start + SHORTEST
            duration = max(SHORTEST, round(frame.duration * time_base / GIF_TICK))
            yield frame._replace(start=start, duration=duration)


def quantized(frames: Iterable, size: tuple[int, int], graph) -> Iterator:
    """RGB frames of PyAV with a palette each, dithered."""
    source = graph.add_buffer(width=size[0], height=size[1], format="rgb24", time_base=GIF_TICK)
    split, palette = graph.add("split"), graph.add("palettegen", "stats_mode=single")
    use, sink = graph.add("paletteuse", "new=1:dither=sierra2_4a"), graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    for frame in frames:
        duration = frame.duration
        graph.push(frame)
        result = graph.pull()
        result.duration = duration
        yield result
