#!/usr/bin/env python3
"""Follow the README on bare Debian machines: `make serve`, its upload, `make test`, as a user and as root.

Run as root on Debian, from a clone of the repository; what is committed there is tried. Each machine is an empty root
made by debootstrap (from the mirror of $DEBIAN_MIRROR or of this machine's apt) and entered in a mount namespace of its
own, so that nothing stays mounted. This machine's certificates and pip's address are taken along, because the
package registries may be behind a proxy. Port 8000 must be free. Prints a table; the terminal's lines of each run are
kept in WORK/<release>-<user>/*.log.

    tools/first_run.py [--work DIR] [--releases bookworm trixie sid] [--users user root] [--skip-tests]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parent.parent
SERVICE = "http://127.0.0.1:8000"
PACKAGES = "ca-certificates,curl,git,make,python3,python3-venv"
PIP = ("PIP_CERT", "PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT")
CERTIFICATES = Path("/usr/local/share/ca-certificates")

START_SECONDS = 900.0
TEST_SECONDS = 3600.0

#: Mount what every process needs, then enter the root. $1: the root; the rest: the command.
ENTER = """
for folder in proc sys dev; do mount --rbind "/$folder" "$1/$folder" || exit 1; done
mount -t tmpfs tmpfs "$1/dev/shm" || exit 1
root=$1; shift; exec chroot "$root" "$@"
"""


@dataclass
class Row:
    """The results of one machine: a row of the table."""

    release: str
    user: str
    python: str = "-"
    serve: str = "no"
    mouth: str = "-"
    tests: str = "-"
    minutes: str = "-"


@dataclass(frozen=True)
class Machine:
    """A Debian root, and the user who follows the README in it."""

    root: Path
    user: str
    logs: Path

    @property
    def home(self) -> str:
        """The user's home, as a path inside the root."""
        return "/root" if self.user == "root" else f"/home/{self.user}"

    def command(self, line: str, *, user: str | None = None) -> list[str]:
        """Return the command that runs a shell line in the root, by a login shell, in the clone if there is one."""
        clone = f"{self.home}/opentalking-core"
        exports = " ".join(f"export {name}={shlex.quote(os.environ[name])};" for name in PIP if name in os.environ)
        inner = f"{exports} cd {clone} 2>/dev/null; {line}"
        enter = ["unshare", "--mount", "--fork", "--kill-child", "sh", "-c", ENTER, "enter", str(self.root)]
        return [*enter, "su", "-", user or self.user, "-c", inner]

    def run(self, line: str, log: str, *, user: str | None = None, seconds: float = 600.0) -> bool:
        """Run a shell line, keep what it prints in a log, and return whether it succeeded."""
        with (self.logs / f"{log}.log").open("wb") as output:
            command = self.command(line, user=user)
            try:
                done = subprocess.run(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, timeout=seconds)
            except subprocess.TimeoutExpired:
                return False
        return done.returncode == 0

    def must_run(self, line: str, log: str, *, user: str | None = None) -> None:
        """Call `run`, and end the program if the command fails."""
        if not self.run(line, log, user=user):
            sys.exit(f"`{line}` failed: {self.log(log)}")

    def log(self, name: str) -> str:
        """Return what a run has printed."""
        return (self.logs / f"{name}.log").read_text(errors="replace")


def main() -> None:
    """Try each machine, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/opentalking-first-run"))
    parser.add_argument("--releases", nargs="+", default=["bookworm", "trixie", "sid"])
    parser.add_argument("--users", nargs="+", default=["user", "root"])
    parser.add_argument("--skip-tests", action="store_true", help="stop after the upload")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        sys.exit("this needs root, and debootstrap: apt install debootstrap")
    rows = []
    for release in arguments.releases:
        base = make_base(arguments.work, release)
        for user in arguments.users:
            row = Row(release, user)
            rows.append(row)
            with new_machine(arguments.work, base, release, user) as machine:
                follow_readme(machine, row, with_tests=not arguments.skip_tests)
            print(json.dumps(vars(row)), flush=True)
    print_table(rows)


def make_base(work: Path, release: str) -> Path:
    """Return a Debian root of this release, made once."""
    base = work / f"base-{release}"
    if not (base / "etc/debian_version").exists() or (base / "debootstrap").exists():
        work.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(base, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, str(base), mirror()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return base


def mirror() -> str:
    """Return the address of the Debian mirror that this machine's apt uses."""
    if named := os.environ.get("DEBIAN_MIRROR"):
        return named
    for file in Path("/etc/apt").rglob("*"):
        if file.suffix in (".list", ".sources") and (
            found := re.search(r"https?://\S+/debian(?=\s)", file.read_text())
        ):
            return found[0]
    sys.exit("this machine's apt names no Debian mirror; set DEBIAN_MIRROR")


@contextlib.contextmanager
def new_machine(work: Path, base: Path, release: str, user: str) -> Iterator[Machine]:
    """Copy the root, add the user and a clone of what is committed here; remove the root at the end."""
    logs = work / f"{release}-{user}"
    logs.mkdir(parents=True, exist_ok=True)
    root = work / "root"
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "-a", "--reflink=auto", base, root], check=True)
    try:
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        shutil.copy("/etc/hosts", root / "etc/hosts")
        if CERTIFICATES.is_dir():
            shutil.copytree(CERTIFICATES, root / CERTIFICATES.relative_to("/"), dirs_exist_ok=True)
        # A mirror may lag behind, and apt refuses a release file that has expired.
        (root / "etc/apt/apt.conf.d/99valid").write_text('Acquire::Check-Valid-Until "false";\n')
        machine = Machine(root, user, logs)
        clone = root / machine.home[1:] / "opentalking-core"
        if user != "root":
            machine.must_run(f"useradd --create-home --shell /bin/bash {user}", "useradd", user="root")
        machine.must_run("update-ca-certificates", "certificates", user="root")
        subprocess.run(["git", "clone", "--quiet", f"file://{REPOSITORY}", str(clone)], check=True)
        machine.must_run(f"chown -R {user}: {machine.home}", "chown", user="root")
        yield machine
    finally:
        shutil.rmtree(root, ignore_errors=True)


def follow_readme(machine: Machine, row: Row, *, with_tests: bool) -> None:
    """Follow the README, and record the outcome in the row."""
    machine.run("python3 -c 'import platform; print(platform.python_version())'", "python")
    row.python = machine.log("python").split()[-1]
    with serving(machine, "serve") as up:
        row.serve = "up" if up else "no"
        if up:
            row.mouth = upload(machine)
            shown = re.search(r"`?sudo (apt install [^`\n(]*[^`\n( ])", machine.log("serve"))
            if row.mouth != "mediapipe" and shown:
                machine.must_run(f"apt-get update && {shown[1]} -y", "apt", user="root")
                row.mouth = f"{upload(machine)}, after `{shown[1]}`"
    if with_tests:
        started = time.monotonic()
        passed = machine.run("make test", "test", seconds=TEST_SECONDS)
        row.minutes = f"{(time.monotonic() - started) / 60:.1f}"
        counts = re.findall(r"^=+ (.*) in [\d.]+s.*=$", machine.log("test"), re.MULTILINE)
        row.tests = ("passed: " if passed else "FAILED: ") + "; ".join(counts)


@contextlib.contextmanager
def serving(machine: Machine, log: str) -> Iterator[bool]:
    """Run `make serve`, and yield whether the service answers."""
    with (machine.logs / f"{log}.log").open("wb") as output:
        command = machine.command("exec make serve")
        server = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            yield wait_until_up(server)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()
            time.sleep(2)  # the port is free again


def wait_until_up(server: subprocess.Popen[bytes]) -> bool:
    """Wait for the service's answer, and return whether it came."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), urlopen("/avatars"):
            return True
        time.sleep(1)
    return False


def upload(machine: Machine) -> str:
    """Follow the README's upload, and return who located the mouth."""
    portrait = "curl -sf http://localhost:8000/avatars/demo-avatar/preview -o portrait.png"
    form = "-F name=Alice -F base_avatar_id=demo-wav2lip -F image=@portrait.png"
    create = f"curl -sf -X POST http://localhost:8000/avatars/custom {form}"
    if not machine.run(f"{portrait} && {create}", "upload"):
        return "upload failed"
    with urlopen(f"/avatars/{json.loads(machine.log('upload'))['id']}") as answer:
        return str(json.load(answer)["metadata"]["mouth_polygon_source"])


def urlopen(path: str) -> contextlib.closing[object]:
    """Ask the service."""
    return urllib.request.urlopen(SERVICE + path, timeout=10)  # type: ignore[no-any-return]


def print_table(rows: list[Row]) -> None:
    """Print the rows as a Markdown table."""
    names = list(vars(rows[0]))
    print("| " + " | ".join(names) + " |")
    print("| " + " | ".join("---" for _ in names) + " |")
    for row in rows:
        print("| " + " | ".join(vars(row).values()) + " |")


if __name__ == "__main__":
    main()
