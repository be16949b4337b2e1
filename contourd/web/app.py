"""The page as an ASGI application: routes, headers, and who is let in.

Content comes from this node alone: no script, style, font or picture from elsewhere, and none inline.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contourd.errors import QueueUnavailable
from contourd.observe.metrics import NodeMetrics
from contourd.observe.pulse import Pulse
from contourd.settings import Settings
from contourd.store.database import Database
from contourd.transfer.copies import copies_of
from contourd.web import actions, archive, health, pages, pictures
from contourd.web.access import Access, read_token
from contourd.web.paths import register_numbers
from contourd.web.scenes import SceneCache
from contourd.web.site import HERE, Site, make_templates

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


class SecurityHeaders:
    """Sends the headers above with every answer; only what is the same for all may be kept by a browser."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                kept = scope["path"].startswith("/static/")
                headers["Cache-Control"] = "public, max-age=300" if kept else "no-store"
            await send(message)

        await self._app(scope, receive, with_headers)


def make_app(settings: Settings, database: Database, pulse: Pulse | None = None) -> Starlette:
    """Build the page of one node.

    Raises
    ------
    SettingsError
        The token's file cannot be used.
    """
    web = settings.web
    register_numbers()
    routes = [
        Route("/", pages.overview),
        Route("/sign-in", actions.sign_in, methods=["GET", "POST"]),
        Route("/sign-out", actions.sign_out, methods=["POST"]),
        Route("/archive", archive.archive_page),
        Route("/archive/patient", archive.search_patient, methods=["POST"]),
        Route("/archive/names", archive.show_names, methods=["POST"]),
        Route("/jobs/{job:number}", pages.job_page),
        Route("/jobs/{job:number}/scene", pictures.describe),
        Route("/jobs/{job:number}/pixels/{plane}/{index:number}", pictures.pixels),
        Route("/jobs/{job:number}/outlines/{plane}/{index:number}", pictures.outlines),
        Route("/jobs/{job:number}/patient", actions.show_patient, methods=["POST"]),
        Route("/jobs/{job:number}/export", actions.give_export, methods=["POST"]),
        Route("/jobs/{job:number}/{action}", actions.act_on_job, methods=["POST"]),
        Route("/series/{series:number}", pages.series_page),
        Route("/series/{series:number}/scene", pictures.describe),
        Route("/series/{series:number}/pixels/{plane}/{index:number}", pictures.pixels),
        Route("/series/{series:number}/outlines/{plane}/{index:number}", pictures.outlines),
        Route("/series/{series:number}/{action}", actions.act_on_series, methods=["POST"]),
        Route("/shadow", pages.shadow_page),
        Route("/models/{number:number}", pages.model_page),
        Route("/healthz", health.healthz),
        Route("/readyz", health.readyz),
        Route("/metrics", health.metrics),
        Mount("/static", StaticFiles(directory=HERE / "static"), name="static"),
    ]
    middleware = [Middleware(SecurityHeaders)]
    if web.on_loopback:  # else a page elsewhere could name this machine as its own host, and read
        allowed = [*LOOPBACK_NAMES, web.host, *web.hosts]
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=allowed, www_redirect=False))
    handlers = {HTTPException: pages.error_page, QueueUnavailable: pages.error_page, 500: pages.error_page}
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)
    copies = copies_of(settings.spool, database)
    site = app.state.site = Site(
        settings,
        database,
        copies,
        Access(read_token(web.token_file)),
        SceneCache(settings.spool.root, web.cache_mb * 1_000_000, copies),
        make_templates(),
        NodeMetrics(settings, database, lambda: pages.model_identities(settings, database), pulse),
        pulse,
    )
    app.state.health = health.Health.of(site, settings.spool)
    return app
