"""The real model, and the plugin with that model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import opentalking_mediapipe_mouth
import pytest
from opentalking_mediapipe_mouth import detector, model_file

from opentalking_core import PluginError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType


@pytest.fixture(scope="session")
def model() -> Path:
    """Return the path of the real model in the user's cache. The first run downloads the file."""
    for problem in detector.missing_software():
        pytest.skip(problem)
    try:
        return model_file.fetch()
    except PluginError as error:
        pytest.skip(str(error))


@pytest.fixture
def plugin(model: Path) -> Iterator[ModuleType]:
    yield opentalking_mediapipe_mouth
    opentalking_mediapipe_mouth.shutdown()
