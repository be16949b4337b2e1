"""Wakes what rests where another process says that there is something to do; who rests looks again all the same."""

from __future__ import annotations

import threading
from collections.abc import Callable

from contourd.store.database import Database
from contourd.store.hints import Hints

# How long it may take to see that the node stops.
WAIT_S = 1.0


class HintListener:
    """Calls a function for the hints of some channels; in SQLite, whose one node needs none, never.

    Parameters
    ----------
    stopping
        Set when the node stops.
    """

    def __init__(
        self, database: Database, channels: tuple[str, ...], call: Callable[[], None], stopping: threading.Event
    ) -> None:
        self._database = database
        self._channels = channels
        self._call = call
        self._stopping = stopping
        self._thread = threading.Thread(target=self._listen, name="hints of the database", daemon=True)

    def start(self) -> None:
        """Listen from now on."""
        if not self._database.is_sqlite:
            self._thread.start()

    def _listen(self) -> None:
        with Hints(self._database, *self._channels) as hints:
            while not self._stopping.is_set():
                if hints.wait(WAIT_S):
                    self._call()
