"""What came back, as it is shown: a line for each structure set, with a line for each ROI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from contourd.reasons.catalogue import Reason
from contourd.store.database import Database
from contourd.store.review_tables import ReviewOrganRow, ReviewRow

APPROVED = "APPROVED"
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class OrganLine:
    """One ROI; numbers are None where there is nothing to measure. ``organ`` is empty where its name is not sure."""

    organ: str
    roi: str
    fate: str
    dice: float | None
    surface_dice: float | None
    hausdorff_95_mm: float | None
    added_path_mm: float | None
    draft_cc: float | None
    reviewed_cc: float | None
    remark: str


@dataclass(frozen=True, slots=True)
class ReviewLine:
    """One structure set that came back.

    Attributes
    ----------
    number
        Of the review.
    reviewer
        A keyed pseudonym; empty where it names nobody.
    hours
        From the delivery to the approval; None where it is not approved, or one of the two is not known.
    unchanged
        None until it is compared.
    """

    number: int
    state: str
    job: int | None
    received_at: datetime
    calling_ae: str
    tps: str
    approval: str
    reviewer: str
    reviewed_at: datetime | None
    delivered_at: datetime | None
    hours: float | None
    destination: str
    model: str
    model_version: str
    model_sha256: str
    unchanged: bool | None
    reason: Reason | None
    organs: tuple[OrganLine, ...]

    def counted(self) -> dict[str, int]:
        """Return how many ROIs met which fate."""
        counts: dict[str, int] = {}
        for organ in self.organs:
            counts[organ.fate] = counts.get(organ.fate, 0) + 1
        return counts


def read_reviews(
    database: Database,
    most: int | None = None,
    job: int | None = None,
    organ: str = "",
    since: datetime | None = None,
) -> tuple[ReviewLine, ...]:
    """Read what came back, the newest first.

    Parameters
    ----------
    most
        So many; None: all.
    job, since
        Only those of a job, and those that came since then.
    organ
        Only this organ, and only structure sets in which something became of it.
    """
    wanted = select(ReviewRow).order_by(ReviewRow.id.desc()).limit(most)
    if job is not None:
        wanted = wanted.where(ReviewRow.job_id == job)
    if since is not None:
        wanted = wanted.where(ReviewRow.received_at >= since)
    if organ:
        wanted = wanted.where(ReviewRow.id.in_(select(ReviewOrganRow.review_id).where(ReviewOrganRow.organ == organ)))
    with database.reading() as session:
        rows = list(session.scalars(wanted))
        of_organs = select(ReviewOrganRow).order_by(ReviewOrganRow.id)
        of_organs = of_organs.where(ReviewOrganRow.review_id.in_([row.id for row in rows]))
        if organ:
            of_organs = of_organs.where(ReviewOrganRow.organ == organ)
        organs: dict[int, list[OrganLine]] = {}
        for row in session.scalars(of_organs):
            organs.setdefault(row.review_id, []).append(_organ(row))
        return tuple(_line(row, tuple(organs.get(row.id, ()))) for row in rows)


def last_received(database: Database) -> datetime | None:
    """Return when a structure set came back last; None where none did."""
    with database.reading() as session:
        return session.scalar(select(func.max(ReviewRow.received_at)))


def plain(line: ReviewLine) -> Mapping[str, Any]:
    """Return a line as JSON has it."""
    return {
        "review": line.number,
        "state": line.state,
        "job": line.job,
        "received_at": line.received_at.isoformat(),
        "calling_ae": line.calling_ae,
        "tps": line.tps,
        "approval": line.approval,
        "reviewer": line.reviewer,
        "reviewed_at": line.reviewed_at.isoformat() if line.reviewed_at else None,
        "delivered_at": line.delivered_at.isoformat() if line.delivered_at else None,
        "hours_to_approval": line.hours,
        "destination": line.destination,
        "model": line.model,
        "model_version": line.model_version,
        "model_sha256": line.model_sha256,
        "unchanged": line.unchanged,
        "reason_code": line.reason.code.value if line.reason else None,
        "reason_detail": dict(line.reason.detail) if line.reason else {},
        "reason": str(line.reason) if line.reason else None,
        "organs": [
            {
                "organ": organ.organ or None,
                "roi": organ.roi,
                "fate": organ.fate,
                "dice": organ.dice,
                "surface_dice": organ.surface_dice,
                "hausdorff_95_mm": organ.hausdorff_95_mm,
                "added_path_mm": organ.added_path_mm,
                "draft_cc": organ.draft_cc,
                "reviewed_cc": organ.reviewed_cc,
                "remark": organ.remark,
            }
            for organ in line.organs
        ],
    }


def _organ(row: ReviewOrganRow) -> OrganLine:
    return OrganLine(
        row.organ,
        row.roi,
        row.fate,
        row.dice,
        row.surface_dice,
        row.hausdorff_95_mm,
        row.added_path_mm,
        row.draft_cc,
        row.reviewed_cc,
        row.remark,
    )


def _line(row: ReviewRow, organs: tuple[OrganLine, ...]) -> ReviewLine:
    return ReviewLine(
        row.id,
        row.state,
        row.job_id,
        row.received_at,
        row.calling_ae,
        row.tps,
        row.approval,
        row.reviewer,
        row.reviewed_at,
        row.delivered_at,
        _hours(row),
        row.destination,
        row.model_name,
        row.model_version,
        row.model_sha256,
        row.unchanged,
        row.reason,
        organs,
    )


def _hours(row: ReviewRow) -> float | None:
    """Return the hours from delivery to approval; an approval that does not say when came no later than it was sent."""
    if row.approval != APPROVED or row.delivered_at is None:
        return None
    hours = ((row.reviewed_at or row.received_at) - row.delivered_at).total_seconds() / HOUR_S
    return hours if hours >= 0 else None  # a clock was wrong
