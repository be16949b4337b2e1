"""How the deliveries to each destination fare: counts by status, the last success, whether it answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from contourd.jobs.job import DeliveryState
from contourd.jobs.own_series import LOOPBACK_RECEIVER
from contourd.jobs.tables import AttemptRow, DeliveryRow
from contourd.outcomes import OutcomeKind

UP, DOWN, UNTRIED = "UP", "DOWN", "UNTRIED"
UNREACHABLE = OutcomeKind.UNREACHABLE.value
ANSWERED = tuple(kind.value for kind in OutcomeKind if kind is not OutcomeKind.UNREACHABLE)
OPEN = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.SENT)


@dataclass(frozen=True, slots=True)
class Tries:
    """How many tries ended alike; ``status`` is the DIMSE status, None where no response came."""

    outcome: str
    status: int | None
    number: int
    last_id: int
    last_at: datetime

    @property
    def told(self) -> str:
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
    tries: tuple[Tries, ...]


def read_destinations(session: Session) -> tuple[DestinationLine, ...]:
    """Read every destination that deliveries name, but the receiver of a constancy check."""
    sites = DeliveryRow.destination != LOOPBACK_RECEIVER
    open_ones = select(DeliveryRow.destination, func.count()).where(DeliveryRow.state.in_(OPEN), sites)
    waiting = {name: int(number) for name, number in session.execute(open_ones.group_by(DeliveryRow.destination))}
    ended = (AttemptRow.destination, AttemptRow.outcome, AttemptRow.status)
    counted = select(*ended, func.count(), func.max(AttemptRow.id), func.max(AttemptRow.at)).group_by(*ended)
    counted = counted.where(AttemptRow.destination != LOOPBACK_RECEIVER)
    tries: dict[str, list[Tries]] = {name: [] for name in waiting}
    for name, outcome, status, number, last_id, last_at in session.execute(counted.order_by(*ended)):
        tries.setdefault(name, []).append(Tries(outcome, status, number, last_id, last_at))
    return tuple(_line(session, name, tuple(tries[name]), waiting.get(name, 0)) for name in sorted(tries))


def _line(session: Session, name: str, tries: tuple[Tries, ...], waiting: int) -> DestinationLine:
    failed = max((t.last_id for t in tries if t.outcome == UNREACHABLE), default=0)
    answered = max((t.last_id for t in tries if t.outcome in ANSWERED), default=0)
    last_success = max((t.last_at for t in tries if t.outcome == OutcomeKind.ACCEPTED.value), default=None)
    state = UNTRIED if failed == answered else DOWN if failed > answered else UP
    outcomes = (UNREACHABLE,) if state == DOWN else ANSWERED
    first = (
        select(AttemptRow.at)
        .where(
            AttemptRow.destination == name,
            AttemptRow.outcome.in_(outcomes),
            AttemptRow.id > min(failed, answered),
        )
        .order_by(AttemptRow.id)
        .limit(1)
    )
    return DestinationLine(name, state, session.scalars(first).first(), last_success, waiting, tries)
