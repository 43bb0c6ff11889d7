"""Settings of the service, from OPENTALKING_* environment variables."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Names = Annotated[tuple[str, ...], NoDecode]  # comma-separated in the environment, not JSON

#: Which actions need a plugin's permission: "writes" are creating, checking, changing and deleting.
Protection = Literal["nothing", "writes", "everything"]


def _cores() -> int:
    """Return how many cores this process may use. In a container, the machine may have more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(BaseSettings):
    """Each field is read from the environment variable OPENTALKING_<FIELD>, e.g. OPENTALKING_AVATARS_DIR."""

    model_config = SettingsConfigDict(env_prefix="OPENTALKING_", extra="ignore", frozen=True)

    avatars_dir: str = Field(default="./avatars", min_length=1, description="Folder or URL of the bundle store.")
    cors_origins: Names = Field(
        default=(), description="Web origins that may call the API, comma-separated; * for all."
    )
    custom_avatar_max_width: int = Field(
        default=1080, ge=16, le=16384, description="Portraits are fitted into this width."
    )
    custom_avatar_max_height: int = Field(
        default=1920, ge=16, le=16384, description="Portraits are fitted into this height."
    )
    video_max_frames: int = Field(
        default=250, ge=1, le=100_000, description="Frames of a video that become an avatar, from its start."
    )
    plugins: Names = Field(default=(), description="One-file plugins to load, comma-separated paths.")
    disable_plugins: Names = Field(
        default=(), description="Plugins not to import, comma-separated names; built-in plugins too."
    )
    detectors: Names = Field(default=(), description="Order of the mouth detectors, comma-separated plugin names.")
    portrait_workers: int = Field(
        default_factory=_cores,
        ge=0,
        le=256,
        description="Worker processes for portraits and mouths (default: the cores); 0 uses threads of the server.",
    )
    upload_queue: int = Field(
        default=32, ge=1, le=10_000, description="Uploads taken in at the same time; the service answers 503 to more."
    )
    protect: Literal["auto"] | Protection = Field(
        default="auto",
        description="What needs a key, or another plugin's permission: nothing, writes (creating, checking, changing,"
        " deleting) or everything. auto: writes if a plugin can authorize clients (if keys are set, for example) or if"
        " a plugin failed, because it may be the one; else nothing.",
    )
    gallery: bool = Field(default=True, description="Whether to serve the gallery, a page for people, at /.")
    access_log: bool = Field(default=False, description="Whether to log a line for each request.")
    refresh_seconds: float = Field(
        default=1.0, gt=0, le=3600, description="Seconds between scans for changes that other processes made."
    )
    preview_redirect: bool = Field(
        default=False,
        description="Whether to redirect clients to the store's own URL for a preview, if the store has such URLs.",
    )
    cache_mb: int = Field(
        default=64,
        ge=1,
        le=65536,
        description="Memory for manifests, previews, thumbnails and other small files, in MiB per process.",
    )
    portrait_time_limit: float = Field(
        default=20.0,
        gt=0,
        le=3600,
        description="Seconds that one portrait may take in a worker: to decode and encode it, and to locate its mouth.",
    )

    @field_validator("cors_origins", "plugins", "disable_plugins", "detectors", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value
