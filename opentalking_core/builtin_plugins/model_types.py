"""The plugin that registers the six model types of the bundle format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentalking_core import STANDARD_MODEL_TYPES, hookimpl

if TYPE_CHECKING:
    from opentalking_core import ModelType


@hookimpl
def register_model_types() -> tuple[ModelType, ...]:
    """Return the six types."""
    return STANDARD_MODEL_TYPES
