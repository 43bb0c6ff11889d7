"""What the host's tests share. `pytest tests --store-url URL` runs them over any bundle store."""

from __future__ import annotations

import asyncio
import io
import logging
import os
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from PIL import Image

from opentalking_core.host.host import PluginHost

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from opentalking_core.testing.fixtures import PutBundle

pytest_plugins = ["opentalking_core.testing.fixtures"]


class PostPortrait(Protocol):
    """Sends the form of POST /avatars/custom; a field that is None is left out."""

    def __call__(
        self,
        image: bytes | None = ...,
        *,
        name: str | None = ...,
        base: str | None = ...,
        filename: str | None = ...,
        **other: str,
    ) -> httpx.Response: ...


class DeleteBundle(Protocol):
    """Deletes a bundle of the test's store without going through the service."""

    def __call__(self, avatar_id: str) -> None: ...


@pytest.fixture(autouse=True)
def no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove settings of the developer's shell, so that they don't change the results of tests."""
    for name in os.environ:
        if name.startswith("OPENTALKING_") and name != "OPENTALKING_FACE_LANDMARKER_MODEL":
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def unchanged_logging() -> Iterator[None]:
    """Undo what a command of the test's own process does to the logging."""
    loggers = [logging.getLogger(name) for name in (None, "opentalking_core", "uvicorn")]
    before = [(log.handlers[:], log.level) for log in loggers]
    yield
    for log, (handlers, level) in zip(loggers, before, strict=True):
        log.setLevel(level)
        for handler in log.handlers[:]:
            if handler not in handlers and not type(handler).__module__.startswith("_pytest"):
                log.removeHandler(handler)


@pytest.fixture(scope="session")
def real_detectors() -> None:
    """Skip the test, with the reason, unless mouth detectors are installed and work on this machine."""
    host = PluginHost().load()
    if not host.detectors():
        pytest.skip("no mouth detector is installed")
    for plugin, result in host.fetch_models():
        if isinstance(result, Exception):
            pytest.skip(f"the model file of {plugin} can't be had here: {result}")
    for info in host.detectors():
        for problem in host.plugin_warnings().get(info.name, []):
            pytest.skip(problem)


@pytest.fixture
def folder_store(request: pytest.FixtureRequest) -> None:
    """Skip the test if its store is not a folder."""
    if request.config.getoption("--store-url"):
        pytest.skip("is about a local folder, and --store-url names another store")


@pytest.fixture
def delete_bundle(store_url: str, unseen: list[str], changes_show_later: bool) -> DeleteBundle:
    """Return a function that deletes a bundle of the store, as another process would."""
    host = PluginHost().load()

    async def delete_there(avatar_id: str) -> None:
        opened, _ = host.open_bundle_store(store_url)
        async with opened as store:
            await store.delete(avatar_id)
        if changes_show_later:
            unseen.append(avatar_id)

    return lambda avatar_id: asyncio.run(delete_there(avatar_id))


@pytest.fixture(scope="session")
def portrait() -> bytes:
    """Return a small JPEG."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((48, 64)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def base(put_bundle: PutBundle) -> str:
    """Create a wav2lip avatar that can be a base, and return its id."""
    put_bundle("demo-wav2lip", {"model_type": "wav2lip", "fps": 30, "metadata": {"wav2lip_postprocess": "easy"}})
    return "demo-wav2lip"


@pytest.fixture
def post_portrait(service: httpx.Client, base: str, portrait: bytes) -> PostPortrait:
    """Return a function that posts a portrait, by default with `base`."""

    def post(
        image: bytes | None = portrait,
        *,
        name: str | None = "Alice",
        base: str | None = base,
        filename: str | None = "portrait.jpg",
        **other: str,
    ) -> httpx.Response:
        fields: dict[str, Any] = {"name": name, "base_avatar_id": base, **other}
        parts: list[tuple[str, Any]] = [(key, (None, value)) for key, value in fields.items() if value is not None]
        if image is not None:
            parts.append(("image", (filename, image)))
        return service.post("/avatars/custom", files=parts)

    return post
