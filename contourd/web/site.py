"""What every request needs, and how a request finds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.templating import Jinja2Templates

from contourd import __version__
from contourd.commands import command
from contourd.observe.metrics import NodeMetrics
from contourd.observe.pulse import Pulse
from contourd.observe.status_tables import age
from contourd.operations.operations import Operations
from contourd.settings import Settings
from contourd.store.database import Database
from contourd.transfer.copies import Copies
from contourd.web.access import Access, SignedIn
from contourd.web.scenes import SceneCache

HERE = Path(__file__).resolve().parent
COOKIE = "contourd_session"
LONGEST_FORM_BYTES = 8192
# What a state is called on the page, and how it is coloured.
TONES: Mapping[str, str] = {
    "HELD": "bad",
    "FAILED": "bad",
    "REFUSED": "bad",
    "CONFIRMING": "ask",
    "DELIVERED": "good",
    "COMPLETE": "good",
    "COMPARED": "good",
    "PAIRED": "busy",
    "UNPAIRED": "wait",
    "RECEIVED": "busy",
    "CONTOURING": "busy",
    "DELIVERING": "busy",
    "SENDING": "busy",
    "SENT": "busy",
    "SILENT": "wait",
    "GONE": "bad",
    "RECEIVING": "busy",
    "PENDING": "wait",
    "QUEUED": "wait",
    "GREEN": "good",
    "RED": "bad",
    "NO BASELINE": "ask",
    "NOT CHECKED": "wait",
    "SUPERSEDED": "off",
    "CANCELLED": "off",
    "WAITING": "wait",
    "RUNNING": "busy",
    "DROPPED": "off",
}


@dataclass(frozen=True, slots=True)
class Site:
    """The page's parts, built once."""

    settings: Settings
    database: Database
    copies: Copies
    access: Access
    scenes: SceneCache
    templates: Jinja2Templates
    metrics: NodeMetrics
    pulse: Pulse | None = None
    messages: dict[str, str] = field(default_factory=dict)

    def operations(self, actor: str) -> Operations:
        """Return what a person may do."""
        return Operations(self.database, actor, self.settings.spool.root, copies=self.copies)

    @property
    def reading_needs_sign_in(self) -> bool:
        """Pictures of patients are for whoever is on this machine, or has the token."""
        return not self.settings.web.on_loopback


def site_of(request: Request) -> Site:
    """Find the parts."""
    site: Site = request.app.state.site
    return site


def person_of(request: Request) -> SignedIn | None:
    """Find who asks, None for a person who has not signed in."""
    return site_of(request).access.signed_in(request.cookies.get(COOKIE))


def may_read(request: Request) -> bool:
    """Return whether the request may see jobs and pictures."""
    return not site_of(request).reading_needs_sign_in or person_of(request) is not None


def page(request: Request, name: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Fill in a template; every value is escaped."""
    site, person = site_of(request), person_of(request)
    message = site.messages.pop(person.csrf, "") if person else ""
    context = {
        "person": person,
        "can_sign_in": site.access.can_sign_in,
        "node": site.settings.node,
        "version": __version__,
        "now": datetime.now(UTC),
        "message": message,
        "here": request.url.path,
        **values,
    }
    return site.templates.TemplateResponse(request, name, context, status_code=status)


async def form_of(request: Request) -> dict[str, str]:
    """Read a form, of bounded length; the last of several values counts.

    Raises
    ------
    HTTPException
        It is too long, or no form.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM_BYTES:
            raise HTTPException(413, "the form is too long")
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise HTTPException(415, "a form is expected")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20))
    except ValueError as error:
        raise HTTPException(400, "the form cannot be read") from error


def make_templates() -> Jinja2Templates:
    """Load the templates with the words and figures that they use."""
    templates = Jinja2Templates(directory=HERE / "templates")
    templates.env.filters.update(age=age, moment=_moment, word=lambda state: str(state).lower(), volume=_volume)
    templates.env.globals.update(command=command, tone=lambda state: TONES.get(state, "off"))
    templates.env.trim_blocks = templates.env.lstrip_blocks = True
    return templates


def _moment(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _volume(cc: float) -> str:
    return f"{cc:.1f}" if cc < 100 else f"{cc:.0f}"
