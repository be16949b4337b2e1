"""How the deliveries to each destination fare: counts by status, the last success, whether it answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from contourd.dicom.network.outcomes import OutcomeKind
from contourd.store.constancy_series import LOOPBACK_RECEIVER
from contourd.store.states import DELIVERIES_UNDER_WAY, DeliveryState
from contourd.store.tables import AttemptRow, DeliveryRow
from contourd.store.tallies import ATTEMPTS, DELIVERIES, Tally, read_tallies

UP = "UP"
DOWN = "DOWN"
UNTRIED = "UNTRIED"
UNREACHABLE = OutcomeKind.UNREACHABLE.value
ANSWERED = tuple(kind.value for kind in OutcomeKind if kind is not OutcomeKind.UNREACHABLE)


@dataclass(frozen=True, slots=True)
class AttemptCount:
    """How many tries ended alike; ``status`` is the DIMSE status, None where no response came."""

    outcome: str
    status: int | None
    number: int
    last_id: int
    last_at: datetime

    @property
    def text(self) -> str:
        """Return the ending in a word or two."""
        return self.outcome if self.status is None else f"{self.outcome} 0x{self.status:04X}"


@dataclass(frozen=True, slots=True)
class DestinationLine:
    """One destination; ``since`` is when it was found in this state, ``waiting`` counts what it does not have yet."""

    name: str
    state: str
    since: datetime | None
    last_success: datetime | None
    waiting: int
    tries: tuple[AttemptCount, ...]


def read_destinations(session: Session) -> tuple[DestinationLine, ...]:
    """Read every destination that deliveries name, but the receiver of a constancy check."""
    waiting: Counter[str] = Counter()
    for tally in read_tallies(session, DELIVERIES):
        if tally.state in DELIVERIES_UNDER_WAY and tally.destination != LOOPBACK_RECEIVER:
            waiting[tally.destination] += tally.number
    tries: dict[str, list[AttemptCount]] = {name: [] for name in waiting}
    for tally in read_tallies(session, ATTEMPTS):
        if tally.destination != LOOPBACK_RECEIVER:
            tries.setdefault(tally.destination, []).append(_tries(session, tally))
    return tuple(_line(session, name, tuple(tries[name]), waiting[name]) for name in sorted(tries))


def last_delivered(session: Session, destination: str) -> datetime | None:
    """Return when a destination took a structure set last, and vouched for it where it is asked to."""
    delivered = DeliveryRow.destination == destination, DeliveryRow.state == DeliveryState.DELIVERED
    return session.scalar(select(func.max(DeliveryRow.updated_at)).where(*delivered))


def _alike(destination: str, outcome: str, status: int | None) -> tuple[ColumnElement[bool], ...]:
    of_status = AttemptRow.status.is_(None) if status is None else AttemptRow.status == status
    return AttemptRow.destination == destination, AttemptRow.outcome == outcome, of_status


def _tries(session: Session, tally: Tally) -> AttemptCount:
    alike = _alike(tally.destination, tally.state, tally.status)
    last = session.scalars(select(AttemptRow).where(*alike).order_by(AttemptRow.id.desc()).limit(1)).one()
    return AttemptCount(tally.state, tally.status, tally.number, last.id, last.at)


def _line(session: Session, name: str, tries: tuple[AttemptCount, ...], waiting: int) -> DestinationLine:
    failed = max((t.last_id for t in tries if t.outcome == UNREACHABLE), default=0)
    answered = max((t.last_id for t in tries if t.outcome in ANSWERED), default=0)
    last_success = max((t.last_at for t in tries if t.outcome == OutcomeKind.ACCEPTED.value), default=None)
    state = UNTRIED if failed == answered else DOWN if failed > answered else UP
    outcomes = (UNREACHABLE,) if state == DOWN else ANSWERED
    began = [
        first
        for t in tries
        if t.outcome in outcomes and (first := _first_after(session, name, t, min(failed, answered))) is not None
    ]
    since = session.get_one(AttemptRow, min(began)).at if began else None
    return DestinationLine(name, state, since, last_success, waiting, tries)


def _first_after(session: Session, destination: str, tries: AttemptCount, attempt: int) -> int | None:
    """Return the first of some tries after an attempt; by the index, for there may be very many."""
    alike = _alike(destination, tries.outcome, tries.status)
    return session.scalar(select(func.min(AttemptRow.id)).where(*alike, AttemptRow.id > attempt))
