"""Blocking functions that the store calls in threads. They raise OSError, or an error of the core if they know which.

Symbolic links: the root may be a link, and a file of a bundle may be a link to a file inside the root. All other links,
including links to folders, are treated as absent. Files are opened folder by folder without following links.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import stat
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from opentalking_core import (
    MANIFEST,
    AlreadyExists,
    BundleVersion,
    FileInfo,
    ManifestChanged,
    NotFound,
    StoreFull,
    StoreUnavailable,
    is_avatar_id,
    is_bundle_path,
)

from .scratch import is_at

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .scratch import Scratch

_ABSENT_ERRNOS = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO}
_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNWRITABLE_ERRNOS = {errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
_TAKEN_ERRNOS = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
_UNRENAMABLE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EXDEV}
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_OPEN_FOLDER = os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_DIRECTORY", 0)
_OPEN_FILE = os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0)  # opening a FIFO must not hang

#: Evict files larger than this from the page cache after flushing. Uploads then don't displace files that are read
#: often, and reusing the freed pages makes uploads about 10 % faster on VMs with memory ballooning. Manifests are
#: smaller and stay cached, because the next scan reads them.
MAX_CACHED_FILE_BYTES = 64 * 1024

#: Larger files are not read as manifests.
MAX_MANIFEST_BYTES = 8 * 1024 * 1024

#: From linux/fs.h: share another file's blocks. btrfs, XFS, bcachefs, and OverlayFS and NFS over them can.
_FICLONE = 0x40049409

#: A smaller file is written faster than its blocks are shared.
MIN_CLONED_FILE_BYTES = 64 * 1024

_CLOCK_TICK_NS = 50_000_000  # longer than any file system's clock needs for a tick

log = logging.getLogger(__name__)


@contextmanager
def our_errors(root: Path, what: str, absent: type[Exception] = NotFound) -> Iterator[None]:
    """Turn an OSError into an error of the core.

    Args:
        root: the store's folder.
        what: what the code below works on, for the message.
        absent: the error for a missing file or folder; StoreUnavailable in any case if the root itself is missing.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL_ERRNOS:
            raise StoreFull(f"no room for {what} in {root}: {reason}; nothing was written") from error
        if absent is NotFound and error.errno in _ABSENT_ERRNOS and root.is_dir():
            raise NotFound(f"{what} isn't there") from None
        raise StoreUnavailable(f"{what} in {root} can't be used: {reason} ({error.filename})") from error


def version(status: os.stat_result) -> str:
    """Return a token that differs whenever the file or folder has changed.

    File systems' clocks tick every few milliseconds, so two changes can have the same time, and freed inodes are
    reused. A token made right after a change therefore includes the current time and equals no other token. At worst,
    an unchanged file looks changed once.
    """
    token = f"{status.st_mtime_ns:x}-{status.st_ctime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
    now = time.time_ns()
    return f"{token}-{now:x}" if now - status.st_ctime_ns < _CLOCK_TICK_NS else token


def is_manifest(path: str, status: os.stat_result) -> bool:
    """Return whether a file of a bundle is the manifest, and not too large to be one."""
    return path == MANIFEST and status.st_size <= MAX_MANIFEST_BYTES


def content_etag(content: bytes) -> str:
    """Return the entity tag of a manifest.

    A writer expects the tag of the manifest that it has read. `version` won't do for that: in the moment after a change
    it equals no other token.
    """
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def stamp(status: os.stat_result) -> object:
    """Return a token of a folder like `version`, but faster."""
    now = time.time_ns()
    changed = status.st_ctime_ns
    return (status.st_mtime_ns, changed, status.st_ino, now if now - changed < _CLOCK_TICK_NS else 0)


# -- finding and reading


def scan(root: Path, warned: set[str], unfinished: list[Path]) -> Iterator[BundleVersion]:
    """Yield every bundle.

    Args:
        root: the store's folder.
        warned: names of the symbolic links that were logged already; new ones are added.
        unfinished: folders without a manifest are appended.
    """
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
    """Open a bundle's folder, and return its descriptor. Raises NotFound."""
    if not is_avatar_id(avatar_id):
        raise NotFound(f"there is no avatar {avatar_id!r}")
    folder = os.open(root / avatar_id, _OPEN_FOLDER)
    try:
        os.stat(MANIFEST, dir_fd=folder, follow_symlinks=False)
    except BaseException:
        os.close(folder)
        raise
    return folder


def open_file(root: Path, avatar_id: str, path: str) -> int:
    """Open a file of a bundle, and return its descriptor. It may be a FIFO or a device. Raises NotFound."""
    *folders, name = path.split("/")
    folder = open_bundle(root, avatar_id)
    try:
        if not is_bundle_path(path):
            raise NotFound(f"avatar {avatar_id!r} has no file {path!r}")
        for inner in folders:
            outer, folder = folder, os.open(inner, _OPEN_FOLDER, dir_fd=folder)
            os.close(outer)
        try:
            return os.open(name, _OPEN_FILE, dir_fd=folder)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return os.open(_target(root, f"{root}/{avatar_id}/{path}"), _OPEN_FILE)
    finally:
        os.close(folder)


def list_files(root: Path, avatar_id: str) -> list[FileInfo]:
    """Return every file of a bundle. Raises NotFound, also if the bundle is deleted meanwhile."""

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
                        if path == MANIFEST:
                            found.append(_manifest_info(root, avatar_id))
                            continue
                        status = _file_status(root, f"{root}/{avatar_id}/{path}", name, folder_fd)
                        found.append(FileInfo(path, status.st_size, version(status), status.st_mtime))
        if not is_at(bundle, root / avatar_id):  # the list may lack files that were removed first
            raise NotFound(f"avatar {avatar_id!r} was deleted")
    finally:
        os.close(bundle)
    return found


def _manifest_info(root: Path, avatar_id: str) -> FileInfo:
    fd = open_file(root, avatar_id, MANIFEST)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise NotFound(f"the manifest of avatar {avatar_id!r} is not a file")
        etag = content_etag(pread(fd, 0, status.st_size)) if is_manifest(MANIFEST, status) else version(status)
        return FileInfo(MANIFEST, status.st_size, etag, status.st_mtime)
    finally:
        os.close(fd)


def pread(fd: int, start: int, stop: int) -> bytes:
    """Return a range of an open file. Raises StoreUnavailable if the file is shorter."""
    data = os.pread(fd, stop - start, start)
    while len(data) < stop - start:
        more = os.pread(fd, stop - start - len(data), start + len(data))
        if not more:
            raise StoreUnavailable("the file was cut short while it was being read")
        data += more
    return data


def _file_status(root: Path, path: str, name: str | None = None, folder: int | None = None) -> os.stat_result:
    """Return the status of a file, or of the file inside the root that a link leads to. Raises NotFound.

    Args:
        root: the store's folder.
        path: the file.
        name: its name in `folder`.
        folder: a descriptor of its folder, which saves looking up `path`.
    """
    status = os.stat(name or path, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        status = os.lstat(_target(root, path))
    if not stat.S_ISREG(status.st_mode):
        raise NotFound(f"{path} is not a file")
    return status


def _target(root: Path, link: str) -> str:
    """Return the path that a link leads to. Raises NotFound unless that path is inside the root."""
    target = os.path.realpath(link)
    if not target.startswith(f"{os.path.realpath(root)}/"):
        raise NotFound(f"{link} leads out of {root}")
    return target


# -- writing


def make_root(root: Path) -> None:
    """Create the root and its parents durably if they are missing, and check that the root can be read."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    for folder in made:
        _flush(folder.parent)
    os.scandir(root).close()


class Draft:
    """A new bundle that is being written. Call its methods one after the other.

    Args:
        home: the folder that the draft becomes when it is published.
        scratch: where to write the draft.
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
        written: dict[int, str] = {}  # path of the first file with this very content, by the content's id
        for path, content in files.items():
            first = written.setdefault(id(content), path)
            if first == path or len(content) < MIN_CLONED_FILE_BYTES or not self._clone(first, path):
                self.append(path, content)

    def _clone(self, source: str, target: str) -> bool:
        """Let a new file share the blocks of another one, and return whether the file system can do that."""
        if fcntl is None or self._folder is None:
            return False
        file = self._folder / target
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with (self._folder / source).open("rb") as blocks, file.open("xb") as clone:
                fcntl.ioctl(clone, _FICLONE, blocks.fileno())
        except OSError:  # `append` then writes the content, or says what is wrong
            return False
        return True

    def append(self, path: str, content: bytes) -> None:
        """Add to a file. Raises ValueError for a path that no folder can hold."""
        assert self._folder is not None  # noqa: S101
        try:
            file = self._folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as out:
                out.write(content)
        except OSError as error:
            if error.errno in _UNWRITABLE_ERRNOS:
                raise ValueError(f"a folder can't hold a file {path!r}: {error.strerror}") from None
            raise

    def publish(self) -> None:
        """Flush the draft to the disk and rename it to its place. Raises AlreadyExists.

        Flushing at the end, file by file, lets the file system commit everything at once. Flushing in several threads
        was not faster.

        The rename never overwrites a bundle: the kernel lets a folder replace an empty folder and nothing else, and a
        bundle has a manifest. This holds between processes and on every file system. (RENAME_NOREPLACE, which also
        spares empty folders, would need ctypes and isn't supported everywhere.)
        """
        assert self._folder is not None  # noqa: S101
        for inner, _, names in os.walk(self._folder, topdown=False):
            for name in names:
                _flush(Path(inner, name))
            _flush(Path(inner))
        try:
            self._folder.rename(self._home)
        except OSError as error:
            if error.errno in _TAKEN_ERRNOS:
                raise AlreadyExists(f"there is an avatar {self._home.name!r} already") from None
            raise
        self._published = True
        _flush(self._home.parent)

    def discard(self) -> None:
        """Remove the draft, even if it is published: the caller was cancelled, or the root could not be flushed."""
        if self._folder is not None:
            with suppress(OSError):
                if self._published:
                    self._home.rename(self._folder)
                    _flush(self._home.parent)
            shutil.rmtree(self._folder, ignore_errors=True)


def replace_manifest(root: Path, avatar_id: str, content: bytes, expected_etag: str, scratch: Scratch) -> None:
    """Write a new manifest, flush it, and rename it over the present one. Raises NotFound, ManifestChanged.

    Between the comparison and the rename, only `delete` or an editor can change the bundle. The rename ends in the
    folder that was opened, wherever `delete` has moved that folder.
    """
    draft = scratch.new()
    try:
        draft.write_bytes(content)
        _flush(draft)
        with scratch.manifests_locked():
            folder = open_bundle(root, avatar_id)
            try:
                if _manifest_info(root, avatar_id).etag != expected_etag:
                    raise ManifestChanged(f"the manifest of avatar {avatar_id!r} has changed")
                os.rename(draft, MANIFEST, dst_dir_fd=folder)
                _flush(root / avatar_id)
                if not is_at(folder, root / avatar_id):
                    raise NotFound(f"avatar {avatar_id!r} was deleted")
            finally:
                os.close(folder)
    finally:
        draft.unlink(missing_ok=True)
    with suppress(PermissionError):  # in a root that others own, only a scan shows the new manifest to other processes
        os.utime(root)  # changes the stamp


def delete(root: Path, avatar_id: str, scratch: Scratch) -> None:
    """Rename the bundle away, then remove it. Raises NotFound."""
    os.close(open_bundle(root, avatar_id))
    home = root / avatar_id
    try:
        gone = scratch.new()
        home.rename(gone)
    except OSError as error:
        if error.errno not in _UNRENAMABLE_ERRNOS:
            raise
        # A full disk has no room for the scratch folder, and an overlay file system can't rename folders of its lower
        # layer. Removing the manifest deletes the bundle as well.
        gone = home
        with ExitStack() as stack:
            with suppress(OSError):  # without room for the lock's file, nobody can write a new manifest either
                stack.enter_context(scratch.manifests_locked())
            (home / MANIFEST).unlink()
        _flush(home)
    _flush(root)
    shutil.rmtree(gone, ignore_errors=True)


def _flush(path: Path) -> None:
    """Write a file or folder to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        status = os.fstat(fd)
        if sys.platform == "linux" and stat.S_ISREG(status.st_mode) and status.st_size > MAX_CACHED_FILE_BYTES:
            with suppress(OSError):  # only advice to the kernel
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some file systems can't flush folders
            raise
    finally:
        os.close(fd)
