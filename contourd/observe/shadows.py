"""How shadows agree with the live contours, organ by organ and over time: for ``contourd shadows`` and the page."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import quantiles
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from contourd.model.model_identity import ModelIdentity
from contourd.reasons.catalogue import Reason
from contourd.store.database import Database
from contourd.store.shadow_tables import ShadowAgreementRow, ShadowRow, ShadowState

MOST_WORST, MOST_TROUBLES = 3, 10
NOT_COMPARED = (ShadowState.FAILED, ShadowState.DROPPED)


@dataclass(frozen=True, slots=True)
class Quartiles:
    """The quartiles of a measure; of a single value all are that."""

    first: float
    median: float
    third: float


@dataclass(frozen=True, slots=True)
class WorstCase:
    """One job in which both drew an organ and agree least, by Dice."""

    job: int
    at: datetime
    dice: float
    hausdorff_95_mm: float


@dataclass(frozen=True, slots=True)
class WeekLine:
    """The jobs of one week, which begins on a Monday (UTC)."""

    monday: datetime
    cases: int
    dice: Quartiles


@dataclass(frozen=True, slots=True)
class OrganLine:
    """One organ of one shadow.

    Attributes
    ----------
    cases
        In how many jobs both drew it: the measures are theirs, and None where there is none.
    only_live, only_shadow
        In how many one alone did.
    volume
        The shadow's over the live one's.
    """

    organ: str
    cases: int
    only_live: int
    only_shadow: int
    dice: Quartiles | None
    surface_dice: Quartiles | None
    hausdorff_95_mm: Quartiles | None
    volume: Quartiles | None
    worst: tuple[WorstCase, ...]
    weeks: tuple[WeekLine, ...]


@dataclass(frozen=True, slots=True)
class ShadowLine:
    """One model that contours as a shadow, by its hash, with the models that it was compared with."""

    model: ModelIdentity
    live: tuple[ModelIdentity, ...]
    jobs: int
    organs: tuple[OrganLine, ...]


@dataclass(frozen=True, slots=True)
class ShadowTrouble:
    """A shadow that came to nothing, or waits after an attempt that did."""

    job: int
    model: str
    state: str
    at: datetime
    reason: Reason


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """All of it; ``counts`` by state, ``troubles`` the newest first."""

    counts: Mapping[str, int]
    shadows: tuple[ShadowLine, ...]
    troubles: tuple[ShadowTrouble, ...]


@dataclass(frozen=True, slots=True)
class JobShadow:
    """A job's shadow, with how its organs agree."""

    id: int
    model: str
    identity: ModelIdentity | None
    state: str
    reason: Reason | None
    output: str
    agreements: tuple[ShadowAgreementRow, ...]

    def text(self) -> str:
        """Name the model: what it stood for, where that is known."""
        return f"{self.identity.name} {self.identity.version}" if self.identity else self.model


def read_shadows(database: Database, model: str = "", since: datetime | None = None) -> ShadowReport:
    """Read how shadows fare.

    Parameters
    ----------
    model
        Only of this one: its name, or as a route names it; empty: of all.
    since
        Only what was compared, or failed, since then.
    """
    with database.reading() as session:
        measured, every = select(ShadowAgreementRow), select(ShadowRow)
        number = select(ShadowRow.state, func.count()).group_by(ShadowRow.state)
        if model:
            named = (ShadowRow.model == model) | (ShadowRow.model_name == model)
            measured = measured.where(ShadowAgreementRow.shadow_id.in_(select(ShadowRow.id).where(named)))
            every, number = every.where(named), number.where(named)
        if since is not None:
            measured = measured.where(ShadowAgreementRow.at >= since)
            every, number = every.where(ShadowRow.updated_at >= since), number.where(ShadowRow.updated_at >= since)
        rows = session.scalars(measured.order_by(ShadowAgreementRow.id)).all()
        counts = dict(session.execute(number).all())
        newest = ShadowRow.updated_at.desc(), ShadowRow.id.desc()
        failed = every.where(ShadowRow.state.in_(NOT_COMPARED)).order_by(*newest)
        troubles = [
            ShadowTrouble(row.job_id, row.model, row.state, row.updated_at, row.reason)
            for row in session.scalars(failed.limit(MOST_TROUBLES))
            if row.reason is not None
        ]
    return ShadowReport({str(s): counts.get(s, 0) for s in ShadowState}, _lines(rows), tuple(troubles))


def job_shadows(session: Session, job_id: int) -> tuple[JobShadow, ...]:
    """Read the shadows of one job, in their order, inside the caller's transaction."""
    rows = session.scalars(select(ShadowRow).where(ShadowRow.job_id == job_id).order_by(ShadowRow.id)).all()
    return tuple(_job_shadow(session, row) for row in rows)


def _job_shadow(session: Session, row: ShadowRow) -> JobShadow:
    measured = select(ShadowAgreementRow).where(ShadowAgreementRow.shadow_id == row.id)
    identity = ModelIdentity(row.model_name, row.model_version, row.model_sha256) if row.model_sha256 else None
    agreements = tuple(session.scalars(measured.order_by(ShadowAgreementRow.id)))
    return JobShadow(row.id, row.model, identity, row.state, row.reason, row.output, agreements)


def _lines(rows: Iterable[ShadowAgreementRow]) -> tuple[ShadowLine, ...]:
    by_model = defaultdict[ModelIdentity, list[ShadowAgreementRow]](list)
    for row in rows:
        by_model[ModelIdentity(row.shadow_name, row.shadow_version, row.shadow_sha256)].append(row)
    return tuple(_line(model, found) for model, found in by_model.items())


def _line(model: ModelIdentity, rows: Sequence[ShadowAgreementRow]) -> ShadowLine:
    by_organ = defaultdict[str, list[ShadowAgreementRow]](list)
    for row in rows:
        by_organ[row.organ].append(row)
    live = dict.fromkeys(ModelIdentity(row.live_name, row.live_version, row.live_sha256) for row in rows)
    jobs = len({row.job_id for row in rows})
    return ShadowLine(model, tuple(live), jobs, tuple(_organ(name, found) for name, found in by_organ.items()))


def _organ(name: str, rows: Sequence[ShadowAgreementRow]) -> OrganLine:
    one_alone = Counter("live" if row.live_cc is not None else "shadow" for row in rows if row.dice is None)
    both = [row for row in rows if row.dice is not None]
    cases = [WorstCase(row.job_id, row.at, row.dice or 0.0, row.hausdorff_95_mm or 0.0) for row in both]
    return OrganLine(
        name,
        len(both),
        one_alone["live"],
        one_alone["shadow"],
        _quartiles([case.dice for case in cases]),
        _quartiles([row.surface_dice for row in both if row.surface_dice is not None]),
        _quartiles([case.hausdorff_95_mm for case in cases]),
        _quartiles([row.shadow_cc / row.live_cc for row in both if row.shadow_cc is not None and row.live_cc]),
        tuple(sorted(cases, key=lambda case: (case.dice, -case.job))[:MOST_WORST]),
        _weeks(cases),
    )


def _weeks(cases: Iterable[WorstCase]) -> tuple[WeekLine, ...]:
    found = defaultdict[datetime, list[float]](list)
    for case in cases:
        day = case.at.replace(hour=0, minute=0, second=0, microsecond=0)
        found[day - timedelta(days=day.weekday())].append(case.dice)
    lines = []
    for monday, dice in sorted(found.items()):
        quartiles = _quartiles(dice)
        assert quartiles is not None
        lines.append(WeekLine(monday, len(dice), quartiles))
    return tuple(lines)


def _quartiles(values: Sequence[float]) -> Quartiles | None:
    if not values:
        return None
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0])
    first, median, third = quantiles(values, n=4, method="inclusive")
    return Quartiles(first, median, third)


def shadows_content(report: ShadowReport) -> dict[str, Any]:
    """Return it for JSON."""
    return {
        "counts": dict(report.counts),
        "shadows": [
            {
                "name": line.model.name,
                "version": line.model.version,
                "sha256": line.model.sha256,
                "jobs": line.jobs,
                "live": [{"name": one.name, "version": one.version, "sha256": one.sha256} for one in line.live],
                "organs": [_organ_content(organ) for organ in line.organs],
            }
            for line in report.shadows
        ],
        "troubles": [
            {
                "job": one.job,
                "model": one.model,
                "state": one.state,
                "at": one.at.isoformat(),
                "reason": str(one.reason),
                "reason_code": one.reason.code.value,
            }
            for one in report.troubles
        ],
    }


def _organ_content(organ: OrganLine) -> dict[str, Any]:
    return {
        "organ": organ.organ,
        "cases": organ.cases,
        "only_live": organ.only_live,
        "only_shadow": organ.only_shadow,
        "dice": _listed(organ.dice),
        "surface_dice": _listed(organ.surface_dice),
        "hausdorff_95_mm": _listed(organ.hausdorff_95_mm),
        "volume_ratio": _listed(organ.volume),
        "worst": [
            {"job": case.job, "at": case.at.isoformat(), "dice": case.dice, "hausdorff_95_mm": case.hausdorff_95_mm}
            for case in organ.worst
        ],
        "weeks": [
            {"monday": f"{week.monday:%Y-%m-%d}", "cases": week.cases, "dice": _listed(week.dice)}
            for week in organ.weeks
        ],
    }


def _listed(found: Quartiles | None) -> list[float]:
    return [] if found is None else [found.first, found.median, found.third]
