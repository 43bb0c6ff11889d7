from __future__ import annotations

import pytest
from opentalking_s3_storage.store import S3Store

from opentalking_core.testing.stores import BundleStoreContract


class TestS3Store(BundleStoreContract):
    @pytest.fixture
    def store(self, s3_url: str) -> S3Store:
        return S3Store(s3_url)

    @pytest.fixture
    def broken_store(self, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> S3Store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        return S3Store(s3_url)
