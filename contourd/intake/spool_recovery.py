"""Images that are in the spool and not in the database: recorded at the start, never thrown away.

A kill between the two leaves such an image; its sender had no answer and may never send it again. An older backup of
the database that was put back leaves many, and those were acknowledged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from sqlalchemy import select

from contourd.dicom.network.events import ReceivedInstance
from contourd.dicom.network.file_meta import sender_of
from contourd.dicom.reading.instance import read_instance
from contourd.dicom.reading.integrity import stored_sha256
from contourd.errors import SeriesUnusable
from contourd.intake.intake import Intake
from contourd.intake.journal_recovery import finish_interrupted, recall_all
from contourd.spool.folder import INCOMING, Spool
from contourd.spool.marks import JournalEntry, JournalMark, SeriesJournal
from contourd.store.database import Database
from contourd.store.tables import ContradictingFileRow, InstanceRow, NewerImageRow, SeriesRow

log = logging.getLogger(__name__)

NO_ASSOCIATION = 0
# Before a kill: a series whose last image was written so shortly before the last one of all was being received.
UNDER_WAY_S = 300.0


def record_unrecorded(database: Database, spool: Spool, intake: Intake) -> int:
    """Record what is stored and known neither as an image nor as one that contradicts another; returns how many.

    Who sent an image stands in its file; in those of older versions it does not, and is known only where others of the
    series are recorded. How its transfer ended stands in the journal, where it did not end well; after a kill it was
    broken off.

    Raises
    ------
    QueueUnavailable
        The database does not take them.
    """
    marks = SeriesJournal(spool.root)
    standing = marks.read()
    of_no_series = standing.pop("", JournalEntry()).words
    stored = _stored(spool)
    unknown = stored - _images(database)
    recorded: dict[str, float] = {}  # series -> when its last image was written
    senders = dict[str, str]()
    if unknown:
        unknown -= _contradicting(database)
        senders = _senders(database)
    number = 0
    for path in sorted(unknown):
        try:
            received = _read(spool, path, senders)
        except SeriesUnusable:
            log.error("%s is in the spool, not in the database, and cannot be read", path, extra={"action": "record"})
            continue
        uid, written = received.series_instance_uid, (spool.root / path).stat().st_mtime
        intake.instance_stored(received)
        recorded[uid] = max(written, recorded.get(uid, 0.0))
        number += 1
    # A database that knows no series is a new one: the old one was lost.
    restored, killed = JournalMark.RESTORED in of_no_series or not senders, JournalMark.RUNNING in of_no_series
    last = max(recorded.values(), default=0.0)
    broken_off = {uid for uid, at in recorded.items() if not restored or (killed and at > last - UNDER_WAY_S)}
    intake.forget_associations()
    finish_interrupted(database, recorded, broken_off, standing)
    if restored:
        recall_all(database, standing)
    if number:
        log.warning("%d stored images were not recorded; they are now", number, extra={"action": "record"})
    marks.clear("", JournalMark.RESTORED)
    marks.compact()
    marks.add(JournalMark.RUNNING, "", "since the last start")
    return number


def _stored(spool: Spool) -> set[str]:
    return {str(path.relative_to(spool.root)) for path in (spool.root / INCOMING).glob("*/*.dcm")}


def _images(database: Database) -> set[str]:
    with database.reading() as session:
        return set(session.scalars(select(InstanceRow.path)))


def _contradicting(database: Database) -> set[str]:
    """Return the files of images that came again with other content."""
    with database.reading() as session:
        older = set(session.scalars(select(ContradictingFileRow.path)))
        return older | set(session.scalars(select(NewerImageRow.path)))


def _senders(database: Database) -> dict[str, str]:
    with database.reading() as session:
        rows = session.execute(select(SeriesRow.series_uid, SeriesRow.calling_ae))
        return {row.series_uid: row.calling_ae for row in rows}


def _read(spool: Spool, path: str, senders: Mapping[str, str]) -> ReceivedInstance:
    instance = read_instance(spool.root / path)
    known = senders.get(instance.series_instance_uid, "")
    return ReceivedInstance(
        association_id=NO_ASSOCIATION,
        calling_ae=known or sender_of(spool.root / path),
        series_instance_uid=instance.series_instance_uid,
        sop_instance_uid=instance.sop_instance_uid,
        path=path,
        sha256=stored_sha256(spool.root / path),
        patient=spool.pseudonym(instance.patient_id),
    )
