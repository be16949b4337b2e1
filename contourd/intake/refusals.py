"""Images that the node refused: each marks its series until that very image came, or a person releases the series."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from contourd.dicom.network.events import RefusedInstance
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.spool.marks import JournalMark, SeriesJournal
from contourd.store.locks import insert_absent, lock_series, locked
from contourd.store.tables import InstanceRow, RefusalRow, SeriesRow

# Enough to hold a series, and bounded.
MOST_OF_SERIES = 2000
MOST_CAUSES = 3  # that a reason names


def write_refusal(session: Session, refused: RefusedInstance, certain: bool, now: datetime) -> SeriesRow | None:
    """Write a refusal down; returns the series that it marks, if that is known here.

    An image that is here as it was sent is missing nowhere, and marks nothing.
    """
    uid = refused.series_instance_uid
    series = lock_series(session, [uid]).get(uid) if uid else None
    known = _stored_sha256(session, series, refused.sop_instance_uid)
    if known is not None and (known == refused.sha256 or not certain):
        return None
    of_image = RefusalRow.series_uid == uid, RefusalRow.sop_instance_uid == refused.sop_instance_uid
    same = locked(select(RefusalRow).where(*of_image))
    row = session.scalars(same).one_or_none()
    if row is None:
        of_series = session.scalar(select(func.count()).where(RefusalRow.series_uid == uid)) or 0
        if of_series >= MOST_OF_SERIES:
            return series
        new = RefusalRow(series_uid=uid, sop_instance_uid=refused.sop_instance_uid, calling_ae="", sha256="")
        new.status = 0
        new.certain = certain
        new.differs = False
        new.refused_at = now
        insert_absent(session, new)
        row = session.scalars(same).one()
    row.calling_ae = refused.calling_ae[:16]
    row.sha256 = refused.sha256
    row.status = refused.status
    row.reason = refused.reason
    row.differs = known is not None
    row.refused_at = now
    session.flush()
    return series


def _stored_sha256(session: Session, series: SeriesRow | None, sop_instance_uid: str) -> str | None:
    if series is None:
        return None
    stored = select(InstanceRow.sha256).where(
        InstanceRow.series_id == series.id, InstanceRow.sop_instance_uid == sop_instance_uid
    )
    return session.scalar(stored)


def assign_unnamed(session: Session, series: SeriesRow, since: datetime) -> None:
    """Assign to a new series what its sender was refused just before, where nobody could say of which series it was."""
    of_sender = RefusalRow.series_uid == "", RefusalRow.calling_ae == series.calling_ae
    rows = select(RefusalRow).where(*of_sender, RefusalRow.refused_at >= since).order_by(RefusalRow.id)
    for row in session.scalars(locked(rows)):
        row.series_uid = series.series_uid


def open_refusals(session: Session, series: SeriesRow) -> list[RefusalRow]:
    """Return the images of a series that were refused and did not come since."""
    rows = list(session.scalars(select(RefusalRow).where(RefusalRow.series_uid == series.series_uid)))
    if not rows:
        return []
    uids = [row.sop_instance_uid for row in rows]
    here = set(
        session.scalars(
            select(InstanceRow.sop_instance_uid).where(
                InstanceRow.series_id == series.id, InstanceRow.sop_instance_uid.in_(uids)
            )
        )
    )
    anywhere = set(session.scalars(select(InstanceRow.sop_instance_uid).where(InstanceRow.sop_instance_uid.in_(uids))))
    return [row for row in rows if row.differs or row.sop_instance_uid not in (here if row.certain else anywhere)]


def settle_refusal(session: Session, series_uid: str, sop_instance_uid: str) -> None:
    """Forget the refusal of an image that came again and was taken."""
    session.execute(
        delete(RefusalRow).where(RefusalRow.series_uid == series_uid, RefusalRow.sop_instance_uid == sop_instance_uid)
    )


def forget_refusals(session: Session, series_uid: str) -> int:
    """Forget all of a series; returns how many they were."""
    return session.execute(delete(RefusalRow).where(RefusalRow.series_uid == series_uid)).rowcount  # type: ignore[attr-defined, no-any-return]


def reason_of_refusals(refusals: Sequence[RefusalRow], found: Reason | None) -> Reason:
    """Return how many images were refused and why, and what else was found of the series."""
    alike = Counter((row.status, row.reason_code, row.reason_detail) for row in refusals).most_common()
    causes = [
        {"status": status, "why": Reason.read(code, detail), "images": number}
        for (status, code, detail), number in alike[:MOST_CAUSES]
    ]
    return Reason.of(
        HoldReason.IMAGES_REFUSED,
        images=len(refusals),
        causes=causes,
        others=len(alike) - len(causes),
        uncertain=sum(not row.certain for row in refusals),
        found=found,
    )


def mark_refused(marks: SeriesJournal, refused: RefusedInstance, certain: bool) -> None:
    """Keep a refusal beside the images."""
    reason = refused.reason.plain() if refused.reason else None
    kept = [refused.calling_ae, refused.sop_instance_uid, refused.sha256, refused.status, reason, certain]
    marks.add(JournalMark.REFUSED, refused.series_instance_uid, json.dumps(kept))


def restore_refused(session: Session, series_uid: str, details: Iterable[str], now: datetime) -> None:
    """Write down again what the database has forgotten."""
    for detail in details:
        try:
            calling_ae, sop_instance_uid, sha256, status, cause, certain = json.loads(detail)
        except ValueError:
            continue
        blank = RefusedInstance(0, str(calling_ae), series_uid, str(sop_instance_uid), str(sha256))
        refused = replace(blank, status=int(status), reason=_read_reason(cause))
        write_refusal(session, refused, bool(certain), now)


def _read_reason(reason: object) -> Reason | None:
    """Read a reason that the journal kept; older versions wrote its sentence there."""
    if isinstance(reason, dict):
        return Reason.read(str(reason.get("code", "")), json.dumps(reason.get("detail", {})))
    return Reason.of(HoldReason.OTHER, said=str(reason)) if reason else None
