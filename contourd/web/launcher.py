"""The daemon's handle on the page's process: starts it, starts it again when it ends, stops it."""

from __future__ import annotations

import logging
import multiprocessing
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from contourd.observe.pulse import Pulse, SelfTestFault
from contourd.settings import Settings
from contourd.web.access import read_token

log = logging.getLogger(__name__)

PAUSE_S, STOP_S = 5.0, 10.0


class PageProcess:
    """One process for the page, where the settings want it.

    Raises
    ------
    SettingsError
        The token's file cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pulse = Pulse()
        self._process: BaseProcess | None = None
        self._leash: Connection | None = None
        self._started_at = 0.0
        if settings.web.enabled:
            read_token(settings.web.token_file)

    def watch(self, worker_is_alive: bool, wrong: SelfTestFault) -> None:
        """Send the page the state of the daemon; start its process, and again some time after it ended."""
        if not self._settings.web.enabled:
            return
        self._pulse.beat(worker_is_alive, wrong)
        if self._process is not None and self._process.is_alive():
            return
        if self._process is not None and time.monotonic() - self._started_at < PAUSE_S:
            return
        if self._process is not None:
            log.error(
                "the page's process ended (exit status %s), nothing else did; it starts again",
                self._process.exitcode,
                extra={"action": "web"},
            )
        self._start()

    def _start(self) -> None:
        self._end_leash()
        context = multiprocessing.get_context("spawn")
        self._leash, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self._settings, theirs, self._pulse), name="page", daemon=True
        )
        self._process.start()
        theirs.close()
        self._started_at = time.monotonic()

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            self._process.join(STOP_S)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process = None
        self._end_leash()

    def _end_leash(self) -> None:
        if self._leash is not None:
            self._leash.close()
            self._leash = None


def _serve(settings: Settings, parent: Connection, pulse: Pulse) -> None:
    from contourd.web.server import main  # the daemon itself needs no web server

    main(settings, parent, pulse)
