"""What a process tells of its host: the disk of its spool, how the object store answers, how much waits for that."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress

from contourd.errors import QueueUnavailable, SpoolError
from contourd.spool.folder import Spool
from contourd.spool.watching import WatchedStore, standing_of
from contourd.store.processes import ProcessFigures

# Between two looks whether the store is to be asked; for so long it need not have answered anybody, if it did last.
PROBE_S, QUIET_S = 15.0, 60.0


class FiguresGauge:
    """Measures a host, as one process sees it.

    Parameters
    ----------
    count_waiting
        Counts the images that are to be put into the object store; None where this process receives nothing.
    """

    def __init__(self, spool: Spool, count_waiting: Callable[[], int] | None = None) -> None:
        self._spool = spool
        self._count = count_waiting

    def measure(self) -> ProcessFigures:
        """Return what is so now; what cannot be had is not told."""
        free = size = waiting = None
        with suppress(OSError):
            usage = shutil.disk_usage(self._spool.root)
            free, size = usage.free, usage.total
        if self._count is not None:
            with suppress(QueueUnavailable):
                waiting = self._count()
        return ProcessFigures(free, size, standing_of(self._spool.store), waiting)


class StoreProbe:
    """Asks the object store where nothing else does: the node that leads, and whoever it does not answer.

    Parameters
    ----------
    leads
        Says whether this node leads.
    """

    def __init__(self, spool: Spool, leads: Callable[[], bool]) -> None:
        self._spool = spool
        self._leads = leads

    def ask(self) -> None:
        """Ask, if it is time; how it answers is remembered by the store."""
        store = self._spool.store
        if not isinstance(store, WatchedStore):
            return
        standing = store.standing
        answers = standing is not None and standing.reachable
        if store.idle_s < (QUIET_S if answers else PROBE_S / 2) or (answers and not self._leads()):
            return
        with suppress(SpoolError):
            self._spool.probe_store()
