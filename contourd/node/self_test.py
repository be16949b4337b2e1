"""The node tries itself as its peers would: a C-ECHO to its own port, a file in its spool, a write to its database.

What it finds is what ``/readyz`` says and what the watchdog is told; a flag would say so of a node that is deaf, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from contourd.errors import ContourdError, NodeError, QueueUnavailable, SpoolError, SpoolFull
from contourd.observe.pulse import TOLD, SelfTestFault
from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.system.clock import Monotonic

log = logging.getLogger(__name__)

EVERY_S = 5.0
PROBE_BYTES = 4096
# A receiver that died is replaced in seconds, and a burst delays an answer: so long without one is told, and so long
# ends the node, for another one is started. A try takes at most 10 s at the port and 10 s at the database.
SILENT_S = 15.0
DEAF_S = 90.0
STUCK_S = 60.0

Identity = tuple[int, int]


class EchoTarget(Protocol):
    """Who listens."""

    def try_echo(self) -> None:
        """Answer one C-ECHO to the own port; raises NodeError where none is answered."""


class SelfTest:
    """What the last tries found. ``run`` is for one thread; everything else for any."""

    def __init__(
        self, listening: EchoTarget, spool: Spool, database: Database, monotonic: Monotonic = time.monotonic
    ) -> None:
        self._listening = listening
        self._spool = spool
        self._database = database
        self._monotonic = monotonic
        self._file = database.file
        self._identities = _identity(spool.root), _identity(self._file) if self._file is not None else None
        self._lock = threading.Lock()
        self._found = SelfTestFault.NOTHING
        self._silent_since: float | None = None
        self._ended = self._main_seen = monotonic()

    def run(self) -> None:
        """Try everything once."""
        silent_since = self._try_port()
        found = self._try_spool() | self._try_database()
        with self._lock:
            self._tell(found & ~self._found, self._found & ~found)
            self._found, self._silent_since, self._ended = found, silent_since, self._monotonic()

    def seen(self) -> None:
        """Record that the main thread goes on."""
        with self._lock:
            self._main_seen = self._monotonic()

    @property
    def faults(self) -> SelfTestFault:
        """What is wrong now."""
        now = self._monotonic()
        with self._lock:
            wrong = self._found
            if self._silent_since is not None and now - self._silent_since >= SILENT_S:
                wrong |= SelfTestFault.PORT
            if now - min(self._ended, self._main_seen) >= STUCK_S:
                wrong |= SelfTestFault.STUCK
            return wrong

    @property
    def deaf(self) -> bool:
        """Whether the port has answered nothing for so long that only another start can help."""
        with self._lock:
            return self._silent_since is not None and self._monotonic() - self._silent_since >= DEAF_S

    def _try_port(self) -> float | None:
        """Return since when no C-ECHO has been answered, None where this one is."""
        began = self._monotonic()
        try:
            self._listening.try_echo()
        except NodeError as error:
            if self._silent_since is None:
                log.warning("%s", error, extra={"action": "echo"})
                return began
            return self._silent_since
        if self._silent_since is not None:
            log.info("the node's own port answers again", extra={"action": "echo"})
        return None

    def _try_spool(self) -> SelfTestFault:
        if _identity(self._spool.root) != self._identities[0]:
            return SelfTestFault.SPOOL
        return _found(
            lambda: self._spool.probe(PROBE_BYTES), {SpoolFull: SelfTestFault.FULL, SpoolError: SelfTestFault.SPOOL}
        )

    def _try_database(self) -> SelfTestFault:
        if self._file is not None and _identity(self._file) != self._identities[1]:
            return SelfTestFault.DATABASE
        return _found(self._database.probe, {QueueUnavailable: SelfTestFault.UNAVAILABLE})

    def _tell(self, begun: SelfTestFault, ended: SelfTestFault) -> None:
        for one, text in TOLD.items():
            if one in begun:
                log.error("the node found of itself: %s", text, extra={"action": "examination"})
            if one in ended:
                log.info("it is over: %s", text, extra={"action": "examination"})


def _found(attempt: Callable[[], None], meanings: dict[type[ContourdError], SelfTestFault]) -> SelfTestFault:
    try:
        attempt()
    except tuple(meanings) as error:
        return next(wrong for kind, wrong in meanings.items() if isinstance(error, kind))
    return SelfTestFault.NOTHING


def _identity(path: Path) -> Identity | None:
    """Return the device and the inode of a file, None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
