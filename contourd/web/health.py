"""Health for machines: never by the DICOM port, which peers need."""

from __future__ import annotations

import shutil

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from contourd.jobs.overview import database_problem
from contourd.metrics import exposition
from contourd.web.site import Site, site_of


def healthz(request: Request) -> Response:
    """Answer: the page's process is alive."""
    site_of(request)
    return PlainTextResponse("ok\n")


def readyz(request: Request) -> Response:
    """Answer 200 where the node takes series and contours them, else 503 with what is wrong, one a line."""
    wrong = problems(site_of(request))
    return PlainTextResponse("\n".join(wrong or ["ok"]) + "\n", 503 if wrong else 200)


def metrics(request: Request) -> Response:
    """Give the figures to Prometheus; they hold nothing of a patient, so they need no sign-in."""
    return Response(exposition(site_of(request).metrics), media_type=CONTENT_TYPE_LATEST)


def problems(site: Site) -> list[str]:
    """Say what keeps the node from working."""
    wrong = [f"database: {told}"] if (told := database_problem(site.database)) else []
    spool = site.settings.spool
    if shutil.disk_usage(spool.root).free < spool.min_free_gb * 1e9:
        wrong.append(f"disk: less than spool.min_free_gb = {spool.min_free_gb:g} GB are free")
    if site.pulse is not None and not site.pulse.is_fresh:
        wrong.append("contourd serve: the main process does not answer")
    elif site.pulse is not None and not site.pulse.worker_is_alive:
        wrong.append("worker: it is not running")
    return wrong
