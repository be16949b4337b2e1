"""What the main process tells the page's: that it is alive, what it found of itself, and whether its worker is alive.

Shared memory: nobody waits.
"""

from __future__ import annotations

import time
from ctypes import c_bool, c_double, c_int
from enum import IntFlag
from multiprocessing import get_context
from typing import Any

from contourd.system.clock import Monotonic

FRESH_S = 15.0


class SelfTestFault(IntFlag):
    """What a node found when it tried itself."""

    NOTHING = 0
    PORT = 1  # no C-ECHO is answered
    SPOOL = 2  # nothing can be written, or it is another folder
    DATABASE = 4  # its file is not the one that was opened
    STUCK = 8  # a try, or the main thread, does not come to an end
    FULL = 16  # no space for a file
    UNAVAILABLE = 32  # the database takes nothing just now


TOLD = {
    SelfTestFault.PORT: "port: a C-ECHO to the node's own port is not answered",
    SelfTestFault.SPOOL: "spool: a file cannot be written to spool.root, or it is another folder than at the start",
    SelfTestFault.DATABASE: "database: its file was removed or replaced; stop contourd and put the file or a backup "
    "back",
    SelfTestFault.STUCK: "main process: a try of its own port, spool and database does not come to an end",
    SelfTestFault.FULL: "spool: no space is left for a file",
    SelfTestFault.UNAVAILABLE: "database: nothing can be written to it",
}
# What a restart may mend; it makes no space, and no other program let go of a database.
DEAD = SelfTestFault.PORT | SelfTestFault.SPOOL | SelfTestFault.DATABASE | SelfTestFault.STUCK


class Pulse:
    """Beaten by the main process every second, read by others."""

    def __init__(self, elapsed: Monotonic = time.monotonic) -> None:
        self._elapsed = elapsed
        context = get_context("spawn")
        self._at: Any = context.Value(c_double, 0.0, lock=False)
        self._works: Any = context.Value(c_bool, False, lock=False)
        self._wrong: Any = context.Value(c_int, 0, lock=False)

    def beat(self, worker_is_alive: bool, wrong: SelfTestFault = SelfTestFault.NOTHING) -> None:
        """Return that reception and scheduling run, and what does not."""
        self._works.value = worker_is_alive
        self._wrong.value = int(wrong)
        self._at.value = self._elapsed()

    @property
    def is_fresh(self) -> bool:
        """Whether the main process has said something lately."""
        return bool(self._at.value) and self._elapsed() - self._at.value < FRESH_S

    @property
    def worker_is_alive(self) -> bool:
        """Whether the worker was alive then."""
        return bool(self._works.value)

    @property
    def faults(self) -> SelfTestFault:
        """What the main process found of itself then."""
        return SelfTestFault(self._wrong.value)

    @property
    def text(self) -> list[str]:
        """What is wrong, in words; empty where nothing is."""
        return [line for one, line in TOLD.items() if one in self.faults]

    @property
    def is_dead(self) -> bool:
        """Whether a restart may help: the main process says nothing, hangs, answers no C-ECHO, or lost its files."""
        return not self.is_fresh or bool(self.faults & DEAD)
