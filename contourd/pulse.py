"""What the main process tells the page's: that it is alive, and whether its worker is. Shared memory: nobody waits."""

from __future__ import annotations

import time
from ctypes import c_bool, c_double
from multiprocessing import get_context
from typing import Any

FRESH_S = 15.0


class Pulse:
    """Beaten by the main process every second, read by others."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self._at: Any = context.Value(c_double, 0.0, lock=False)
        self._works: Any = context.Value(c_bool, False, lock=False)

    def beat(self, worker_is_alive: bool) -> None:
        """Say that reception and scheduling run."""
        self._works.value = worker_is_alive
        self._at.value = time.monotonic()

    @property
    def is_fresh(self) -> bool:
        """Whether the main process has said something lately."""
        return bool(self._at.value) and time.monotonic() - self._at.value < FRESH_S

    @property
    def worker_is_alive(self) -> bool:
        """Whether the worker was alive then."""
        return bool(self._works.value)
