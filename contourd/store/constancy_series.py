"""What of the queue is a constancy check's own, and no patient's: it is counted, shown and sent apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Route
from contourd.store.states import ConstancyState
from contourd.store.tables import ConstancyCheckRow, ConstancySeriesRow, JobRow, SeriesRow

# No destination of the settings can be called so.
LOOPBACK_RECEIVER = "(constancy)"
# Of the Patient IDs of reference series; what bears one is sent nowhere, even where the queue has forgotten its check.
PATIENT_ID_PREFIX = "CONTOURD-CONSTANCY-"


@dataclass(frozen=True, slots=True)
class RegisteredSeries:
    """A series that was written down before it was sent; ``running``: its check is still under way."""

    model: str
    instances_sha256: str
    running: bool


def own_series() -> Select[int | None]:
    """Select the ids of the series that constancy checks sent."""
    return select(ConstancySeriesRow.series_id).where(ConstancySeriesRow.series_id.is_not(None))


def own_jobs() -> Select[int]:
    """Select the ids of their jobs."""
    return select(JobRow.id).where(JobRow.series_id.in_(own_series()))


def digest(sop_instance_uids: Iterable[str]) -> str:
    """Return the hash of a set of instances, in any order."""
    return hashlib.sha256("\n".join(sorted(sop_instance_uids)).encode()).hexdigest()


def note_arrival(session: Session, series: SeriesRow) -> None:
    """Record that a series, which is new, is one that a check sends."""
    row = session.get(ConstancySeriesRow, series.series_uid)
    if row is not None:
        row.series_id = series.id


def read_registration(session: Session, series_uid: str) -> RegisteredSeries | None:
    """Return what was written down of a series, None for every series that no check sent."""
    row = session.get(ConstancySeriesRow, series_uid)
    if row is None:
        return None
    running = session.get_one(ConstancyCheckRow, row.check_id).state == ConstancyState.RUNNING
    return RegisteredSeries(row.model, row.instances_sha256, running)


def route_of_check(registration: RegisteredSeries | None, sop_instance_uids: Iterable[str]) -> Route | Reason:
    """Return the way of a check's series: to its model and the receiver on loopback, or the reason to hold it."""
    if registration is None:
        return Reason(HoldReason.CHECK_UNKNOWN)
    if not registration.running:
        return Reason(HoldReason.CHECK_OVER)
    if digest(sop_instance_uids) != registration.instances_sha256:
        return Reason(HoldReason.CHECK_OTHER_IMAGES)
    return Route(model=registration.model, destinations=(LOOPBACK_RECEIVER,))
