"""/openapi.json describes what the service does, /docs shows it, and schemathesis tests the service against it."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from opentalking_core import errors, hookimpl
from opentalking_core.api import docs
from opentalking_core.api.errors import STATUS
from opentalking_core.api.openapi import openapi_document
from opentalking_core.builtin_plugins.memory_store import MemoryStore
from opentalking_core.portraits.drawn import draw_portrait
from opentalking_core.testing.fixtures import FakeMouth, example_manifest
from opentalking_core.testing.running import running_service

from .helpers.browser import running_chromium
from .helpers.http import let_tags_settle
from .helpers.stores import WatchedStore, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from opentalking_core.testing.fixtures import PutBundle

    from .conftest import PostPortrait

jsonschema_rs = pytest.importorskip("jsonschema_rs", reason="comes with schemathesis")

HERE = Path(__file__).parent

#: What can be read of an avatar, below /avatars/{avatar_id}.
BELOW_AN_AVATAR = ("", "/preview", "/preview-video", "/files", "/files/{path}", "/bundle.zip")

#: Bounds a hanging run. A run takes 20 seconds on an idle machine, and ten times that on a busy one.
SCHEMATHESIS_SECONDS = 900


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    with running_service("memory://") as service:
        return service.get("/openapi.json").json()  # type: ignore[no-any-return]


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_document_has_the_methods_that_each_path_allows(service: httpx.Client, document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        allowed = service.options(path.replace("{", "").replace("}", "")).headers["Allow"].split(", ")
        assert {method.upper() for method in methods} == set(allowed) - {"OPTIONS"}, path


def test_document_without_description_of_a_method_raises() -> None:
    class Undescribed:
        async def on_put(self, req: object, resp: object) -> None:
            pass

    with pytest.raises(RuntimeError, match=r"PUT /surprise is not described in .*Undescribed\.operations"):
        openapi_document({"/surprise": Undescribed()})


def test_document_responds_304_to_its_tag(service: httpx.Client) -> None:
    etag = service.get("/openapi.json").headers["ETag"]
    assert service.get("/openapi.json", headers={"If-None-Match": etag}).status_code == 304


def test_operation_ids_are_unique_and_references_resolve(document: dict[str, Any]) -> None:
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


def test_examples_match_their_schemas(document: dict[str, Any]) -> None:
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


def test_fields_operations_and_parameters_have_descriptions(document: dict[str, Any]) -> None:
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
        if operation["operationId"] != "follow_avatars"  # the stream has no end: tests/test_api_events.py
    }


class Broken:
    """A plugin that opens broken:// as a store that raises `failure` from every operation."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure

    @hookimpl
    def open_bundle_store(self, url: str) -> MemoryStore | None:
        failure = self._failure

        class Store(MemoryStore):
            def open(self, avatar_id: str, path: str) -> Any:
                raise failure

            async def files(self, avatar_id: str) -> Any:
                raise failure
                yield

            async def scan(self) -> Any:
                raise failure
                yield

        return Store(url) if url == "broken://" else None


class Unwritable:
    """A plugin that opens unwritable:// as a store that contains a base avatar and raises `failure` from each write."""

    def __init__(self, failure: errors.StoreFull | errors.NotSupported) -> None:
        self._failure = failure

    @hookimpl
    def open_bundle_store(self, url: str) -> MemoryStore | None:
        failure = self._failure

        class Store(MemoryStore):
            async def __aenter__(self) -> Any:
                for avatar_id in ("demo-wav2lip", "custom-old"):
                    manifest = example_manifest(avatar_id, model_type="wav2lip", metadata={"custom_avatar": True})
                    await super().create(avatar_id, {"manifest.json": json.dumps(manifest).encode()})
                return await super().__aenter__()

            async def create(self, *bundle: object) -> None:
                raise failure

            async def replace_manifest(self, *change: object) -> Any:
                raise failure

            async def delete(self, avatar_id: str) -> None:
                if isinstance(failure, errors.NotSupported):  # a full store can delete
                    raise failure
                await super().delete(avatar_id)

        return Store(url) if url.startswith("unwritable://") else None


class Forbids:
    @hookimpl
    def authorize(self, action: str, avatar_id: str | None, credentials: str | None) -> bool:
        return False


def test_responses_are_the_documented_ones(
    document: dict[str, Any], service: httpx.Client, post_portrait: PostPortrait, put_bundle: PutBundle
) -> None:
    """Every documented status occurs, except 408, which takes long (test_hostile_clients.py), and no other status."""
    metadata = {"custom_avatar": True, "source_video": "a.mp4"}
    put_bundle("custom-old", {"metadata": metadata}, {"preview.png": b"x", "a.mp4": b"video"})
    let_tags_settle()
    met: set[tuple[str, str, int]] = set()

    def ask(client: httpx.Client, method: str, path: str, template: str = "", **request: Any) -> None:
        answer = client.request(method, path, **request)
        met.add((method, template or path, answer.status_code))
        if answer.status_code >= 400 and path not in ("/health", "/healthz"):
            assert set(answer.json()) == {"detail"}, answer.text

    def ask_all(client: httpx.Client, avatar_id: str = "custom-old", **request: Any) -> None:
        ask(client, "GET", "/avatars", **request)
        for below in BELOW_AN_AVATAR:
            path = f"{one}{below}"
            ask(client, "GET", f"/avatars/{avatar_id}{below.format(path='a.mp4')}", path, **request)
        ask(client, "PATCH", f"/avatars/{avatar_id}", one, json={"name": "Bea"}, **request)
        ask(client, "DELETE", f"/avatars/{avatar_id}", one, **request)
        ask(client, "GET", "/metrics", **request)
        ask(client, "GET", "/health", **request)
        ask(client, "GET", "/openapi.json", **request)
        form = {"name": (None, "Alice"), "base_avatar_id": (None, "demo-wav2lip"), "image": ("a.png", portrait)}
        ask(client, "POST", "/avatars/custom", files=form, **request)
        ask(client, "POST", "/avatars/check", files={"image": ("a.png", portrait)}, **request)

    portrait = draw_png()
    one = "/avatars/{avatar_id}"
    for path in ("/avatars", "/openapi.json"):
        ask(service, "GET", path, headers={"If-None-Match": "*"})
    for below in BELOW_AN_AVATAR:
        path, template = f"/avatars/custom-old{below.format(path='a.mp4')}", f"{one}{below}"
        for headers in ({"If-None-Match": "*"}, {"Range": "bytes=0-0"}, {"Range": "bytes=99999-"}):
            ask(service, "GET", path, template, headers=headers)
    ask(service, "GET", "/avatars?limit=0", "/avatars")
    ask(service, "GET", "/avatars/custom-old/preview?width=1", f"{one}/preview")
    ask(service, "DELETE", "/avatars/demo-wav2lip", one)
    ask(service, "PATCH", "/avatars/demo-wav2lip", one, json={"name": "x"})
    ask(service, "PATCH", "/avatars/custom-old", one, json={"id": "x"})
    ask(service, "PATCH", "/avatars/custom-old", one, json={"name": "x"}, headers={"If-Match": '"no"'})
    ask(service, "PATCH", "/avatars/custom-old", one, content=b"x", headers={"Content-Type": "text/plain"})
    ask(service, "PATCH", "/avatars/custom-old", one, json={"metadata": {"x": "x" * 1024 * 1024}})
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
    with serve(WatchedStore()) as client:
        ask(client, "PATCH", "/avatars/custom-old", one, json={"name": "x"})
    for refusal in (errors.StoreFull("it is full"), errors.NotSupported("it can only be read")):
        plugins = {"unwritable": Unwritable(refusal), "mouth": FakeMouth()}
        with running_service(f"unwritable://{type(refusal).__name__}", plugins=plugins) as client:
            ask_all(client)
    with running_service("memory://", plugins={"mouth": FakeMouth()}, protect="everything") as client:
        ask_all(client)
        ask_all(client, headers={"Authorization": "Bearer wrong"})
    with running_service("memory://", plugins={"mouth": FakeMouth(), "no": Forbids()}, protect="everything") as client:
        ask_all(client, headers={"Authorization": "Bearer x"})

    documented = statuses(document)
    assert met - documented == set()
    unmet = {entry for entry in documented - met if entry[2] not in (307, 408, 500)}
    # A full queue: tests/test_api_custom_avatars.py. A full temporary folder: tests/test_api_videos.py.
    assert unmet == {("POST", "/avatars/check", 503), ("POST", "/avatars/check", 507)}
    assert {status for _, _, status in met} >= {*map(int, STATUS.values()), 401, 416, 500}


@functools.cache
def draw_png() -> bytes:
    file = io.BytesIO()
    draw_portrait(60, 80).image.save(file, "PNG")
    return file.getvalue()


def test_docs_loads_only_its_own_files(service: httpx.Client) -> None:
    pytest.importorskip("flask_swagger_ui", reason="the extra `docs` is not installed")
    page = service.get("/docs")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
    assert "unsafe" not in policy
    links = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    assert {"docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "docs/init.js"} <= set(links)
    for link in links:
        assert ":" not in link
        assert service.get("/" + link).status_code == 200
    assert service.get("/docs/nothing.js").status_code == 404


def test_docs_without_swagger_ui_says_how_to_install_it(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "_swagger_ui_folder", lambda: None)
    with running_service(store_url) as service:
        page = service.get("/docs")
        assert page.status_code == 200
        assert "pip install 'opentalking-core[docs]'" in page.text
        assert service.get("/docs/swagger-ui.css").status_code == 404


def test_docs_sends_requests_with_a_key_and_without_breaking_its_policy(
    store_url: str, put_bundle: PutBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flask_swagger_ui", reason="the extra `docs` is not installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    key = "a-key-that-nobody-would-guess"
    monkeypatch.setenv("OPENTALKING_API_KEYS", key)
    put_bundle("demo-avatar", {}, {"preview.png": draw_png()})
    complaints: list[str] = []
    with running_service(store_url, protect="everything") as service, running_chromium() as browser:
        page = browser.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{service.base_url}/docs")
        page.locator(".btn.authorize").click()
        page.locator(".modal-ux input[type=text]").fill(key)
        page.locator(".modal-ux .authorize.button").click()
        page.locator(".modal-ux .btn-done").click()

        def response_to(operation: str) -> Any:
            block = page.locator(f"#operations-{operation}")
            block.locator(".opblock-summary-control").click()
            block.locator("button.execute").click()
            response = block.locator(".live-responses-table")
            sync_api.expect(response.locator("tbody .response-col_status").first).to_contain_text("200")
            return response

        sync_api.expect(response_to("avatars-list_avatars")).to_contain_text('"id": "demo-avatar"')
        picture = response_to("avatars-get_preview").locator("img")
        sync_api.expect(picture).to_have_js_property("naturalWidth", 60)
    assert complaints == []


def test_schemathesis_finds_no_difference_from_the_document(
    service: httpx.Client, base: str, put_bundle: PutBundle, tmp_path: Path
) -> None:
    put_bundle("demo-avatar", {}, {"preview.png": draw_png()})
    put_bundle("hidden", {"metadata": {"hidden": True}})
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "run"]
    command += [f"{service.base_url}/openapi.json", "--max-examples=10", "--seed=1", "--continue-on-failure"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SCHEMATHESIS_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[0-9]+ generated, [0-9]+ passed", done.stdout), done.stdout
