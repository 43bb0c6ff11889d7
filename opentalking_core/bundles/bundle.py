"""AvatarBundle: one avatar's manifest and list of files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .manifest import AvatarManifest


@dataclass(frozen=True, slots=True)
class AvatarBundle:
    """A bundle's manifest and the sizes of its files.

    Args:
        avatar_id: the bundle's folder name.
        manifest: the bundle's manifest.json.
        files: path inside the bundle, separated by `/` -> size in bytes.
        path: the bundle's folder, if the bundle is a folder on this machine.
    """

    avatar_id: str
    manifest: AvatarManifest
    files: Mapping[str, int]
    path: Path | None = None

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
