"""Hostile names, ids, manifests and forms are answered with 4xx or 200, never with 5xx."""

from __future__ import annotations

import contextlib
import json
import unicodedata
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opentalking_core.bundles.manifest import MAX_ID_BYTES, AvatarManifest, is_avatar_id, is_bundle_path
from opentalking_core.errors import InvalidManifest
from opentalking_core.testing.fixtures import example_manifest
from opentalking_core.testing.running import running_service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

#: The examples of a property share their fixtures on purpose. No deadline, because machines differ.
PROPERTY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
ANY_TEXT = st.text(st.characters(), max_size=300)
CRLF = b"\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Serve one store with the base avatar `base` for all examples."""
    avatars: Path = tmp_path_factory.mktemp("avatars")
    (avatars / "base").mkdir()
    (avatars / "base" / "manifest.json").write_text(json.dumps(example_manifest("base", model_type="wav2lip")))
    with running_service(avatars.as_uri()) as client:
        yield client


def part(name: bytes, value: bytes, disposition: bytes = b"form-data", more: bytes = b"") -> bytes:
    return b"Content-Disposition: " + disposition + b'; name="' + name + b'"' + more + CRLF + CRLF + value


def body(*parts: bytes, boundary: bytes = b"b") -> bytes:
    return b"".join(b"--" + boundary + CRLF + each + CRLF for each in parts) + b"--" + boundary + b"--" + CRLF


def post(
    server: httpx.Client, content: bytes, content_type: bytes = b"multipart/form-data; boundary=b"
) -> httpx.Response:
    return server.post("/avatars/custom", content=content, headers={b"Content-Type": content_type})


def assert_refused(answer: httpx.Response) -> None:
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    detail = answer.json()["detail"]
    assert isinstance(detail, str)
    assert detail
    assert len(detail) < 2000


@PROPERTY
@given(name=ANY_TEXT)
def test_create_with_any_name_succeeds_or_is_refused(server: httpx.Client, portrait: bytes, name: str) -> None:
    sent = name.encode("utf-8", "surrogatepass")
    answer = post(server, body(part(b"name", sent), part(b"base_avatar_id", b"base"), part(b"image", portrait)))
    if answer.status_code == 200:
        made = answer.json()
        assert made["name"] == " ".join(name.split())
        assert is_avatar_id(made["id"])
        assert len(made["id"].encode()) <= MAX_ID_BYTES
        assert server.get(f"/avatars/{quote(made['id'])}").json()["name"] == made["name"]
        assert server.delete(f"/avatars/{quote(made['id'])}").status_code == 200
    else:
        assert_refused(answer)


@PROPERTY
@given(
    avatar_id=st.one_of(
        ANY_TEXT, st.sampled_from(["..", ".", "%2e%2e", "a/b", "\0", "CON", "base\0", "BASE", ".opentalking"])
    )
)
def test_id_of_no_avatar_is_not_found(server: httpx.Client, avatar_id: str) -> None:
    path = quote(avatar_id.encode("utf-8", "surrogatepass"), safe="")
    for method, suffix in (("GET", ""), ("GET", "/preview"), ("DELETE", ""), ("GET", "/preview?width=64")):
        if path and avatar_id not in (".", "..", "base", "custom", "check"):
            answer = server.request(method, f"/avatars/{path}{suffix}")
            assert answer.status_code in (404, 405), (method, avatar_id, answer.text)
            assert_refused(answer)
    form = body(
        part(b"name", b"A"), part(b"base_avatar_id", avatar_id.encode("utf-8", "replace")), part(b"image", b"x")
    )
    assert_refused(post(server, form))


@PROPERTY
@given(avatar_id=ANY_TEXT, path=ANY_TEXT)
def test_valid_ids_and_paths_stay_inside_their_folder(avatar_id: str, path: str) -> None:
    if is_avatar_id(avatar_id):
        assert avatar_id.encode()
        assert not set(avatar_id) & set("/\\.\0 :%")
        assert not [char for char in avatar_id if unicodedata.category(char)[0] == "C"]
    if is_bundle_path(path):
        assert ".." not in path.split("/")
        assert not path.startswith("/")
        path.encode()


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)),
    max_leaves=12,
)
FIELDS = ("id", "name", "model_type", "fps", "sample_rate", "width", "height", "version", "metadata", "extra")


@PROPERTY
@given(changes=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4), whole=st.one_of(st.just(None), JSON))
def test_parse_manifest_with_any_fields_raises_only_invalid_manifest(changes: dict[str, Any], whole: object) -> None:
    text = json.dumps(example_manifest("base", **changes) if whole is None else whole).encode()
    with contextlib.suppress(InvalidManifest):
        manifest = AvatarManifest.parse(text)
        assert isinstance(json.loads(manifest.to_json()), dict)
        summary = manifest.summary("base")
        assert json.dumps([summary.width, summary.height, summary.name], allow_nan=False)


@PROPERTY
@given(rubbish=st.binary(max_size=2000))
def test_parse_manifest_of_any_bytes_raises_only_invalid_manifest(rubbish: bytes) -> None:
    with contextlib.suppress(InvalidManifest):
        AvatarManifest.parse(rubbish)


PIECES = st.one_of(
    st.sampled_from(
        [
            *(b"--b", b"--b--", CRLF, b"\n", b"\r", b"\0", b"\xff" * 10),
            *(b'Content-Disposition: form-data; name="image"', b"Content-Disposition:", b"; filename*=UTF-8''%ff"),
            *(b"Content-Type: multipart/mixed; boundary=c", b"Content-Transfer-Encoding: base64"),
            *(part(b"name", b"A"), part(b"base_avatar_id", b"base"), part(b"image", b"x")),
        ]
    ),
    st.binary(max_size=50),
)


@PROPERTY
@given(pieces=st.lists(PIECES, max_size=20))
def test_create_with_any_malformed_body_is_refused(server: httpx.Client, pieces: list[bytes]) -> None:
    assert_refused(post(server, b"".join(pieces)))


@PROPERTY
@given(content_type=st.one_of(st.binary(max_size=100), st.binary(max_size=80).map(b"multipart/form-data; ".__add__)))
def test_create_with_any_content_type_is_refused(server: httpx.Client, content_type: bytes) -> None:
    header = bytes(byte for byte in content_type if byte >= 32 and byte != 127).strip()
    assert_refused(post(server, body(part(b"image", b"x")), header))


def _good(portrait: bytes) -> list[bytes]:
    return [part(b"name", b"A"), part(b"base_avatar_id", b"base"), part(b"image", portrait)]


FORMS: dict[str, tuple[bytes, ...]] = {
    "a thousand parts": (part(b"x", b""),) * 1000,
    "a thousand names": tuple(part(b"%d" % number, b"") for number in range(1000)),
    "a part with endless headers": ((b"X: a" + CRLF) * 100_000 + part(b"x", b""),),
    "a part with an endless header": (b"X: " + b"a" * 9_000_000,),
    "an endless name of a field": (part(b"a" * 1_000_000, b""),),
    "a large text field": (part(b"name", b"a" * 9_000_000),),
    "a large field that is ignored": (part(b"other", b"a" * 9_000_000), part(b"another", b"a" * 9_000_000)),
    "no disposition": (b"Content-Type: text/plain" + CRLF + CRLF + b"x",),
    "another disposition": (part(b"image", b"x", b"attachment"),),
    "no name": (b"Content-Disposition: form-data" + CRLF + CRLF + b"x",),
    "an empty name": (part(b"", b"x"),),
    "a name twice": (part(b"image", b"x", more=b'; name="name"'),),
    "a name of bytes": (part(b"\xff\xfe", b"x"),),
    "a nested form": (
        b'Content-Disposition: form-data; name="image"\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n'
        + body(part(b"image", b"x"), boundary=b"c"),
    ),
    "a file that is base64": (part(b"image", b"x", more=b"\r\nContent-Transfer-Encoding: base64"),),
    "an unknown charset": (part(b"name", b"x", more=b"\r\nContent-Type: text/plain; charset=nonsense"),),
    "no parts": (),
    "an empty image": (part(b"image", b""),),
}


#: How a good form is refused because of these parts before it. Other strange parts are ignored.
REFUSED: dict[str, tuple[int, str]] = {
    "a thousand parts": (400, "maximum number of form body parts exceeded"),
    "a thousand names": (400, "maximum number of form body parts exceeded"),
    "a part with endless headers": (400, "incomplete body part headers"),
    "a part with an endless header": (400, "incomplete body part headers"),
    "an endless name of a field": (400, "incomplete body part headers"),
    "a large text field": (413, "the field name has more than 8192 bytes"),
    "a large field that is ignored": (413, "the fields that are not used exceed 1 MB; leave them out"),
    "another disposition": (400, "the field image is repeated"),
    "a name twice": (400, "the field name is repeated"),
    "a name of bytes": (400, "the name of a field or of its file is not UTF-8 text"),
    "a nested form": (400, "the field image is repeated"),
    "a file that is base64": (400, "the deprecated Content-Transfer-Encoding header field is unsupported"),
    "an unknown charset": (400, "the field name is repeated"),
    "an empty image": (400, "the field image is repeated"),
}


@pytest.mark.parametrize("what", FORMS)
def test_strange_form_alone_is_refused(server: httpx.Client, what: str) -> None:
    assert_refused(post(server, body(*FORMS[what])))


@pytest.mark.parametrize("what", FORMS)
def test_strange_parts_before_a_good_form_are_refused_or_ignored(
    server: httpx.Client, portrait: bytes, what: str
) -> None:
    answer = post(server, body(*FORMS[what], *_good(portrait)))
    if what in REFUSED:
        assert (answer.status_code, answer.json()["detail"]) == REFUSED[what]
    else:
        assert answer.status_code == 200, answer.text


FILENAMES = (
    "../../etc/passwd",
    "a\0b",
    'a"b',
    "a\\",
    "C:\\a",
    "%00",
    "ä" * 1000,
    "",
    "a; name=name",
    "%s%n",
    "<script>",
)


@pytest.mark.parametrize("filename", FILENAMES, ids=lambda value: ascii(value)[:30])
def test_create_ignores_the_name_of_the_file(tmp_path: Path, portrait: bytes, filename: str) -> None:
    avatars = tmp_path / "avatars"
    (avatars / "base").mkdir(parents=True)
    (avatars / "base" / "manifest.json").write_text(json.dumps(example_manifest("base", model_type="wav2lip")))
    more = b'; filename="' + filename.encode() + b'"'
    form = body(part(b"name", b"A"), part(b"base_avatar_id", b"base"), part(b"image", portrait, more=more))
    with running_service(avatars.as_uri()) as service:
        answer = post(service, form)
        assert answer.status_code == 200, answer.text
        avatar_id = answer.json()["id"]
        manifest = service.get(f"/avatars/{avatar_id}").json()
    assert manifest["name"] == "A"
    stored = {path.relative_to(avatars).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    names = ("manifest.json", "preview.png", "reference.png", "frames/frame_00000.png")
    assert stored == {"base/manifest.json", *(f"{avatar_id}/{name}" for name in names)}
    assert manifest["metadata"]["source_image_path"] == "reference.png"


def test_create_with_an_endless_file_name_responds_400(server: httpx.Client, portrait: bytes) -> None:
    more = b'; filename="' + b"a" * 10_000 + b'"'
    answer = post(server, body(*_good(portrait)[:2], part(b"image", portrait, more=more)))
    assert (answer.status_code, answer.json()["detail"]) == (400, "incomplete body part headers")


def test_create_ignores_prologue_and_epilogue(server: httpx.Client, portrait: bytes) -> None:
    form = body(*_good(portrait))
    assert post(server, b"before" * 1000 + CRLF + form).status_code == 200
    assert post(server, form + b"after" * 1000).status_code == 200
    assert post(server, b"x" * 12_000_000 + CRLF + form).status_code == 413
    assert post(server, form[:-6]).status_code == 400
