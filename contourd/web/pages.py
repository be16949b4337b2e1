"""The pages that are read: queue, job, series, model."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from contourd.errors import QueueUnavailable
from contourd.model.commissioning import remedy_text
from contourd.model.model_names import names_of_text
from contourd.model.remarks import RemarkVerdict
from contourd.models.activations import Activations
from contourd.models.listing import ModelLine, routed_models
from contourd.observe.host_figures import stores_of
from contourd.observe.hosts import HOUR
from contourd.observe.overview import read_details, read_job, read_series
from contourd.observe.report import JobLine, read_report
from contourd.observe.shadows import read_shadows
from contourd.reviews.records import read_reviews
from contourd.settings import Settings
from contourd.store.constancy_standing import read_constancy
from contourd.store.database import Database
from contourd.store.states import JOBS_ENDED, JOBS_STOPPED, JobState, SeriesState
from contourd.web.site import may_read, page, site_of

MOST_JOBS, MOST_REVIEWS = 100, 20
MOST_WEEKS = 26
LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*\)")


def models_of(settings: Settings, database: Database) -> tuple[ModelLine, ...]:
    """Return the models that the routes get now."""
    return routed_models(settings, Activations(database, settings.spool.root).history())


def model_identities(settings: Settings, database: Database) -> list[tuple[str, str, str]]:
    """Return name, version and hash of the routes' models."""
    return [(m.name, m.version, m.sha256) for m in models_of(settings, database)]


def overview(request: Request) -> Response:
    """Show the queue by state, the destinations, the disk and the models."""
    if not may_read(request):
        return RedirectResponse("/sign-in", 303)
    site = site_of(request)
    report = read_report(site.database, MOST_JOBS)
    of_jobs: dict[str, list[JobLine]] = {"ask": [], "way": [], "done": []}
    for job in report.jobs:
        of_jobs["ask" if job.state in JOBS_STOPPED else "done" if job.state in JOBS_ENDED else "way"].append(job)
    disk = shutil.disk_usage(site.settings.spool.root)
    return page(
        request,
        "overview.html",
        counts=report.counts,
        held=[s for s in report.series if s.state == "HELD"],
        receiving=[s for s in report.series if s.state != "HELD"],
        jobs=of_jobs,
        destinations=read_details(site.database, tuple(d.name for d in site.settings.destination)),
        disk_free_gb=disk.free / 1e9,
        disk_part=1 - disk.free / disk.total,
        least_gb=site.settings.spool.min_free_gb,
        devices=[one.device for one in site.settings.worker.of_each()],
        models=models_of(site.settings, site.database),
        pulse=site.pulse,
        hosts=report.hosts,
        stores=stores_of(report.hosts),
        alert_gb=site.settings.alerts.disk_free_gb,
        hour_ago=(datetime.now(UTC) - HOUR).isoformat(timespec="seconds"),
        shadows=list(dict.fromkeys(route.shadow for route in site.settings.route if route.shadow)),
        constancy=read_constancy(site.database, site.settings, datetime.now(UTC)),
    )


def job_page(request: Request, patient: dict[str, str] | None = None) -> Response:
    """Show one job: pictures, verdicts, what can be done, deliveries, timeline."""
    if not may_read(request):
        return RedirectResponse("/sign-in", 303)
    site = site_of(request)
    detail = read_job(site.database, request.path_params["job"])
    if detail is None:
        raise HTTPException(404, f"there is no job {request.path_params['job']}")
    models = _others(site.settings, models_of(site.settings, site.database), detail.job)
    remedy = detail.job.reason.remedy if detail.job.reason and detail.job.state == JobState.HELD else ""
    return page(
        request,
        "job.html",
        detail=detail,
        job=detail.job,
        state=detail.job.state,
        destinations=[d.name for d in site.settings.destination],
        models=models,
        remarks=detail.job.remarks.lines(but=RemarkVerdict.FLAG),  # the viewer shows those of drawn organs itself
        patient=patient,
        remedy=remedy,
        reviews=read_reviews(site.database, MOST_REVIEWS, job=detail.job.id),
    )


def _others(settings: Settings, known: Sequence[ModelLine], job: JobLine) -> dict[str, str]:
    """Return what else a job's series can be contoured with: what a route calls it, and that in words."""
    by_name = {line.asked: line for line in known}
    others = dict[str, str]()
    for asked in dict.fromkeys([*by_name, *(route.asked for route in settings.route)]):
        lines = [by_name[name] for name in names_of_text(asked)]
        made_with = [use.identity for use in job.models if use.drew]
        if asked != job.model or (made_with and [line.model for line in lines] != made_with):
            others[asked] = " + ".join(f"{line.name} {line.version}" for line in lines)
    return others


def series_page(request: Request) -> Response:
    """Show a series that is no job yet; one that is held with what is there, what is missing, and what to do."""
    if not may_read(request):
        return RedirectResponse("/sign-in", 303)
    detail = read_series(site_of(request).database, request.path_params["series"])
    if detail is None:
        raise HTTPException(404, f"there is no series {request.path_params['series']}")
    remedy = detail.series.reason.remedy if detail.series.reason and detail.series.state == SeriesState.HELD else ""
    return page(request, "series.html", detail=detail, series=detail.series, remedy=remedy)


def shadow_page(request: Request) -> Response:
    """Show how shadow models agree with what was sent."""
    if not may_read(request):
        return RedirectResponse("/sign-in", 303)
    return page(request, "shadow.html", report=read_shadows(site_of(request).database), MOST_WEEKS=MOST_WEEKS)


def model_page(request: Request) -> Response:
    """Show a model's card."""
    if not may_read(request):
        return RedirectResponse("/sign-in", 303)
    site = site_of(request)
    models = models_of(site.settings, site.database)
    number = request.path_params["number"]
    if number >= len(models):
        raise HTTPException(404, "no route names such a model")
    model = models[number]
    return page(request, "model.html", model=model, card=rendered(model.card()), remedy=remedy_text())


def rendered(markdown: str) -> Markup:
    """Render Markdown; HTML in it is shown as text, and of links the words: they lead to files beside the card."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link"])
    return Markup(parser.render(LINK.sub(r"\1", markdown)))


def error_page(request: Request, error: Exception) -> Response:
    """Show an HTTP error as a page."""
    status, text = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, "it broke")
    if isinstance(error, QueueUnavailable):
        status, text = 503, f"{error}; the page comes back with the database"
    values: dict[str, Any] = {"status_code": status, "told": text, "at": datetime.now(UTC)}
    return page(request, "error.html", status, **values)
