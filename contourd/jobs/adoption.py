"""Images that are in the spool and not in the database: an older backup was put back, and they were acknowledged."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydicom.filereader import read_file_meta_info
from sqlalchemy import select

from contourd.dicom.instance import BEFORE_META_BYTES, read_instance
from contourd.dicom.scp import ReceivedInstance
from contourd.dicom.spool import INCOMING, Spool
from contourd.errors import SeriesUnusable
from contourd.jobs.database import Database
from contourd.jobs.intake import Intake
from contourd.jobs.tables import InstanceRow, SeriesRow

# Who sent an image stands in no file; a route for certain senders does not fit such a series, which is then held.
UNKNOWN_SENDER = "RESTORED"


def adopt_images(database: Database, spool: Spool, intake: Intake) -> int:
    """Record the images that the database does not know as if they came now; returns how many there were.

    Nothing else may use the spool. What cannot be read was never acknowledged, and stays where it is.

    Raises
    ------
    QueueUnavailable
        The database does not take them.
    """
    with database.reading() as session:
        known = set(session.scalars(select(InstanceRow.path)))
        rows = session.execute(select(SeriesRow.series_uid, SeriesRow.calling_ae))
        senders = {row.series_uid: row.calling_ae for row in rows}
    adopted = 0
    for path in sorted((spool.root / INCOMING).rglob("*.dcm")):
        relative = str(path.relative_to(spool.root))
        if relative in known:
            continue
        try:
            received = _received(path, relative, spool, senders)
        except SeriesUnusable:
            continue
        intake.instance_stored(received)
        adopted += 1
    return adopted


def _received(path: Path, relative: str, spool: Spool, senders: dict[str, str]) -> ReceivedInstance:
    instance = read_instance(path)
    head = BEFORE_META_BYTES + int(read_file_meta_info(path).FileMetaInformationGroupLength)
    return ReceivedInstance(
        association_id=0,
        calling_ae=senders.get(instance.series_instance_uid, UNKNOWN_SENDER),
        series_instance_uid=instance.series_instance_uid,
        sop_instance_uid=instance.sop_instance_uid,
        path=relative,
        sha256=hashlib.sha256(path.read_bytes()[head:]).hexdigest(),
        patient=spool.pseudonym(instance.patient_id),
    )
