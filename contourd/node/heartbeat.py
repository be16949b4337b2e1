"""A process says that it runs, again and again: in a thread of its own, also while a series is contoured."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from contourd.errors import QueueUnavailable
from contourd.store.processes import BEAT_S, NO_FIGURES, Processes, ProcessFigures

log = logging.getLogger(__name__)

MEASURE_S = 15.0


class Heartbeat:
    """Writes the heartbeat of one process, whose row is there, until it is stopped.

    Parameters
    ----------
    measure
        Gives what it tells of its host. It has a thread of its own: a file server that hangs stops no heartbeat.
    """

    def __init__(
        self, processes: Processes, name: str, measure: Callable[[], ProcessFigures] = lambda: NO_FIGURES
    ) -> None:
        self._processes = processes
        self._name = name
        self._measure = measure
        self._figures = NO_FIGURES
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._measuring = threading.Thread(target=self._follow, name="figures of the host", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._measuring.start()
        self._thread.start()

    def stop(self) -> None:
        """End, and write down that the process ends in order."""
        self._stopping.set()
        self._thread.join()
        with suppress(QueueUnavailable):  # then it is found to be gone
            self._processes.end(self._name)

    def _follow(self) -> None:
        while True:
            self._figures = self._measure()
            if self._stopping.wait(MEASURE_S):
                return

    def _beat(self) -> None:
        away = False
        while not self._stopping.wait(BEAT_S):
            try:
                self._processes.beat(self._name, self._figures)
            except QueueUnavailable as error:
                if not away:
                    log.warning("the heartbeat is not written: %s", error, extra={"action": "heartbeat"})
                away = True
            else:
                away = False
