"""Images that are in the spool and not in the database: recorded at the start, never thrown away.

A kill between the two leaves such an image; its sender had no answer and may never send it again. An older backup of
the database that was put back leaves many, and those were acknowledged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from sqlalchemy import select

from contourd.dicom.network.events import ReceivedInstance
from contourd.dicom.network.file_meta import sender_of
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.dicom.reading.instance import read_instance
from contourd.errors import SeriesUnusable, StoreUnavailable
from contourd.intake.intake import Intake
from contourd.intake.journal_recovery import finish_interrupted, recall_all
from contourd.spool.folder import INCOMING, Spool
from contourd.spool.grouping import WAITING
from contourd.spool.marks import JournalEntry, JournalMark, SeriesJournal
from contourd.spool.objects import StoredFile
from contourd.spool.packing import unpack
from contourd.store.database import Database
from contourd.store.stored_files import add_stored, find_stored, is_image, known_objects
from contourd.store.tables import ContradictingFileRow, InstanceRow, NewerImageRow, SeriesRow
from contourd.system.clock import utc_now
from contourd.transfer.uploading import SERIES

log = logging.getLogger(__name__)

NO_ASSOCIATION = 0
# Before a kill: a series whose last image was written so shortly before the last one of all was being received.
UNDER_WAY_S = 300.0
# Of an object that no row names: one so young another host may be about to record.
UNCLEAR_S = 3600.0


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
    of_site, of_node = (standing.pop(key, JournalEntry()).words for key in ("", spool.node_key))
    restored = JournalMark.RESTORED in of_site or not _knows_series(database)
    unknown = _stored(spool, of_all_hosts=restored) - _images(database)
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
    killed = JournalMark.RUNNING in (of_node or of_site)
    if spool.store is not None:
        number += _record_stored(database, spool, intake, recorded, 0.0 if restored else UNCLEAR_S)
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
    marks.add(JournalMark.RUNNING, spool.node_key, "since the last start")
    return number


def _record_stored(
    database: Database, spool: Spool, intake: Intake, recorded: dict[str, float], least_age_s: float
) -> int:
    """Record what is in the object store and unknown to the database, which was put back or is new; returns how many.

    Parameters
    ----------
    least_age_s
        Of an object: what is younger another host may be about to record.

    Raises
    ------
    QueueUnavailable
        The database does not take them.
    """
    try:
        return _record_objects(database, spool, intake, recorded, utc_now().timestamp() - least_age_s)
    except StoreUnavailable as error:
        log.warning("%s; what it holds is looked through at the next start", error, extra={"action": "record"})
        return 0


def _record_objects(database: Database, spool: Spool, intake: Intake, recorded: dict[str, float], until: float) -> int:
    store = spool.store
    assert store is not None
    with database.reading() as session:
        known = known_objects(session)
    number = 0
    senders = _senders(database)
    decided = _contradicting(database)
    for folder in (SERIES, WAITING):
        for found in store.list(folder):
            if found.name in known or found.modified > until:
                continue
            for place, content in unpack(found.name, store.get(found.name)):
                with database.transaction() as session:
                    indexed = bool(find_stored(session, [place.path]))
                    is_recorded = is_image(session, place.path) or place.path in decided
                    if is_recorded and not indexed:
                        add_stored(session, [place], utc_now())
                if is_recorded or indexed:
                    continue
                try:
                    received = _received(spool, place, content, senders)
                except SeriesUnusable:
                    log.error("%s in the object store cannot be read", place.path, extra={"action": "record"})
                    continue
                intake.instance_stored(received)
                recorded.setdefault(received.series_instance_uid, found.modified)
                number += 1
    return number


def _received(spool: Spool, place: StoredFile, content: bytes, senders: Mapping[str, str]) -> ReceivedInstance:
    """Read an image of the object store; its file comes to this host, so that it can be compared with others."""
    if not (spool.root / place.path).exists():
        spool.copy(place.path, content)
    return replace(_read(spool, place.path, senders), stored=place)


def _stored(spool: Spool, *, of_all_hosts: bool) -> set[str]:
    """Return the images that are there; other hosts may be about to record theirs."""
    paths = {str(path.relative_to(spool.root)) for path in (spool.root / INCOMING).glob("*/*.dcm")}
    return paths if of_all_hosts or not spool.is_shared else set(filter(spool.received_here, paths))


def _images(database: Database) -> set[str]:
    with database.reading() as session:
        return set(session.scalars(select(InstanceRow.path)))


def _contradicting(database: Database) -> set[str]:
    """Return the files of images that came again with other content."""
    with database.reading() as session:
        older = set(session.scalars(select(ContradictingFileRow.path)))
        return older | set(session.scalars(select(NewerImageRow.path)))


def _knows_series(database: Database) -> bool:
    """Return whether there is any: a database that knows none is a new one, for the old one was lost."""
    with database.reading() as session:
        return session.scalar(select(SeriesRow.id).limit(1)) is not None


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
