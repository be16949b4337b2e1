"""Structure sets that came back, as the SCP brings them: written down before Success, and brought where images are."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress

from sqlalchemy import exists, select

from contourd.dicom.network.events import ReceivedReview
from contourd.dicom.network.file_meta import sender_of
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.dicom.reading.files import read_dicom
from contourd.dicom.reading.instance import UNREADABLE
from contourd.errors import ContourdError, ObjectExists, QueueUnavailable, SpoolError, StoreUnavailable
from contourd.settings import Reviewer
from contourd.spool.folder import REVIEWS, Spool
from contourd.spool.objects import StoredFile
from contourd.store.database import Database
from contourd.store.review_tables import ReviewRow
from contourd.store.stored_files import add_stored, find_stored
from contourd.store.tables import StoredFileRow
from contourd.store.transitions import add_review
from contourd.system.clock import Clock, utc_now
from contourd.system.regular_files import read_regular

log = logging.getLogger(__name__)

NAMING = ("SOPInstanceUID", "PatientID")
AT_ONCE = 50


class ReviewReception:
    """Records what the SCP stored.

    Parameters
    ----------
    secured
        Whether Success takes that the object store has it.
    """

    def __init__(
        self,
        database: Database,
        spool: Spool,
        reviewers: Sequence[Reviewer],
        secured: bool = False,
        clock: Clock = utc_now,
    ) -> None:
        self._database = database
        self._spool = spool
        self._tps: Mapping[str, str] = {reviewer.ae_title: reviewer.tps for reviewer in reviewers}
        self._secured = secured
        self._now = clock
        self._away = False

    def review_stored(self, received: ReceivedReview) -> None:
        """Record a durable structure set; returning means that it may be acknowledged.

        The very same one, that came before, is kept once.

        Raises
        ------
        QueueUnavailable, SpoolError
            It cannot be recorded, or stored, now: its file is removed.
        """
        try:
            made = self._record(received, self._put(received.path) if self._secured else None)
        except ContourdError:
            self._discard(received.path)
            raise
        if not made:
            self._remove(received.path)

    def _record(self, received: ReceivedReview, stored: StoredFile | None = None) -> bool:
        """Write it down; returns whether it is a new one."""
        row = ReviewRow(
            sop_instance_uid=received.sop_instance_uid,
            sha256=received.sha256,
            path=received.path,
            calling_ae=received.calling_ae,
            tps=self._tps.get(received.calling_ae, ""),
            patient=received.patient,
        )
        now = self._now()
        with self._database.transaction() as session:
            made = add_review(session, row, now)
            if stored is not None and made:
                add_stored(session, [stored], now)
        return made

    def _discard(self, path: str) -> None:
        """Remove a file, but one whose row may have been written though the answer was lost."""
        with suppress(QueueUnavailable), self._database.reading() as session:
            if session.scalar(select(ReviewRow.id).where(ReviewRow.path == path)) is None:
                self._remove(path)

    def _remove(self, path: str) -> None:
        with suppress(SpoolError):  # retention removes it
            self._spool.remove(path)

    def _put(self, path: str) -> StoredFile:
        """Put a file into the object store, which may have it already; raises SpoolError."""
        store = self._spool.store
        assert store is not None
        try:
            content = read_regular(self._spool.root / path)
        except OSError as error:
            raise SpoolError(f"{path} cannot be read: {error.strerror}") from error
        with suppress(ObjectExists):  # an earlier try came so far; nobody else gives a file this name
            store.put(path, [content])
        return StoredFile(path, path, 0, len(content), hashlib.sha256(content).hexdigest())

    def upload(self) -> None:
        """Put what this host received into the object store, for the host that compares.

        Raises
        ------
        QueueUnavailable
            It goes on the next time, as where the store is away.
        """
        if self._spool.store is None:
            return
        known = exists().where(StoredFileRow.path == ReviewRow.path)
        waiting = select(ReviewRow.path).where(~known, ReviewRow.purged_at.is_(None)).order_by(ReviewRow.id)
        with self._database.reading() as session:
            paths = list(session.scalars(waiting.limit(AT_ONCE)))
        try:
            for path in paths:
                if not (self._spool.root / path).exists():
                    continue  # another host's
                stored = self._put(path)
                with self._database.transaction() as session:
                    if not find_stored(session, [path]):
                        add_stored(session, [stored], self._now())
        except StoreUnavailable as error:
            if not self._away:
                log.warning("%s; structure sets are stored there when it answers", error, extra={"action": "upload"})
            self._away = True
        else:
            self._away = False

    def record_unrecorded(self) -> int:
        """Record what a kill left without a row, or a database that was put back does not know; returns how many.

        Raises
        ------
        QueueUnavailable
            The database does not take them.
        """
        paths = {str(p.relative_to(self._spool.root)) for p in (self._spool.root / REVIEWS).glob("*/*.dcm")}
        if self._spool.is_shared:
            paths = set(filter(self._spool.received_here, paths))
        with self._database.reading() as session:
            paths -= set(session.scalars(select(ReviewRow.path)))
        number = 0
        for path in sorted(paths):
            try:
                received = self._read(path)
            except UNREADABLE:
                text = "%s is in the spool, not in the database, and cannot be read"
                log.error(text, path, extra={"action": "record"})
                continue
            if self._record(received):
                number += 1
            else:
                self._remove(path)
        if number:
            log.warning("%d stored structure sets were not recorded; they are now", number, extra={"action": "record"})
        return number

    def _read(self, path: str) -> ReceivedReview:
        file = self._spool.root / path
        header = read_dicom(file, specific_tags=NAMING, stop_before_pixels=True)
        patient = self._spool.pseudonym(str(header.get("PatientID", "") or "").strip())
        return ReceivedReview(0, sender_of(file), str(header.SOPInstanceUID), path, stored_sha256(file), patient)
