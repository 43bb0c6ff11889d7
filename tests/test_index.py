"""The catalog's index: order, pages, entity tags, without a store and without HTTP."""

from __future__ import annotations

import dataclasses
import json
import random
from typing import TYPE_CHECKING

import pytest

from opentalking_core.bundles.manifest import AvatarManifest
from opentalking_core.catalog import ListingQuery
from opentalking_core.catalog.index import MAX_SINGLE_CHANGES, Entry, Index, make_listing, make_page
from opentalking_core.testing.fixtures import example_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence


def entry(avatar_id: str, **changes: object) -> Entry:
    manifest = AvatarManifest.parse(json.dumps(example_manifest(avatar_id, **changes)).encode())
    return Entry.of(avatar_id, manifest, "v1")


def index_of(*avatar_ids: str) -> Index:
    index = Index()
    for avatar_id in avatar_ids:
        index.put(avatar_id, entry(avatar_id))
    return index


def listed(snapshot: Sequence[Entry], query: ListingQuery | None = None) -> list[str]:
    """Return the ids in the encoded list or page."""
    listing = make_page(snapshot, query, 0).listing if query else make_listing(snapshot, 0)
    return [avatar["id"] for avatar in json.loads(listing.body)]


def test_list_of_empty_index_is_empty() -> None:
    index = Index()
    assert make_listing(index.snapshot(), 7).body == b"[]"
    assert make_listing(index.snapshot(), 7).modified == 7
    page = make_page(index.snapshot(), ListingQuery(limit=3), 7)
    assert (page.listing.body, page.total, page.next_cursor) == (b"[]", 0, None)


def test_list_is_sorted_by_id() -> None:
    assert listed(index_of("b", "李雷", "a-1", "a", "é").snapshot()) == ["a", "a-1", "b", "é", "李雷"]


def test_list_omits_hidden_and_unreadable_avatars() -> None:
    index = index_of("anna", "ben")
    index.put("anna", entry("anna", metadata={"hidden": True}))
    index.put("carl", Entry("v1", None, problem="not JSON"))
    assert listed(index.snapshot()) == ["ben"]
    assert len(index) == 1
    assert index.ids() == {"anna", "ben", "carl"}
    index.put("anna", entry("anna"))
    assert listed(index.snapshot()) == ["anna", "ben"]


def test_remove_of_unknown_avatar_changes_nothing() -> None:
    index = index_of("anna")
    revision = index.revision
    index.remove("ben")
    assert (listed(index.snapshot()), len(index), index.revision) == (["anna"], 1, revision)


def test_snapshot_survives_later_changes() -> None:
    index = index_of("anna", "ben")
    snapshot = index.snapshot()
    assert index.snapshot() is snapshot
    index.remove("anna")
    index.put("carl", entry("carl"))
    assert listed(snapshot) == ["anna", "ben"]
    assert listed(index.snapshot()) == ["ben", "carl"]


def test_revision_grows_only_if_the_encoded_list_changes() -> None:
    index = index_of("anna")
    revision = index.revision
    index.put("anna", dataclasses.replace(entry("anna"), version="v2"))
    index.put("ben", entry("ben", metadata={"hidden": True}))
    assert index.revision == revision
    index.put("anna", entry("anna", name="Another name"))
    assert index.revision == revision + 1
    index.remove("anna")
    assert index.revision == revision + 2


@pytest.mark.parametrize("count", [1, MAX_SINGLE_CHANGES, MAX_SINGLE_CHANGES + 1])
def test_single_and_bulk_changes_give_the_same_list(count: int) -> None:
    names = [f"anna-{n:04}" for n in range(count)]
    shuffled = random.Random(0).sample(names, count)
    index = index_of("z", "gone")
    index.snapshot()
    index.expect_changes(count + 1)
    index.remove("gone")
    for name in shuffled:
        index.put(name, entry(name))
    assert listed(index.snapshot()) == [*names, "z"]
    assert len(index) == count + 1
    index.expect_changes(count)
    for name in shuffled:
        index.remove(name)
    index.put("b", entry("b"))
    assert listed(index.snapshot()) == ["b", "z"]


def test_changes_between_bulk_changes_keep_the_order() -> None:
    index = index_of("m")
    index.expect_changes(MAX_SINGLE_CHANGES + 1)
    index.put("z", entry("z"))
    assert listed(index.snapshot()) == ["m", "z"]
    index.put("a", entry("a"))
    assert listed(index.snapshot()) == ["a", "m", "z"]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 1000])
def test_pages_together_equal_the_list(limit: int) -> None:
    names = ["a", "a-1", "b", "z", "é"]
    snapshot = index_of(*names).snapshot()
    pages: list[list[str]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = make_page(snapshot, ListingQuery(limit=limit, cursor=cursor), 0)
        assert page.total == len(names)
        pages.append([avatar["id"] for avatar in json.loads(page.listing.body)])
        cursor = page.next_cursor
    assert pages == [names[start : start + limit] for start in range(0, len(names), limit)]


def test_page_after_a_removed_cursor_continues_behind_it() -> None:
    index = index_of("anna", "ben", "carl")
    index.remove("ben")
    assert listed(index.snapshot(), ListingQuery(cursor="ben")) == ["carl"]


def test_filters_and_search_select_avatars() -> None:
    index = Index()
    index.put("anna", entry("anna", name="Straße", model_type="wav2lip"))
    index.put("ben", entry("ben", name="Ben", metadata={"custom_avatar": True}))
    index.put("carl", entry("carl", name="Anna's brother"))
    snapshot = index.snapshot()
    assert listed(snapshot, ListingQuery(model_type="wav2lip")) == ["anna"]
    assert listed(snapshot, ListingQuery(is_custom=True)) == ["ben"]
    assert listed(snapshot, ListingQuery(is_custom=False)) == ["anna", "carl"]
    assert listed(snapshot, ListingQuery(search="ANNA")) == ["anna", "carl"]
    assert listed(snapshot, ListingQuery(search="STRASSE")) == ["anna"]
    assert listed(snapshot, ListingQuery(search="anna", is_custom=False, cursor="anna")) == ["carl"]
    assert listed(snapshot, ListingQuery(search="nobody")) == []
    page = make_page(snapshot, ListingQuery(limit=1, search="anna"), 0)
    assert (page.total, page.next_cursor) == (2, "anna")


def test_etag_depends_on_the_content_alone() -> None:
    one, other = index_of("anna", "ben"), index_of("ben", "carl", "anna")
    assert make_listing(one.snapshot(), 1).etag != make_listing(other.snapshot(), 1).etag
    other.remove("carl")
    assert make_listing(one.snapshot(), 1).etag == make_listing(other.snapshot(), 2).etag


def test_etag_of_page_covers_total_and_next_cursor() -> None:
    tags = {
        make_page(index_of(*names).snapshot(), ListingQuery(limit=1), 0).listing.etag
        for names in (["anna"], ["anna", "ben"], ["anna", "ben", "carl"])
    }
    assert len(tags) == 3
