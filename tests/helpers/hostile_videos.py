"""Hostile videos: files that are cut, lie, or refer to other files."""

from __future__ import annotations

import random
import struct
import zlib
from typing import TYPE_CHECKING

import av
import numpy as np

from .pictures import PNG, chunk, ihdr
from .videos import change_size_midway, encoded_jpeg, make_video, mux_packets, replace_box, with_cover

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: What a playlist or script looks like that names another file.
_PLAYLISTS = {
    "concat script": "ffconcat version 1.0\nfile '{path}'\n",
    "HLS playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:{path}\n#EXT-X-ENDLIST\n",
    "DASH manifest": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>file:{path}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "session description": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "text": "This is no video. {path}\n" * 100,
}


def hostile_videos(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents. No decoder may take more than a second or 600 MB for any.

    Args:
        folder: an empty one for files that are needed on the way.
    """
    yield "empty file", b""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(10)]
    plain = {
        "MP4": make_video(folder / "a.mp4", noise),
        "MP4, index first": make_video(folder / "b.mp4", noise, container_options={"movflags": "faststart"}),
        "MP4, fragmented": make_video(folder / "c.mp4", noise, container_options={"movflags": "frag_keyframe"}),
        "MKV": make_video(folder / "d.mkv", noise),
        "WebM": make_video(folder / "e.webm", noise, codec="libvpx-vp9"),
        "MOV": make_video(folder / "f.mov", noise, codec="mjpeg", pixel_format="yuvj420p"),
    }
    for name, path in plain.items():
        yield from _damaged(name, path.read_bytes())
    yield from _without_pictures(folder)
    for name, text in _PLAYLISTS.items():
        yield name, text.format(path=plain["MP4"]).encode()
    yield from _lying(plain["MP4"].read_bytes())
    yield from _large(folder)


def _damaged(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    for end in (1, 10, 100, len(data) // 2, len(data) - 10):
        yield f"{name} cut to {end} bytes", data[:end]
    chooser = random.Random(0)
    for number in range(10):
        changed = bytearray(data)
        for _ in range(20):
            changed[chooser.randrange(len(changed))] = chooser.randrange(256)
        yield f"{name} with changed bytes, no. {number}", bytes(changed)
        for _ in range(10):
            changed[chooser.randrange(min(1000, len(changed)))] = chooser.choice((0, 127, 128, 255))
        yield f"{name} with a changed header, no. {number}", bytes(changed)


def _without_pictures(folder: Path) -> Iterator[tuple[str, bytes]]:
    path = folder / "audio.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        sound.rate, sound.pts = 16000, 0
        output.mux(stream.encode(sound))
        output.mux(stream.encode(None))
    audio = path.read_bytes()
    yield "audio only", audio
    yield "audio with a cover picture", with_cover(audio, encoded_jpeg(np.zeros((64, 64, 3), np.uint8)))
    (folder / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    path = folder / "subtitles.mkv"
    with av.open(str(folder / "a.srt")) as source, av.open(str(path), "w") as output:
        subtitles = output.add_stream_from_template(source.streams[0])
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = subtitles
                output.mux(packet)
    yield "subtitles only", path.read_bytes()


def _lying(mp4: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield MP4s whose headers don't fit their frames."""
    many = 0x7FFF_FFFF
    yield "duration of zero", _patched(_patched(mp4, b"mvhd", 12, 1000, 0), b"mdhd", 12, 12800, 0)
    yield "time scale of zero", _patched(mp4, b"mdhd", 12, 0, 0xFFFF_FFFF)
    yield "2^31 frames of a byte", replace_box(mp4, b"stsz", struct.pack(">III", 0, 1, many))
    yield "2^31 times", replace_box(mp4, b"stts", struct.pack(">IIII", 0, 1, many, 1))
    yield "2^31 frames in a chunk", replace_box(mp4, b"stsc", struct.pack(">IIIII", 0, 1, 1, many, 1))
    yield "2^31 chunks", replace_box(mp4, b"stco", struct.pack(">II", 0, many))
    yield "60000 x 60000 pixels that are 96 x 64", _with_size(mp4, 60000, 60000)
    edit = struct.pack(">IIIiI", 0, 1, 1000, -(2**31), 65536)
    yield "edit list far before the start", replace_box(mp4, b"elst", edit)


def _large(folder: Path) -> Iterator[tuple[str, bytes]]:
    black = np.zeros((4320, 7680, 3), np.uint8)
    path = make_video(folder / "8k.mp4", [black], options={"preset": "ultrafast"})
    yield "8K", path.read_bytes()
    yield "8K, said to be 16 x 16", _with_size(path.read_bytes(), 16, 16)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1 + 3 * 16000) * 10))  # 10 lines
    png = PNG + ihdr(16000, 16000) + pixels + chunk(b"IEND", b"")
    path = mux_packets(folder / "huge.mov", [png], (16000, 16000), codec="png", pixel_format="rgb24")
    yield "16K", path.read_bytes()
    yield "16K, said to be 16 x 16", _with_size(path.read_bytes(), 16, 16)
    path = change_size_midway(folder / "grows.mov", black[:64, :64], black)
    yield "8K from the second frame on", path.read_bytes()
    million = mux_packets(folder / "million.mp4", [encoded_jpeg(black[:16, :16])], (16, 16)).read_bytes()
    (size,) = struct.unpack_from(">I", million, million.index(b"stsz") + 8)
    (offset,) = struct.unpack_from(">I", million, million.index(b"stco") + 12)
    count = 1_000_000
    million = replace_box(million, b"stsc", struct.pack(">IIIII", 0, 1, 1, 1, 1))
    million = replace_box(million, b"stsz", struct.pack(">III", 0, size, count))
    million = replace_box(million, b"stco", struct.pack(">II", 0, count) + struct.pack(">I", offset) * count)
    million = replace_box(million, b"elst", bytes(8))
    million = replace_box(million, b"stts", struct.pack(">IIII", 0, 1, count, 1))
    yield "a million frames", _patched(million, b"mdhd", 12, 25, count)
    yield "a million frames in a second", _patched(million, b"mdhd", 12, count, count)


def _patched(mp4: bytes, kind: bytes, offset: int, *values: int) -> bytes:
    """Return the MP4 with other 32-bit numbers at an offset into the first box of a kind."""
    changed = bytearray(mp4)
    struct.pack_into(f">{len(values)}I", changed, mp4.index(kind) + 4 + offset, *values)
    return bytes(changed)


def _with_size(mp4: bytes, width: int, height: int) -> bytes:
    """Return the MP4 with another size in the header of its first video's codec."""
    changed = bytearray(mp4)
    struct.pack_into(">HH", changed, mp4.index(b"stsd") + 4 + 8 + 32, width, height)
    return bytes(changed)
