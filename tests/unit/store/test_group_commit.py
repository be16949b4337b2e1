"""Group commit: what comes at the same time is one transaction, and each thread gets its own outcome."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from contourd.errors import QueueUnavailable
from contourd.store.database import Database
from contourd.store.group_commit import FastPathUnavailable, GroupCommit

WAIT_S = 20.0


class Counted(Database):
    """A database that counts its transactions, and can be had or not."""

    transactions, there = 0, True

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        self.transactions += 1
        if not self.there:
            raise QueueUnavailable("the database is away")
        with super().transaction() as session:
            yield session

    @contextmanager
    def by_driver(self) -> Iterator[sqlite3.Cursor]:
        if not self.there:
            raise QueueUnavailable("the database is away")
        with super().by_driver() as cursor:
            yield cursor


class Book:
    """A table of names that threads bring; ``first`` waits in its transaction until it may go on.

    With ``short`` what is no capital letter is written by the driver.
    """

    def __init__(self, database: Counted, short: bool = False) -> None:
        self.database = database
        with database.engine.begin() as connection:
            connection.execute(text("CREATE TABLE names (name TEXT UNIQUE)"))
        self.group = GroupCommit(database, self._write, self._write_usual if short else None)
        self.by_driver = list[str]()
        self.writing, self.go_on = threading.Event(), threading.Event()
        self.pool = ThreadPoolExecutor(8)

    def _write(self, session: Session, name: str) -> str:
        session.execute(text("INSERT INTO names VALUES (:name)"), {"name": name})
        if name == "first":
            self.writing.set()
            assert self.go_on.wait(WAIT_S)
        if name.startswith("bad"):
            raise ValueError(name)
        return name.upper()

    def _write_usual(self, cursor: sqlite3.Cursor, name: str) -> str:
        self.by_driver.append(name)
        if name == "first" or name[0].isupper():
            raise FastPathUnavailable
        cursor.execute("INSERT INTO names VALUES (?)", (name,))
        if name.startswith("bad"):
            raise ValueError(name)
        return name.upper()

    def names(self) -> list[str]:
        with self.database.engine.connect() as connection:
            return sorted(connection.execute(text("SELECT name FROM names")).scalars())

    def bring(self, *names: str, meanwhile: Callable[[], None] = lambda: None) -> list[Future[str]]:
        """Bring the first, and while it is written the others."""
        first = self.pool.submit(self.group.commit, "first")
        assert self.writing.wait(WAIT_S)
        others = [self.pool.submit(self.group.commit, name) for name in names]
        deadline = time.monotonic() + WAIT_S
        while self.group.waiting < len(names):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        meanwhile()
        self.go_on.set()
        return [first, *others]


@contextmanager
def opened(folder: Path, short: bool) -> Iterator[Book]:
    book = Book(Counted(f"sqlite:///{folder / 'names.sqlite'}"), short)
    yield book
    book.pool.shutdown()
    book.database.close()


@pytest.fixture
def book(tmp_path):
    with opened(tmp_path, short=False) as book:
        yield book


def test_one_after_the_other_has_a_transaction_each(book) -> None:
    assert [book.group.commit(name) for name in ("a", "b", "c")] == ["A", "B", "C"]
    assert book.database.transactions == 3
    assert book.names() == ["a", "b", "c"]


def test_those_that_come_meanwhile_share_one(book) -> None:
    brought = book.bring("a", "b", "c", "d")
    assert [one.result(WAIT_S) for one in brought] == ["FIRST", "A", "B", "C", "D"]
    assert book.database.transactions == 2
    assert book.names() == ["a", "b", "c", "d", "first"]


def test_one_that_fails_fails_alone_and_leaves_nothing(book) -> None:
    first, good, bad, fine, twice = book.bring("a", "bad", "c", "a")
    for one in (first, fine):
        one.result(WAIT_S)
    with pytest.raises(ValueError, match="bad"):
        bad.result(WAIT_S)
    outcomes = [one.exception(WAIT_S) for one in (good, twice)]
    assert sum(error is None for error in outcomes) == 1  # the name is there once
    assert book.names() == ["a", "c", "first"]


def test_one_that_fails_alone_has_its_error_and_the_next_goes_well(book) -> None:
    with pytest.raises(ValueError, match="bad"):
        book.group.commit("bad")
    assert book.group.commit("a") == "A"
    assert book.names() == ["a"]


def test_a_database_that_is_away_is_asked_once_for_all(book) -> None:
    def go_away() -> None:
        book.database.there = False

    first, *others = book.bring("a", "b", "c", meanwhile=go_away)
    assert first.result(WAIT_S) == "FIRST"
    for one in others:
        with pytest.raises(QueueUnavailable, match="away"):
            one.result(WAIT_S)
    assert book.database.transactions == 2
    book.database.there = True
    assert book.group.commit("a") == "A"
    assert book.names() == ["a", "first"]


def test_many_threads_lose_nothing(book) -> None:
    names = [f"{thread}-{n}" for thread in range(8) for n in range(25)]

    def bring(thread: int) -> list[str]:
        return [book.group.commit(f"{thread}-{n}") for n in range(25)]

    written = [name for names in book.pool.map(bring, range(8)) for name in names]
    assert written == names
    assert book.names() == sorted(names)


@pytest.fixture
def short(tmp_path):
    with opened(tmp_path, short=True) as book:
        yield book


def test_what_is_usual_is_written_by_the_driver_alone(short) -> None:
    first, *others = short.bring("a", "b", "c")
    assert [one.result(WAIT_S) for one in (first, *others)] == ["FIRST", "A", "B", "C"]
    assert short.database.transactions == 1  # the first was not usual
    assert short.names() == ["a", "b", "c", "first"]


def test_where_one_is_not_usual_all_are_written_the_other_way(short) -> None:
    first, *others = short.bring("a", "B", "c")
    assert [one.result(WAIT_S) for one in (first, *others)] == ["FIRST", "A", "B", "C"]
    assert short.database.transactions == 2
    assert short.names() == ["B", "a", "c", "first"]


def test_what_the_driver_refuses_is_judged_the_other_way(short) -> None:
    first, *others = short.bring("a", "a", "c")
    outcomes = [one.exception(WAIT_S) for one in others]
    assert [type(error) for error in outcomes].count(type(None)) == 2
    assert sorted(short.names()) == ["a", "c", "first"]
    assert first.result(WAIT_S) == "FIRST"


def test_one_that_breaks_in_the_driver_fails_alone(short) -> None:
    first, good, bad, fine = short.bring("a", "bad", "c")
    assert [one.result(WAIT_S) for one in (first, good, fine)] == ["FIRST", "A", "C"]
    with pytest.raises(ValueError, match="bad"):
        bad.result(WAIT_S)
    assert short.names() == ["a", "c", "first"]


def test_a_database_that_the_driver_cannot_have_is_asked_once(short) -> None:
    def go_away() -> None:
        short.database.there = False

    first, *others = short.bring("a", "b", meanwhile=go_away)
    assert first.result(WAIT_S) == "FIRST"
    for one in others:
        with pytest.raises(QueueUnavailable, match="away"):
            one.result(WAIT_S)
    assert short.by_driver == ["first"]
    short.database.there = True
    assert short.group.commit("a") == "A"
    assert short.names() == ["a", "first"]
