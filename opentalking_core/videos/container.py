"""Open a stranger's video file with PyAV: known containers only, and no other file or address that it names."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ..errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from av.container import InputContainer
    from av.video.stream import VideoStream

#: Frames with more pixels are refused before they are decoded: the largest frame of H.264's level 5.2, 4096x2304. A
#: decoder may keep 16 reference frames, which take 450 MB at this size with 10 bits.
MAX_FRAME_PIXELS = 4096 * 2304

#: FFmpeg's demuxers for MP4, MOV, WebM and MKV. Others, playlists and scripts among them, must not see a byte.
_DEMUXERS = "mov,matroska"

#: Bytes and microseconds of a file that FFmpeg may read to find out what its streams are.
_MAX_PROBE_BYTES = 5_000_000
_MAX_PROBE_MICROSECONDS = 5_000_000

#: A player shows one video. Files with more streams than this are attacks, or not meant for players.
_MAX_STREAMS = 100

_OPTIONS = {
    "format_whitelist": _DEMUXERS,
    # No protocol has this name: a demuxer that opens further files by itself can't open any.
    "protocol_whitelist": "none",
    "probesize": str(_MAX_PROBE_BYTES),
    "analyzeduration": str(_MAX_PROBE_MICROSECONDS),
    "max_streams": str(_MAX_STREAMS),
    # FFmpeg's probing decodes, too.
    "max_pixels": str(MAX_FRAME_PIXELS),
}

#: The DocType of an EBML header stands within its first bytes.
_EBML_HEADER_BYTES = 64

_READ_BYTES = 256 * 1024

_FORMATS = "send an MP4, MOV, WebM or MKV"


def import_av() -> ModuleType:
    """Return PyAV, which is an extra of this package.

    Raises:
        InvalidRequest: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise InvalidRequest("this server can't read videos: install opentalking-core[video]") from None
    return av


@contextlib.contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """Open a video file for reading.

    Raises:
        InvalidRequest: PyAV is not installed, or the file is empty, of another format, or damaged.
    """
    av = import_av()
    with path.open("rb") as file:
        if not file.peek(1):
            raise InvalidRequest(f"the video is empty: {_FORMATS}")
        try:
            # A file object instead of a path: FFmpeg needs no protocol, and further files go through `io_open`.
            container = av.open(
                file, options=_OPTIONS, io_open=_refuse_other_file, metadata_errors="replace", buffer_size=_READ_BYTES
            )
        except Exception as error:  # FFmpeg's errors, and those of the file object: FFmpeg seeks where a header says
            raise InvalidRequest(
                f"the video is damaged, incomplete, or in a format that can't be read ({_reason(error)}): {_FORMATS}"
            ) from None
        with container:
            yield container


@contextlib.contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Turn any error while a video is decoded into InvalidRequest. Put only calls of PyAV into the block."""
    try:
        yield
    except InvalidRequest:
        raise
    except Exception as error:  # hostile bytes make FFmpeg and PyAV raise many types
        if type(error) is MemoryError:  # Python's own. FFmpeg's says that a header asks for too much.
            raise
        raise InvalidRequest(f"the video is damaged or can't be decoded ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _refuse_other_file(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("a video may not refer to other files")


def choose_stream(container: InputContainer) -> VideoStream:
    """Return the video stream that a player would show: no cover picture; of several, the default, then the largest.

    Raises:
        InvalidRequest: there is none, its codec is unknown, or its frames have more than MAX_FRAME_PIXELS.
    """
    covers = {"attached_pic", "still_image", "timed_thumbnails"}
    shown = [stream for stream in container.streams.video if not covers & _dispositions(stream)]
    if not shown:
        raise InvalidRequest("the file has no video stream: send a video with pictures")
    stream = max(shown, key=_importance)
    context = cast("Any", stream.codec_context)
    if context is None:
        raise InvalidRequest("the video's codec is unknown: send H.264, HEVC, VP8, VP9 or AV1")
    check_frame_size(context.width, context.height)
    return stream


def _importance(stream: VideoStream) -> tuple[bool, bool, int]:
    context = cast("Any", stream.codec_context)
    pixels = 0 if context is None else context.width * context.height
    return context is not None, "default" in _dispositions(stream), pixels


def _dispositions(stream: VideoStream) -> set[str]:
    return {(flag.name or "").lower() for flag in stream.disposition}


def check_frame_size(width: int, height: int) -> None:
    """Raise InvalidRequest if frames of this size are too large to be decoded."""
    if width * height > MAX_FRAME_PIXELS:
        raise InvalidRequest(f"the video's frames have {width} x {height} pixels; at most 4096 x 2304 are accepted")


def container_suffix(container: InputContainer, path: Path) -> str:
    """Return the file name suffix for the container that FFmpeg recognized: .mp4, .mov, .webm or .mkv."""
    if "matroska" in container.format.name:
        with path.open("rb") as file:
            return ".webm" if b"webm" in file.read(_EBML_HEADER_BYTES) else ".mkv"
    return ".mov" if container.metadata.get("major_brand", "qt").strip() == "qt" else ".mp4"
