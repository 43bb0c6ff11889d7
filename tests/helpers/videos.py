"""Make small videos with PyAV."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from PIL import Image

from opentalking_core.portraits.drawn import draw_portrait

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_TICKS_PER_SECOND = 90_000

_BOXES_OF_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts")


def make_video(
    path: Path,
    frames: Iterable[NDArray[Any]],
    *,
    fps: Fraction | float = 25,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    seconds: Sequence[float] | None = None,
    tags: dict[str, Any] | None = None,
    options: dict[str, str] | None = None,
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    frame_format: str = "rgb24",
) -> Path:
    """Write a video and return its path.

    Args:
        path: where to; the suffix says which container.
        frames: pictures of one size, (height, width, 3) RGB, or what `frame_format` asks for.
        fps: the constant rate.
        codec: name of FFmpeg's encoder.
        pixel_format: in which the frames are encoded.
        seconds: time of each frame, for a variable rate.
        tags: attributes of the codec context, such as `colorspace` or `sample_aspect_ratio`.
        options: of the encoder.
        container: name of FFmpeg's muxer, if the suffix doesn't say it.
        container_options: of the muxer.
        frame_format: FFmpeg's name of the format in which `frames` are given.
    """
    tags, rate = tags or {}, Fraction(fps).limit_denominator(1001)
    unit = 1 / rate if seconds is None else Fraction(1, _TICKS_PER_SECOND)
    with av.open(str(path), "w", format=container, options=container_options) as output:
        stream: Any = output.add_stream(codec, rate=rate, options=options or {})
        stream.pix_fmt = pixel_format
        context = stream.codec_context
        context.time_base = unit
        for name, value in tags.items():
            setattr(context, name, value)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=frame_format)
            if index == 0:
                stream.width, stream.height = frame.width, frame.height
            if frame_format != pixel_format:
                frame = frame.reformat(
                    format=pixel_format,
                    dst_colorspace=tags.get("colorspace"),
                    dst_color_range=tags.get("color_range"),
                )
            for name in ("colorspace", "color_range", "color_trc", "color_primaries"):
                if name in tags:
                    setattr(frame, name, tags[name])
            frame.time_base = unit
            frame.pts = index if seconds is None else round(seconds[index] / unit)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def talking_frames(count: int, width: int = 160, height: int = 160, **drawing: Any) -> list[NDArray[np.uint8]]:
    """Return drawn portraits whose mouth opens and closes, every 10 frames. `drawing` goes to `draw_portrait`."""
    openness = [(1 - np.cos(2 * np.pi * index / 10)) / 2 for index in range(10)]
    cycle = [
        np.asarray(draw_portrait(width, height, mouth_open=float(value), **drawing).image)
        for value in openness[: min(10, count)]
    ]
    return [cycle[index % 10] for index in range(count)]


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Change an MP4's or MOV's display matrix: a player shows the point (x, y) at (ax + cy, bx + dy)."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    struct.pack_into(">9i", data, start, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def mux_packets(
    path: Path, packets: Iterable[bytes], size: tuple[int, int], codec: str = "mjpeg", pixel_format: str = "yuvj420p"
) -> Path:
    """Write encoded pictures into a container as they are, 25 a second, and return its path."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        for index, data in enumerate(packets):
            packet = av.Packet(data)
            packet.pts = packet.dts = index
            packet.time_base = Fraction(1, 25)
            packet.stream = stream
            output.mux(packet)
    return path


def change_size_midway(path: Path, *frames: NDArray[np.uint8]) -> Path:
    """Write pictures of several sizes into one stream and return its path. The header tells the first size."""
    return mux_packets(path, [encoded_jpeg(pixels) for pixels in frames], (frames[0].shape[1], frames[0].shape[0]))


def encoded_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Return a picture as a JPEG, for `mux_packets`."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def drop_frame_rate(path: Path) -> None:
    """Remove the duration of a frame and of the whole video from a WebM or MKV."""
    data = path.read_bytes()
    # The identifiers and sizes of DefaultDuration and Duration. Each element becomes one of the kind Void.
    for header in (b"\x23\xe3\x83\x84", b"\x44\x89\x88"):
        start = data.index(header)
        end = start + len(header) + (header[-1] & 0x0F)
        void = b"\xec" + bytes([0x80 | (end - start - 2)])
        data = data[:start] + void + bytes(end - start - 2) + data[end:]
    path.write_bytes(data)


def with_cover(mp4: bytes, jpeg: bytes) -> bytes:
    """Return the MP4, whose index must stand at its end, with a cover picture."""
    picture = box(b"covr", box(b"data", struct.pack(">II", 13, 0) + jpeg))
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    user_data = box(b"udta", box(b"meta", bytes(4) + handler + box(b"ilst", picture)))
    start = mp4.rindex(b"moov") - 4
    return mp4[:start] + box(b"moov", mp4[start + 8 :] + user_data)


def box(kind: bytes, content: bytes) -> bytes:
    """Return a box of an MP4."""
    return struct.pack(">I", 8 + len(content)) + kind + content


def replace_box(mp4: bytes, kind: bytes, content: bytes) -> bytes:
    """Return the MP4 with other content in every box of a kind. The index must stand at the end of the file."""
    result = b""
    while mp4:
        (size,) = struct.unpack_from(">I", mp4)
        name, inner, mp4 = mp4[4:8], mp4[8:size], mp4[size:]
        if name in _BOXES_OF_BOXES:
            inner = replace_box(inner, kind, content)
        result += box(name, content if name == kind else inner)
    return result
