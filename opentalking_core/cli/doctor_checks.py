"""The checks of `opentalking-core doctor`."""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

    from ..bundles.store import BundleStore
    from ..host.host import PluginHost
    from ..settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Args:
        check: what was checked.
        status: "warning": the service runs without it; "failed": it doesn't.
        message: one sentence.
        remedy: what to do, if anything.
    """

    check: str
    status: Literal["ok", "warning", "failed"]
    message: str
    remedy: str = ""


def check_server(server: str, api_key: str | None) -> Generator[Finding]:
    """Ask a running server for its health."""
    from ..errors import OpenTalkingError
    from .avatars import OnServer, open_avatars

    try:
        with open_avatars(None, server, api_key) as avatars:
            health: dict[str, Any] = avatars.health() if isinstance(avatars, OnServer) else {}
    except OpenTalkingError as error:
        yield Finding("server", "failed", str(error), "start it with `opentalking-core serve`, or correct the address")
        return
    statuses: dict[object, Literal["ok", "warning", "failed"]] = {"ok": "ok", "degraded": "warning"}
    yield Finding("server", statuses.get(health["status"], "failed"), f"{server} is {health['status']}")
    if "store" not in health:
        yield Finding(
            "store", "warning", "the server tells only clients with a key more than that", "give its --api-key"
        )
        return
    store = health["store"]
    shown = f"{store['url']} ({store['plugin']})"
    if store["ok"]:
        yield Finding("store", "ok", f"{shown} lists {store['avatars']} avatars")
    else:
        yield Finding("store", "failed", f"{shown}: {store['problem']}")
    for detector in health["detectors"]:
        works = f"{detector['plugin']} works" if detector["ok"] else f"{detector['plugin']}: {detector['problem']}"
        yield Finding("detector", "ok" if detector["ok"] else "warning", works)
    for plugin, sentences in health.get("plugins", {}).items():
        for sentence in sentences:
            yield Finding("plugins", "warning", f"{plugin}: {sentence}")


def check_installation(location: str | None, port: int) -> Generator[Finding]:
    """Check this machine and the store at `location`, or the configured one."""
    import importlib.metadata

    from pydantic import ValidationError

    from ..settings import Settings
    from .output import load_host, wrong_settings

    version = importlib.metadata.version("opentalking-core")
    yield Finding("python", "ok", f"Python {sys.version.split()[0]} on {sys.platform}, opentalking-core {version}")
    try:
        settings = Settings()
    except ValidationError as error:
        for sentence in wrong_settings(error):
            yield Finding("settings", "failed", sentence, "correct or unset the variable")
        return
    if location:
        settings = settings.model_copy(update={"avatars_dir": location})
    host = load_host(settings)
    yield from _plugins(host)
    yield from _access(settings, host)
    with asyncio.Runner() as runner:
        steps = _store(host, settings.avatars_dir)
        while finding := runner.run(anext(steps, None)):
            yield finding
        yield runner.run(_workers(settings))
        yield runner.run(_mouth(host, settings))
    yield _port(port)


def _plugins(host: PluginHost) -> Iterator[Finding]:
    from ..errors import PluginError

    found = host.plugins()
    listed = ", ".join(f"{info.name}{'' if info.status == 'active' else f' ({info.status})'}" for info in found)
    yield Finding("plugins", "ok", f"{len(found)} found: {listed}")
    failed = {info.name for info in found if info.status == "failed"}
    for name, sentences in host.plugin_warnings().items():
        for sentence in sentences:
            if name in failed:
                remedy = f"repair or uninstall it, or set OPENTALKING_DISABLE_PLUGINS={name}"
                yield Finding("plugins", "failed", f"{name} can't be used: {sentence}", remedy)
            else:  # the sentence says what to do
                yield Finding("plugins", "warning", f"{name}: {sentence}")
    try:
        host.model_types()
    except PluginError as error:
        yield Finding("plugins", "failed", str(error))


def _access(settings: Settings, host: PluginHost) -> Iterator[Finding]:
    from ..api.access import explain_closed_writes
    from ..errors import PluginError

    try:
        closed = explain_closed_writes(settings, host)
    except PluginError as error:
        yield Finding("access", "failed", str(error), "repair the plugin, or set OPENTALKING_PROTECT")
        return
    if closed:
        yield Finding("access", "warning", closed)


async def _store(host: PluginHost, location: str) -> AsyncIterator[Finding]:
    from ..errors import OpenTalkingError
    from .avatars import existing_store

    try:
        unopened, plugin = host.open_bundle_store(location)
    except OpenTalkingError as error:
        yield Finding("store", "failed", str(error), "correct OPENTALKING_AVATARS_DIR, or install the plugin")
        return
    try:
        existing_store(host, location)
    except OpenTalkingError as error:
        yield Finding("store", "warning", f"there are no avatars yet: {error}")
        return
    try:
        async with unopened as store:
            count = sum([1 async for _ in store.scan()])
            yield Finding("store", "ok", f"{store.url} ({plugin.name}) holds {count} avatars")
            yield await _writable(store)
    except OpenTalkingError as error:
        yield Finding("store", "failed", f"{unopened.url} ({plugin.name}): {error}", "see docs/operating.md")
    except Exception as error:  # a store should raise OpenTalkingErrors only
        message = f"{unopened.url} ({plugin.name}): {type(error).__name__}: {error}"
        yield Finding("store", "failed", message, f"report this error to the author of {plugin}")


async def _writable(store: BundleStore) -> Finding:
    """Create an avatar and delete it again. Its manifest says that it is hidden, so no list shows it."""
    from ..bundles.store import MANIFEST
    from ..errors import OpenTalkingError

    avatar_id = f"opentalking-doctor-{secrets.token_hex(6)}"
    fields = {"id": avatar_id, "model_type": "mock", "fps": 25, "sample_rate": 16000, "width": 1, "height": 1}
    manifest = json.dumps({**fields, "metadata": {"hidden": True}}).encode()
    remedy = "if avatars should be made and deleted, give this user the right to write there"
    try:
        await store.create(avatar_id, {MANIFEST: manifest})
    except OpenTalkingError as error:
        return Finding("writable", "warning", f"avatars can be read but not created: {error}", remedy)
    try:
        await store.delete(avatar_id)
    except OpenTalkingError as error:
        message = f"avatars can be created but not deleted, so {avatar_id} is left there: {error}"
        return Finding("writable", "warning", message, remedy)
    return Finding("writable", "ok", "avatars can be created and deleted")


async def _workers(settings: Settings) -> Finding:
    from ..errors import WorkersUnavailable
    from ..workers.pool import WorkerPool
    from ..workers.runner import WorkerCrashed

    if settings.portrait_workers == 0:
        return Finding("workers", "ok", "portraits are processed in threads: OPENTALKING_PORTRAIT_WORKERS is 0")
    pool = WorkerPool(1, settings.portrait_time_limit)
    try:
        await pool.run(os.getpid)
    except (WorkersUnavailable, WorkerCrashed, TimeoutError) as error:
        remedy = "allow more processes and memory, or set OPENTALKING_PORTRAIT_WORKERS=0 to use threads"
        return Finding("workers", "failed", f"worker processes can't be started: {error}", remedy)
    finally:
        await pool.close()
    return Finding("workers", "ok", f"worker processes start; the service uses {settings.portrait_workers}")


async def _mouth(host: PluginHost, settings: Settings) -> Finding:
    """Locate the mouth of a drawn portrait as an upload does, but store nothing."""
    from ..errors import OpenTalkingError
    from ..host.host import MOUTH_PACKAGE
    from ..portraits.drawn import draw_portrait
    from ..service import AvatarService

    if not host.detectors():
        remedy = f"install the package {MOUTH_PACKAGE}; until then avatars get no animation"
        return Finding("mouth", "warning", "there is no mouth detector", remedy)
    picture = io.BytesIO()
    draw_portrait().image.save(picture, "PNG")
    # The store has been checked, and checking a picture needs none.
    settings = settings.model_copy(
        update={"avatars_dir": "memory://doctor", "portrait_workers": min(settings.portrait_workers, 1)}
    )
    try:
        service = AvatarService(settings, host)
    except OpenTalkingError as error:
        return Finding("mouth", "failed", str(error))
    try:
        report = await service.check(picture.getvalue())
    except OpenTalkingError as error:
        return Finding("mouth", "failed", f"a drawn portrait could not be checked: {error}")
    finally:
        await service.__aexit__(None, None, None)
    if report.mouth is None:
        remedy = "follow the remedies for the detectors above; until then avatars get no animation"
        return Finding("mouth", "failed", "the mouth of a drawn portrait is not found", remedy)
    return Finding("mouth", "ok", f"the mouth of a drawn portrait is found, by {report.mouth['mouth_polygon_source']}")


def _port(port: int) -> Finding:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            remedy = "is a server running already? Another port: `opentalking-core serve --port`"
            return Finding("port", "warning", f"port {port} can't be listened on: {error.strerror}", remedy)
    return Finding("port", "ok", f"port {port} is free")
