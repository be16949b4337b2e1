"""Images that are in the spool and not in the database: recorded at the start, never thrown away.

A kill between the two leaves such an image; its sender had no answer and may never send it again. An older backup of
the database that was put back leaves many, and those were acknowledged.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from sqlalchemy import select

from contourd.dicom.instance import read_instance
from contourd.dicom.integrity import stored_sha256
from contourd.dicom.reception import ReceivedInstance
from contourd.dicom.spool import INCOMING, Spool
from contourd.errors import SeriesUnusable
from contourd.jobs.database import Database
from contourd.jobs.intake import Intake
from contourd.jobs.tables import EventRow, InstanceRow, SeriesRow

log = logging.getLogger(__name__)

NO_ASSOCIATION = 0
NAMED = re.compile(rf"{INCOMING}/[0-9]+/[0-9a-f]+\.dcm")


def record_unrecorded(database: Database, spool: Spool, intake: Intake) -> int:
    """Record what is stored and known neither as an image nor as one that contradicts another; returns how many.

    Who sent an image stands in no file: it is known where others of its series are recorded, and unknown else.

    Raises
    ------
    QueueUnavailable
        The database does not take them.
    """
    recorded, senders = 0, dict[str, str]()
    unknown = _stored(spool) - _images(database)
    if unknown:
        unknown -= _contradicting(database)
        senders = _senders(database)
    for path in sorted(unknown):
        try:
            received = _read(spool, path, senders)
        except SeriesUnusable:
            log.error("%s is in the spool, not in the database, and cannot be read", path, extra={"action": "record"})
            continue
        intake.instance_stored(received)
        recorded += 1
    if recorded:
        intake.association_closed(NO_ASSOCIATION, aborted=False)
        log.warning("%d stored images were not recorded; they are now", recorded, extra={"action": "record"})
    return recorded


def _stored(spool: Spool) -> set[str]:
    return {str(path.relative_to(spool.root)) for path in (spool.root / INCOMING).glob("*/*.dcm")}


def _images(database: Database) -> set[str]:
    with database.reading() as session:
        return set(session.scalars(select(InstanceRow.path)))


def _contradicting(database: Database) -> set[str]:
    told = select(EventRow.detail).where(EventRow.subject == "series", EventRow.detail.contains(f"{INCOMING}/"))
    with database.reading() as session:
        return {path for detail in session.scalars(told) for path in NAMED.findall(detail)}


def _senders(database: Database) -> dict[str, str]:
    with database.reading() as session:
        rows = session.execute(select(SeriesRow.series_uid, SeriesRow.calling_ae))
        return {row.series_uid: row.calling_ae for row in rows}


def _read(spool: Spool, path: str, senders: Mapping[str, str]) -> ReceivedInstance:
    instance = read_instance(spool.root / path)
    return ReceivedInstance(
        association_id=NO_ASSOCIATION,
        calling_ae=senders.get(instance.series_instance_uid, ""),
        series_instance_uid=instance.series_instance_uid,
        sop_instance_uid=instance.sop_instance_uid,
        path=path,
        sha256=stored_sha256(spool.root / path),
        patient=spool.pseudonym(instance.patient_id),
    )
