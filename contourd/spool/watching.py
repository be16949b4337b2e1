"""How the object store answers: remembered of the calls that are made anyway, so that nobody has to ask it for that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from contourd.errors import ObjectMissing, SpoolError, StoreUnavailable
from contourd.spool.objects import Chunks, ListedObject, ObjectStore
from contourd.system.clock import Clock, utc_now
from contourd.system.logs import one_line

LONGEST_SAID = 500


@dataclass(frozen=True, slots=True)
class StoreStanding:
    """How the object store answers one process.

    Attributes
    ----------
    reachable
        Whether it did what it was asked for last.
    since
        Since when it has been so.
    said
        What was wrong the last time that something was; empty where nothing ever was.
    """

    reachable: bool
    since: datetime
    said: str = ""


class WatchedStore:
    """An object store that remembers how it answered; used by several threads."""

    def __init__(
        self, store: ObjectStore, clock: Clock = utc_now, elapsed: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._now = clock
        self._elapsed = elapsed
        self._lock = threading.Lock()
        self._standing: StoreStanding | None = None
        self._asked = 0.0

    @property
    def standing(self) -> StoreStanding | None:
        """How it answers; None before it was asked for the first time."""
        return self._standing

    @property
    def idle_s(self) -> float:
        """For how long it has not answered, nor failed to: seconds since then."""
        return self._elapsed() - self._asked

    def put(self, name: str, chunks: Chunks) -> None:
        """Store an object, as ``ObjectStore`` says."""
        with self._noted(bucket_is_there=False):
            self._store.put(name, chunks)

    def get(self, name: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """Return an object's bytes, as ``ObjectStore`` says."""
        with self._noted(bucket_is_there=True):
            return self._store.get(name, offset, size_bytes)

    def list(self, prefix: str) -> Iterator[ListedObject]:
        """Go through objects, as ``ObjectStore`` says."""
        found: Iterator[ListedObject] | None = None
        while True:
            with self._noted(bucket_is_there=False):
                found = self._store.list(prefix) if found is None else found
                one = next(found, None)
            if one is None:
                return
            yield one

    def delete(self, name: str) -> None:
        """Remove an object, as ``ObjectStore`` says."""
        with self._noted(bucket_is_there=True):
            self._store.delete(name)

    @contextmanager
    def _noted(self, bucket_is_there: bool) -> Iterator[None]:
        """Remember how a call ends; where nothing can be missing but the bucket, that is no answer."""
        try:
            yield
        except StoreUnavailable as error:
            self._note(False, str(error))
            raise
        except ObjectMissing as error:
            self._note(bucket_is_there, str(error))
            raise
        except SpoolError:
            self._note(True)
            raise
        else:
            self._note(True)

    def _note(self, reachable: bool, said: str = "") -> None:
        with self._lock:
            before, self._asked = self._standing, self._elapsed()
            same = before is not None and before.reachable is reachable
            since = before.since if same and before is not None else self._now()
            if reachable:
                said = before.said if before is not None else ""
            self._standing = StoreStanding(reachable, since, one_line(said, LONGEST_SAID))


def standing_of(store: ObjectStore | None) -> StoreStanding | None:
    """Return how a store answers, None where there is none, or where it was not asked yet."""
    return store.standing if isinstance(store, WatchedStore) else None
