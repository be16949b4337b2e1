"""What is remembered of how the object store answers."""

from __future__ import annotations

import pytest

from contourd.errors import ObjectExists, ObjectMissing, StoreUnavailable
from contourd.spool.objects import ListedObject
from contourd.spool.watching import StoreStanding, WatchedStore, standing_of


class Store:
    """Answers with an error, or with what it has."""

    error: Exception | None = None

    def _answer(self) -> None:
        if self.error is not None:
            raise self.error

    def put(self, name, chunks):  # noqa: ARG002
        self._answer()

    def get(self, name, offset=0, size_bytes=None):  # noqa: ARG002
        self._answer()
        return b"content"

    def list(self, prefix):
        self._answer()
        yield ListedObject(f"{prefix}/1", 1, 0.0)
        yield ListedObject(f"{prefix}/2", 1, 0.0)

    def delete(self, name):  # noqa: ARG002
        self._answer()


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def watched(store, clock):
    return WatchedStore(store, clock, clock.elapsed)


CALLS = {
    "put": lambda store: store.put("a", [b""]),
    "get": lambda store: store.get("a"),
    "list": lambda store: list(store.list("a")),
    "delete": lambda store: store.delete("a"),
}


@pytest.mark.parametrize("call", CALLS)
def test_it_is_remembered_since_when_a_store_answers_or_does_not_and_what_was_wrong(store, watched, clock, call):
    assert standing_of(watched) is None
    CALLS[call](watched)
    began = clock()
    clock.advance(5)
    CALLS[call](watched)
    assert standing_of(watched) == StoreStanding(True, began, "")
    clock.advance(5)
    store.error = StoreUnavailable("it refuses\nthese credentials")
    down = clock()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            CALLS[call](watched)
        clock.advance(5)
    standing = standing_of(watched)
    assert (standing.reachable, standing.since) == (False, down)
    assert standing.said.startswith("it refuses")
    assert "\n" not in standing.said
    assert watched.idle_s == 5
    store.error = None
    CALLS[call](watched)
    assert standing_of(watched) == StoreStanding(True, clock(), standing.said)


@pytest.mark.parametrize(
    ("call", "error", "reachable"),
    [
        ("put", ObjectExists("there is one"), True),
        ("get", ObjectMissing("there is none"), True),
        ("delete", ObjectMissing("there is none"), True),
        ("put", ObjectMissing("there is no such bucket"), False),
        ("list", ObjectMissing("there is no such bucket"), False),
    ],
)
def test_an_answer_that_there_is_none_is_an_answer_unless_the_bucket_is_gone(store, watched, call, error, reachable):
    store.error = error
    with pytest.raises(type(error)):
        CALLS[call](watched)
    assert standing_of(watched).reachable is reachable


def test_who_looks_at_the_first_object_alone_had_an_answer(watched):
    assert next(watched.list("a")).name == "a/1"
    assert standing_of(watched).reachable


def test_of_another_store_nothing_is_known(store):
    assert (standing_of(store), standing_of(None)) == (None, None)
