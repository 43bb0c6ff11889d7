"""Read a stranger's video: its frames upright, in RGB, with square pixels, at a constant rate.

Decoders must only run in worker processes, under their limits of memory and time.
"""

from __future__ import annotations

import contextlib
import itertools
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, cast

from ..errors import InvalidRequest
from .container import MAX_FRAME_PIXELS, choose_stream, container_suffix, errors_as_sentences, import_av, open_container
from .deinterlacing import deinterlaced
from .geometry import fitted_size, orientation_of
from .jpeg import encode_jpeg
from .rendering import Picture, Renderer
from .timing import constant_rate, measured_rate, resample

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    import numpy as np
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame as DecodedFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

_DECODER_THREADS = 2

#: The unit of a container's duration in FFmpeg, AV_TIME_BASE.
_CONTAINER_TICKS_PER_SECOND = 1_000_000

#: A decoder that fails this often in a row gets no further packet.
_MAX_FAILURES_IN_A_ROW = 100

#: Frames that are decoded for each frame that is given, at most: times may lie a millionth of a second apart.
_MAX_DECODED_PER_FRAME = 10


class VideoFrame(NamedTuple):
    """One frame of a video.

    Args:
        seconds: since the first frame.
        picture: the frame's picture. Repeated frames share it.
    """

    seconds: float
    picture: Picture

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """RGB, uint8, shape (height, width, 3), C-contiguous, read-only. Converted once, when first asked for."""
        return self.picture.pixels

    def jpeg(self, quality: int = 95) -> bytes:
        """Return the frame as a JPEG with chroma at half the resolution (4:2:0)."""
        return encode_jpeg(self.pixels, quality)


class VideoReader:
    """A video that has been opened, and whose first frame has been decoded.

    Attributes:
        size: (width, height) of every frame, in pixels.
        fps: frames per second, constant: 24.0, 29.97. From 1 to 120.
        source_frame_count: how many frames the whole file has. An estimate, by what the file says.
        expected_frames: how many frames `frames` will yield, at least 1. An estimate, for progress bars.
        container_suffix: .mp4, .mov, .webm or .mkv, by the file's contents.
    """

    def __init__(
        self, container: InputContainer, path: Path, max_size: tuple[int, int], max_frames: int, rate: Fraction
    ) -> None:
        av = import_av()
        stream = choose_stream(container)
        self._rate = rate
        self._max_frames = max_frames
        decoded = itertools.islice(deinterlaced(av, _decode(container, stream)), max_frames * _MAX_DECODED_PER_FRAME)
        first = next(decoded, None)
        if first is None:
            raise InvalidRequest("the video has no frame that can be decoded: it is damaged, or its codec is unknown")
        self._decoded = itertools.chain([first], decoded)
        orientation = orientation_of(first)
        self.size = fitted_size(
            (first.width, first.height), stream.sample_aspect_ratio, orientation.is_transposed, max_size
        )
        self._renderer = Renderer(av, self.size, orientation)
        self.fps = round(float(rate), 3)
        frames_by_duration = round(_duration(container, stream) * rate)
        self.source_frame_count = stream.frames or frames_by_duration or 1
        self.expected_frames = max(1, min(frames_by_duration or self.source_frame_count, max_frames))
        self.container_suffix = container_suffix(container, path)

    def frames(self) -> Iterator[VideoFrame]:
        """Yield the frames in order, at most `max_frames`. Call it once.

        Raises:
            InvalidRequest: the video is damaged in a way that can't be skipped.
            MemoryError: decoding needs more memory than this process may use.
        """
        with errors_as_sentences():
            timed = ((_seconds(frame), Picture(self._renderer, frame)) for frame in self._decoded)
            for tick, picture in itertools.islice(resample(timed, self._rate), self._max_frames):
                yield VideoFrame(float(tick / self._rate), picture)


@contextlib.contextmanager
def open_video(path: Path, max_size: tuple[int, int], max_frames: int) -> Iterator[VideoReader]:
    """Open a video file, decode its first frame, and give a reader for all of its frames.

    Args:
        path: the file. Its name doesn't matter.
        max_size: (width, height) in pixels. Frames are shrunk to fit, keep their proportions and are never enlarged.
        max_frames: how many frames to read, from the start. 1 or more.

    Raises:
        InvalidRequest: PyAV isn't installed, or the file is no MP4, MOV, WebM or MKV, has no video stream, nothing that
            can be decoded, or too many pixels.
        MemoryError: decoding needs more memory than this process may use.
    """
    rate = _find_rate(path, max_frames)
    with open_container(path) as container:
        with errors_as_sentences():
            reader = VideoReader(container, path, max_size, max_frames, rate)
        yield reader


def _find_rate(path: Path, max_frames: int) -> Fraction:
    """Return the constant rate of the frames to give."""
    with open_container(path) as container, errors_as_sentences():
        stream = choose_stream(container)
        rate = constant_rate(stream.average_rate, stream.base_rate)
        return rate or measured_rate(_packet_times(container, stream, max_frames))


def _packet_times(container: InputContainer, stream: VideoStream, count: int) -> list[Fraction]:
    """Return the times of the first packets, as far as they have any."""
    packets = itertools.islice(container.demux(stream), count)
    return [packet.pts * packet.time_base for packet in packets if packet.pts is not None and packet.time_base]


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[DecodedFrame]:
    """Yield the stream's frames in the order in which they are shown. Packets that can't be decoded are skipped."""
    av = import_av()
    decoder = _make_decoder(av, stream)
    failures = 0
    for packet in container.demux(stream):
        try:
            yield from decoder.decode(packet)
            failures = 0
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            failures += 1
            if failures == _MAX_FAILURES_IN_A_ROW:
                return


def _make_decoder(av: ModuleType, stream: VideoStream) -> VideoCodecContext:
    decoder = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and decoder.name in ("vp8", "vp9"):
        # FFmpeg's own decoders leave transparency out.
        name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}[decoder.name]
        with contextlib.suppress(av.error.FFmpegError, ValueError):
            decoder = cast("VideoCodecContext", av.CodecContext.create(name, "r"))
    decoder.thread_type = "AUTO"
    decoder.thread_count = _DECODER_THREADS
    decoder.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    return decoder


def _seconds(frame: DecodedFrame) -> Fraction | None:
    return None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base


def _duration(container: InputContainer, stream: VideoStream) -> Fraction:
    """Return the duration in seconds that the file says, or 0."""
    if stream.duration and stream.time_base:
        return max(Fraction(0), stream.duration * stream.time_base)
    return max(Fraction(0), Fraction(container.duration or 0, _CONTAINER_TICKS_PER_SECOND))
