"""opentalking-core doctor"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import secrets
import socket
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .options import ApiKey, Json, Server, Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

    from ..bundles.store import BundleStore
    from ..host.host import PluginHost
    from ..settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Args:
        check: what was looked at.
        status: "warning": the service runs without it; "failed": it doesn't.
        message: one sentence.
        remedy: what to do, if anything.
    """

    check: str
    status: Literal["ok", "warning", "failed"]
    message: str
    remedy: str = ""


def doctor(
    store: Store = None,
    port: Annotated[int, typer.Option(help="The port that should be free.", min=1, max=65535)] = 8000,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Check the installation, and say what to do where it is broken; exit code 1 if something is.

    To see whether the store can be written to, a hidden avatar is created in it and deleted again. With --server, a
    running server is asked how it is.
    """
    import logging

    from rich.markup import escape

    from .output import err, out

    logging.getLogger("opentalking_core").addHandler(logging.NullHandler())  # the findings say it, and say it better
    server = server or (None if store else os.environ.get("OPENTALKING_SERVER"))
    findings = []
    colours = {"ok": "green", "warning": "yellow", "failed": "red"}
    with contextlib.closing(_server(server, api_key) if server else _installation(store, port)) as checks:
        while True:
            with err.status("checking"):
                finding = next(checks, None)
            if finding is None:
                break
            findings.append(finding)
            if not as_json:
                colour, label = colours[finding.status], f"{finding.status:<8}"
                out.print(f"[{colour}]{label}[/] {finding.check:<10} {escape(finding.message)}", soft_wrap=True)
                if finding.remedy:
                    out.print(f"{'':20}[bold]->[/] {escape(finding.remedy)}", soft_wrap=True)
    if as_json:
        out.print_json(json.dumps([asdict(finding) for finding in findings]))
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(1)


def _server(server: str, api_key: str | None) -> Generator[Finding]:
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
        yield Finding("store", "warning", "the server tells strangers no more than that", "give its --api-key")
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


def _installation(location: str | None, port: int) -> Generator[Finding]:
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


async def _writable(store: BundleStore) -> Finding:
    """Whether avatars can be created and deleted; nobody sees the one that is, because its manifest says hidden."""
    from ..bundles.store import MANIFEST
    from ..errors import OpenTalkingError

    avatar_id = f"opentalking-doctor-{secrets.token_hex(6)}"
    fields = {"id": avatar_id, "model_type": "mock", "fps": 25, "sample_rate": 16000, "width": 1, "height": 1}
    manifest = json.dumps({**fields, "metadata": {"hidden": True}}).encode()
    remedy = "give this user the right to, if avatars are to be made and deleted"
    try:
        await store.create(avatar_id, {MANIFEST: manifest})
    except OpenTalkingError as error:
        return Finding("writable", "warning", f"avatars can be read but not created: {error}", remedy)
    try:
        await store.delete(avatar_id)
    except OpenTalkingError as error:
        message = f"avatars can be created but not deleted, {avatar_id} for one: {error}"
        return Finding("writable", "warning", message, remedy)
    return Finding("writable", "ok", "avatars can be created and deleted")


async def _workers(settings: Settings) -> Finding:
    from ..errors import WorkersUnavailable
    from ..workers.pool import WorkerPool
    from ..workers.runner import WorkerCrashed

    if settings.portrait_workers == 0:
        return Finding("workers", "ok", "portraits are worked on in threads: OPENTALKING_PORTRAIT_WORKERS is 0")
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
    """Whether a mouth is found where there is one: the whole way of an upload, but for the store."""
    from ..errors import OpenTalkingError
    from ..host.host import MOUTH_PACKAGE
    from ..portraits.drawn import draw_portrait
    from ..service import AvatarService

    if not host.detectors():
        remedy = f"install the package {MOUTH_PACKAGE}; until then avatars get no animation"
        return Finding("mouth", "warning", "there is no mouth detector", remedy)
    picture = io.BytesIO()
    draw_portrait().image.save(picture, "PNG")
    # In memory, because a picture is checked without the avatars, and the store has been looked at.
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
        remedy = "do what is said above of the detectors; until then avatars get no animation"
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
