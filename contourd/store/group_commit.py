"""Group commit: one transaction, and so one fsync, for all that several threads bring at the same time.

The first thread that comes writes for itself. Those that come while it does so wait, and one of them then writes for
all of them. Nobody waits for others to come: where one thread brings one thing after another, each has its own commit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from sqlite3 import Cursor
from types import TracebackType
from typing import Generic, Self, TypeVar

from sqlalchemy.orm import Session

from contourd.errors import QueueUnavailable
from contourd.store.database import Database

Item = TypeVar("Item")
Written = TypeVar("Written")
Opened = TypeVar("Opened")


class _Waiting(Generic[Item, Written]):
    """What a thread brings, what becomes of it, and its turn to look."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.outcome = Future[Written]()
        self.turn = threading.Event()


class _ErrorKept:
    """As a context it keeps the error that ended it, for the thread whose error it is."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self.error = error
        return self.error is not None


class FastPathUnavailable(Exception):
    """Something cannot be written the short way."""


class GroupCommit(Generic[Item, Written]):
    """Writes what threads bring; each gets its own outcome.

    Parameters
    ----------
    write
        Writes one of them down in a transaction that may hold others.
    write_usual
        Does the same by the database's driver, and raises FastPathUnavailable where it takes more than that.
    order
        By which a group is written: whoever locks several rows does so in one order.
    """

    def __init__(
        self,
        database: Database,
        write: Callable[[Session, Item], Written],
        write_usual: Callable[[Cursor, Item], Written] | None = None,
        order: Callable[[Item], str] = lambda item: "",
    ) -> None:
        self._database = database
        self._write = write
        self._write_usual = write_usual
        self._order = order
        self._lock = threading.Lock()
        self._waiting: list[_Waiting[Item, Written]] = []
        self._busy = False

    def commit(self, item: Item) -> Written:
        """Return what ``write`` returned once it is committed; raises what ``write`` raised, and QueueUnavailable."""
        mine = _Waiting[Item, Written](item)
        with self._lock:
            self._waiting.append(mine)
            alone, self._busy = not self._busy, True
        if not alone:
            mine.turn.wait()
        if not mine.outcome.done():
            self._lead()
        return mine.outcome.result()

    @property
    def waiting(self) -> int:
        """How many wait for the group that is being written."""
        with self._lock:
            return len(self._waiting)

    def _lead(self) -> None:
        """Write for all that wait, and let the first of those that came meanwhile do the same."""
        with self._lock:
            group, self._waiting = self._waiting, []
        group.sort(key=lambda waiting: self._order(waiting.item))
        try:
            self._write_all(group)
        finally:
            with self._lock:
                further = self._waiting[:1]
                self._busy = bool(further)
            for one in (*group, *further):
                one.turn.set()

    def _write_all(self, group: Sequence[_Waiting[Item, Written]]) -> None:
        """Write a group together, the short way if it can be; where one of it cannot be written, each by itself."""
        if self._write_usual is not None and self._together(group, self._database.by_driver, self._write_usual):
            return
        if len(group) == 1 or not self._together(group, self._database.transaction, self._write):
            for one in group:
                self._write_alone(one)

    def _together(
        self,
        group: Sequence[_Waiting[Item, Written]],
        transaction: Callable[[], AbstractContextManager[Opened]],
        write: Callable[[Opened, Item], Written],
    ) -> bool:
        """Write a group in one transaction; False, and nothing is written, where one of it cannot be."""
        with _ErrorKept() as tried, transaction() as opened:
            found = [write(opened, one.item) for one in group]
        if tried.error is None:
            for one, written in zip(group, found, strict=True):
                one.outcome.set_result(written)
        elif isinstance(tried.error, QueueUnavailable):
            for one in group:
                one.outcome.set_exception(tried.error)  # each would wait for the same database again
        else:
            return False
        return True

    def _write_alone(self, one: _Waiting[Item, Written]) -> None:
        with _ErrorKept() as tried, self._database.transaction() as session:
            found = self._write(session, one.item)
        if tried.error is None:
            one.outcome.set_result(found)
        else:
            one.outcome.set_exception(tried.error)
