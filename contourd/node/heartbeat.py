"""A process says that it runs, again and again: in a thread of its own, also while a series is contoured."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

from contourd.errors import QueueUnavailable
from contourd.store.processes import BEAT_S, Processes

log = logging.getLogger(__name__)


class Heartbeat:
    """Writes the heartbeat of one process, whose row is there, until it is stopped."""

    def __init__(self, processes: Processes, name: str) -> None:
        self._processes = processes
        self._name = name
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and write down that the process ends in order."""
        self._stopping.set()
        self._thread.join()
        with suppress(QueueUnavailable):  # then it is found to be gone
            self._processes.end(self._name)

    def _beat(self) -> None:
        away = False
        while not self._stopping.wait(BEAT_S):
            try:
                self._processes.beat(self._name)
            except QueueUnavailable as error:
                if not away:
                    log.warning("the heartbeat is not written: %s", error, extra={"action": "heartbeat"})
                away = True
            else:
                away = False
