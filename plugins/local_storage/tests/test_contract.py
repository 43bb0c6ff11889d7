from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentalking_local_storage.store import LocalStore

from opentalking_core.testing.stores import BundleStoreContract

if TYPE_CHECKING:
    from pathlib import Path


class TestLocalStore(BundleStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore((tmp_path / "avatars of 猫").as_uri())

    @pytest.fixture
    def broken_store(self, tmp_path: Path) -> LocalStore:
        (tmp_path / "file").write_bytes(b"")
        return LocalStore((tmp_path / "file" / "avatars").as_uri())
