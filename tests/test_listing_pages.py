"""GET /avatars with a query: pages, filters and search."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest

from .helpers.http import wait_for

if TYPE_CHECKING:
    import httpx

    from opentalking_core.testing.fixtures import PutBundle

    from .conftest import DeleteBundle

CUSTOM = {"custom_avatar": True}


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    listed = answer.json()
    assert isinstance(listed, list)
    return [avatar["id"] for avatar in listed]


def next_page(answer: httpx.Response) -> str | None:
    """Return the URL in Link: <...>; rel="next" (RFC 8288), or None."""
    if "link" not in answer.headers:
        return None
    found = re.fullmatch(r"<([!#-;=?-~]+)>; rel=\"?next\"?", answer.headers["link"])
    assert found, answer.headers["link"]
    return found[1]


def walk(service: httpx.Client, path: str) -> list[list[str]]:
    """Return the ids of each page, from `path` to the last page."""
    pages = []
    following: str | None = path
    while following is not None:
        answer = service.get(following)
        pages.append(ids(answer))
        following = next_page(answer)
        assert len(pages) < 100
    return pages


@pytest.fixture
def seven(put_bundle: PutBundle) -> list[str]:
    """Create seven avatars, and return their ids, sorted."""
    names = ["a", "a-1", "b", "custom", "z", "é", "李雷"]
    for name in reversed(names):
        put_bundle(name)
    return names


# -- pages


def test_pages_together_equal_the_list(service: httpx.Client, seven: list[str]) -> None:
    whole = service.get("/avatars")
    assert "link" not in whole.headers
    for limit in (1, 2, 3, 6, 7, 8, 1000):
        pages = walk(service, f"/avatars?limit={limit}")
        assert pages == [seven[start : start + limit] for start in range(0, 7, limit)]
    first = service.get("/avatars?limit=7")
    assert first.content == whole.content
    assert first.headers["x-total-count"] == "7"
    assert next_page(first) is None


def test_total_counts_all_pages(service: httpx.Client, seven: list[str]) -> None:
    path: str | None = "/avatars?limit=3"
    totals = []
    while path is not None:
        answer = service.get(path)
        totals.append(answer.headers["x-total-count"])
        path = next_page(answer)
    assert totals == ["7", "7", "7"]


def test_empty_store_has_one_empty_page(service: httpx.Client) -> None:
    answer = service.get("/avatars?limit=5")
    assert ids(answer) == []
    assert answer.headers["x-total-count"] == "0"
    assert next_page(answer) is None


def test_page_begins_after_its_cursor(service: httpx.Client, seven: list[str]) -> None:
    """A client may keep a cursor for any time, and the avatar that the cursor names may be gone."""
    for cursor, left in (("", 7), ("a", 6), ("a-0", 6), ("a-1", 5), ("c", 4), ("zz", 2), ("李雷", 0), ("龜", 0)):
        for limit in ("", "&limit=1000"):
            assert ids(service.get(f"/avatars?cursor={quote(cursor)}{limit}")) == seven[7 - left :]
    for nonsense in ("%00", "%FF", "../..", "' OR 1=1", "x" * 5000, "🙂", "%F0%9F%99%82", "[]", "-1", "0"):
        assert service.get(f"/avatars?cursor={nonsense}").status_code == 200


def test_pages_stay_disjoint_while_avatars_come_and_go(
    service: httpx.Client, put_bundle: PutBundle, delete_bundle: DeleteBundle
) -> None:
    """An avatar that exists all the time is on exactly one page. No avatar is on two."""
    staying = [f"m-{n:02}" for n in range(12)]
    for avatar_id in staying:
        put_bundle(avatar_id)
    seen: list[str] = []
    path: str | None = "/avatars?limit=3"
    come = iter(["a", "b", "m-04x", "m-05x", "m-10x", "m-11x", "z", "zz", "c"])
    gone: list[str] = []
    while path is not None:
        answer = service.get(path)
        seen += ids(answer)
        path = next_page(answer)
        for _ in range(2):
            if new := next(come, None):
                put_bundle(new)
                gone.append(new)
        if path is not None and len(gone) > 3:
            delete_bundle(gone.pop(0))
        if path is not None and seen[-1] not in staying:
            delete_bundle(seen[-1])  # the cursor itself
            gone.remove(seen[-1])
    assert len(seen) == len(set(seen))
    assert seen == sorted(seen)
    assert set(staying) <= set(seen)
    assert {"m-05x", "m-11x"} & set(seen), "some of the new avatars are seen"


def test_next_page_after_its_cursor_was_deleted_is_complete(
    service: httpx.Client, seven: list[str], delete_bundle: DeleteBundle
) -> None:
    first = service.get("/avatars?limit=3")
    following = next_page(first)
    assert following is not None
    delete_bundle("b")
    assert ids(service.get(following)) == ["custom", "z", "é"]


def test_next_link_keeps_the_filters(service: httpx.Client, put_bundle: PutBundle) -> None:
    for n in range(5):
        put_bundle(f"x-{n}", {"name": 'A&B="ü" +%41', "model_type": "my type/1", "metadata": CUSTOM})
        put_bundle(f"y-{n}")
    params = {"limit": "2", "q": 'a&b="Ü" +%41', "model_type": "my type/1", "is_custom": "true"}
    answer = service.get("/avatars", params={**params, "unknown": "é&=%"})
    assert ids(answer) == ["x-0", "x-1"]
    link = next_page(answer)
    assert link is not None
    assert not urlsplit(link).netloc, "relative, for a proxy may be in front"
    query = parse_qsl(urlsplit(link).query, strict_parsing=True)
    assert dict(query) == {**params, "unknown": "é&=%", "cursor": "x-1"}
    assert len(query) == len(dict(query))
    assert walk(service, link) == [["x-2", "x-3"], ["x-4"]]


def test_hostile_query_forges_no_header(service: httpx.Client, seven: list[str]) -> None:
    for text in ("%0d%0aX-Evil:%201", '>;%20rel="next",<http://evil.example', "%22%3E", "%00", "%E2%80%A8", "é", "%"):
        answer = service.get(f"/avatars?limit=1&x={text}")
        assert ids(answer) == ["a"]
        assert "x-evil" not in answer.headers
        link = next_page(answer)
        assert link is not None
        assert link.startswith("/avatars?")
        assert ids(service.get(link)) == ["a-1"]


# -- filters


@pytest.fixture
def mixed(put_bundle: PutBundle) -> None:
    put_bundle("anna", {"name": "Anna Straße", "model_type": "wav2lip"})
    put_bundle("bert", {"name": "BERT", "model_type": "wav2lip", "metadata": CUSTOM})
    put_bundle("cleo", {"name": "Κλεοπάτρα ΣΟΦΟΣ", "model_type": "musetalk", "metadata": CUSTOM})
    put_bundle("dora", {"name": "Дора", "model_type": "mock"})
    put_bundle("李雷", {"name": None, "model_type": "mock"})
    put_bundle("hidden-anna", {"name": "Anna", "model_type": "wav2lip", "metadata": {"hidden": True, **CUSTOM}})


@pytest.mark.usefixtures("mixed")
def test_filter_selects_avatars(service: httpx.Client) -> None:
    everybody = ["anna", "bert", "cleo", "dora", "李雷"]
    for query, expected in {
        "model_type=wav2lip": ["anna", "bert"],
        "model_type=mock": ["dora", "李雷"],
        "model_type=WAV2LIP": [],
        "model_type=wav": [],
        "model_type=nosuch": [],
        "model_type=": [],
        "is_custom=true": ["bert", "cleo"],
        "is_custom=false": ["anna", "dora", "李雷"],
        "is_custom=True": ["bert", "cleo"],
        "is_custom=FALSE": ["anna", "dora", "李雷"],
        "q=": everybody,
        "q=ann": ["anna"],
        "q=ANNA": ["anna"],
        "q=bert": ["bert"],
        "q=strasse": ["anna"],
        "q=STRASSE": ["anna"],
        "q=straße": ["anna"],
        "q=σοφος": ["cleo"],
        "q=ΠΆΤΡΑ": ["cleo"],
        "q=clEO": ["cleo"],
        "q=ДОР": ["dora"],
        "q=李": ["李雷"],
        "q=雷": ["李雷"],
        "q=a%20s": ["anna"],
        "q=a+s": ["anna"],
        "q=hidden": [],
        "q=.*": [],
        "q=%25": [],
        "q=%00": [],
        "q=nobody": [],
        "q=" + "x" * 5000: [],
        # all filters at once
        "model_type=wav2lip&is_custom=true": ["bert"],
        "model_type=wav2lip&is_custom=false&q=ann": ["anna"],
        "is_custom=true&q=e": ["bert", "cleo"],
        "is_custom=true&q=anna": [],
        "limit=1&is_custom=true": ["bert"],
        "cursor=bert&is_custom=true": ["cleo"],
        "limit=1&cursor=bert&q=d": ["dora"],
        "limit=1000&cursor=&q=&is_custom=true&model_type=musetalk": ["cleo"],
        # of a repeated parameter the last value counts
        "q=anna&q=bert": ["bert"],
    }.items():
        assert ids(service.get(f"/avatars?{query}")) == expected, query


@pytest.mark.usefixtures("mixed")
def test_total_counts_matching_avatars(service: httpx.Client) -> None:
    for query, total in {"is_custom=true&limit=1": 2, "q=nobody": 0, "model_type=mock": 2, "q=&cursor=dora": 5}.items():
        answer = service.get(f"/avatars?{query}")
        assert answer.headers["x-total-count"] == str(total), query
    assert walk(service, "/avatars?limit=1&is_custom=false") == [["anna"], ["dora"], ["李雷"]]


@pytest.mark.usefixtures("mixed")
def test_filtered_avatars_are_encoded_as_in_the_whole_list(service: httpx.Client) -> None:
    whole = {avatar["id"]: list(avatar.items()) for avatar in service.get("/avatars").json()}
    for avatar in service.get("/avatars?limit=1000").json():
        assert list(avatar.items()) == whole.pop(avatar["id"])
    assert not whole


def test_pages_show_changes(service: httpx.Client, put_bundle: PutBundle, delete_bundle: DeleteBundle) -> None:
    put_bundle("anna")
    assert ids(service.get("/avatars?q=anna")) == ["anna"]
    put_bundle("anna-2", {"metadata": CUSTOM})
    assert ids(service.get("/avatars?q=anna")) == ["anna", "anna-2"]
    assert service.delete("/avatars/anna-2").status_code == 200
    assert ids(service.get("/avatars?q=anna")) == ["anna"]
    delete_bundle("anna")  # so soon after a local deletion that a scan has to find the change
    wait_for(lambda: ids(service.get("/avatars?q=anna")) == [])


# -- invalid queries


@pytest.mark.usefixtures("seven")
def test_invalid_value_is_rejected_with_a_reason(service: httpx.Client) -> None:
    wrong: dict[str, tuple[str, ...]] = {
        "limit": (
            "0",
            "-1",
            "1001",
            "",
            "abc",
            "1.5",
            "1e3",
            "%00",
            "9" * 3000,
            "NaN",
            "all",
            "1_0",
            "+5",
            "%205",
            "５",
        ),
        "is_custom": ("", "1", "yes", "None", "truefalse", "%00", "x" * 3000),
    }
    for name, values in wrong.items():
        for value in values:
            answer = service.get(f"/avatars?{name}={value}")
            assert answer.status_code == 400, (name, value[:20])
            (detail,) = answer.json().values()
            assert answer.json() == {"detail": detail}
            assert name in detail
            assert len(detail) < 300
            assert service.get(f"/avatars?q=a&{name}={value}&cursor=a").status_code == 400
    for query, detail in {
        "limit=1001": "limit is '1001'; it may be 1 to 1000",
        "is_custom=yes": "is_custom is 'yes'; it may be true or false",
    }.items():
        assert service.get(f"/avatars?{query}").json() == {"detail": detail}
    assert service.head("/avatars?limit=0").status_code == 400


def test_unknown_parameters_are_ignored(service: httpx.Client, seven: list[str]) -> None:
    whole: Any = service.get("/avatars")
    for query in (
        "",
        "_=1747150000",
        "Limit=2",
        "limit[]=2",
        "page=2",
        "offset=3",
        "sort=name",
        "%00=%00",
        "&&==&",
        "x",
    ):
        answer = service.get(f"/avatars?{query}")
        assert ids(answer) == seven, query
        assert answer.content == whole.content
        assert answer.headers["etag"] == whole.headers["etag"]
        assert answer.headers.keys().isdisjoint({"x-total-count", "link"})
    assert ids(service.get("/avatars?limit=2&_=1")) == seven[:2]


def test_head_of_page_has_the_headers_of_get(service: httpx.Client, seven: list[str]) -> None:
    get, head = service.get("/avatars?limit=2"), service.head("/avatars?limit=2")
    assert head.content == b""
    for name in ("link", "x-total-count", "content-length", "content-type"):
        assert head.headers[name] == get.headers[name]


def test_unchanged_page_is_answered_304(service: httpx.Client, seven: list[str], put_bundle: PutBundle) -> None:
    whole, page = service.get("/avatars"), service.get("/avatars?limit=2")
    assert page.headers["cache-control"] == "no-cache"
    again = service.get("/avatars?limit=2", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["x-total-count"] == "7"
    assert next_page(again) == next_page(page)
    put_bundle("y")  # not on this page, but in the total
    again = service.get("/avatars?limit=2", headers={"If-None-Match": page.headers["etag"]})
    assert (ids(again), again.headers["x-total-count"]) == (seven[:2], "8")
    for other in (whole, service.get("/avatars?limit=3"), service.get("/avatars?limit=2&cursor=a")):
        answer = service.get("/avatars?limit=2", headers={"If-None-Match": other.headers["etag"]})
        assert ids(answer) == seven[:2]


def test_etag_of_page_covers_its_headers(
    service: httpx.Client, put_bundle: PutBundle, delete_bundle: DeleteBundle
) -> None:
    """After a 304 a cache keeps the headers that it has, so the link must not lead to a page that is gone."""
    for n in range(11):
        put_bundle(f"a-{n:02}")
    page = service.get("/avatars?limit=10")
    assert next_page(page)
    delete_bundle("a-10")
    service.get("/avatars")  # where a store can't tell of changes, this waits for a scan
    again = service.get("/avatars?limit=10", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (200, page.content)
    assert next_page(again) is None
    assert again.headers["x-total-count"] == "10"
    put_bundle("a-10")
    service.get("/avatars")
    again = service.get("/avatars?limit=10", headers={"If-None-Match": page.headers["etag"]})
    assert again.status_code == 304, "it is as it was"
    assert next_page(again) == next_page(page)
