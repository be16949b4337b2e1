"""The page that lists all jobs, and the series that are received or held; what it lists stands in its address."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from contourd.errors import FilterInvalid
from contourd.observe.archive import ArchivePage, read_archive
from contourd.observe.archive_filter import DELIVERIES, REASONS, REMARKS, STATES, ArchiveFilter, read_filter
from contourd.observe.patient_search import SHOWN_DIGITS, find_patients, read_patients, series_to_name
from contourd.web.access import SignedIn
from contourd.web.actions import checked
from contourd.web.site import may_read, page, site_of

PATH = "/archive"


def archive_page(request: Request) -> Response:
    """Show one page of the list; a filter that is none is refused in words."""
    if not may_read(request):
        return RedirectResponse("/sign-in", 303)
    try:
        chosen = read_filter(request.query_params.multi_items(), datetime.now(UTC))
    except FilterInvalid as refused:
        return _refused(request, str(refused))
    return _shown(request, chosen)


def _refused(request: Request, told: str) -> Response:
    return page(request, "archive_refused.html", 400, told=told)


def _shown(request: Request, chosen: ArchiveFilter, names: dict[str, str] | None = None) -> Response:
    site = site_of(request)
    found = read_archive(site.database, chosen)
    return page(
        request,
        "archive.html",
        lines=found.lines,
        looked_to=found.looked_to,
        next=address(chosen, found),
        first=address(chosen) if chosen.before else "",
        query=urlencode(chosen.pairs),
        whole_query=urlencode([*chosen.pairs, *([("before", chosen.before.text)] if chosen.before else [])]),
        chosen=chosen,
        given=dict(chosen.pairs),
        names=names,
        tells=site.settings.series.descriptions,
        **_choices(request),
    )


def _choices(request: Request) -> dict[str, Any]:
    """Return what can be chosen, as the settings have it."""
    settings = site_of(request).settings
    return {
        "states": STATES,
        "reasons": REASONS,
        "remarks": REMARKS,
        "deliveries": DELIVERIES,
        "destinations": [d.name for d in settings.destination],
        "routes": range(1, len(settings.route) + 1),
    }


def address(chosen: ArchiveFilter, found: ArchivePage | None = None) -> str:
    """Return the address of a list's next page, empty at its end; without a page that of the first."""
    pairs = list(chosen.pairs)
    if found is not None:
        if found.next is None:
            return ""
        pairs.append(("before", found.next.text))
    return f"{PATH}?{urlencode(pairs)}" if pairs else PATH


async def search_patient(request: Request) -> Response:
    """Find the patient whose ID or name was typed, and show the list of them alone; the address has neither."""
    person, form = await checked(request)
    return await run_in_threadpool(_searched, request, person, form.get("typed", ""), form.get("query", ""))


def _searched(request: Request, person: SignedIn, typed: str, query: str) -> Response:
    site = site_of(request)
    try:
        chosen = read_filter(parse_qsl(query, max_num_fields=40), datetime.now(UTC))
        hashes = find_patients(site.database, site.settings.spool, typed)
    except (FilterInvalid, ValueError) as refused:
        return _refused(request, str(refused))
    by = site.operations(person.actor)
    by.note("search patient", ", ".join(one[:SHOWN_DIGITS] for one in hashes)[:64], "" if hashes else "nobody found")
    if not hashes:
        return page(request, "archive_nobody.html", 404)
    return RedirectResponse(address(chosen.of_patients(hashes)), 303)


async def show_names(request: Request) -> Response:
    """Show a page of the list with names in the place of pseudonyms, once; the audit trail keeps who asked."""
    person, form = await checked(request)
    return await run_in_threadpool(_named, request, person, form.get("query", ""))


def _named(request: Request, person: SignedIn, query: str) -> Response:
    site = site_of(request)
    try:
        chosen = read_filter(parse_qsl(query, max_num_fields=40), datetime.now(UTC))
    except (FilterInvalid, ValueError) as refused:
        return _refused(request, str(refused))
    site.operations(person.actor).note("show patient", "list of jobs", urlencode(chosen.pairs))
    lines = read_archive(site.database, chosen).lines
    return _shown(request, chosen, read_patients(site.database, site.settings.spool, series_to_name(lines)))
