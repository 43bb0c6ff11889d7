"""Names, ids, manifests and forms that nobody would send in good faith: 4xx or 200, and never a 5xx."""

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

#: Fixtures are shared by a property's examples, which is meant; and machines differ.
PROPERTY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
ANY_TEXT = st.text(st.characters(), max_size=300)
CRLF = b"\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One service for all examples, with a base avatar `base`."""
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
def test_any_name(server: httpx.Client, portrait: bytes, name: str) -> None:
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
def test_any_id(server: httpx.Client, avatar_id: str) -> None:
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
def test_ids_and_paths_stay_inside(avatar_id: str, path: str) -> None:
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
def test_any_manifest(changes: dict[str, Any], whole: object) -> None:
    text = json.dumps(example_manifest("base", **changes) if whole is None else whole).encode()
    with contextlib.suppress(InvalidManifest):
        manifest = AvatarManifest.parse(text)
        assert isinstance(json.loads(manifest.to_json()), dict)
        summary = manifest.summary("base")
        assert json.dumps([summary.width, summary.height, summary.name], allow_nan=False)


@PROPERTY
@given(rubbish=st.binary(max_size=2000))
def test_any_bytes_for_a_manifest(rubbish: bytes) -> None:
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
def test_any_body(server: httpx.Client, pieces: list[bytes]) -> None:
    assert_refused(post(server, b"".join(pieces)))


@PROPERTY
@given(content_type=st.one_of(st.binary(max_size=100), st.binary(max_size=80).map(b"multipart/form-data; ".__add__)))
def test_any_content_type(server: httpx.Client, content_type: bytes) -> None:
    header = bytes(byte for byte in content_type if byte >= 32 and byte != 127).strip()
    assert_refused(post(server, body(part(b"image", b"x")), header))


def _good(portrait: bytes) -> list[bytes]:
    return [part(b"name", b"A"), part(b"base_avatar_id", b"base"), part(b"image", portrait)]


FORMS: dict[str, tuple[bytes, ...]] = {
    "a thousand parts": (part(b"x", b""),) * 1000,
    "a thousand names": tuple(part(b"%d" % number, b"") for number in range(1000)),
    "a part with endless headers": (b"X-Header: a" + CRLF) * 100_000
    and ((b"X: a" + CRLF) * 100_000 + part(b"x", b""),),
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


@pytest.mark.parametrize("parts", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("where", ["before", "alone"])
def test_forms_that_hurt(server: httpx.Client, portrait: bytes, parts: tuple[bytes, ...], where: str) -> None:
    answer = post(server, body(*parts, *(_good(portrait) if where == "before" else ())))
    if answer.status_code != 200:
        assert_refused(answer)
    assert answer.status_code != 200 or where == "before"


@pytest.mark.parametrize(
    "filename",
    ["../../etc/passwd", "a\0b", 'a"b', "a\\", "C:\\a", "%00", "ä" * 5000, "", "a; name=name", "%s%n", "<script>"],
)
def test_the_files_name_is_never_used(server: httpx.Client, portrait: bytes, filename: str) -> None:
    more = b'; filename="' + filename.encode() + b'"'
    form = body(part(b"name", b"A"), part(b"base_avatar_id", b"base"), part(b"image", portrait, more=more))
    answer = post(server, form)
    assert answer.status_code in (200, 400), answer.text


def test_prologues_and_epilogues(server: httpx.Client, portrait: bytes) -> None:
    form = body(*_good(portrait))
    assert post(server, b"before" * 1000 + CRLF + form).status_code == 200
    assert post(server, form + b"after" * 1000).status_code == 200
    assert post(server, b"x" * 12_000_000 + CRLF + form).status_code == 413
    assert post(server, form[:-6]).status_code == 400
