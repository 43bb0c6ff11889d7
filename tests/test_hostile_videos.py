"""Hostile videos end in a sentence or a result, in bounded time and memory, and no other file is opened."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from opentalking_core.errors import InvalidRequest
from opentalking_core.videos import container
from opentalking_core.videos.decoding import open_video

from .helpers.hostile_videos import hostile_videos
from .helpers.videos import make_video

if TYPE_CHECKING:
    from pathlib import Path

#: Reads videos with a worker's limit of memory. Writes a line for each: its name, what became of it, CPU seconds, and
#: the peak of resident memory in MB so far.
READ_ALL = """
import json, pathlib, re, resource, sys, time
from opentalking_core.errors import InvalidRequest
from opentalking_core.videos.decoding import open_video
from opentalking_core.workers.worker_process import MAX_WORKER_MEMORY_BYTES

resource.setrlimit(resource.RLIMIT_DATA, (MAX_WORKER_MEMORY_BYTES, MAX_WORKER_MEMORY_BYTES))
for path in sys.argv[1:]:
    start = time.process_time()
    try:
        with open_video(pathlib.Path(path), (1920, 1920), 250) as video:
            result = sum(frame.pixels.shape == (*video.size[::-1], 3) for frame in video.frames())
    except InvalidRequest as error:
        result = str(error)
    (peak,) = re.findall("VmHWM: *(.*) kB", pathlib.Path("/proc/self/status").read_text().replace("\\t", " "))
    print(json.dumps([path, result, time.process_time() - start, int(peak) / 1024]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int | str, float, float]]:
    """What became of each hostile video: a count of frames or a sentence, CPU seconds, and peak memory in MB."""
    folder = tmp_path_factory.mktemp("videos")
    names = {}
    for number, (name, data) in enumerate(hostile_videos(tmp_path_factory.mktemp("helping"))):
        path = folder / f"{number}"
        path.write_bytes(data)
        names[str(path)] = name
    command = [sys.executable, "-c", READ_ALL, *names]
    reading = subprocess.run(command, check=False, timeout=120, capture_output=True)
    lines = [json.loads(line) for line in reading.stdout.splitlines()]
    assert reading.returncode == 0, f"after {len(lines)} videos: {reading.stderr.decode()}"
    return {names[path]: (result, seconds, peak) for path, result, seconds, peak in lines}


def test_hostile_videos_give_frames_or_one_sentence(outcomes: dict[str, tuple[int | str, float, float]]) -> None:
    results = {name: result for name, (result, _, _) in outcomes.items()}

    assert len(results) > 100
    assert all(result if isinstance(result, str) else result > 0 for result in results.values()), results
    assert not [result for result in results.values() if isinstance(result, str) and "\n" in result]


def test_hostile_videos_take_bounded_time_and_memory(outcomes: dict[str, tuple[int | str, float, float]]) -> None:
    """Generous: of time, most of the margin is for a slow machine; the limits of memory are those of workers."""
    assert max(seconds for _, seconds, _ in outcomes.values()) < 10
    assert max(peak for _, _, peak in outcomes.values()) < 600


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("empty file", "the video is empty"),
        ("text", "send an MP4, MOV, WebM or MKV"),
        ("concat script", "send an MP4, MOV, WebM or MKV"),
        ("HLS playlist", "send an MP4, MOV, WebM or MKV"),
        ("DASH manifest", "send an MP4, MOV, WebM or MKV"),
        ("session description", "send an MP4, MOV, WebM or MKV"),
        ("audio only", "no video stream"),
        ("audio with a cover picture", "no video stream"),
        ("subtitles only", "no video stream"),
        ("8K", "7680 x 4320 pixels"),
        ("8K, said to be 16 x 16", "7680 x 4320 pixels"),
        ("16K", "no frame that can be decoded"),
        ("16K, said to be 16 x 16", "no frame that can be decoded"),
    ],
)
def test_hostile_video_is_refused_with_sentence(
    outcomes: dict[str, tuple[int | str, float, float]], name: str, sentence: str
) -> None:
    assert sentence in str(outcomes[name][0])


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("a million frames", 250),
        ("a million frames in a second", 1),
        ("8K from the second frame on", 1),
        ("duration of zero", 10),
    ],
)
def test_hostile_video_gives_the_frames_that_can_be_had(
    outcomes: dict[str, tuple[int | str, float, float]], name: str, frames: int
) -> None:
    assert outcomes[name][0] == frames


def test_other_files_are_refused_even_by_demuxers_that_would_open_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second lock: without the list of formats, a script is recognized, and still opens nothing."""
    monkeypatch.delitem(container._OPTIONS, "format_whitelist")
    monkeypatch.setitem(container._OPTIONS, "safe", "0")
    video = make_video(tmp_path / "a.mp4", [np.zeros((32, 32, 3), np.uint8)] * 3)
    script = tmp_path / "b.mp4"
    script.write_text(f"ffconcat version 1.0\nfile '{video}'\n")

    with pytest.raises(InvalidRequest), container.open_container(script):
        pass


def test_other_files_are_refused_where_demuxers_ask_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third lock: MP4's external references and HLS ask FFmpeg's caller for further files."""
    monkeypatch.setattr(container, "_OPTIONS", {})
    video = make_video(tmp_path / "a.mp4", [np.zeros((32, 32, 3), np.uint8)] * 3)
    playlist = tmp_path / "b.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{video}\n#EXT-X-ENDLIST\n")

    with pytest.raises(InvalidRequest, match="other files"), container.open_container(playlist):
        pass


def _fail_at_first_frame(path: Path) -> None:
    with open_video(path, (100, 100), 10) as video:
        for _ in video.frames():
            raise ZeroDivisionError


def test_errors_of_the_reader_s_user_stay_as_they_are(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", [np.zeros((32, 32, 3), np.uint8)] * 3)

    with pytest.raises(ZeroDivisionError):
        _fail_at_first_frame(path)
