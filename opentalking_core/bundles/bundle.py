"""AvatarBundle: one avatar's manifest and files, wherever the bundle lives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .manifest import AvatarManifest


@dataclass(frozen=True, slots=True)
class AvatarBundle:
    """A bundle's manifest and which files it holds, wherever it lives.

    Args:
        avatar_id: the bundle's folder name.
        manifest: its manifest.json.
        files: path inside the bundle (slashes) -> size in bytes.
        path: its folder, if it lives in one.
    """

    avatar_id: str
    manifest: AvatarManifest
    files: Mapping[str, int]
    path: Path | None = None

    def images_in(self, folder: str) -> list[str]:
        """The PNG and JPG files right inside `folder` ("frames"), in the order in which they are played."""
        prefix = folder.strip("/") + "/"
        return sorted(
            path
            for path in self.files
            if path.startswith(prefix)
            and "/" not in path.removeprefix(prefix)
            and path.lower().endswith((".png", ".jpg", ".jpeg"))
        )
