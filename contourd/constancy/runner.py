"""The daemon's part of the constancy check: begins it when it is due or asked for, delivers to its receiver, ends it.

The check itself runs in a process of its own. One that ends, hangs or is stopped in mid-check is red, with the reason.
"""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from contourd.commands import command
from contourd.constancy.requests import ConstancyChecks
from contourd.delivery.deliverer import Deliverer, DeliveryServices
from contourd.errors import QueueUnavailable
from contourd.settings import Destination, Settings
from contourd.store.audit import NODE
from contourd.store.constancy_series import LOOPBACK_RECEIVER
from contourd.store.constancy_standing import IMAGES_FOLDER, ConstancyCheck, missing_since
from contourd.store.database import Database
from contourd.store.states import ConstancyState
from contourd.system.clock import Clock, Monotonic, utc_now

log = logging.getLogger(__name__)

# A check tells by itself that it took too long; one that does not has hung.
HUNG_S, STOP_S = 120.0, 10.0


class ConstancyRunner:
    """Keeps the checks of one node, one at a time."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        post: DeliveryServices,
        stopping: threading.Event,
        clock: Clock = utc_now,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        self._settings = settings
        self._database = database
        self._delivering = post
        self._stopping = stopping
        self._now = clock
        self._monotonic = monotonic
        self._checks = ConstancyChecks(database, clock)
        self._lock = threading.Lock()
        self._process: BaseProcess | None = None
        self._leash: Connection | None = None
        self._began = 0.0
        self._deliverer: tuple[int, Deliverer] | None = None  # of which check

    def recover(self) -> None:
        """End what was under way when contourd ended, with what it had written; raises QueueUnavailable."""
        self._checks.recover()
        shutil.rmtree(self._settings.spool.root / IMAGES_FOLDER, ignore_errors=True)

    def watch(self) -> None:
        """Begin what is due or asked for, and end what will not end by itself."""
        with self._lock:
            if self._stopping.is_set():
                return
            check = self._checks.open_one()
            if check is not None and check.state == ConstancyState.RUNNING:
                self._watch_running(check)
            elif self._process is not None and self._process.is_alive():
                return  # the last one is about to end
            elif check is not None:
                self._begin(check)
            elif missing_since(self._settings, self._checks.last_begun(), self._now()) is not None:
                self._checks.request(NODE)

    def _begin(self, check: ConstancyCheck) -> None:
        self._let_go()
        self._checks.begin(check.id)
        context = multiprocessing.get_context("spawn")
        self._leash, theirs = context.Pipe()
        self._process = context.Process(
            target=_run, args=(self._settings, check.id, theirs), name=f"constancy-{check.id}", daemon=True
        )
        self._began = self._monotonic()
        try:
            self._process.start()
        except OSError as error:
            self._process = None
            self._checks.end(
                check.id,
                ConstancyState.RED,
                f"its process cannot be started: {error.strerror}; {command('constancy run')}",
            )
            return
        finally:
            theirs.close()
        log.info("constancy %s %d begins", check.purpose, check.id, extra={"action": "constancy"})

    def _watch_running(self, check: ConstancyCheck) -> None:
        if self._process is None or not self._process.is_alive():
            status = self._process.exitcode if self._process is not None else None
            if self._checks.end(
                check.id, ConstancyState.RED, f"its process broke down (exit status {status}); see the log"
            ):
                log.error("constancy %s %d broke down", check.purpose, check.id, extra={"action": "constancy"})
            self._let_go()
        elif self._monotonic() - self._began > self._settings.constancy.timeout_s + HUNG_S:
            self._process.kill()
            self._let_go()
            self._checks.end(check.id, ConstancyState.RED, f"it hung, and was stopped; {command('constancy run')}")
            log.error("constancy %s %d hung", check.purpose, check.id, extra={"action": "constancy"})

    def deliver_due(self) -> None:
        """Send the structure sets of the check under way to its receiver; those of one that is over are not sent."""
        check = self._checks.open_one()
        if check is None or check.state != ConstancyState.RUNNING or not check.port:
            self._deliverer = None
            return
        if self._deliverer is None or self._deliverer[0] != check.id:
            receiver = Destination(name="constancy", ae_title="CONSTANCY", host="127.0.0.1", port=check.port)
            receiver = receiver.model_copy(update={"name": LOOPBACK_RECEIVER})
            self._deliverer = check.id, Deliverer(receiver, self._delivering, self._stopping)
        self._deliverer[1].deliver_due()

    def stop(self) -> None:
        """End the process and the check under way, where this node runs it."""
        with self._lock:
            if self._process is None:
                return
            if self._process is not None and self._process.is_alive():
                self._process.terminate()
                self._process.join(STOP_S)
                if self._process.is_alive():
                    self._process.kill()
                    self._process.join()
            self._let_go()
            with suppress(QueueUnavailable):  # the next start ends it
                self._checks.recover()

    def _let_go(self) -> None:
        """Wait for the end of the process, and remove what it may have left."""
        if self._process is not None:
            self._process.join()
            shutil.rmtree(self._settings.spool.root / IMAGES_FOLDER, ignore_errors=True)
        if self._leash is not None:
            self._leash.close()
        self._process = self._leash = None


def _run(settings: Settings, check_id: int, parent: Connection) -> None:
    from contourd.constancy.check import main  # neither torch nor scipy is for the daemon

    main(settings, check_id, parent)
