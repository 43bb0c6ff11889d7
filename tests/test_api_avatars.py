"""GET /avatars, GET and DELETE /avatars/{avatar_id}, its preview, /health, and HEAD, OPTIONS and CORS of each."""

from __future__ import annotations

import http.client
import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from opentalking_core.testing.fixtures import example_manifest
from opentalking_core.testing.running import running_service

if TYPE_CHECKING:
    import httpx

    from opentalking_core.testing.fixtures import PutBundle

MiB = 1024 * 1024
SUMMARY = ("id", "name", "model_type", "width", "height", "is_custom")
NOT_IDS = (
    *(
        "..",
        ".",
        "%2e%2e",
        "%2e%2e%2fx",
        "..%2f..%2fetc%2fpasswd",
        "%00",
        "demo%00",
        "demo%0a",
        "%ff%fe",
        "%20",
        "demo%20",
    ),
    *(
        "~",
        "demo.json",
        ".demo",
        "%5c",
        "..%5cx",
        "demo%2f..%2fdemo",
        "%25",
        "*",
        "x" * 201,
        "x" * 5000,
        "C:",
        "demo%2e",
    ),
)


def assert_error(answer: httpx.Response, status: int) -> str:
    """Check that the body is {"detail": one sentence}, and return the sentence."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    detail = answer.json()["detail"]
    assert isinstance(detail, str)
    assert len(detail.split()) > 2
    assert "Traceback" not in detail
    assert "\n" not in detail
    return detail


def raw_request(service: httpx.Client, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    """Send a request with a path that no client normalises."""
    connection = http.client.HTTPConnection(service.base_url.host, service.base_url.port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


# -- the list


def test_list_of_an_empty_store_is_empty(service: httpx.Client) -> None:
    answer = service.get("/avatars")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.content == b"[]"


def test_list_matches_the_example_of_the_api_document(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("demo-avatar")
    custom = {"custom_avatar": True, "base_avatar_id": "demo-wav2lip"}
    put_bundle(
        "custom-alice-20260513-153012-001",
        {"name": "Alice", "model_type": "wav2lip", "width": 1024, "height": 1024, "metadata": custom},
    )
    listed = service.get("/avatars").json()
    assert sorted(listed, key=lambda avatar: avatar["is_custom"]) == [
        {"id": "demo-avatar", "name": "Demo", "model_type": "mock", "width": 512, "height": 512, "is_custom": False},
        {
            "id": "custom-alice-20260513-153012-001",
            "name": "Alice",
            "model_type": "wav2lip",
            "width": 1024,
            "height": 1024,
            "is_custom": True,
        },
    ]
    assert all(tuple(avatar) == SUMMARY for avatar in listed)


def test_list_is_sorted_by_id(service: httpx.Client, put_bundle: PutBundle) -> None:
    names = ["b", "a", "李雷", "a-2", "B", "z_1", "10", "9"]
    for name in names:
        put_bundle(name)
    assert [avatar["id"] for avatar in service.get("/avatars").json()] == sorted(names)


@pytest.mark.parametrize("name", [None, "", "  "])
def test_missing_name_falls_back_to_the_id(service: httpx.Client, put_bundle: PutBundle, name: str | None) -> None:
    put_bundle("anna", {"name": name})
    assert service.get("/avatars").json()[0]["name"] == "anna"


def test_manifest_without_name_version_and_metadata_is_listed(service: httpx.Client, put_bundle: PutBundle) -> None:
    manifest = example_manifest("anna")
    for optional in ("name", "version", "metadata"):
        del manifest[optional]
    put_bundle("anna", json.dumps(manifest).encode())
    (listed,) = service.get("/avatars").json()
    assert (listed["id"], listed["name"], listed["is_custom"]) == ("anna", "anna", False)


def test_unregistered_model_type_is_listed(service: httpx.Client, put_bundle: PutBundle) -> None:
    """Plugins may add model types, and another process may have the plugin."""
    put_bundle("anna", {"model_type": "somebodys"})
    assert service.get("/avatars").json()[0]["model_type"] == "somebodys"


def test_width_and_height_are_integers(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("anna", b'{"id":"anna","model_type":"mock","fps":25,"sample_rate":16000,"width":512.0,"height":7e2}')
    assert '"width":512,"height":700,' in service.get("/avatars").text.replace(" ", "")


@pytest.mark.parametrize("name", ["李雷", "Ελένη", "🙂", 'quo"te\\', "<b>"])
def test_name_in_any_script_is_preserved(service: httpx.Client, put_bundle: PutBundle, name: str) -> None:
    put_bundle("anna", {"name": name})
    assert service.get("/avatars").json()[0]["name"] == name
    assert service.get("/avatars/anna").json()["name"] == name


def test_hidden_avatars_are_not_listed_but_can_be_fetched(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("shown", {"metadata": {"hidden": False}})
    put_bundle("secret", {"metadata": {"hidden": True}}, {"preview.png": b"png"})
    assert [avatar["id"] for avatar in service.get("/avatars").json()] == ["shown"]
    assert service.get("/avatars/secret").json()["metadata"] == {"hidden": True}
    assert service.get("/avatars/secret/preview").content == b"png"


@pytest.mark.parametrize("flag", ["true", 1, "yes", None, [True], {"hidden": True}])
def test_only_true_marks_an_avatar_custom_or_hidden(service: httpx.Client, put_bundle: PutBundle, flag: object) -> None:
    put_bundle("anna", {"metadata": {"hidden": flag, "custom_avatar": flag}})
    assert [avatar["is_custom"] for avatar in service.get("/avatars").json()] == [False]
    assert_error(service.delete("/avatars/anna"), 403)


def test_bundles_created_and_deleted_by_others_show(
    service: httpx.Client, put_bundle: PutBundle, store_url: str, unseen: list[str]
) -> None:
    put_bundle("first")
    assert [avatar["id"] for avatar in service.get("/avatars").json()] == ["first"]
    put_bundle("second", {"metadata": {"custom_avatar": True}})
    assert [avatar["id"] for avatar in service.get("/avatars").json()] == ["first", "second"]
    with running_service(store_url) as another:
        assert another.delete("/avatars/second").status_code == 200
    unseen.append("second")
    assert [avatar["id"] for avatar in service.get("/avatars").json()] == ["first"]
    assert_error(service.get("/avatars/second"), 404)


# -- one manifest


def test_manifest_is_sent_byte_for_byte(service: httpx.Client, put_bundle: PutBundle) -> None:
    """Unknown keys, their order, large and small numbers and white space are preserved."""
    manifest = (
        '{ "metadata": {"z": 1.0, "a": [1e2, 12345678901234567890, 0.1], "deep": {"er": null}},\n\t"unknown": "ключ",'
        ' "id": "anna", "model_type": "mock", "width": 512, "height": 512, "fps": 25.0, "sample_rate": 16000}\n\n'
    ).encode()
    put_bundle("anna", manifest)
    answer = service.get("/avatars/anna")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.content == manifest


@pytest.mark.parametrize(
    "path", ["/avatars/nobody", "/avatars/nobody/preview", "/avatars/custom", "/avatars/custom/preview"]
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_unknown_avatar_responds_404(service: httpx.Client, path: str, method: str) -> None:
    if method == "DELETE" and path.endswith("preview"):
        assert_error(service.request(method, path), 405)
    else:
        assert_error(service.request(method, path), 404)


@pytest.mark.parametrize("path", ["/avatar", "/avatars/anna/preview/x", "/avatars/anna/manifest.json"])
def test_unknown_path_responds_404(service: httpx.Client, put_bundle: PutBundle, path: str) -> None:
    put_bundle("anna")
    status, _, body = raw_request(service, "GET", path)
    assert status == 404
    assert isinstance(json.loads(body)["detail"], str)


def test_hostile_id_responds_404(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("demo", {"metadata": {"custom_avatar": True}}, {"preview.png": b"png"})
    for avatar_id in NOT_IDS:
        for method, path in (("GET", ""), ("HEAD", ""), ("GET", "/preview"), ("HEAD", "/preview"), ("DELETE", "")):
            status, _, body = raw_request(service, method, f"/avatars/{avatar_id}{path}")
            assert status == 404, (method, avatar_id[:40], path)
            if method != "HEAD":
                detail = json.loads(body)["detail"]
                assert isinstance(detail, str)
                assert len(detail) < 400
    assert service.get("/avatars/demo/preview").content == b"png"


@pytest.mark.parametrize("avatar_id", ["李雷", "नमस्ते", "Ünal_1", "ñ", "2", "-", "_", "x" * 200])
def test_id_may_contain_letters_and_digits_of_any_script(
    service: httpx.Client, put_bundle: PutBundle, avatar_id: str
) -> None:
    put_bundle(avatar_id, {"metadata": {"custom_avatar": True}}, {"preview.png": b"png"})
    assert [avatar["id"] for avatar in service.get("/avatars").json()] == [avatar_id]
    assert service.get(f"/avatars/{avatar_id}").json()["id"] == avatar_id
    assert service.get(f"/avatars/{avatar_id}/preview").content == b"png"
    assert service.delete(f"/avatars/{avatar_id}").json() == {"deleted": True}


# -- the preview


@pytest.mark.parametrize("size", [0, 1, MiB - 1, MiB, MiB + 1, 5 * MiB + 17])
def test_preview_is_sent_byte_for_byte(service: httpx.Client, put_bundle: PutBundle, size: int) -> None:
    """This holds for real PNGs and other bytes, large and small."""
    preview = random.Random(size).randbytes(size)
    put_bundle("anna", files={"preview.png": preview})
    answer = service.get("/avatars/anna/preview")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-length"] == str(size)
    assert answer.content == preview
    assert service.get("/avatars/anna/preview").content == preview, "and again, on the same connection"


def test_preview_of_an_avatar_without_one_responds_404(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("anna", files={"reference.png": b"png"})
    assert_error(service.get("/avatars/anna/preview"), 404)
    assert service.head("/avatars/anna/preview").status_code == 404
    assert service.get("/avatars/anna").status_code == 200


def test_client_that_disconnects_does_no_harm(service: httpx.Client, put_bundle: PutBundle) -> None:
    preview = random.Random(0).randbytes(8 * MiB)
    put_bundle("anna", files={"preview.png": preview})
    for _ in range(3):
        with service.stream("GET", "/avatars/anna/preview") as answer:
            next(answer.iter_bytes(1000))
    assert service.get("/avatars/anna/preview").content == preview


def test_preview_during_deletion_is_complete_or_404(service: httpx.Client, put_bundle: PutBundle) -> None:
    preview = random.Random(0).randbytes(2 * MiB)
    seen = set()
    with ThreadPoolExecutor(4) as pool:
        for n in range(12):
            put_bundle(f"anna-{n}", {"metadata": {"custom_avatar": True}}, {"preview.png": preview})
            gets = [pool.submit(service.get, f"/avatars/anna-{n}/preview") for _ in range(2)]
            deletion = pool.submit(service.delete, f"/avatars/anna-{n}")
            gets += [pool.submit(service.get, f"/avatars/anna-{n}/preview") for _ in range(2)]
            assert deletion.result().status_code == 200
            for answer in (get.result() for get in gets):
                seen.add(answer.status_code)
                assert answer.status_code == 404 or answer.content == preview
    assert seen <= {200, 404}


# -- deleting


def test_delete_of_a_custom_avatar_succeeds_once(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("anna", {"metadata": {"custom_avatar": True}}, {"preview.png": b"png"})
    put_bundle("anna-2", {"metadata": {"custom_avatar": True}}, {"preview.png": b"png"})
    answer = service.delete("/avatars/anna")
    assert (answer.status_code, answer.json()) == (200, {"deleted": True})
    assert answer.headers["content-type"].startswith("application/json")
    for again in (service.delete("/avatars/anna"), service.get("/avatars/anna"), service.get("/avatars/anna/preview")):
        assert_error(again, 404)
    assert [avatar["id"] for avatar in service.get("/avatars").json()] == ["anna-2"]
    assert service.get("/avatars/anna-2/preview").content == b"png"


@pytest.mark.parametrize(
    "metadata", [{}, {"hidden": True}, {"custom_avatar": False}, {"custom_avatar": True, "hidden": True}]
)
def test_built_in_and_hidden_avatars_cannot_be_deleted(
    service: httpx.Client, put_bundle: PutBundle, metadata: dict[str, object]
) -> None:
    put_bundle("anna", {"metadata": metadata}, {"preview.png": b"png"})
    assert "anna" in assert_error(service.delete("/avatars/anna"), 403)
    assert service.get("/avatars/anna").json()["metadata"] == metadata
    assert service.get("/avatars/anna/preview").content == b"png"


def test_concurrent_deletes_respond_200_or_404(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("anna", {"metadata": {"custom_avatar": True}})
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: service.delete("/avatars/anna").status_code, range(8)))
    assert 200 in codes
    assert set(codes) <= {200, 404}


def test_avatar_with_a_reserved_id_can_be_read_and_deleted(service: httpx.Client, put_bundle: PutBundle) -> None:
    """POST to the same path creates avatars."""
    put_bundle("custom", {"metadata": {"custom_avatar": True}}, {"preview.png": b"png"})
    assert service.get("/avatars/custom").json()["id"] == "custom"
    assert service.get("/avatars/custom/preview").content == b"png"
    assert service.delete("/avatars/custom").json() == {"deleted": True}


# -- methods


@pytest.mark.parametrize("path", ["/avatars", "/avatars/anna", "/avatars/anna/preview", "/health", "/avatars/nobody"])
def test_head_equals_get_without_the_body(service: httpx.Client, put_bundle: PutBundle, path: str) -> None:
    put_bundle("anna", files={"preview.png": bytes(3 * MiB)})
    get, head = service.get(path), service.head(path)
    assert head.status_code == get.status_code
    assert head.content == b""
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/avatars", {"GET", "HEAD"}),
        ("/avatars/anna", {"GET", "HEAD", "PATCH", "DELETE"}),
        ("/avatars/anna/preview", {"GET", "HEAD"}),
        ("/avatars/custom", {"GET", "HEAD", "PATCH", "DELETE", "POST"}),
    ],
)
def test_options_and_405_list_the_allowed_methods(service: httpx.Client, path: str, allowed: set[str]) -> None:
    answer = service.options(path)
    assert answer.status_code == 200
    assert {method.strip() for method in answer.headers["allow"].split(",")} - {"OPTIONS"} == allowed
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - allowed:
        answer = service.request(method, path)
        assert method in assert_error(answer, 405)
        assert allowed <= {method.strip() for method in answer.headers["allow"].split(",")}


@pytest.mark.parametrize("path", ["/avatars", "/avatars/anna", "/avatars/anna/preview", "/health", "/healthz"])
def test_trailing_slash_is_ignored_without_a_redirect(service: httpx.Client, put_bundle: PutBundle, path: str) -> None:
    put_bundle("anna", files={"preview.png": b"png"})
    without, slashed = service.get(path), service.get(path + "/")
    assert (without.status_code, slashed.status_code) == (200, 200)
    assert without.content == slashed.content


def test_unknown_query_parameters_are_ignored(service: httpx.Client, put_bundle: PutBundle) -> None:
    """Clients add a query to defeat caches."""
    put_bundle("anna", files={"preview.png": b"png"})
    assert service.get("/avatars/anna/preview?t=1747150000").content == b"png"
    assert len(service.get("/avatars?_=1").json()) == 1


# -- other web origins

PREFLIGHT = {"Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "content-type"}


def test_other_origins_are_not_allowed_by_default(service: httpx.Client) -> None:
    for answer in (
        service.get("/avatars", headers={"Origin": "http://a.example"}),
        service.options("/avatars/anna", headers={"Origin": "http://a.example", **PREFLIGHT}),
    ):
        assert "access-control-allow-origin" not in answer.headers


def test_only_configured_origins_are_allowed(store_url: str, put_bundle: PutBundle) -> None:
    put_bundle("anna", files={"preview.png": bytes(2 * MiB)})
    with running_service(store_url, cors_origins="http://a.example, http://b.example:8080") as service:
        for origin in ("http://a.example", "http://b.example:8080"):
            for path in ("/avatars", "/avatars/anna", "/avatars/anna/preview", "/avatars/nobody", "/nothing"):
                answer = service.get(path, headers={"Origin": origin})
                assert answer.headers["access-control-allow-origin"] == origin, path
            answer = service.options("/avatars/anna", headers={"Origin": origin, **PREFLIGHT})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == origin
            assert "DELETE" in answer.headers["access-control-allow-methods"]
        for origin in ("http://c.example", "http://a.example.evil.example", "null"):
            answer = service.get("/avatars", headers={"Origin": origin})
            assert answer.status_code == 200
            assert "access-control-allow-origin" not in answer.headers


def test_cors_star_allows_every_origin(store_url: str) -> None:
    with running_service(store_url, cors_origins="*") as service:
        answer = service.get("/avatars", headers={"Origin": "http://a.example"})
        assert answer.headers["access-control-allow-origin"] in ("*", "http://a.example")
        assert "access-control-allow-credentials" not in answer.headers


# -- health


@pytest.mark.parametrize("path", ["/health", "/healthz"])
def test_health_names_the_store_and_the_detectors(service: httpx.Client, path: str) -> None:
    answer = service.get(path)
    assert answer.status_code == 200
    health = answer.json()
    assert health["status"] == "ok"
    assert health["store"]["ok"] is True
    assert health["store"]["plugin"]
    assert health["store"]["url"]
    assert health["detectors"] == [{"plugin": "fake_mouth", "ok": True, "problem": None}]


def test_service_without_a_detector_is_degraded_and_serves(store_url: str, put_bundle: PutBundle) -> None:
    put_bundle("anna")
    with running_service(store_url) as service:
        answer = service.get("/health")
        assert (answer.status_code, answer.json()["status"], answer.json()["detectors"]) == (200, "degraded", [])
        assert len(service.get("/avatars").json()) == 1
