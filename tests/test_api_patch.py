"""PATCH /avatars/{id}: what can be changed, conditions, and what a change leaves alone."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest

from opentalking_core import AvatarBundle, AvatarManifest, Problem, hookimpl
from opentalking_core.bundles.standard_types import STANDARD_MODEL_TYPES
from opentalking_core.bundles.validation import validate_bundle
from opentalking_core.testing.running import running_service

from .helpers.stores import ReplacingStore, WatchedStore, serve, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import httpx

    from opentalking_core.testing.fixtures import FakeMouth, PutBundle, StoredFiles

    from .conftest import DeleteBundle, PostPortrait

MERGE_PATCH = "application/merge-patch+json"
OUTER_LIP = [[0.4, 0.6], [0.5, 0.5500049], [0.6, 0.6], [0.5, 0.65]]
INNER_MOUTH = [[0.45, 0.6], [0.5, 0.58], [0.55, 0.6]]
OUTLINES = {"outer_lip": OUTER_LIP, "inner_mouth": INNER_MOUTH}
COMPUTED = {"mouth_center": [0.5, 0.6], "mouth_rx": 0.1, "mouth_ry": 0.05}

#: A bundle as another program of the ecosystem writes it.
PEER = {
    "name": "Old", "model_type": "wav2lip", "fps": 25, "sample_rate": 16000, "width": 416, "height": 704,
    "version": "1.0", "license": "CC0", "voice": {"id": "zh-1", "speed": 1.25},
    "metadata": {
        "custom_avatar": True, "base_avatar_id": "demo-wav2lip", "source_image_hash": "ab", "frame_dir": "frames",
        "mouth_polygon_source": "unavailable", "preferred_wav2lip_postprocess_mode": "easy", "标签": ["a", 1, None],
    },
}  # fmt: skip


@pytest.fixture
def alice(put_bundle: PutBundle) -> str:
    """Put a custom avatar without a mouth into the store, and return its path."""
    put_bundle("alice", PEER, {"preview.png": b"\x89PNG", "frames/frame_00000.png": b"\x89PNG"})
    return "/avatars/alice"


def patch(client: httpx.Client, path: str, change: object, **headers: str) -> httpx.Response:
    content = change if isinstance(change, bytes) else json.dumps(change)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.patch(path, content=content, headers={"Content-Type": MERGE_PATCH, **named})


def detail(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    sentence: str = answer.json()["detail"]
    return sentence


def names(client: httpx.Client) -> dict[str, str]:
    return {avatar["id"]: avatar["name"] for avatar in client.get("/avatars").json()}


# -- what a change does


def test_patch_changes_name_and_metadata_and_keeps_everything_else(
    service: httpx.Client, alice: str, stored_files: StoredFiles
) -> None:
    before, files = service.get(alice).json(), stored_files("alice")
    change = {"name": "  Älice \n B. ", "metadata": {"标签": None, "language": "en", "voice": {"pitch": {"base": 1}}}}
    answer = patch(service, alice, change)
    assert answer.status_code == 200, answer.text
    metadata = {key: value for key, value in before["metadata"].items() if key != "标签"}
    metadata |= {"language": "en", "voice": {"pitch": {"base": 1}}}
    assert answer.json() == {**before, "name": "Älice B.", "metadata": metadata}
    read = service.get(alice)
    assert (read.content, read.headers["etag"]) == (answer.content, answer.headers["etag"])
    assert answer.headers["content-type"] == "application/json"
    assert stored_files("alice") == {**files, "manifest.json": answer.content}


def test_patch_merges_objects_and_replaces_lists(service: httpx.Client, alice: str) -> None:
    """The examples of RFC 7396 that can happen inside of metadata."""
    cases: list[tuple[Any, Any, Any]] = [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ]
    for number, (target, change, merged) in enumerate(cases):
        patch(service, alice, {"metadata": {"case": None}})
        assert patch(service, alice, {"metadata": {"case": target}}).status_code == 200
        answer = patch(service, alice, {"metadata": {"case": change}})
        assert answer.json()["metadata"]["case"] == merged, number


def test_changed_name_is_in_the_next_list(service: httpx.Client, alice: str) -> None:
    assert names(service) == {"alice": "Old"}
    for name in ("Alice", "Bea", "Carla"):
        assert patch(service, alice, {"name": name}).status_code == 200
        assert names(service) == {"alice": name}
        assert service.get("/avatars?q=" + name).json()[0]["name"] == name
        assert service.get(alice).json()["name"] == name


def test_changed_manifest_is_not_replayed(service: httpx.Client, alice: str) -> None:
    for number in range(3):
        old = [service.get(alice).headers["etag"] for _ in range(3)][-1]
        new = patch(service, alice, {"name": f"Alice {number}"}).headers["etag"]
        assert new != old
        assert service.get(alice, headers={"If-None-Match": old}).json()["name"] == f"Alice {number}"
        assert service.get(alice, headers={"If-None-Match": new}).status_code == 304


def test_changed_manifest_is_read_at_once_without_a_change_stamp() -> None:
    store = ReplacingStore()
    store.put("alice", **PEER)
    with serve(store, refresh_seconds=3600) as client:
        for name in ("Alice", "Bea"):
            for path in ("/avatars/alice", "/avatars/alice/files/manifest.json"):
                assert client.get(path).json()["name"] != name
            patch(client, "/avatars/alice", {"name": name})
            for path in ("/avatars/alice", "/avatars/alice/files/manifest.json"):
                assert client.get(path).json()["name"] == name
            assert names(client) == {"alice": name}


def test_other_process_lists_a_changed_name(
    service: httpx.Client, alice: str, store_url: str, fake_mouth: FakeMouth, changes_show_later: bool
) -> None:
    """At once if the store has a change stamp, as folders have; otherwise after a scan."""
    refresh = 0.05 if changes_show_later else 3600
    with running_service(store_url, plugins={"fake_mouth": fake_mouth}, refresh_seconds=refresh) as other:
        for name in ("Alice", "Bea"):
            assert names(other)["alice"] != name
            other.get(alice)
            assert patch(service, alice, {"name": name}).status_code == 200
            if changes_show_later:
                wait_until(lambda name=name: names(other)["alice"] == name)  # type: ignore[misc]
            assert names(other)["alice"] == name
            if not changes_show_later:
                assert other.get(alice).json()["name"] == name


def test_patch_that_changes_nothing_writes_nothing(alice: str) -> None:
    store = ReplacingStore()
    store.put("alice", **PEER)
    with serve(store) as client:
        before = client.get("/avatars/alice")
        store.broken["replace"] = AssertionError("nothing is to be written")
        for change in ({}, {"name": "Old"}, {"metadata": {}}, {"metadata": {"标签": ["a", 1, None], "nothing": None}}):
            answer = patch(client, "/avatars/alice", change)
            assert (answer.status_code, answer.headers["etag"]) == (200, before.headers["etag"])
            assert answer.content == before.content


# -- what can't be changed


@pytest.mark.parametrize(
    "field",
    ["id", "model_type", "fps", "sample_rate", "width", "height", "version", "license", "custom_avatar", "Name", ""],
)
def test_patch_of_another_field_is_refused_by_its_name(service: httpx.Client, alice: str, field: str) -> None:
    before = service.get(alice).content
    sentence = detail(patch(service, alice, {field: "alice", "name": "Bea"}), 400)
    assert sentence == f"{field} can't be changed: only name and metadata can"
    assert service.get(alice).content == before


@pytest.mark.parametrize(
    "key",
    [
        *("custom_avatar", "hidden", "base_avatar_id", "portrait_checks", "created_at", "created_by", "consent"),
        *("source_image_hash", "source_video", "source_fps", "extracted_frame_count", "frame_dir", "reference_mode"),
        *("template_video", "asset_root", "mouth_polygon_source"),
    ],
)
@pytest.mark.parametrize("value", [None, True])
def test_patch_of_provenance_is_refused_by_its_name(service: httpx.Client, alice: str, key: str, value: object) -> None:
    before = service.get(alice).content
    sentence = detail(patch(service, alice, {"metadata": {"language": "en", key: value}}), 400)
    assert sentence.startswith(f"metadata.{key} can't be changed: ")
    assert service.get(alice).content == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": None}, "name is null, not a text"),
        ({"name": 7}, "name is 7, not a text"),
        ({"name": " \n "}, "name is blank"),
        ({"name": "x" * 201}, "name has 201 characters"),
        ({"name": "a\x00b"}, "name holds control characters"),
        ({"name": "\ud800"}, "name holds control characters"),
        ({"metadata": None}, "metadata is null: send an object"),
        ({"metadata": []}, "metadata is []: send an object"),
        ({"metadata": {"x": "\ud800"}}, "metadata can't be stored"),
        (b'{"metadata": {"x": 1e400}}', "metadata can't be stored"),
        (b'{"metadata": ' + b'{"x":' * 400 + b"1" + b"}" * 401, "metadata can't be stored"),
        ([], "the patch must be a JSON object"),
        (b"", "the patch is not JSON"),
        (b"{'name': 1}", "the patch is not JSON"),
        (b'{"metadata": {"x": NaN}}', "the patch is not JSON: NaN is not JSON"),
        (b'{"name": "\xff"}', "the patch is not UTF-8 text"),
        (b"[" * 200_000, "the patch is nested too deeply"),
        (b'{"metadata": {"x": ' + b"1" * 5000 + b"}}", "the patch is not JSON"),
    ],
)
def test_wrong_patch_is_refused_with_a_reason(service: httpx.Client, alice: str, change: object, expected: str) -> None:
    before = service.get(alice).content
    assert detail(patch(service, alice, change), 400).startswith(expected)
    assert service.get(alice).content == before


def test_built_in_hidden_and_missing_avatars_are_not_changed(
    service: httpx.Client, put_bundle: PutBundle, delete_bundle: DeleteBundle, alice: str
) -> None:
    put_bundle("demo")
    put_bundle("secret", {"metadata": {"custom_avatar": True, "hidden": True}})
    put_bundle("broken", b'{"metadata": {"custom_avatar": true}}')
    assert "is built in and can't be changed" in detail(patch(service, "/avatars/demo", {"name": "x"}), 403)
    assert "is hidden and can't be changed" in detail(patch(service, "/avatars/secret", {"name": "x"}), 403)
    assert "no usable avatar 'broken'" in detail(patch(service, "/avatars/broken", {"name": "x"}), 404)
    for avatar_id in ("nobody", "custom", "check", "%2e%2e", "a%20b"):
        assert "there is no avatar" in detail(patch(service, f"/avatars/{avatar_id}", {"name": "x"}), 404)
    service.get(alice)
    delete_bundle("alice")
    detail(patch(service, alice, {"name": "x"}), 404)
    assert "alice" not in names(service)


def test_avatar_with_a_reserved_id_is_changed(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("custom", {"metadata": {"custom_avatar": True}})
    assert patch(service, "/avatars/custom", {"name": "Bea"}).json()["name"] == "Bea"


@pytest.mark.parametrize("media_type", [MERGE_PATCH, "application/json", "Application/Merge-Patch+JSON; charset=utf-8"])
def test_media_types_of_patches_are_accepted(service: httpx.Client, alice: str, media_type: str) -> None:
    answer = patch(service, alice, {"name": media_type}, Content_Type=media_type)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("media_type", ["", "text/plain", "application/json-patch+json", "multipart/form-data"])
def test_other_media_types_are_refused(service: httpx.Client, alice: str, media_type: str) -> None:
    answer = patch(service, alice, {"name": "x"}, Content_Type=media_type)
    assert MERGE_PATCH in detail(answer, 415)
    assert answer.headers["accept-patch"] == f"{MERGE_PATCH}, application/json"


def test_too_large_patch_is_refused(service: httpx.Client, alice: str) -> None:
    large = json.dumps({"metadata": {"x": "y" * 1024 * 1024}}).encode()

    def in_chunks() -> Iterator[bytes]:
        for start in range(0, len(large), 100_000):
            yield large[start : start + 100_000]

    for content in (large, in_chunks()):
        answer = service.patch(alice, content=content, headers={"Content-Type": MERGE_PATCH})
        assert "exceeds 1024 KiB" in detail(answer, 413)
    assert patch(service, alice, {"metadata": {"x": "y" * 1_000_000}}).status_code == 200


class Mood:
    """A plugin with a model type whose manifests have a mood."""

    name = "mood"
    portrait_recipe = None

    def problems(self, bundle: AvatarBundle) -> Iterator[Problem]:
        if bundle.manifest.metadata.get("mood", "calm") not in ("calm", "merry"):
            yield Problem("error", "metadata.mood", "is neither calm nor merry")
        if "reference.png" not in bundle.files:
            yield Problem("error", "reference.png", "is missing")

    @hookimpl
    def register_model_types(self) -> list[Mood]:
        return [self]


def test_patch_that_makes_the_bundle_invalid_is_refused(store_url: str, put_bundle: PutBundle) -> None:
    """An error that was there before, such as the missing picture, keeps no avatar from being changed."""
    put_bundle("ben", {"model_type": "mood", "metadata": {"custom_avatar": True}})
    with running_service(store_url, plugins={"mood": Mood()}) as client:
        assert patch(client, "/avatars/ben", {"metadata": {"mood": "merry"}}).status_code == 200
        sentence = detail(patch(client, "/avatars/ben", {"metadata": {"mood": "sad"}}), 400)
        assert sentence == "metadata.mood is neither calm nor merry"
        assert client.get("/avatars/ben").json()["metadata"]["mood"] == "merry"


# -- conditions


def test_patch_with_the_present_tag_succeeds_and_with_an_old_one_gets_412(service: httpx.Client, alice: str) -> None:
    old = service.get(alice).headers["etag"]
    changed = patch(service, alice, {"name": "Bea"}, If_Match=old)
    assert changed.status_code == 200, changed.text
    refused = patch(service, alice, {"name": "Carla"}, If_Match=old)
    assert "has changed meanwhile" in detail(refused, 412)
    assert names(service) == {"alice": "Bea"}
    for number in range(5):  # at once, with the tag from the answer
        changed = patch(service, alice, {"name": f"Dora {number}"}, If_Match=changed.headers["etag"])
        assert changed.status_code == 200, changed.text


@pytest.mark.parametrize("same", [True, False])
def test_of_two_patches_with_one_tag_one_gets_412(service: httpx.Client, alice: str, same: bool) -> None:
    with ThreadPoolExecutor(2) as threads:
        for attempt in range(10):
            etag, together = service.get(alice).headers["etag"], Barrier(2)

            def rename(number: int, etag: str = etag, together: Barrier = together, attempt: int = attempt) -> int:
                together.wait()
                name = f"{attempt}-{0 if same else number}"
                return patch(service, alice, {"name": name}, If_Match=etag).status_code

            assert sorted(threads.map(rename, range(2))) == [200, 412]


def test_of_two_patches_through_two_processes_one_gets_412(
    service: httpx.Client, alice: str, store_url: str, fake_mouth: FakeMouth
) -> None:
    with (
        running_service(store_url, plugins={"fake_mouth": fake_mouth}) as other,
        ThreadPoolExecutor(2) as threads,
    ):
        for attempt in range(10):
            etag, together = service.get(alice).headers["etag"], Barrier(2)

            def rename(client: httpx.Client, etag: str = etag, together: Barrier = together) -> tuple[int, str]:
                together.wait()
                name = f"{attempt} {client.base_url}"  # noqa: B023
                return patch(client, alice, {"name": name}, If_Match=etag).status_code, name

            answers = list(threads.map(rename, (service, other)))
            assert sorted(status for status, _ in answers) == [200, 412]
            (winner,) = [name for status, name in answers if status == 200]
            assert patch(service, alice, {}).json()["name"] == winner


def test_patches_without_condition_all_take_effect(
    service: httpx.Client, alice: str, store_url: str, fake_mouth: FakeMouth
) -> None:
    """Two processes change one avatar at the same time, and no change is lost."""
    with (
        running_service(store_url, plugins={"fake_mouth": fake_mouth}) as other,
        ThreadPoolExecutor(4) as threads,
    ):

        def add(number: int) -> int:
            client = (service, other)[number % 2]
            while (answer := patch(client, alice, {"metadata": {f"key{number}": number}})).status_code == 503:
                pass  # the other process was faster each time; try again
            return answer.status_code

        assert set(threads.map(add, range(20))) == {200}
    metadata = patch(service, alice, {}).json()["metadata"]
    assert {key: metadata[key] for key in metadata if key.startswith("key")} == {f"key{n}": n for n in range(20)}


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("*", 200), ('"no"', 412), ('W/{etag}', 412), ('"no", {etag}', 200), ('W/"no",{etag} ,', 200),
        ('""', 412), ("no", 412), ('"no', 412), ("", 412), ("*, *", 412),
    ],
)  # fmt: skip
def test_if_match_is_understood_as_the_rfc_says(service: httpx.Client, alice: str, header: str, status: int) -> None:
    etag = service.get(alice).headers["etag"]
    answer = patch(service, alice, {"name": "Bea"}, If_Match=header.format(etag=etag))
    assert answer.status_code == status, answer.text
    assert names(service) == {"alice": "Bea" if status == 200 else "Old"}


def test_condition_is_checked_even_if_nothing_changes(service: httpx.Client, alice: str) -> None:
    detail(patch(service, alice, {"name": "Old"}, If_Match='"no"'), 412)
    detail(patch(service, "/avatars/nobody", {"name": "Old"}, If_Match='"no"'), 404)


# -- a mouth by hand


def test_avatar_without_a_mouth_is_finished_by_one_patch(
    service: httpx.Client, post_portrait: PostPortrait, fake_mouth: FakeMouth, stored_files: StoredFiles
) -> None:
    fake_mouth.landmarks = None
    made = post_portrait().json()
    path = f"/avatars/{made['id']}"
    before = service.get(path).json()
    assert before["metadata"]["mouth_polygon_source"] == "unavailable"
    change = {"metadata": {"animation": OUTLINES, "face_box": [0.2, 0.1, 0.8, 0.9]}}
    after = patch(service, path, change, If_Match=service.get(path).headers["etag"])
    assert after.status_code == 200, after.text
    rounded = [[0.4, 0.6], [0.5, 0.55], [0.6, 0.6], [0.5, 0.65]]
    assert after.json()["metadata"] == {
        **before["metadata"],
        "mouth_polygon_source": "manual",
        "face_box": [0.2, 0.1, 0.8, 0.9],
        "animation": {**COMPUTED, "outer_lip": rounded, "inner_mouth": INNER_MOUTH},
    }
    files = stored_files(made["id"])
    manifest = AvatarManifest.parse(files["manifest.json"])
    bundle = AvatarBundle(made["id"], manifest, {file: len(content) for file, content in files.items()})
    assert validate_bundle(bundle, {model_type.name: model_type for model_type in STANDARD_MODEL_TYPES}) == []


def test_located_mouth_is_corrected_and_removed(service: httpx.Client, post_portrait: PostPortrait) -> None:
    path = f"/avatars/{post_portrait().json()['id']}"
    before = service.get(path).json()["metadata"]
    assert before["mouth_polygon_source"] == "fake_mouth"
    assert patch(service, path, {"metadata": {"animation": before["animation"]}}).json()["metadata"] == before
    noted = patch(service, path, {"metadata": {"animation": {"note": "by a machine"}}}).json()["metadata"]
    assert noted == {**before, "animation": {**before["animation"], "note": "by a machine"}}
    lower = [[x, y + 0.1] for x, y in before["animation"]["outer_lip"]]
    moved = patch(service, path, {"metadata": {"animation": {"outer_lip": lower, "mouth_rx": 9}}}).json()["metadata"]
    assert moved["mouth_polygon_source"] == "manual"
    assert moved["animation"]["mouth_center"] == [0.5, 0.7]
    assert moved["animation"]["mouth_rx"] == before["animation"]["mouth_rx"]
    assert moved["animation"]["inner_mouth"] == before["animation"]["inner_mouth"]
    removed = patch(service, path, {"metadata": {"animation": None, "face_box": None}}).json()["metadata"]
    gone = {key: value for key, value in before.items() if key not in ("animation", "face_box")}
    assert removed == {**gone, "mouth_polygon_source": "unavailable"}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"animation": 7}, "metadata.animation is 7"),
        ({"animation": {}}, "metadata.animation.outer_lip must be a list of at least 3 points"),
        ({"animation": {"outer_lip": OUTER_LIP}}, "metadata.animation.inner_mouth must be a list of at least 3"),
        ({"animation": {**OUTLINES, "outer_lip": OUTER_LIP[:2]}}, "metadata.animation.outer_lip must be"),
        ({"animation": {**OUTLINES, "inner_mouth": "x"}}, "metadata.animation.inner_mouth must be"),
        ({"animation": {**OUTLINES, "outer_lip": [*OUTER_LIP, [0.5, 1.01]]}}, "metadata.animation.outer_lip[4] is"),
        ({"animation": {**OUTLINES, "outer_lip": [[-0.1, 0.5], *OUTER_LIP]}}, "metadata.animation.outer_lip[0] is"),
        ({"animation": {**OUTLINES, "inner_mouth": [[0.1, True]] * 3}}, "metadata.animation.inner_mouth[0] is"),
        ({"animation": {**OUTLINES, "inner_mouth": [[0.1, "0.2"]] * 3}}, "metadata.animation.inner_mouth[0] is"),
        ({"animation": {**OUTLINES, "inner_mouth": [[0.1, 0.2, 0.3]] * 3}}, "metadata.animation.inner_mouth[0] is"),
        ({"animation": {**OUTLINES, "outer_lip": [[0.5, 0.5]] * 20}}, "metadata.animation.outer_lip has no area"),
        ({"face_box": [0.2, 0.1, 0.8]}, "metadata.face_box is"),
        ({"face_box": [0.8, 0.1, 0.2, 0.9]}, "metadata.face_box is"),
        ({"face_box": [0.2, 0.1, 0.8, 1.9]}, "metadata.face_box is"),
        ({"face_box": {"left": 0.1}}, "metadata.face_box is"),
    ],
)
def test_wrong_mouth_is_refused_by_its_field(
    service: httpx.Client, alice: str, metadata: Mapping[str, Any], expected: str
) -> None:
    before = service.get(alice).content
    assert detail(patch(service, alice, {"metadata": metadata}), 400).startswith(expected)
    assert service.get(alice).content == before


# -- stores


def test_store_without_the_ability_responds_501() -> None:
    store = WatchedStore()
    store.put("alice", **PEER)
    with serve(store) as client:
        assert "its plugin can't replace manifests" in detail(patch(client, "/avatars/alice", {"name": "x"}), 501)


def test_patch_deleted_meanwhile_is_not_found_and_stays_deleted() -> None:
    store = ReplacingStore()
    store.put("alice", **PEER)
    with serve(store) as client, ThreadPoolExecutor(1) as thread:
        with store.holding("replace alice") as hold:
            changing = thread.submit(patch, client, "/avatars/alice", {"name": "x"})
            wait_until(lambda: hold.waiting)
            store.take("alice")
        assert "there is no avatar 'alice'" in detail(changing.result(), 404)
        assert store.ids() == set()


def test_name_changed_during_a_scan_is_listed() -> None:
    """The scan has read the old manifest, and ends after the change."""
    store = ReplacingStore()
    store.put("alice", **PEER)
    with serve(store, refresh_seconds=0.02) as client:
        assert names(client) == {"alice": "Old"}
        take_effect(store, "Older")
        with store.holding("read alice/manifest.json", calls=1) as hold:
            wait_until(lambda: hold.waiting)
            assert patch(client, "/avatars/alice", {"name": "New"}).status_code == 200
            with store.holding("scan") as next_scan:
                hold.is_over = True
                wait_until(lambda: next_scan.waiting)
                assert names(client) == {"alice": "New"}
        wait_until(lambda: names(client) == {"alice": "New"})


def take_effect(store: ReplacingStore, name: str) -> None:
    """Change a manifest without the service, so that the next scan reads it."""
    store.take("alice")
    store.put("alice", **{**PEER, "name": name})


def test_change_that_always_comes_too_late_responds_503() -> None:

    class Contested(ReplacingStore):
        """Another process is faster each time."""

        async def replace_manifest(self, avatar_id: str, manifest: bytes, expected_etag: str) -> str:
            await self.inner.replace_manifest(avatar_id, manifest.replace(b"Bea", b"Eve"), expected_etag)
            return await super().replace_manifest(avatar_id, manifest, expected_etag)

    store = Contested()
    store.put("alice", **PEER)
    with serve(store) as client:
        answer = patch(client, "/avatars/alice", {"name": "Bea"})
        assert "is being changed by other processes" in detail(answer, 503)
        assert answer.headers["retry-after"]
        etag = client.get("/avatars/alice").headers["etag"]
        detail(patch(client, "/avatars/alice", {"name": "Bea"}, If_Match=etag), 412)
