"""The read-only report of a node as a table that a night nurse can read, and as JSON."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from contourd.errors import NodeError, SeriesUnusable
from contourd.jobs.constancy_standing import Constancy, Light, read_constancy
from contourd.jobs.database import Database
from contourd.jobs.destinations import DestinationLine
from contourd.jobs.report import JobLine, Report, SeriesLine, first_images, read_report
from contourd.logs import one_line
from contourd.models import ModelLine, routed_models
from contourd.settings import Settings

STYLE = {
    "HELD": "bold red",
    "FAILED": "bold red",
    "REFUSED": "bold red",
    "DELIVERED": "green",
    "PENDING": "yellow",
    "SENT": "yellow",
    "DOWN": "bold red",
    "UP": "green",
    "SUPERSEDED": "dim",
}


LIGHTS = {Light.GREEN: "bold green", Light.RED: "bold red", Light.UNBASED: "yellow", Light.UNCHECKED: "yellow"}


def with_patients(report: Report, settings: Settings) -> Report:
    """Show, instead of pseudonyms, the names and IDs that the spooled images have."""
    from contourd.dicom.identity import read_patient

    uids = [*(job.series_uid for job in report.jobs), *(s.series_uid for s in report.series)]
    database, patients = Database(settings.database_url), dict[str, str]()
    try:
        for uid, path in first_images(database, uids).items():
            try:
                patient = read_patient(settings.spool.root / path)
                patients[uid] = f"{patient.name} ({patient.id})"
            except SeriesUnusable:
                patients[uid] = "(its images are gone)"
    finally:
        database.close()
    jobs = tuple(replace(job, patient=patients.get(job.series_uid, job.patient)) for job in report.jobs)
    series = tuple(replace(s, patient=patients.get(s.series_uid, s.patient)) for s in report.series)
    return replace(report, jobs=jobs, series=series)


def read_status(settings: Settings) -> Report:
    """Read the queue of a node, running or not.

    Raises
    ------
    NodeError
        There is no queue yet.
    SchemaMismatch
        The database is another version's.
    """
    prefix = "sqlite:///"
    if settings.database_url.startswith(prefix) and not Path(settings.database_url.removeprefix(prefix)).exists():
        raise NodeError(f"there is no queue in {settings.spool.root} yet; start it with `contourd serve`")
    database = Database(settings.database_url)
    try:
        database.check()
        return replace(read_report(database), constancy=read_constancy(database, settings, datetime.now(UTC)))
    finally:
        database.close()


def to_json(report: Report, settings: Settings) -> str:
    """Return the report as JSON: counts, jobs, other series, destinations, models, constancy check, free disk."""
    content: dict[str, Any] = {
        "counts": report.counts,
        "jobs": [
            {
                "id": job.id,
                "state": job.state,
                "reason": job.reason,
                "series": job.series_uid,
                "revision": job.revision,
                "patient": job.patient,
                "model": job.model,
                "contoured_with": asdict(job.contoured_with) if job.contoured_with else None,
                "attempts": job.attempts,
                "remarks": job.remarks,
                "created_at": job.created_at.isoformat(),
                "updated_at": job.updated_at.isoformat(),
                "deliveries": [
                    {
                        "destination": d.destination,
                        "state": d.state,
                        "attempts": d.attempts,
                        "reason": d.reason,
                        "next_try": d.next_try.isoformat() if d.next_try else None,
                    }
                    for d in job.deliveries
                ],
            }
            for job in report.jobs
        ],
        "series": [
            {
                "id": s.id,
                "state": s.state,
                "reason": s.reason,
                "series": s.series_uid,
                "patient": s.patient,
                "calling_ae": s.calling_ae,
                "instances": s.instances,
                "created_at": s.created_at.isoformat(),
            }
            for s in report.series
        ],
        "destinations": [
            {
                "name": d.name,
                "state": d.state,
                "since": d.since.isoformat() if d.since else None,
                "last_success": d.last_success.isoformat() if d.last_success else None,
                "waiting": d.waiting,
                "configured": d.name in {destination.name for destination in settings.destination},
                "tries": {t.told: t.number for t in d.tries},
            }
            for d in _destinations(report, settings)
        ],
        "models": [
            {
                "asked": m.asked,
                "name": m.name,
                "version": m.version,
                "sha256": m.sha256,
                "origin": m.origin.value,
                "routes": list(m.routes),
                "since": m.activation.at.isoformat() if m.activation else None,
                "by": m.activation.actor if m.activation else None,
            }
            for m in routed_models(settings, report.activations)
        ],
        "constancy": constancy_content(report.constancy) if report.constancy else None,
        "disk_free_gb": round(shutil.disk_usage(settings.spool.root).free / 1e9, 1),
    }
    return json.dumps(content, indent=1)


def to_table(report: Report, settings: Settings, now: datetime) -> RenderableType:
    """Return the report for a terminal; what needs a person comes first, with the command that releases it."""
    counts = "  ".join(f"{state} {number}" for state, number in report.counts.items() if number) or "nothing yet"
    free_gb = shutil.disk_usage(settings.spool.root).free / 1e9
    models = ", ".join(_told_model(m) for m in routed_models(settings, report.activations))
    parts: list[RenderableType] = [
        Text(f"{settings.node.ae_title}   {counts}   disk free {free_gb:.0f} GB"),
        Text(f"models: {models}"),
    ]
    if report.constancy is not None and report.constancy.light is not Light.OFF:
        parts.append(constancy_text(report.constancy, now))
    if report.series:
        parts.append(_series_table(report.series, now))
    if report.jobs:
        parts.append(_jobs_table(report.jobs, now))
    if report.destinations:
        parts.append(_destinations_table(report, settings, now))
    return Group(*parts)


def _told_model(model: ModelLine) -> str:
    since = f" since {model.activation.at.astimezone():%Y-%m-%d %H:%M}" if model.activation else ""
    return f"{one_line(model.name)} {one_line(model.version)} ({model.origin.value}{since})"


def constancy_content(standing: Constancy) -> dict[str, Any]:
    """Return how the constancy check stands, for JSON."""
    last = standing.last
    return {
        "state": str(standing.light),
        "reason": standing.reason,
        "remarks": list(standing.remarks),
        "last": last.id if last else None,
        "at": last.ended_at.isoformat() if last and last.ended_at else None,
        "overdue": standing.overdue.isoformat() if standing.overdue else None,
        "under_way": standing.under_way,
    }


def constancy_text(standing: Constancy, now: datetime) -> Text:
    """Return how the constancy check stands, in a line, and a line for each remark."""
    text = Text("constancy ") + Text(standing.light, style=LIGHTS.get(standing.light, ""))
    if standing.last is not None and standing.last.ended_at is not None:
        at = standing.last.ended_at
        text.append(f"   checked {at.astimezone():%Y-%m-%d %H:%M}, {age(now - at)} ago")
    if standing.under_way:
        text.append("   one is under way")
    for told in filter(None, [standing.reason, *standing.remarks]):
        text.append("\n  ").append_text(_outside(told))
    return text


def _destinations(report: Report, settings: Settings) -> list[DestinationLine]:
    """Return those of the settings, tried or not, and then those that are not in the settings any more."""
    known = {line.name: line for line in report.destinations}
    names = dict.fromkeys([*(d.name for d in settings.destination), *known])
    return [known.get(name, DestinationLine(name, "UNTRIED", None, None, 0, ())) for name in names]


def _destinations_table(report: Report, settings: Settings, now: datetime) -> Table:
    table = Table(title="Destinations", title_justify="left", expand=True)
    for name in ("destination", "state", "since", "last success", "waiting", "tries"):
        table.add_column(name, overflow="fold", no_wrap=name in ("state", "since", "last success", "waiting"))
    configured = {destination.name for destination in settings.destination}
    for d in _destinations(report, settings):
        gone = "" if d.name in configured else " (not in the settings: nothing is sent to it)"
        table.add_row(
            d.name + gone,
            _styled(d.state),
            age(now - d.since) if d.since else "",
            f"{age(now - d.last_success)} ago" if d.last_success else "",
            str(d.waiting),
            ", ".join(f"{t.told}: {t.number}" for t in d.tries),
        )
    return table


def _series_table(lines: tuple[SeriesLine, ...], now: datetime) -> Table:
    table = Table(title="Series received or held", title_justify="left", expand=True)
    for name in ("series", "state", "age", "patient", "from", "images", "reason, and what to do"):
        table.add_column(name, overflow="fold", no_wrap=name in ("series", "state", "age", "images"))
    for s in lines:
        advice = f"\ncontourd release {s.id}" if s.state == "HELD" else ""
        table.add_row(
            str(s.id),
            _styled(s.state),
            age(now - s.created_at),
            Text(s.patient),
            _outside(s.calling_ae),
            str(s.instances),
            _outside(s.reason) + advice,
        )
    return table


def _jobs_table(lines: tuple[JobLine, ...], now: datetime) -> Table:
    table = Table(title="Jobs", title_justify="left", expand=True)
    for name in ("job", "state", "age", "patient", "model", "deliveries", "reason, and what to do"):
        table.add_column(name, overflow="fold", no_wrap=name in ("job", "state", "age"))
    for job in lines:
        deliveries = Text("\n").join(
            _delivery_text(d.destination, d.state, d.attempts, d.next_try, now) for d in job.deliveries
        )
        late = any(d.state == "PENDING" and d.attempts for d in job.deliveries)
        reasons = [job.reason, *(d.reason for d in job.deliveries if d.reason and d.reason not in job.reason)]
        verb = "confirm" if job.reason.startswith("waits for confirmation") else "retry"
        advice = [f"contourd {verb} {job.id}"] if job.state in ("HELD", "FAILED") or late else []
        told = Text("\n").join(_outside(line) for line in [*reasons, job.remarks, *advice] if line)
        table.add_row(
            str(job.id),
            _styled(job.state),
            age(now - job.created_at),
            Text(job.patient),
            Text(f"{job.contoured_with.name} {job.contoured_with.version}" if job.contoured_with else job.model),
            deliveries,
            told,
        )
    return table


def _delivery_text(name: str, state: str, attempts: int, next_try: datetime | None, now: datetime) -> Text:
    text = Text(f"{one_line(name)} ") + _styled(state)
    if attempts > 1 or (attempts and state != "DELIVERED"):
        text.append(f", {attempts} {'try' if attempts == 1 else 'tries'}")
    if next_try is not None and next_try > now:
        text.append(f", next in {age(next_try - now)}")
    return text


def _outside(text: str) -> Text:
    """Show what may hold words of a peer: no markup, no escapes to the terminal."""
    return Text("\n").join(Text(one_line(line)) for line in text.split("\n"))


def _styled(state: str) -> Text:
    return Text(state, style=STYLE.get(state, ""))


def age(span: timedelta) -> str:
    """Return a span in the largest unit that fits: 42 s, 17 min, 5 h, 3 d."""
    seconds = max(0, int(span.total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (seconds >= size and unit == "min"):
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
