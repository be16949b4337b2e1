"""What the SCP brings: instances stored and refused, and associations, which hold a series open or broke it off."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from contourd.dicom.network.events import ReceivedInstance, RefusedInstance
from contourd.errors import QueueUnavailable, SeriesFull, StoreUnavailable
from contourd.intake.associations import Associations
from contourd.intake.completion import Completion
from contourd.intake.describing import SeriesDescriber
from contourd.intake.headers import HeaderCache
from contourd.intake.image_recorder import ImageRecorder
from contourd.intake.refusal_recorder import RefusalRecorder
from contourd.intake.series_steps import reopen_series
from contourd.intake.shared_reception import SharedReception
from contourd.intake.verdicts import ABORTED, BROKEN_OFF, ENDED, OPEN, RESTART
from contourd.settings import Route, SeriesSettings
from contourd.spool.marks import JournalMark, SeriesJournal
from contourd.store.database import Database
from contourd.store.locks import lock_series, locked
from contourd.store.queue import Queue
from contourd.store.states import SeriesState
from contourd.store.tables import InstanceRow, OpenSeriesRow, SeriesRow
from contourd.system.clock import AgeTracker, Clock, Monotonic, utc_now
from contourd.transfer.copies import HERE_ALONE, Copies


class Intake:
    """Takes what the SCP stored, and writes down how each transfer ended."""

    def __init__(
        self,
        database: Database,
        spool_root: Path,
        settings: SeriesSettings,
        routes: Sequence[Route],
        clock: Clock = utc_now,
        monotonic: Monotonic = time.monotonic,
        copies: Copies = HERE_ALONE,
        describer: SeriesDescriber | None = None,
        settings_sha256: str = "",
    ) -> None:
        self._database = database
        self._root = spool_root
        self._settings = settings
        self._now = clock
        self._quiet = AgeTracker(clock, monotonic)  # SeriesInstanceUID -> since when
        self._queue = Queue(database, clock)
        self._marks = SeriesJournal(spool_root)
        self._refusing = RefusalRecorder(database, self._queue, self._marks, clock)
        self._images = ImageRecorder(database, spool_root, settings, self._queue, copies)
        self._shared = SharedReception(database)
        self.associations = Associations()
        self.headers = HeaderCache(spool_root, copies)
        self._completion = Completion(
            *(database, self.headers, self._marks, self._quiet, settings, routes, clock, describer, settings_sha256)
        )

    def share(self, process_id: str) -> None:
        """Receive beside other processes of the same database, under this id."""
        self._shared = SharedReception(self._database, process_id)
        self._quiet.trust_no_clock()

    def association_opened(self, association_id: int, calling_ae: str, peer: str) -> None:  # noqa: ARG002
        """Remember an association; it holds no series yet."""
        self.associations.opened(association_id)

    def association_closed(self, association_id: int, aborted: bool) -> None:
        """Release the series that the association held; an abort marks them as interrupted, a release unmarks.

        What cannot be written down now is written down later; until then the association holds its series.
        """
        self.associations.ended(association_id, aborted)
        self._record_end(association_id, aborted)

    def _record_end(self, association_id: int, aborted: bool) -> None:
        with self._shared.lock:
            self._record_end_alone(association_id, aborted)

    def _record_end_alone(self, association_id: int, aborted: bool) -> None:
        instances = self.associations.instances_of(association_id)
        others = self.associations.held(besides=association_id)
        now, ended = self._now(), ABORTED if aborted else ""
        mended: list[str] = []
        self._refusing.write()
        if instances or self._refusing.knows(association_id):
            with self._database.transaction() as session:
                lock_series(session, {*instances, *self._refusing.series_of(association_id)})
                self._refusing.attribute(session, association_id, instances, now)
                self._shared.release(session, instances.keys() - others)
                others |= self._shared.held_elsewhere(session)
                for row in lock_series(session, instances).values():
                    if row.interrupted in BROKEN_OFF and not aborted:
                        if row.state == SeriesState.RECEIVING:
                            row.last_instance_at = now
                        if not self._all_came_again(session, row, instances[row.series_uid]):
                            continue
                        if row.state == SeriesState.HELD:
                            reopen_series(session, self._queue, row, "all of it was sent again", now)
                        mended.append(row.series_uid)
                    row.interrupted = ended or (OPEN if row.series_uid in others else "")
                    if row.state == SeriesState.RECEIVING:
                        row.last_instance_at = now
        for uid in instances:
            self._quiet.note(uid, now)
            if aborted:
                self.associations.forget_repeated(uid)
                self._marks.add(JournalMark.INTERRUPTED, uid, ABORTED)
        for uid in mended:
            self.associations.forget_repeated(uid)
            self._marks.clear(uid, JournalMark.INTERRUPTED)
        self._refusing.ended(association_id)
        self.associations.forget(association_id)

    def _all_came_again(self, session: Session, series: SeriesRow, instances: set[str]) -> bool:
        """Return whether a series whose transfer broke off came again, whole, in associations that ended in good order.

        A further slice or the rest alone says nothing of how many there are.
        """
        again = self.associations.note_repeated(series.series_uid, instances)
        images = select(InstanceRow.sop_instance_uid).where(InstanceRow.series_id == series.id)
        return again.issuperset(session.scalars(images))

    def instance_refused(self, refused: RefusedInstance) -> None:
        """Mark the series of an image that is refused."""
        self._refusing.take(refused)

    def instance_stored(self, received: ReceivedInstance) -> None:
        """Record an instance whose file is durable; returning means that it may be acknowledged."""
        image = (received.association_id, received.series_instance_uid, received.sop_instance_uid)
        self.associations.note_instance(*image)
        now = self._now()
        try:
            self._shared.hold(received.series_instance_uid)
            unneeded = self._images.record(received, now)
        except (QueueUnavailable, SeriesFull, StoreUnavailable) as error:
            self._refusing.away = isinstance(error, QueueUnavailable)
            self.associations.take_back_instance(*image)
            self._images.discard(received)
            raise
        self._refusing.away = False
        self._quiet.note(received.series_instance_uid, now)
        if unneeded:
            with suppress(OSError):  # it is written down, and so it must be acknowledged
                (self._root / unneeded).unlink(missing_ok=True)

    def stopped(self) -> None:
        """Record of what is open when the node is stopped whether it was in the midst of a series.

        A sender that brought nothing for ``quiet_s`` had sent all: it keeps its association for the next series.
        """
        held = self.associations.held()
        with self._shared.lock, self._database.transaction() as session:
            self._shared.release(session, held)
            for row in lock_series(session, held).values():
                age_s = self._quiet.age_s(row.series_uid, row.last_instance_at)
                if row.interrupted == OPEN and age_s >= self._settings.quiet_s:
                    row.interrupted = ""

    def forget_associations(self) -> None:
        """Release what was recorded without one, at the start."""
        self.associations.forget_all()

    def recover(self, others: Collection[str] = ()) -> None:
        """After a start no association is open: what was being received waits for ``gapped_s`` before it is judged.

        Parameters
        ----------
        others
            The ids of other processes that receive now: what they hold open is left to them.
        """
        now, broken_off = self._now(), list[str]()
        with self._database.transaction() as session:
            self._shared.forget_but(session, others)
            elsewhere = set(session.scalars(select(OpenSeriesRow.series_uid)))
            receiving = select(SeriesRow).where(SeriesRow.state == SeriesState.RECEIVING).order_by(SeriesRow.series_uid)
            for row in session.scalars(locked(receiving)):
                if row.series_uid in elsewhere or (others and row.interrupted != OPEN):
                    continue
                if row.interrupted == OPEN:
                    row.interrupted = ENDED
                    broken_off.append(row.series_uid)
                row.interrupted = row.interrupted or RESTART
                row.last_instance_at = now
                self._quiet.note(row.series_uid, now)
        for uid in broken_off:
            self._marks.add(JournalMark.INTERRUPTED, uid, ENDED)

    def process_ended(self, process_id: str) -> None:
        """Have what another process was receiving taken for broken off: it is dead. Raises QueueUnavailable."""
        now = self._now()
        with self._database.transaction() as session:
            others = select(OpenSeriesRow.process).where(OpenSeriesRow.process != process_id)
            left = self._shared.forget_but(session, list(session.scalars(others.distinct())))
            for row in lock_series(session, left).values():
                if row.state == SeriesState.RECEIVING:
                    row.interrupted = ENDED
                    row.last_instance_at = now
                    self._quiet.note(row.series_uid, now)

    def write_ends(self) -> None:
        """Write down what could not be when it happened: refusals, and ends of associations."""
        self._refusing.write()
        for association_id, aborted in self.associations.unwritten_ends().items():
            self._record_end(association_id, aborted)

    def close_quiet(self) -> None:
        """Examine each series that is quiet and that no association holds, here or at another process."""
        self.write_ends()
        with self._database.reading() as session:
            elsewhere = self._shared.held_elsewhere(session)
        self._completion.close_quiet(self.associations.held() | elsewhere)
        self._completion.reopen_found()
