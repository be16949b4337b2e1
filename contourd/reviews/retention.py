"""When the files of what came back are removed; what was found of each organ stays, for it names nobody."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta

from sqlalchemy import and_, or_, select

from contourd.settings import RetentionSettings
from contourd.spool.folder import REVIEWS, Spool
from contourd.store.database import Database
from contourd.store.locks import lock_one
from contourd.store.review_tables import ReviewRow
from contourd.store.states import ReviewState
from contourd.store.transitions import record
from contourd.system.clock import Clock
from contourd.transfer.removal import StoreRemoval

log = logging.getLogger(__name__)

ENDED = (ReviewState.COMPARED, ReviewState.REFUSED)


class ReviewRetention:
    """Removes them: as structure sets when they were compared, as what a person must look at while they were not."""

    def __init__(
        self, database: Database, spool: Spool, store: StoreRemoval, settings: RetentionSettings, clock: Clock
    ) -> None:
        self._database = database
        self._spool = spool
        self._store = store
        self._settings = settings
        self._now = clock

    def remove_old(self) -> None:
        """Remove those whose time is over; raises QueueUnavailable, SpoolError."""
        now = self._now()
        compared = now - timedelta(days=self._settings.output_days)
        others = now - timedelta(days=self._settings.failed_days)
        old = or_(and_(ReviewRow.state.in_(ENDED), ReviewRow.received_at < compared), ReviewRow.received_at < others)
        wanted = select(ReviewRow.id).where(old, ReviewRow.purged_at.is_(None))
        with self._database.reading() as session:
            numbers = list(session.scalars(wanted))
        for number in numbers:
            self.remove(number, "its time is over")

    def settled(self) -> list[tuple[int, datetime]]:
        """Return those that were compared, or never will be, with when they came."""
        wanted = select(ReviewRow.id, ReviewRow.received_at).where(
            ReviewRow.state.in_(ENDED), ReviewRow.purged_at.is_(None)
        )
        with self._database.reading() as session:
            return [(number, at) for number, at in session.execute(wanted)]

    def remove(self, number: int, reason: str) -> None:
        """Remove one's file, after that is written down; raises QueueUnavailable, SpoolError."""
        with self._database.transaction() as session:
            row = lock_one(session, ReviewRow, number)
            row.purged_at = self._now()
            path = row.path
            record(session, "review", number, "purge", row.state, f"structure set removed: {reason}", self._now())
        self._spool.remove(path)
        self._store.removed([path])

    def finish(self) -> None:
        """Take up removals that were written down and not ended; raises QueueUnavailable, SpoolError."""
        there = set(self._spool.incoming(time.time(), REVIEWS))
        if not there:
            return
        with self._database.reading() as session:
            gone = session.scalars(
                select(ReviewRow.path).where(ReviewRow.purged_at.is_not(None), ReviewRow.path.in_(sorted(there)[:500]))
            ).all()
        for path in gone:
            self._spool.remove(path)
        self._store.removed(gone)

    def remove_orphans(self) -> None:
        """Remove files that no row knows, as those of images; raises QueueUnavailable, SpoolError."""
        cutoff = (self._now() - timedelta(days=self._settings.failed_days)).timestamp()
        with self._database.reading() as session:
            known = set(session.scalars(select(ReviewRow.path)))
        for path in self._spool.incoming(cutoff, REVIEWS):
            if path not in known:
                log.info("a structure set that no row knows is removed", extra={"action": "retention"})
                self._spool.remove(path)
