"""AvatarBundle: one avatar's manifest and list of files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from .manifest import AvatarManifest

#: Largest file that validation reads. The mouths of 250 frames take 500 KB.
MAX_SMALL_FILE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class AvatarBundle:
    """A bundle's manifest and the sizes of its files.

    Args:
        avatar_id: the bundle's folder name.
        manifest: the bundle's manifest.json.
        files: path inside the bundle, separated by `/` -> size in bytes.
        path: the bundle's folder, if the bundle is a folder on this machine.
        reader: returns the content of a file that `files` names, or raises OSError or NotFound; None if the files can't
            be read.
    """

    avatar_id: str
    manifest: AvatarManifest
    files: Mapping[str, int]
    path: Path | None = None
    reader: Callable[[str], bytes] | None = None

    def read_small(self, path: str) -> bytes | None:
        """Return the content of a file of at most MAX_SMALL_FILE_BYTES; None if the file is missing or larger.

        Also None if the file can't be read here: then a model type can't judge the content.
        """
        if self.reader is None or self.files.get(path, MAX_SMALL_FILE_BYTES + 1) > MAX_SMALL_FILE_BYTES:
            return None
        try:
            return self.reader(path)
        except (OSError, NotFound):
            return None

    def images_in(self, folder: str) -> list[str]:
        """Return the PNG and JPG files directly inside `folder` (e.g. "frames"), in the order of playing."""
        prefix = folder.strip("/") + "/"
        return sorted(
            path
            for path in self.files
            if path.startswith(prefix)
            and "/" not in path.removeprefix(prefix)
            and path.lower().endswith((".png", ".jpg", ".jpeg"))
        )
