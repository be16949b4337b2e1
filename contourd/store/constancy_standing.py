"""How the constancy check stands: for ``contourd status``, the page, the figures and the alerts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from contourd.commands import command
from contourd.settings import ConstancySettings, Settings
from contourd.store.constancy_result import ConstancyResult
from contourd.store.database import Database
from contourd.store.states import ConstancyState
from contourd.store.tables import ConstancyCheckRow

# In the spool: the baseline, and the images while they are sent.
BASELINE_FILE, IMAGES_FOLDER = "constancy-baseline.json", "constancy"
CHECK, BASELINE = "check", "baseline"
ENDED = (ConstancyState.GREEN, ConstancyState.RED)
OPEN = (ConstancyState.REQUESTED, ConstancyState.RUNNING)
# What the node needs to begin one, beyond the time that the check itself may take.
GRACE_S = 300.0


class ConstancyLight(StrEnum):
    """What a person sees of it."""

    GREEN = "GREEN"
    RED = "RED"
    UNBASED = "NO BASELINE"
    UNCHECKED = "NOT CHECKED"  # there is a baseline, and no check yet
    OFF = "OFF"


@dataclass(frozen=True, slots=True)
class ConstancyCheck:
    """One check, or the making of a baseline."""

    id: int
    purpose: str
    state: ConstancyState
    actor: str
    reason: str
    result: ConstancyResult
    port: int
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def seconds(self) -> float | None:
        """From its beginning to its end."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, (self.ended_at - self.started_at).total_seconds())


@dataclass(frozen=True, slots=True)
class ConstancyStatus:
    """How it stands now.

    Attributes
    ----------
    reason
        Why it is not green, with the remedy.
    last
        The last check that came to an end, green or red.
    overdue
        When a check was to begin that has not come to an end; None where none is missing.
    under_way
        Whether one is.
    """

    light: ConstancyLight
    reason: str
    last: ConstancyCheck | None
    overdue: datetime | None
    under_way: bool

    @property
    def remarks(self) -> tuple[str, ...]:
        """Of the last check."""
        return self.last.result.remarks if self.last else ()


def read_constancy(database: Database, settings: Settings, now: datetime) -> ConstancyStatus:
    """Read how it stands."""
    with database.reading() as session:
        last = read_last(session, ENDED)
        under_way = read_open(session) is not None
    based = (settings.spool.root / BASELINE_FILE).exists()
    late = timedelta(seconds=settings.constancy.timeout_s + GRACE_S)
    missing = missing_since(settings, last, now)
    overdue = missing if missing is not None and now - missing > late else None
    light, reason = _light(settings.constancy, based, last, overdue)
    return ConstancyStatus(light, reason, last, overdue, under_way)


def _light(
    settings: ConstancySettings, based: bool, last: ConstancyCheck | None, overdue: datetime | None
) -> tuple[ConstancyLight, str]:
    if not based:
        off = ConstancyLight.UNBASED if settings.enabled else ConstancyLight.OFF
        return off, f"{command('constancy baseline')} makes one, after acceptance" if settings.enabled else ""
    if overdue is not None:
        text = f"no check came to an end that was to begin at {overdue.astimezone():%Y-%m-%d %H:%M}"
        return ConstancyLight.RED, f"{text}; look whether contourd runs, then: {command('constancy run')}"
    if last is None:
        return (
            ConstancyLight.UNCHECKED if settings.enabled else ConstancyLight.OFF
        ), f"{command('constancy run')} checks now"
    if last.state == ConstancyState.RED:
        return ConstancyLight.RED, last.reason
    return ConstancyLight.GREEN, ""


def missing_since(settings: Settings, last: ConstancyCheck | None, now: datetime) -> datetime | None:
    """Return when a check was to begin that has not begun, None where none is missing.

    The first is due on the first morning after the baseline was made.

    Parameters
    ----------
    last
        The last check.
    """
    baseline, due = settings.spool.root / BASELINE_FILE, settings.constancy.last_due(now)
    try:
        made = datetime.fromtimestamp(baseline.stat().st_mtime, UTC)
    except OSError:
        return None
    began = last.started_at if last is not None else None
    done = began is not None and due <= began <= now
    return due if settings.constancy.enabled and made < due and not done else None


def read_last(session: Session, states: tuple[ConstancyState, ...]) -> ConstancyCheck | None:
    """Return the last check of some states, None where there is none."""
    wanted = select(ConstancyCheckRow).where(ConstancyCheckRow.purpose == CHECK, ConstancyCheckRow.state.in_(states))
    row = session.scalars(wanted.order_by(ConstancyCheckRow.id.desc()).limit(1)).first()
    return check_of(row) if row is not None else None


def read_open(session: Session) -> ConstancyCheck | None:
    """Return what is asked for or under way, the oldest, whatever its purpose."""
    wanted = select(ConstancyCheckRow).where(ConstancyCheckRow.state.in_(OPEN)).order_by(ConstancyCheckRow.id)
    row = session.scalars(wanted.limit(1)).first()
    return check_of(row) if row is not None else None


def check_of(row: ConstancyCheckRow) -> ConstancyCheck:
    """Make a check of its row; a result that cannot be read is empty."""
    try:
        result = ConstancyResult.model_validate_json(row.result or "{}")
    except ValidationError:
        result = ConstancyResult()
    return ConstancyCheck(
        row.id,
        row.purpose,
        ConstancyState(row.state),
        row.actor,
        row.reason,
        result,
        row.port,
        row.requested_at,
        row.started_at,
        row.ended_at,
    )
