"""What a person gives up by releasing a series, and what was sent of images that were replaced."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from contourd.commands import command
from contourd.dicom.reading.files import read_dicom
from contourd.dicom.reading.instance import UNREADABLE
from contourd.errors import InvalidTransition
from contourd.intake.newer_images import Replacement, drop_newer, latest_newer, renames, take_newer
from contourd.intake.refusals import forget_refusals, open_refusals
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.store.locks import lock_jobs_of_series
from contourd.store.queue import Queue
from contourd.store.states import DeliveryState
from contourd.store.tables import DeliveryRow, JobRow, SeriesRow

# That may have reached a destination.
GONE_OUT = (DeliveryState.SENDING, DeliveryState.SENT, DeliveryState.DELIVERED)


def give_up(session: Session, series: SeriesRow, reason: str, seen: Collection[int]) -> str:
    """Give up what a series lacks, or what came again of it; returns what that is, in words.

    Raises
    ------
    InvalidTransition
        A reason is wanted; the newer images name another patient, and the earlier ones must not be contoured; or
        others came since those of ``seen`` were looked at.
    """
    newer = latest_newer(session, series.id)
    if not {row.id for row in newer.values()} <= set(seen):
        raise InvalidTransition(f"more images of series {series.id} came meanwhile; look at it again")
    refused = len(open_refusals(session, series))
    renamed = [row for row in newer.values() if renames(row)]
    if renamed:
        another = ", ".join(renames(renamed[0]))
        take = command("replace", series.id, "--reason", "WHY")
        raise InvalidTransition(
            f"{len(renamed)} images of series {series.id} came again with another {another}: "
            "the earlier ones are not contoured any more; when all came, take the newer: "
            f"`{take}`; if those are wrong, correct them at the source and send them once more"
        )
    if (newer or refused or series.hold) and not reason:
        what = f"{refused} images that were refused are not waited for" if refused else series.hold or series.reason
        raise InvalidTransition(f"give a reason (--reason), which the audit trail keeps: {what}")
    forget_refusals(session, series.series_uid)
    steps = [f"{refused} images that were refused are given up"] if refused else []
    if newer:
        steps.append(f"the earlier ones of {drop_newer(session, series.id)} images are kept")
    return "; ".join(steps)


def refuse_outdated(session: Session, job: JobRow) -> None:
    """Refuse to go on with a job of images that their source has corrected, or may have.

    Raises
    ------
    InvalidTransition
        Names the series or the newer job.
    """
    series = session.get_one(SeriesRow, job.series_id)
    if job.revision < series.corrected_revision:
        newest = session.scalar(select(func.max(JobRow.id)).where(JobRow.series_id == series.id))
        instead = (
            f"take job {newest}" if newest != job.id else f"the job of the newer ones is to come (series {series.id})"
        )
        raise InvalidTransition(f"the images of job {job.id} were corrected at their source and replaced; {instead}")
    if any(renames(row) for row in latest_newer(session, series.id).values()):
        raise InvalidTransition(f"the images of job {job.id} came again as another patient's: see series {series.id}")


def replace_within(session: Session, queue: Queue, series: SeriesRow, foreseen: Replacement, root: Path) -> str:
    """Put the newer images in place inside the caller's transaction, and end the jobs of the earlier ones.

    Returns
    -------
    What was done, and which structure sets of the earlier images were sent already.

    Raises
    ------
    InvalidTransition
        Something came meanwhile.
    """
    text = _replacement_text(session, root, series.id, foreseen)
    take_newer(session, series, foreseen)
    jobs = lock_jobs_of_series(session, series.id)
    if jobs:
        series.revision = max(series.revision, *(job.revision + 1 for job in jobs))
        queue.supersede_jobs(session, jobs, Reason(HoldReason.IMAGES_REPLACED))
    if foreseen.renamed:
        series.corrected_revision = series.revision
    return text


def _replacement_text(session: Session, root: Path, series_id: int, replacement: Replacement) -> str:
    """Return how many images were replaced, and name the structure sets of the earlier ones that went out."""
    sent = (
        select(DeliveryRow.job_id, DeliveryRow.destination, DeliveryRow.output)
        .join(JobRow, JobRow.id == DeliveryRow.job_id)
        .where(JobRow.series_id == series_id, DeliveryRow.state.in_(GONE_OUT))
    )
    rows = session.execute(sent.order_by(DeliveryRow.id)).all()
    text = f"{len(replacement.newer)} images of series {series_id} were replaced by the newer ones"
    if not rows:
        return f"{text}; nothing of the earlier ones was sent"
    named = ", ".join(f"job {job} to {destination} ({_uid(root / output)})" for job, destination, output in rows)
    return f"{text}; structure sets of the earlier ones were sent, remove them there: {named}"


def _uid(path: Path) -> str:
    try:
        return f"SOP Instance UID {read_dicom(path, specific_tags=['SOPInstanceUID']).SOPInstanceUID}"
    except (*UNREADABLE, AttributeError):
        return "its file is not here any more"
