"""Which series are being received by which process, where several receive: nobody judges one that another holds open.

What one process holds open stands in the database, a row for each of its series, before its first image is recorded and
until the end of its last association is. Alone, a process needs none of it: it knows what it holds.
"""

from __future__ import annotations

import threading
from collections.abc import Collection

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from contourd.store.database import Database
from contourd.store.locks import insert_absent
from contourd.store.tables import OpenSeriesRow


class SharedReception:
    """What this process holds open, told to the others.

    Attributes
    ----------
    lock
        Held while it is decided and written that a series is held no more; a new image of it waits so long.
    """

    def __init__(self, database: Database, process_id: str = "") -> None:
        self._database = database
        self._process = process_id
        self.lock = threading.RLock()
        self._held: set[str] = set()

    def hold(self, series_uid: str) -> None:
        """Write down that this process holds a series open, if it does not stand there; raises QueueUnavailable."""
        if not self._process or series_uid in self._held:
            return
        with self.lock:
            if series_uid not in self._held:
                with self._database.transaction() as session:
                    insert_absent(session, OpenSeriesRow(series_uid=series_uid, process=self._process))
                self._held.add(series_uid)

    def release(self, session: Session, series_uids: Collection[str]) -> None:
        """Write down that this process holds them no more, inside the caller's transaction, which has the lock."""
        mine = self._held.intersection(series_uids)
        if mine:
            own = OpenSeriesRow.process == self._process, OpenSeriesRow.series_uid.in_(mine)
            session.execute(delete(OpenSeriesRow).where(*own))
            self._held -= mine

    def held_elsewhere(self, session: Session) -> set[str]:
        """Return the Series Instance UIDs that other processes hold open."""
        if not self._process:
            return set()
        others = select(OpenSeriesRow.series_uid).where(OpenSeriesRow.process != self._process)
        return set(session.scalars(others))

    def forget_but(self, session: Session, running: Collection[str]) -> set[str]:
        """Forget what dead processes held open, inside the caller's transaction; return what of it nobody holds."""
        dead = OpenSeriesRow.process.not_in(running)
        left = set(session.scalars(select(OpenSeriesRow.series_uid).where(dead)))
        if left:
            session.execute(delete(OpenSeriesRow).where(dead))
        return left
