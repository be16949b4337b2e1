"""The read-only report of a node as a table that a night nurse can read, and as JSON."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from contourd.errors import NodeError
from contourd.jobs.database import Database
from contourd.jobs.report import JobLine, Report, SeriesLine, read_report
from contourd.settings import Settings

STYLE = {
    "HELD": "bold red",
    "FAILED": "bold red",
    "REFUSED": "bold red",
    "DELIVERED": "green",
    "PENDING": "yellow",
    "SUPERSEDED": "dim",
}


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
        return read_report(database)
    finally:
        database.close()


def to_json(report: Report, settings: Settings) -> str:
    """Return the report as JSON: counts, jobs with deliveries, series that are no job yet, free disk."""
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
        "disk_free_gb": round(shutil.disk_usage(settings.spool.root).free / 1e9, 1),
    }
    return json.dumps(content, indent=1)


def to_table(report: Report, settings: Settings, now: datetime) -> RenderableType:
    """Return the report for a terminal; what needs a person comes first, with the command that releases it."""
    counts = "  ".join(f"{state} {number}" for state, number in report.counts.items() if number) or "nothing yet"
    free_gb = shutil.disk_usage(settings.spool.root).free / 1e9
    parts: list[RenderableType] = [Text(f"{settings.node.ae_title}   {counts}   disk free {free_gb:.0f} GB")]
    if report.series:
        parts.append(_series_table(report.series, now))
    if report.jobs:
        parts.append(_jobs_table(report.jobs, now))
    return Group(*parts)


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
            s.patient,
            s.calling_ae,
            str(s.instances),
            s.reason + advice,
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
        told = "\n".join(filter(None, [*reasons, job.remarks, *advice]))
        table.add_row(
            str(job.id), _styled(job.state), age(now - job.created_at), job.patient, job.model, deliveries, told
        )
    return table


def _delivery_text(name: str, state: str, attempts: int, next_try: datetime | None, now: datetime) -> Text:
    text = Text(f"{name} ") + _styled(state)
    if attempts > 1 or (attempts and state != "DELIVERED"):
        text.append(f", {attempts} tries")
    if next_try is not None and next_try > now:
        text.append(f", next in {age(next_try - now)}")
    return text


def _styled(state: str) -> Text:
    return Text(state, style=STYLE.get(state, ""))


def age(span: timedelta) -> str:
    """Return a span in the largest unit that fits: 42 s, 17 min, 5 h, 3 d."""
    seconds = max(0, int(span.total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (seconds >= size and unit == "min"):
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
