"""Health for machines: never by the DICOM port, which peers need.

Each answer is bounded in time, and made in a thread of its own: whatever pages and pictures are waited for, it comes.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from contourd.observe.metrics import exposition
from contourd.observe.overview import database_problem
from contourd.observe.pulse import Pulse
from contourd.settings import SpoolSettings
from contourd.store.database import Database
from contourd.web.site import Site, site_of

# An answer is given again for so long; one that takes longer than this is waited for no more.
FRESH_S = 2.0
LONGEST_S = 5.0
LONGEST_FIGURES_S = 30.0


@dataclass(slots=True)
class SharedReader:
    """Has something read by one thread, for whoever asks meanwhile. Used by the server's one thread."""

    read: Callable[[], list[str]]
    longest_s: float
    fresh_s: float = 0.0
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "health"))
    _reading: Future[list[str]] | None = None
    _until: float = 0.0

    async def lines(self) -> list[str] | None:
        """Return what was read; None where that takes too long."""
        reading = self._reading
        if reading is None or (reading.done() and time.monotonic() >= self._until):
            reading = self._reading = self._thread.submit(self._read)
        future = asyncio.wrap_future(reading)
        await asyncio.wait({future}, timeout=self.longest_s)
        return reading.result() if reading.done() else None

    def _read(self) -> list[str]:
        try:
            return self.read()
        finally:
            self._until = time.monotonic() + self.fresh_s


@dataclass(frozen=True, slots=True)
class Health:
    """What machines ask of the page."""

    storage: SharedReader
    figures: SharedReader

    @classmethod
    def of(cls, site: Site, spool: SpoolSettings) -> Health:
        """Build it once, for a page."""
        return cls(
            SharedReader(lambda: _of_storage(site.database, spool), LONGEST_S, FRESH_S),
            SharedReader(lambda: [exposition(site.metrics).decode()], LONGEST_FIGURES_S),
        )


async def healthz(request: Request) -> Response:
    """Answer 200 where nothing calls for a restart: the main process lives, and its port answers a C-ECHO."""
    pulse = site_of(request).pulse
    dead = pulse is not None and pulse.is_dead
    return PlainTextResponse("dead: /readyz tells why\n" if dead else "ok\n", 503 if dead else 200)


async def readyz(request: Request) -> Response:
    """Answer 200 where the node takes series and contours them, else 503 with what is wrong, one a line."""
    health: Health = request.app.state.health
    wrong = await health.storage.lines()
    if wrong is None:
        wrong = [f"database or disk: no answer within {LONGEST_S:g} s"]
    wrong = [*wrong, *_of_service(site_of(request).pulse)]
    return PlainTextResponse("\n".join(wrong or ["ok"]) + "\n", 503 if wrong else 200)


async def metrics(request: Request) -> Response:
    """Give the figures to Prometheus; they hold nothing of a patient, so they need no sign-in."""
    health: Health = request.app.state.health
    figures = await health.figures.lines()
    if figures is None:
        return PlainTextResponse(f"no figures within {LONGEST_FIGURES_S:g} s\n", 503)
    return Response(figures[0], media_type=CONTENT_TYPE_LATEST)


def _of_service(pulse: Pulse | None) -> list[str]:
    if pulse is None:
        return []
    if not pulse.is_fresh:
        return ["the main process: it does not answer"]
    return pulse.text if pulse.worker_is_alive else [*pulse.text, "worker: it is not running"]


def _of_storage(database: Database, spool: SpoolSettings) -> list[str]:
    wrong = [f"database: {text}"] if (text := database_problem(database)) else []
    try:
        free = shutil.disk_usage(spool.root).free
    except OSError as error:
        return [*wrong, f"disk: {error.strerror}"]
    if free < spool.min_free_gb * 1e9:
        wrong.append(f"disk: less than spool.min_free_gb = {spool.min_free_gb:g} GB are free")
    return wrong
