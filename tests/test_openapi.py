"""/openapi.json says what the service does, and /docs shows it; schemathesis holds the service to it."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import falcon.inspect
import pytest

from opentalking_core import errors, hookimpl
from opentalking_core.api import create_app
from opentalking_core.api.errors import STATUS
from opentalking_core.api.openapi import openapi_document
from opentalking_core.builtin_plugins.memory_store import MemoryStore
from opentalking_core.portraits.drawn import draw_portrait
from opentalking_core.settings import Settings
from opentalking_core.testing.fixtures import FakeMouth, example_manifest
from opentalking_core.testing.running import running_service

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from opentalking_core.testing.fixtures import PutBundle

    from .conftest import PostPortrait

jsonschema_rs = pytest.importorskip("jsonschema_rs", reason="comes with schemathesis")

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi_document(create_app(Settings(avatars_dir="memory://")))


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_every_operation_is_documented_and_nothing_else(document: dict[str, Any]) -> None:
    routes = falcon.inspect.inspect_routes(create_app(Settings(avatars_dir="memory://")))
    served = {(method.method, route.path) for route in routes for method in route.methods if not method.internal}
    assert {(method, path) for method, path, _ in operations(document)} == served


def test_an_operation_that_is_not_documented_is_an_error() -> None:
    class Surprise:
        async def on_put(self, req: object, resp: object) -> None:
            pass

    app = create_app(Settings(avatars_dir="memory://"))
    app.add_route("/surprise", Surprise())
    with pytest.raises(RuntimeError, match="PUT /surprise is not documented"):
        openapi_document(app)


def test_the_document_is_the_one_that_is_served(service: httpx.Client, document: dict[str, Any]) -> None:
    answer = service.get("/openapi.json")
    assert answer.json() == document
    assert service.get("/openapi.json", headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304


def test_operation_ids_are_unique_and_references_lead_somewhere(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', str(document).replace("'", '"')):
        place: Any = document
        for step in reference.split("/"):
            place = place[step]
    links = [
        link["operationId"]
        for _, _, operation in operations(document)
        for answer in operation["responses"].values()
        for link in answer.get("links", {}).values()
    ]
    assert links
    assert set(links) <= set(ids)


def test_examples_are_what_their_schemas_ask_for(document: dict[str, Any]) -> None:
    checked = 0
    for _, _, operation in operations(document):
        for answer in operation["responses"].values():
            for content in answer.get("content", {}).values():
                examples = [content["example"]] if "example" in content else []
                examples += [example["value"] for example in content.get("examples", {}).values()]
                for example in examples:
                    schema = {**content["schema"], "components": document["components"]}
                    jsonschema_rs.validate(schema, example)
                    checked += 1
    assert checked > 40


def test_all_is_described(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        assert all(field["description"] for field in schema["properties"].values())
    for method, path, operation in operations(document):
        assert operation["summary"], (method, path)
        assert operation["description"], (method, path)
        assert all(parameter["description"] for parameter in operation["parameters"])


def statuses(document: dict[str, Any]) -> set[tuple[str, str, int]]:
    return {
        (method, path, int(status))
        for method, path, operation in operations(document)
        for status in operation["responses"]
        if method != "HEAD" and "x-alias-of" not in operation and "pages" not in operation["tags"]
    }


class Broken:
    """A plugin that opens broken://, whose store raises `failure` wherever it is asked for something."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure

    @hookimpl
    def open_bundle_store(self, url: str) -> MemoryStore | None:
        failure = self._failure

        class Store(MemoryStore):
            def open(self, avatar_id: str, path: str) -> Any:
                raise failure

            async def scan(self) -> Any:
                raise failure
                yield

        return Store(url) if url == "broken://" else None


class Full:
    """A plugin that opens full://, whose store has a base, and no room for more."""

    @hookimpl
    def open_bundle_store(self, url: str) -> MemoryStore | None:
        class Store(MemoryStore):
            async def __aenter__(self) -> Any:
                manifest = example_manifest("demo-wav2lip", model_type="wav2lip")
                await super().create("demo-wav2lip", {"manifest.json": json.dumps(manifest).encode()})
                return await super().__aenter__()

            async def create(self, *bundle: object) -> None:
                raise errors.StoreFull("it is full")

        return Store(url) if url == "full://" else None


class Forbids:
    @hookimpl
    def authorize(self, action: str, avatar_id: str | None, credentials: str | None) -> bool:
        return False


def test_documented_errors_can_be_met(
    document: dict[str, Any], service: httpx.Client, post_portrait: PostPortrait, put_bundle: PutBundle
) -> None:
    """Every one but 408, which takes long (tests/test_hostile_clients.py); and none that isn't documented."""
    put_bundle("custom-old", {"metadata": {"custom_avatar": True}}, {"preview.png": b"x"})
    met: set[tuple[str, str, int]] = set()

    def ask(client: httpx.Client, method: str, path: str, template: str = "", **request: Any) -> None:
        answer = client.request(method, path, **request)
        met.add((method, template or path, answer.status_code))
        if answer.status_code >= 400 and path not in ("/health", "/healthz"):
            assert set(answer.json()) == {"detail"}, answer.text

    def ask_all(client: httpx.Client, avatar_id: str = "custom-old", **request: Any) -> None:
        one, preview = "/avatars/{avatar_id}", "/avatars/{avatar_id}/preview"
        ask(client, "GET", "/avatars", **request)
        ask(client, "GET", f"/avatars/{avatar_id}", one, **request)
        ask(client, "GET", f"/avatars/{avatar_id}/preview", preview, **request)
        ask(client, "DELETE", f"/avatars/{avatar_id}", one, **request)
        ask(client, "GET", "/metrics", **request)
        ask(client, "GET", "/health", **request)
        ask(client, "GET", "/openapi.json", **request)
        form = {"name": (None, "Alice"), "base_avatar_id": (None, "demo-wav2lip"), "image": ("a.png", portrait)}
        ask(client, "POST", "/avatars/custom", files=form, **request)
        ask(client, "POST", "/avatars/check", files={"image": ("a.png", portrait)}, **request)

    portrait = draw_png()
    one, preview = "/avatars/{avatar_id}", "/avatars/{avatar_id}/preview"
    for path, template in (("/avatars", ""), ("/avatars/custom-old", one), ("/openapi.json", "")):
        ask(service, "GET", path, template, headers={"If-None-Match": "*"})
    ask(service, "GET", "/avatars/custom-old/preview", preview, headers={"If-None-Match": "*"})
    for path, template in (("/avatars/custom-old", one), ("/avatars/custom-old/preview", preview)):
        ask(service, "GET", path, template, headers={"Range": "bytes=0-0"})
        ask(service, "GET", path, template, headers={"Range": "bytes=99999-"})
    ask(service, "GET", "/avatars?limit=0", "/avatars")
    ask(service, "GET", "/avatars/custom-old/preview?width=1", preview)
    ask(service, "DELETE", "/avatars/demo-wav2lip", one)
    for path in ("/avatars/custom", "/avatars/check"):
        ask(service, "POST", path, files={"image": ("a.png", b"no picture"), "name": (None, "x")})
        ask(service, "POST", path, files={"image": ("a.png", b"x" * (10 * 1024 * 1024 + 1))})
    form: Any = {"name": (None, "x"), "base_avatar_id": (None, "nobody"), "image": ("a.png", portrait)}
    ask(service, "POST", "/avatars/custom", files=form)
    ask_all(service)
    ask_all(service, "nobody")

    for broken in (errors.StoreUnavailable("it is down"), ZeroDivisionError("a bug")):
        with running_service("broken://", plugins={"broken": Broken(broken), "mouth": FakeMouth()}) as client:
            ask_all(client)
    with running_service("full://", plugins={"full": Full(), "mouth": FakeMouth()}) as client:
        ask_all(client)
    with running_service("memory://", plugins={"mouth": FakeMouth()}, protect="everything") as client:
        ask_all(client)
        ask_all(client, headers={"Authorization": "Bearer wrong"})
    with running_service("memory://", plugins={"mouth": FakeMouth(), "no": Forbids()}, protect="everything") as client:
        ask_all(client, headers={"Authorization": "Bearer x"})

    documented = statuses(document)
    assert met - documented == set()
    unmet = {entry for entry in documented - met if entry[2] not in (307, 408, 500)}
    assert unmet == {("POST", "/avatars/check", 503)}  # all places of the queue taken: tests/test_api_custom_avatars.py
    assert {status for _, _, status in met} >= {*map(int, STATUS.values()), 401, 416, 500}


@functools.cache
def draw_png() -> bytes:
    file = io.BytesIO()
    draw_portrait(60, 80).image.save(file, "PNG")
    return file.getvalue()


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            assert name != "style"
            if name == "id":
                assert value not in self.ids
                self.ids.add(value or "")
            if name in ("href", "src"):
                self.links.add(value or "")


def test_the_page_shows_all_and_needs_nothing_from_elsewhere(service: httpx.Client, document: dict[str, Any]) -> None:
    answer = service.get("/docs")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'; style-src 'self'" in answer.headers["Content-Security-Policy"]
    page = Page()
    page.feed(answer.text)
    shown = {o["operationId"] for method, _, o in operations(document) if method != "HEAD" and "x-alias-of" not in o}
    assert page.ids == shown | {f"schema-{name}" for name in document["components"]["schemas"]}
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} == page.ids
    assert page.tags.isdisjoint({"script", "style", "iframe", "img"})
    for link in page.links:
        if not link.startswith("#"):
            assert ":" not in link
            assert service.get("/" + link).status_code == 200


def test_schemathesis_finds_nothing(service: httpx.Client, base: str, put_bundle: PutBundle, tmp_path: Path) -> None:
    put_bundle("demo-avatar", {}, {"preview.png": draw_png()})
    put_bundle("hidden", {"metadata": {"hidden": True}})
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "run"]
    command += [f"{service.base_url}/openapi.json", "--max-examples=20", "--seed=1", "--continue-on-failure"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[0-9]+ generated, [0-9]+ passed", done.stdout), done.stdout
