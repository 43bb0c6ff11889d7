from __future__ import annotations

import uuid

import pytest

from opentalking_core.builtin_plugins.memory_store import MemoryStore
from opentalking_core.testing.stores import BundleStoreContract


class TestMemoryStore(BundleStoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore(f"memory://{uuid.uuid4()}")
