"""Images that wait for their Success, put into the object store together: one object for all that came meanwhile.

The first thread that comes puts its own image at once; those that come while it does so wait, and one of them then
puts the images of all. So nobody waits for others to come, and the more associations there are, the fewer objects each
takes.
"""

from __future__ import annotations

import threading
from itertools import accumulate
from uuid import uuid4

from contourd.errors import SpoolError
from contourd.spool.objects import ObjectStore, StoredFile
from contourd.spool.packing import pack

# The folder of the objects in which images wait until their series is packed.
WAITING = "waiting"
MOST_BYTES = 32_000_000


class _Waiting:
    """An image that a thread brings, and what becomes of it."""

    def __init__(self, path: str, content: bytes) -> None:
        self.path = path
        self.content = content
        self.stored: StoredFile | None = None
        self.error: SpoolError | None = None
        self.turn = threading.Event()


class GroupedPuts:
    """Puts what threads bring at the same time into one object; each has its own outcome."""

    def __init__(self, store: ObjectStore, host: str) -> None:
        self._store = store
        self._host = host
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._busy = False

    def put(self, path: str, content: bytes) -> StoredFile:
        """Return where an image lies once it is in the store; raises SpoolError where it is not."""
        mine = _Waiting(path, content)
        with self._lock:
            self._waiting.append(mine)
            alone, self._busy = not self._busy, True
        if not alone:
            mine.turn.wait()
        if mine.stored is None and mine.error is None:
            self._lead()
        if mine.error is not None:
            raise mine.error
        assert mine.stored is not None
        return mine.stored

    def _lead(self) -> None:
        """Put what waits, and let the first of those that came meanwhile do the same."""
        group = self._next_group()
        try:
            name = f"{WAITING}/{self._host}-{uuid4().hex}.tar"
            content, places = pack(name, {one.path: one.content for one in group})
            self._store.put(name, [content])
            for one, place in zip(group, places, strict=True):
                one.stored = place
        except SpoolError as error:
            for one in group:
                one.error = error  # each would wait for the same store again
        finally:
            for one in group:
                if one.stored is None and one.error is None:
                    one.error = SpoolError("an error of contourd's own; see its log")
            with self._lock:
                further = self._waiting[:1]
                self._busy = bool(further)
            for one in (*group, *further):
                one.turn.set()

    def _next_group(self) -> list[_Waiting]:
        with self._lock:
            sizes = accumulate(len(one.content) for one in self._waiting)
            number = 1 + sum(size < MOST_BYTES for size in sizes)
            group = self._waiting[:number]
            self._waiting = self._waiting[number:]
        return group
