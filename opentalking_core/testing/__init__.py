"""Contract suites and fixtures for plugin authors."""

import pytest

pytest.register_assert_rewrite(
    "opentalking_core.testing.stores",
    "opentalking_core.testing.detectors",
    "opentalking_core.testing.model_types",
)
