"""What the store does in its threads: plain blocking functions that raise OSError, and errors of ours where they know.

Symbolic links: the root may be one, and a bundle's file may be one to a file inside the root. All others, links to
folders included, are as good as absent; a file is opened folder by folder, following none.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from opentalking_core import (
    MANIFEST,
    AlreadyExists,
    BundleVersion,
    FileInfo,
    NotFound,
    StoreFull,
    StoreUnavailable,
    is_avatar_id,
    is_bundle_path,
)

from .scratch import is_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .scratch import Scratch

_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNWRITABLE = {errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
_NO_RENAME = {errno.ENOSPC, errno.EDQUOT, errno.EXDEV}
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_DIRECTORY", 0)
_FILE = os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0)  # opening a FIFO must not hang

#: A file that is larger leaves the system's page cache once it is flushed: so pictures that come in push out none that
#: is asked for often, and the next one takes over their pages, which saves a tenth of an upload's time where a
#: virtual machine gives free memory back to its host. Manifests stay, for the next scan reads them all.
_KEPT_IN_CACHE = 64 * 1024

log = logging.getLogger(__name__)


@contextmanager
def our_errors(root: Path, what: str, absent: type[Exception] = NotFound) -> Iterator[None]:
    """Turn an OSError about `what` into one of ours: what isn't there is `absent`, unless the root itself is gone."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise StoreFull(f"no room for {what} in {root}: {reason}; nothing was written") from error
        if absent is NotFound and error.errno in _ABSENT and root.is_dir():
            raise NotFound(f"{what} isn't there") from None
        raise StoreUnavailable(f"{what} in {root} can't be used: {reason} ({error.filename})") from error


def version(status: os.stat_result) -> str:
    """A token that differs whenever the file or folder has changed.

    Clocks of file systems tick every few milliseconds, so two changes can have one time, and a freed inode is used
    again: a token made right after a change gets a moment of its own and equals no other, once too often at worst.
    """
    token = f"{status.st_mtime_ns:x}-{status.st_ctime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
    now = time.time_ns()
    return f"{token}-{now:x}" if now - status.st_ctime_ns < 50_000_000 else token


def stamp(status: os.stat_result) -> object:
    """As `version`, of a folder, and made in less time."""
    now = time.time_ns()
    changed = status.st_ctime_ns
    return (status.st_mtime_ns, changed, status.st_ino, now if now - changed < 50_000_000 else 0)


# -- finding and reading


def scan(root: Path, warned: set[str], unfinished: list[Path]) -> Iterator[BundleVersion]:
    """Yield every bundle; folders without a manifest go to `unfinished`, links that are warned of to `warned`."""
    with os.scandir(root) as entries:
        for entry in entries:
            if not is_avatar_id(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                try:
                    found = _file_status(root, f"{entry.path}/{MANIFEST}")
                except (OSError, NotFound):
                    unfinished.append(Path(entry.path))
                else:
                    yield BundleVersion(entry.name, version(found))
            elif entry.is_symlink() and entry.name not in warned:
                warned.add(entry.name)
                log.warning("%s is a symbolic link and left out; move the bundle itself here", entry.path)


def open_bundle(root: Path, avatar_id: str) -> int:
    """A descriptor of the bundle's folder. Raises NotFound."""
    if not is_avatar_id(avatar_id):
        raise NotFound(f"there is no avatar {avatar_id!r}")
    folder = os.open(root / avatar_id, _FOLDER)
    try:
        os.stat(MANIFEST, dir_fd=folder, follow_symlinks=False)
    except BaseException:
        os.close(folder)
        raise
    return folder


def open_file(root: Path, avatar_id: str, path: str) -> int:
    """A descriptor of one file of the bundle, or of what only looks like one (a FIFO). Raises NotFound."""
    *folders, name = path.split("/")
    folder = open_bundle(root, avatar_id)
    try:
        if not is_bundle_path(path):
            raise NotFound(f"avatar {avatar_id!r} has no file {path!r}")
        for inner in folders:
            outer, folder = folder, os.open(inner, _FOLDER, dir_fd=folder)
            os.close(outer)
        try:
            return os.open(name, _FILE, dir_fd=folder)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return os.open(_target(root, f"{root}/{avatar_id}/{path}"), _FILE)
    finally:
        os.close(folder)


def list_files(root: Path, avatar_id: str) -> list[FileInfo]:
    """Every file of the bundle. Raises NotFound, also if the bundle is deleted meanwhile."""

    def fail(error: OSError) -> None:
        raise error

    found = []
    bundle = open_bundle(root, avatar_id)
    try:
        for folder, _, names, folder_fd in os.fwalk(".", dir_fd=bundle, onerror=fail):
            for name in names:
                path = f"{folder}/{name}"[2:]
                with suppress(NotFound):
                    if is_bundle_path(path):
                        status = _file_status(root, f"{root}/{avatar_id}/{path}", name, folder_fd)
                        found.append(FileInfo(path, status.st_size, version(status), status.st_mtime))
        if not is_at(bundle, root / avatar_id):  # and what went first may be missing from our list
            raise NotFound(f"avatar {avatar_id!r} was deleted")
    finally:
        os.close(bundle)
    return found


def _file_status(root: Path, path: str, name: str | None = None, folder: int | None = None) -> os.stat_result:
    """What `path` is, which is `name` in `folder`. Raises NotFound unless it's a file or a link to one in the root."""
    status = os.stat(name or path, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        status = os.lstat(_target(root, path))
    if not stat.S_ISREG(status.st_mode):
        raise NotFound(f"{path} is not a file")
    return status


def _target(root: Path, link: str) -> str:
    """Where a link leads to. Raises NotFound unless that is inside the root."""
    target = os.path.realpath(link)
    if not target.startswith(f"{os.path.realpath(root)}/"):
        raise NotFound(f"{link} leads out of {root}")
    return target


# -- writing


def make_root(root: Path) -> None:
    """Create the root and its parents if need be, for good, and look whether it can be read."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    for folder in made:
        _flush(folder.parent)
    os.scandir(root).close()


class Draft:
    """A bundle in the making; its methods are called one after the other.

    Args:
        home: the folder that it shall become.
        scratch: where it is made.
    """

    def __init__(self, home: Path, scratch: Scratch) -> None:
        self._home = home
        self._scratch = scratch
        self._folder: Path | None = None
        self._published = False

    def begin(self, files: Mapping[str, bytes]) -> None:
        """Write the first files. Raises AlreadyExists, and ValueError for a path that no folder can hold."""
        if os.path.lexists(self._home):
            raise AlreadyExists(f"there is an avatar {self._home.name!r} already")
        folder = self._scratch.new()
        folder.mkdir()
        self._folder = folder
        for path, content in files.items():
            self.append(path, content)

    def append(self, path: str, content: bytes) -> None:
        """Add to a file. Raises ValueError for a path that no folder can hold."""
        assert self._folder is not None  # noqa: S101
        try:
            file = self._folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as out:
                out.write(content)
        except OSError as error:
            if error.errno in _UNWRITABLE:
                raise ValueError(f"a folder can't hold a file {path!r}: {error.strerror}") from None
            raise

    def publish(self) -> None:
        """Force it to the disk and rename it to its place. Raises AlreadyExists.

        Flushing after all is written lets the file system commit it at once; doing it in threads gained nothing.

        The rename never overwrites a bundle: a folder can take the place of an empty folder and of nothing else, and a
        bundle has a manifest. The kernel decides, so this holds between processes and on every file system.
        (RENAME_NOREPLACE, which spares empty folders too, would need ctypes and isn't supported everywhere.)
        """
        assert self._folder is not None  # noqa: S101
        for inner, _, names in os.walk(self._folder, topdown=False):
            for name in names:
                _flush(Path(inner, name))
            _flush(Path(inner))
        try:
            self._folder.rename(self._home)
        except OSError as error:
            if error.errno in _TAKEN:
                raise AlreadyExists(f"there is an avatar {self._home.name!r} already") from None
            raise
        self._published = True
        _flush(self._home.parent)

    def discard(self) -> None:
        """Undo it all, also what is published: the caller was cancelled, or the root could not be flushed."""
        if self._folder is not None:
            with suppress(OSError):
                if self._published:
                    self._home.rename(self._folder)
                    _flush(self._home.parent)
            shutil.rmtree(self._folder, ignore_errors=True)


def delete(root: Path, avatar_id: str, scratch: Scratch) -> None:
    """Rename the bundle away, then remove it. Raises NotFound."""
    os.close(open_bundle(root, avatar_id))
    home = root / avatar_id
    try:
        gone = scratch.new()
        home.rename(gone)
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise
        # A full disk has no room for the scratch folder, and an overlay can't rename what came with the image. Without
        # its manifest it is no bundle either.
        gone = home
        (home / MANIFEST).unlink()
        _flush(home)
    _flush(root)
    shutil.rmtree(gone, ignore_errors=True)


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        status = os.fstat(fd)
        if sys.platform == "linux" and stat.S_ISREG(status.st_mode) and status.st_size > _KEPT_IN_CACHE:
            with suppress(OSError):  # it is but advice
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some file systems don't flush folders
            raise
    finally:
        os.close(fd)
