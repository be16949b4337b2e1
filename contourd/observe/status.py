"""The read-only report of a node, as JSON."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from contourd.model.model_use import ModelUse
from contourd.model.remarks import Remark
from contourd.models.listing import routed_models
from contourd.observe.destinations import DestinationLine
from contourd.observe.report import EVERYTHING, JobLine, QueueReport, ReportFilter, SeriesLine, read_report
from contourd.reasons.catalogue import Reason
from contourd.settings import Settings
from contourd.store.constancy_standing import ConstancyStatus, read_constancy
from contourd.store.database import Database, require_queue
from contourd.store.processes import ProcessFigures


def with_patients(report: QueueReport, settings: Settings) -> QueueReport:
    """Show, instead of pseudonyms, the names and IDs that the spooled images have."""
    from contourd.observe.patient_search import read_patients  # pydicom, which status needs for nothing else

    uids = [*(job.series_uid for job in report.jobs), *(s.series_uid for s in report.series)]
    database = Database(settings.database_url)
    try:
        patients = read_patients(database, settings.spool, uids)
    finally:
        database.close()
    jobs = tuple(
        job if job.patient_replaced else replace(job, patient=patients.get(job.series_uid, job.patient))
        for job in report.jobs
    )
    series = tuple(replace(s, patient=patients.get(s.series_uid, s.patient)) for s in report.series)
    return replace(report, jobs=jobs, series=series)


def read_status(settings: Settings, most_jobs: int = 50, chosen: ReportFilter = EVERYTHING) -> QueueReport:
    """Read the queue of a node, running or not.

    Raises
    ------
    NodeError
        There is no queue yet.
    SchemaMismatch
        The database is another version's.
    """
    require_queue(settings.database_url, settings.spool.root)
    database = Database(settings.database_url)
    try:
        database.check()
        return replace(
            read_report(database, most_jobs, chosen), constancy=read_constancy(database, settings, datetime.now(UTC))
        )
    finally:
        database.close()


def _store_content(figures: ProcessFigures) -> dict[str, Any] | None:
    if figures.store is None:
        return None
    return {
        "reachable": figures.store.reachable,
        "since": figures.store.since.isoformat(),
        "last_error": figures.store.said,
        "waiting": figures.store_waiting,
    }


def to_json(report: QueueReport, settings: Settings) -> str:
    """Return the report as JSON: counts, jobs, other series, destinations, models, constancy check, free disk."""
    content: dict[str, Any] = {
        "counts": report.counts,
        "jobs": [job_content(job) for job in report.jobs],
        "series": [series_content(series) for series in report.series],
        "processes": [
            {
                "id": one.id,
                "host": one.host,
                "role": one.role,
                "state": one.state,
                "version": one.version,
                "device": one.device,
                "started_at": one.started_at.isoformat(),
                "heartbeat_at": one.heartbeat_at.isoformat(),
                "job": one.job,
                "jobs_last_hour": one.jobs_an_hour,
                "loaded": [
                    {
                        "name": model.model.name,
                        "version": model.model.version,
                        "sha256": model.model.sha256,
                        "kind": model.kind,
                        "runtime": model.runtime,
                        "bytes": model.bytes,
                        "since": model.since.isoformat(),
                    }
                    for model in one.loaded
                ],
                "declined": [reason_content(reason) for reason in one.declined],
                "disk_free_bytes": one.figures.disk_free_bytes,
                "disk_size_bytes": one.figures.disk_size_bytes,
                "store": _store_content(one.figures),
            }
            for one in report.hosts
        ],
        "destinations": [
            {
                "name": d.name,
                "state": d.state,
                "since": d.since.isoformat() if d.since else None,
                "last_success": d.last_success.isoformat() if d.last_success else None,
                "waiting": d.waiting,
                "configured": d.name in {destination.name for destination in settings.destination},
                "tries": {t.text: t.number for t in d.tries},
            }
            for d in configured_destinations(report, settings)
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
                "uncommissioned": m.uncommissioned,
            }
            for m in routed_models(settings, report.activations)
        ],
        "constancy": constancy_content(report.constancy) if report.constancy else None,
        "disk_free_gb": round(shutil.disk_usage(settings.spool.root).free / 1e9, 1),
    }
    return json.dumps(content, indent=1)


def job_content(job: JobLine) -> dict[str, Any]:
    """Return a job as JSON."""
    return {
        "id": job.id,
        "state": job.state,
        **reason_content(job.reason),
        "series": job.series_uid,
        "revision": job.revision,
        "patient": job.patient,
        "model": job.model,
        "contoured_with": asdict(job.contoured_with) if job.contoured_with else None,
        "models": [_model_as_json(use) for use in job.models],
        "route": asdict(job.route) if job.route else None,
        "attempts": job.attempts,
        "remarks": [_remark_as_json(remark) for remark in job.remarks.records],
        "created_at": job.created_at.isoformat(),
        "updated_at": job.updated_at.isoformat(),
        "deliveries": [
            {
                "destination": d.destination,
                "product": d.product,
                "state": d.state,
                "attempts": d.attempts,
                **reason_content(d.reason),
                "next_try": d.next_try.isoformat() if d.next_try else None,
            }
            for d in job.deliveries
        ],
    }


def series_content(series: SeriesLine) -> dict[str, Any]:
    """Return a series that is no job yet as JSON."""
    return {
        "id": series.id,
        "state": series.state,
        **reason_content(series.reason),
        "series": series.series_uid,
        "patient": series.patient,
        "calling_ae": series.calling_ae,
        "instances": series.instances,
        "created_at": series.created_at.isoformat(),
    }


def reason_content(reason: Reason | None) -> dict[str, Any]:
    """Return a reason as JSON: its sentence, its code, and the detail of which the sentence is made."""
    if reason is None:
        return {"reason": "", "reason_code": "", "reason_detail": {}}
    return {"reason": str(reason), "reason_code": reason.code.value, "reason_detail": dict(reason.detail)}


def constancy_content(standing: ConstancyStatus) -> dict[str, Any]:
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


def _model_as_json(use: ModelUse) -> dict[str, Any]:
    identity = asdict(use.identity) if use.identity is not None else {"name": None, "version": None, "sha256": None}
    return {
        "asked": use.asked,
        **identity,
        "drew": use.drew,
        "organs": list(use.organs) if use.drew else [],
        "missing": [] if use.drew else list(use.organs),
        **reason_content(use.failed),
    }


def _remark_as_json(remark: Remark) -> dict[str, Any]:
    found = remark.finding
    return {
        "organ": found.structure,
        "check": str(found.check),
        "verdict": str(remark.verdict),
        "measure": str(found.measure),
        "value": found.value,
        "expected": list(found.expected or ()),
        "reason": found.reason,
    }


def configured_destinations(report: QueueReport, settings: Settings) -> list[DestinationLine]:
    """Return those of the settings, tried or not, and then those that are not in the settings any more."""
    known = {line.name: line for line in report.destinations}
    names = dict.fromkeys([*(d.name for d in settings.destination), *known])
    return [known.get(name, DestinationLine(name, "UNTRIED", None, None, 0, ())) for name in names]
