"""The page's process: uvicorn until SIGTERM, or until the daemon is gone.

It is a process of its own, like the worker: what it reads, draws and keeps in memory never takes the interpreter from
reception, and its end, whatever the reason, ends nothing else.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import uvicorn

from contourd.observe.pulse import Pulse
from contourd.settings import Settings
from contourd.spool.access import keep_private
from contourd.store.database import Database
from contourd.system.logs import set_up_logging
from contourd.system.signals import end_with_parent
from contourd.web.app import make_app
from contourd.web.connections import ConnectionRegistry, PageConnection

log = logging.getLogger(__name__)

KEEP_ALIVE_S, STOP_S = 20, 5
LARGEST_HEADER_BYTES = 32 * 1024


def make_server(settings: Settings, database: Database, pulse: Pulse | None = None) -> uvicorn.Server:
    """Build the server; ``run()`` serves until its ``should_exit`` is set."""
    web = settings.web
    connection: Any = partial(PageConnection, ConnectionRegistry(web.proxies))
    config = uvicorn.Config(
        make_app(settings, database, pulse),
        host=web.host,
        port=web.port,
        http=connection,
        ws="none",
        h11_max_incomplete_event_size=LARGEST_HEADER_BYTES,
        proxy_headers=bool(web.proxies),
        forwarded_allow_ips=[str(network) for network in web.proxies],
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
    )
    return uvicorn.Server(config)


def main(settings: Settings, parent: Connection, pulse: Pulse) -> None:
    """Serve the page until SIGTERM, or until the other end of ``parent`` is closed: the daemon is gone."""
    keep_private()
    set_up_logging()
    try:
        _serve(settings, parent, pulse)
    except Exception:  # Python would print the text of the error, which may quote the patient
        log.exception("the page cannot be served", extra={"action": "web"})
        raise SystemExit(1) from None


def _serve(settings: Settings, parent: Connection, pulse: Pulse) -> None:
    end_with_parent(parent)
    os.nice(5)  # reception and contouring come first
    database = Database(settings.database_url)
    web = settings.web
    log.info("the page is at http://%s:%d", web.host, web.port, extra={"action": "web"})
    make_server(settings, database, pulse).run()
    database.close()
