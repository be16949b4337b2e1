"""Images that are in the spool and not in the database: recorded at the start, never thrown away.

A kill between the two leaves such an image; its sender had no answer and may never send it again. An older backup of
the database that was put back leaves many, and those were acknowledged.
"""

from __future__ import annotations

import logging
import re

from sqlalchemy import select

from contourd.dicom.instance import dataset_sha256, read_instance
from contourd.dicom.scp import ReceivedInstance
from contourd.dicom.spool import INCOMING, Spool
from contourd.errors import SeriesUnusable
from contourd.jobs.database import Database
from contourd.jobs.intake import Intake
from contourd.jobs.tables import EventRow, InstanceRow

log = logging.getLogger(__name__)

NO_ASSOCIATION = 0
NAMED = re.compile(rf"{INCOMING}/[0-9]+/[0-9a-f]+\.dcm")


def record_unrecorded(database: Database, spool: Spool, intake: Intake) -> int:
    """Record what is stored and known neither as an image nor as one that contradicts another; returns how many."""
    recorded = 0
    for path in sorted(_stored(spool) - _known(database)):
        try:
            received = _read(spool, path)
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


def _known(database: Database) -> set[str]:
    with database.reading() as session:
        known = set(session.scalars(select(InstanceRow.path)))
        told = select(EventRow.detail).where(EventRow.subject == "series", EventRow.detail.contains(f"{INCOMING}/"))
        for detail in session.scalars(told):
            known.update(NAMED.findall(detail))
    return known


def _read(spool: Spool, path: str) -> ReceivedInstance:
    instance = read_instance(spool.root / path)
    return ReceivedInstance(
        association_id=NO_ASSOCIATION,
        calling_ae="",
        series_instance_uid=instance.series_instance_uid,
        sop_instance_uid=instance.sop_instance_uid,
        path=path,
        sha256=dataset_sha256(spool.root / path),
        patient=spool.pseudonym(instance.patient_id),
    )
