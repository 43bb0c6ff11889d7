"""What `open_video` makes of ordinary videos: size, colours, times."""

from __future__ import annotations

import builtins
import io
import subprocess
import sys
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from PIL import Image

from opentalking_core.errors import InvalidRequest
from opentalking_core.videos.decoding import open_video
from opentalking_core.videos.timing import resample

from .helpers.videos import (
    change_size_midway,
    drop_frame_rate,
    encoded_jpeg,
    make_video,
    mux_packets,
    set_display_matrix,
    talking_frames,
    with_cover,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

#: The colours of `QUARTERS`, from the upper left to the lower right.
RED, GREEN, BLUE, WHITE = (200, 30, 30), (30, 180, 40), (40, 40, 200), (230, 230, 220)

#: Numbers of ITU-T H.273 and FFmpeg, for tags.
BT709, BT601, BT2020 = 1, 5, 9
LIMITED, FULL = 1, 2
PQ, HLG = 16, 18


def quarters(width: int = 96, height: int = 64) -> NDArray[np.uint8]:
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, WHITE
    return pixels


def greys(*levels: int, size: int = 32) -> list[NDArray[np.uint8]]:
    """Return pictures whose grey tells them apart."""
    return [np.full((size, size, 3), level, np.uint8) for level in levels]


def make_hdr_video(path: Path, signal: NDArray[np.float64], transfer: int) -> Path:
    """Write a video that shows RGB signals, 0 to 1, with BT.2020's primaries."""
    return make_video(
        path,
        [np.round(signal * 65535).astype(np.uint16)] * 3,
        codec="libx265",
        pixel_format="yuv420p10le",
        frame_format="rgb48le",
        tags={"colorspace": BT2020, "color_range": LIMITED, "color_trc": transfer, "color_primaries": BT2020},
        options={"x265-params": "log-level=none:lossless=1"},
    )


def read(path: Path, max_size: tuple[int, int] = (1000, 1000), max_frames: int = 250) -> list[NDArray[np.uint8]]:
    with open_video(path, max_size, max_frames) as video:
        return [frame.pixels for frame in video.frames()]


def colours(pixels: NDArray[np.uint8]) -> list[tuple[int, ...]]:
    """Return the colours in the middle of the four quarters."""
    height, width, _ = pixels.shape
    return [
        tuple(int(value) for value in pixels[height * y // 4, width * x // 4])
        for y, x in ((1, 1), (1, 3), (3, 1), (3, 3))
    ]


def assert_close(found: Any, expected: Any, tolerance: int = 4) -> None:
    np.testing.assert_allclose(np.array(found, int), np.array(expected, int), atol=tolerance)


@pytest.mark.parametrize(
    ("name", "codec", "suffix"),
    [
        ("a.mp4", "libx264", ".mp4"),
        ("a.mov", "libx264", ".mov"),
        ("a.mkv", "libx264", ".mkv"),
        ("a.webm", "libvpx", ".webm"),
        ("b.webm", "libvpx-vp9", ".webm"),
        ("b.mp4", "libx265", ".mp4"),
        ("c.mp4", "libsvtav1", ".mp4"),
    ],
)
def test_open_video_reads_container_and_codec_whatever_the_name(
    tmp_path: Path, name: str, codec: str, suffix: str
) -> None:
    options = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"svtav1-params": "level-of-parallelism=1"}}
    path = make_video(tmp_path / name, [quarters()] * 3, codec=codec, options=options.get(codec))
    path = path.rename(tmp_path / "upload")

    with open_video(path, (1000, 1000), 250) as video:
        frames = list(video.frames())

    assert video.container_suffix == suffix
    assert video.size == (96, 64)
    assert (video.fps, video.source_frame_count, video.expected_frames) == (25.0, 3, 3)
    assert [frame.seconds for frame in frames] == [0.0, 0.04, 0.08]
    assert_close(colours(frames[0].pixels), [RED, GREEN, BLUE, WHITE])


def test_pixels_are_contiguous_read_only_and_made_once(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", [quarters()])

    with open_video(path, (1000, 1000), 1) as video:
        (frame,) = video.frames()

    pixels = frame.pixels
    assert (pixels.dtype, pixels.shape) == (np.uint8, (64, 96, 3))
    assert pixels.flags.c_contiguous
    assert not pixels.flags.writeable
    assert frame.pixels is pixels


def test_jpeg_is_what_pillow_writes_with_quality_95_and_half_chroma(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", talking_frames(1))

    with open_video(path, (1000, 1000), 1) as video:
        (frame,) = video.frames()
    expected = io.BytesIO()
    Image.fromarray(frame.pixels).save(expected, "JPEG", quality=95, subsampling="4:2:0")

    assert frame.jpeg() == expected.getvalue()
    assert len(frame.jpeg(quality=50)) < len(frame.jpeg())


def test_frames_end_at_max_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", greys(20, 60, 100, 140, 180))

    with open_video(path, (1000, 1000), 3) as video:
        levels = [int(frame.pixels.mean()) for frame in video.frames()]

    assert_close(levels, [20, 60, 100])
    assert (video.source_frame_count, video.expected_frames) == (5, 3)


def test_frames_with_b_frames_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    levels = [20, 200, 60, 140, 100, 180, 40, 220]
    path = make_video(tmp_path / "a.mp4", greys(*levels), options={"bf": "3", "b_strategy": "0", "crf": "1"})

    assert_close([frame.mean() for frame in read(path)], levels, 6)


# Geometry


@pytest.mark.parametrize(
    ("matrix", "size", "expected"),
    [
        ((1, 0, 0, 1), (96, 64), [RED, GREEN, BLUE, WHITE]),
        ((0, 1, -1, 0), (64, 96), [BLUE, RED, WHITE, GREEN]),  # a quarter turn clockwise, as phones write
        ((-1, 0, 0, -1), (96, 64), [WHITE, BLUE, GREEN, RED]),
        ((0, -1, 1, 0), (64, 96), [GREEN, WHITE, RED, BLUE]),
        ((-1, 0, 0, 1), (96, 64), [GREEN, RED, WHITE, BLUE]),  # mirrored
        ((1, 0, 0, -1), (96, 64), [BLUE, WHITE, RED, GREEN]),
        ((0, 1, 1, 0), (64, 96), [RED, BLUE, GREEN, WHITE]),
        ((0, 0, 0, 0), (96, 64), [RED, GREEN, BLUE, WHITE]),  # senseless
    ],
)
def test_frames_are_upright_by_display_matrix(
    tmp_path: Path, matrix: tuple[int, int, int, int], size: tuple[int, int], expected: list[tuple[int, int, int]]
) -> None:
    path = make_video(tmp_path / "a.mp4", [quarters()])
    set_display_matrix(path, *matrix)

    with open_video(path, (1000, 1000), 1) as video:
        (frame,) = video.frames()

    assert video.size == size
    assert_close(colours(frame.pixels), expected)


@pytest.mark.parametrize(
    ("aspect", "size"),
    [(Fraction(4, 3), (128, 64)), (Fraction(3, 4), (72, 64)), (Fraction(1, 10), (96, 64))],
    ids=["wide", "narrow", "senseless"],
)
def test_frames_have_square_pixels(tmp_path: Path, aspect: Fraction, size: tuple[int, int]) -> None:
    path = make_video(tmp_path / "a.mp4", [quarters()], tags={"sample_aspect_ratio": aspect})

    (pixels,) = read(path)

    assert pixels.shape == (*size[::-1], 3)
    assert_close(colours(pixels), [RED, GREEN, BLUE, WHITE])


@pytest.mark.parametrize(("max_size", "size"), [((48, 1000), (48, 32)), ((1000, 16), (24, 16)), ((200, 200), (96, 64))])
def test_frames_shrink_to_fit_and_never_grow(tmp_path: Path, max_size: tuple[int, int], size: tuple[int, int]) -> None:
    (pixels,) = read(make_video(tmp_path / "a.mp4", [quarters()]), max_size)

    assert pixels.shape == (*size[::-1], 3)
    assert_close(colours(pixels), [RED, GREEN, BLUE, WHITE])


def test_turned_frames_fit_into_max_size_after_turning(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", [quarters()])
    set_display_matrix(path, 0, 1, -1, 0)

    (pixels,) = read(path, (1000, 48))

    assert pixels.shape == (48, 32, 3)


def test_frames_of_odd_size_keep_it(tmp_path: Path) -> None:
    (pixels,) = read(make_video(tmp_path / "a.webm", [quarters(95, 63)], codec="libvpx-vp9"))

    assert pixels.shape == (63, 95, 3)


def test_frames_whose_size_changes_midway_are_scaled_to_the_first_size(tmp_path: Path) -> None:
    path = change_size_midway(tmp_path / "a.mov", quarters(), quarters(48, 32))

    frames = read(path)

    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 2
    assert_close(colours(frames[1]), [RED, GREEN, BLUE, WHITE], 8)


def test_cover_picture_is_not_taken_for_the_video(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", [quarters()] * 3)
    path.write_bytes(with_cover(path.read_bytes(), encoded_jpeg(np.zeros((640, 640, 3), np.uint8))))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 2

    assert [frame.shape for frame in read(path)] == [(64, 96, 3)] * 3


def test_damaged_frames_are_left_out(tmp_path: Path) -> None:
    good = [encoded_jpeg(pixels) for pixels in greys(20, 60, 100)]
    path = mux_packets(tmp_path / "a.mov", [good[0], b"damaged", good[1], good[2]], (32, 32))

    assert_close([frame.mean() for frame in read(path)], [20, 20, 60, 100])  # the first one fills the gap


def test_decoder_that_fails_a_hundred_times_gets_no_further_packet(tmp_path: Path) -> None:
    good = encoded_jpeg(greys(20)[0])
    path = mux_packets(tmp_path / "a.mov", [good, *[b"damaged"] * 200, good], (32, 32))

    assert len(read(path)) == 1


def test_names_that_are_not_utf_8_do_no_harm(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", [quarters()])
    path.write_bytes(path.read_bytes().replace(b"VideoHandler", b"Vid\xe9oHandler"))

    assert len(read(path)) == 1


# Colours


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"colorspace": BT601, "color_range": LIMITED},
        {"colorspace": BT601, "color_range": FULL},
        {"colorspace": BT709, "color_range": LIMITED},
        {"colorspace": BT709, "color_range": FULL},
        {"colorspace": BT2020, "color_range": LIMITED},
    ],
    ids=str,
)
@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv420p10le"])
def test_colours_are_read_as_tagged(tmp_path: Path, tags: dict[str, int], pixel_format: str) -> None:
    path = make_video(tmp_path / "a.mp4", [quarters()], pixel_format=pixel_format, tags=tags, options={"crf": "1"})

    assert_close(colours(read(path)[0]), [RED, GREEN, BLUE, WHITE])


@pytest.mark.parametrize(("codec", "pixel_format"), [("ffv1", "gray"), ("ffv1", "gray16le"), ("ffv1", "gray10le")])
def test_grey_videos_become_grey_rgb(tmp_path: Path, codec: str, pixel_format: str) -> None:
    levels = np.repeat(np.array([[10, 100, 160, 240]], np.uint8), 16, 0).repeat(8, 1)
    path = make_video(tmp_path / "a.mkv", [np.dstack([levels] * 3)], codec=codec, pixel_format=pixel_format)

    (pixels,) = read(path)

    assert_close(pixels[8, 4::8], [[10] * 3, [100] * 3, [160] * 3, [240] * 3])


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("a.mov", "qtrle", "argb"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.webm", "libvpx", "yuva420p"),
    ],
)
def test_transparent_videos_are_laid_on_white(tmp_path: Path, name: str, codec: str, pixel_format: str) -> None:
    alpha = np.full((64, 96), 255, np.uint8)
    alpha[:32, :48], alpha[32:, :48] = 0, 128
    path = make_video(
        tmp_path / name,
        [np.dstack([quarters(), alpha])],
        codec=codec,
        pixel_format=pixel_format,
        frame_format="rgba",
        options={"auto-alt-ref": "0"} if codec == "libvpx" else None,  # which libvpx can't do with transparency
    )

    half_blue = [round(255 + (value - 255) * 128 / 255) for value in BLUE]
    assert_close(colours(read(path)[0]), [(255, 255, 255), GREEN, half_blue, WHITE], 6)


@pytest.mark.parametrize(
    ("transfer", "signal", "expected"),
    [
        # Of PQ, signals for 0, 50, 100, 203 and 1000 candela per square metre; of HLG, for black, 50, 75 and 100 %.
        (PQ, [0.0, 0.440, 0.508, 0.581, 0.752], [0, 135, 183, 223, 248]),
        (HLG, [0.0, 0.25, 0.5, 0.75, 1.0], [0, 60, 135, 223, 251]),
    ],
    ids=["PQ", "HLG"],
)
def test_hdr_videos_become_sdr(tmp_path: Path, transfer: int, signal: list[float], expected: list[int]) -> None:
    row = np.repeat(signal, 16)
    path = make_hdr_video(tmp_path / "a.mp4", np.dstack([np.repeat(row[None], 64, 0)] * 3), transfer)

    pixels = read(path)[0]

    assert_close(pixels[32, 8::16], [[level] * 3 for level in expected], 8)


def test_hdr_colours_come_to_the_primaries_of_sdr(tmp_path: Path) -> None:
    """A red of 100, 10 and 10 candela per square metre with BT.709's primaries, written with those of BT.2020."""
    to_bt2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    power = (to_bt2020 @ [100, 10, 10] / 10_000) ** (2610 / 16384)
    signal = ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    path = make_hdr_video(tmp_path / "a.mp4", np.full((32, 32, 3), signal), PQ)

    assert_close(read(path)[0][16, 16], [187, 63, 63], 8)


def test_palettes_with_transparency_are_laid_on_white(tmp_path: Path) -> None:
    picture = Image.fromarray(quarters()).quantize(4)
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=picture.getpixel((0, 0)))
    path = mux_packets(tmp_path / "a.mov", [file.getvalue()], (96, 64), codec="png", pixel_format="pal8")

    assert_close(colours(read(path)[0]), [(255, 255, 255), GREEN, BLUE, WHITE])


def test_interlaced_videos_are_deinterlaced(tmp_path: Path) -> None:
    """A bar moves by 4 pixels between the fields of a frame. Combs are lines that differ from both neighbours."""
    frames = []
    for index in range(8):
        pixels = np.full((64, 96, 3), 60, np.uint8)
        for field in (0, 1):
            left = 4 + 4 * (2 * index + field)
            pixels[field::2, left : left + 16] = 220
        frames.append(pixels)
    path = make_video(tmp_path / "a.mkv", frames, options={"flags": "+ildct+ilme", "x264-params": "tff=1", "crf": "1"})

    shown = read(path)

    assert len(shown) == 8
    inner = shown[4][8:-8].astype(int)
    assert np.abs(inner[1:-1] - (inner[:-2] + inner[2:]) / 2).max() < 40
    bar = np.flatnonzero(shown[4][32, :, 0] > 140)
    assert 34 <= bar[0] <= 42  # the fourth frame, not a neighbour


# Times


@pytest.mark.parametrize(
    ("rate", "fps"),
    [(Fraction(24), 24.0), (Fraction(30000, 1001), 29.97), (Fraction(24000, 1001), 23.976), (Fraction(25, 2), 12.5)],
    ids=str,
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_fps_is_the_constant_rate(tmp_path: Path, name: str, rate: Fraction, fps: float) -> None:
    path = make_video(tmp_path / name, greys(*range(0, 250, 25)), fps=rate)

    with open_video(path, (1000, 1000), 250) as video:
        frames = list(video.frames())

    assert video.fps == fps
    assert [frame.seconds for frame in frames] == pytest.approx([float(index / rate) for index in range(10)])
    assert_close([frame.pixels.mean() for frame in frames], range(0, 250, 25), 6)


def test_variable_rate_repeats_frames_at_the_nominal_rate(tmp_path: Path) -> None:
    ticks = [0, 1, 2, 5, 6, 7, 8, 12]
    path = make_video(tmp_path / "a.mp4", greys(*range(0, 240, 30)), seconds=[tick / 30 for tick in ticks])

    with open_video(path, (1000, 1000), 250) as video:
        frames = list(video.frames())

    assert video.fps == 30.0
    assert video.source_frame_count == 8
    assert video.expected_frames > 8
    expected = [0, 30, 60, 60, 60, 90, 120, 150, 180, 180, 180, 180, 210]
    assert_close([frame.pixels.mean() for frame in frames], expected, 6)
    assert frames[3].pixels is frames[2].pixels  # a repeated frame is converted once


def test_jittering_times_neither_repeat_nor_drop_frames(tmp_path: Path) -> None:
    seconds = [index / 30 + (0.004 if index % 3 == 1 else 0) for index in range(10)]
    path = make_video(tmp_path / "a.mp4", greys(*range(0, 250, 25)), seconds=seconds)

    frames = read(path)

    assert_close([frame.mean() for frame in frames], range(0, 250, 25), 6)


@pytest.mark.parametrize(("rate", "fps"), [(30, 30.0), (24, 24.0), (Fraction(24000, 1001), 23.976), (15, 15.0)])
def test_fps_is_measured_if_the_file_does_not_say_it(tmp_path: Path, rate: Fraction, fps: float) -> None:
    """Browsers record such files: times in whole milliseconds, and neither a rate nor a duration."""
    levels = [index * 5 for index in range(50)]
    path = make_video(tmp_path / "a.webm", greys(*levels), fps=rate, codec="libvpx")
    drop_frame_rate(path)

    with open_video(path, (1000, 1000), 250) as video:
        frames = list(video.frames())

    assert video.fps == fps
    assert_close([frame.pixels.mean() for frame in frames], levels, 6)


def test_resample_with_missing_and_senseless_times_continues_at_the_rate() -> None:
    times = [None, Fraction(7), None, Fraction(7), Fraction(3), None]

    assert list(resample(zip(times, "abcdef", strict=True), Fraction(25))) == list(enumerate("abcdef"))


def test_pause_longer_than_ten_seconds_is_skipped(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", greys(20, 60, 100, 140), seconds=[0, 0.04, 3600, 3600.04])

    assert_close([frame.mean() for frame in read(path)], [20, 60, 100, 140])


def test_repeated_frames_end_at_max_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", greys(20, 60, 100, 140), seconds=[0, 0.04, 0.08, 9])

    assert len(read(path, max_frames=20)) == 20


@pytest.mark.parametrize(("fps", "expected", "count"), [(480, 120.0, 11), (Fraction(1, 2), 1.0, 7)])
def test_fps_stays_within_bounds(tmp_path: Path, fps: Fraction, expected: float, count: int) -> None:
    frames = greys(*range(0, 160, 4)) if fps > 1 else greys(20, 60, 100, 140)
    path = make_video(tmp_path / "a.mp4", frames, fps=fps)

    with open_video(path, (1000, 1000), 250) as video:
        assert len(list(video.frames())) == count

    assert video.fps == expected


def test_single_frame_video_has_one_frame(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", [quarters()])

    with open_video(path, (1000, 1000), 250) as video:
        frames = list(video.frames())

    assert (len(frames), video.source_frame_count, video.expected_frames) == (1, 1, 1)


def test_first_frame_has_time_zero_whenever_the_file_begins(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", greys(20, 60, 100), seconds=[5, 5.04, 5.08])

    with open_video(path, (1000, 1000), 250) as video:
        assert [frame.seconds for frame in video.frames()] == [0.0, 0.04, 0.08]


# PyAV


@pytest.fixture
def without_av(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "av":
            raise ImportError("No module named 'av'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.usefixtures("without_av")
def test_open_video_without_pyav_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")

    with (
        pytest.raises(InvalidRequest, match=r"install opentalking-core\[video\]"),
        open_video(tmp_path / "a.mp4", (10, 10), 1),
    ):
        pass


def test_import_of_videos_does_not_load_pyav() -> None:
    script = "import opentalking_core.videos.decoding, sys; sys.exit('av' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
