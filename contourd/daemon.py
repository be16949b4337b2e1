"""The composition root of ``serve``: builds and wires everything, supervises the worker, and shuts down in order."""

from __future__ import annotations

import fcntl
import itertools
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import IO

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from contourd import worker
from contourd.alerting import Alerts
from contourd.dicom.scp import StorageSCP
from contourd.dicom.scu import OutcomeKind, Sender, StorageSCU
from contourd.dicom.spool import Spool
from contourd.dicom.tls import calling_context
from contourd.errors import NodeError
from contourd.jobs.database import Database
from contourd.jobs.intake import Intake
from contourd.jobs.job import RetryPolicy
from contourd.jobs.queue import Queue
from contourd.settings import Destination, Settings
from contourd.web.keeper import PageKeeper

log = logging.getLogger(__name__)

POLL_S, ALERTS_S = 1.0, 15.0
GRACE_S = 60.0


class Daemon:
    """One node: reception and delivery in this process, contouring in a spawned one."""

    def __init__(self, settings: Settings, sender: Sender | None = None) -> None:
        self._settings = settings
        self._spool = Spool(settings.spool.root, int(settings.spool.min_free_gb * 1e9))
        self._locked = self._lock()
        self._spool.sweep()
        self._database = Database(settings.database_url)
        self._database.upgrade()
        self._queue = Queue(self._database)
        self._intake = Intake(self._database, settings.spool.root, settings.series, settings.route)
        for destination in settings.destination:
            if destination.tls is not None:
                calling_context(destination.tls, destination.name)
        self._sender = sender or StorageSCU(settings.node.ae_title)
        self._scp = StorageSCP(settings.node, self._spool, self._intake)
        self._scheduler = BackgroundScheduler(executors={"default": ThreadPoolExecutor(len(settings.destination) + 6)})
        self._stopping = threading.Event()
        self._names = itertools.count(1)
        self._worker: BaseProcess | None = None
        self._worker_name = ""
        self._leash: Connection | None = None
        self._page = PageKeeper(settings)
        self._alerts = Alerts(settings, self._database)

    def _lock(self) -> IO[str]:
        file = (self._settings.spool.root / "contourd.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise NodeError(f"another contourd already serves the spool {self._settings.spool.root}") from error
        return file

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises
        ------
        NodeError
            The port is taken.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: self._stopping.set())
        self._queue.recover()
        self._intake.recover()
        node = self._settings.node
        try:
            self._scp.start()
        except OSError as error:
            raise NodeError(f"cannot listen on {node.host}:{node.port}: {error.strerror}; change node.port") from error
        log.info("listening as %s on %s:%d", node.ae_title, node.host, self._scp.port, extra={"action": "start"})
        self._start_worker()
        self._schedule()
        self._stopping.wait()
        self._shut_down()

    def _schedule(self) -> None:
        self._every(POLL_S, "close quiet series", self._intake.close_quiet)
        self._every(POLL_S, "watch the worker", self._watch_worker)
        self._every(POLL_S, "expire leases", self._expire_leases)
        self._every(POLL_S, "watch the page", self._watch_page)
        if self._settings.alerts.wanted:
            self._every(ALERTS_S, "alert", self._alerts.check)
        for destination in self._settings.destination:  # a thread each: one that is down delays no other
            self._every(POLL_S, f"deliver to {destination.name}", partial(self._deliver, destination))
        self._scheduler.start()

    def _every(self, seconds: float, name: str, call: Callable[[], None]) -> None:
        self._scheduler.add_job(
            call, "interval", seconds=seconds, name=name, max_instances=1, coalesce=True, misfire_grace_time=None
        )

    def _deliver(self, destination: Destination) -> None:
        policy = self._settings.delivery
        retry = RetryPolicy(policy.first_retry_s, policy.max_retry_s, policy.give_up_after_s)
        while not self._stopping.is_set() and (delivery := self._queue.claim_delivery(destination.name)) is not None:
            about = {"job": delivery.job_id, "destination": destination.name}
            outcome = self._sender.deliver(self._settings.spool.root / delivery.output, destination)
            if outcome.kind is OutcomeKind.ACCEPTED:
                self._queue.delivered(delivery.id, outcome.reason)
                log.info("delivered", extra={"action": "deliver", **about})
            elif outcome.kind is OutcomeKind.RETRY:
                self._queue.postpone(delivery.id, outcome.reason, retry)
                log.warning("will be sent again: %s", outcome.reason, extra={"action": "retry", **about})
            else:
                self._queue.refuse(delivery.id, outcome.reason)
                log.error("refused: %s", outcome.reason, extra={"action": "refuse", **about})

    def _expire_leases(self) -> None:
        for job in self._queue.expire_leases(self._settings.worker.max_attempts):
            log.warning("a lease ran out", extra={"action": "lease", "job": job})
            if self._worker is not None:
                self._worker.kill()  # it hangs, or it would have renewed

    def _start_worker(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._worker_name = f"worker-{os.getpid()}-{next(self._names)}"
        process = context.Process(
            target=worker.main, args=(self._settings, self._worker_name, theirs), name=self._worker_name, daemon=True
        )
        process.start()
        theirs.close()
        self._worker, self._leash = process, ours

    def _watch_worker(self) -> None:
        if self._stopping.is_set() or self._worker is None or self._worker.is_alive():
            return
        log.error(
            "the worker died (exit status %s); a new one starts", self._worker.exitcode, extra={"action": "worker"}
        )
        self._queue.abandon(self._worker_name, self._settings.worker.max_attempts)
        self._end_leash()
        self._start_worker()

    def _watch_page(self) -> None:
        if not self._stopping.is_set():
            self._page.watch(self._worker is not None and self._worker.is_alive())

    def _end_leash(self) -> None:
        if self._leash is not None:
            self._leash.close()
            self._leash = None

    def _shut_down(self) -> None:
        """Stop taking, let deliveries and the job under way end, and leave the rest for the next start."""
        log.info("stopping", extra={"action": "stop"})
        self._scp.stop()
        self._scheduler.shutdown(wait=True)
        self._page.stop()
        if self._worker is not None:
            with suppress(ProcessLookupError):
                self._worker.terminate()
            self._worker.join(GRACE_S)
            if self._worker.is_alive():
                log.warning("the job under way did not end in %d s; it starts anew next time", GRACE_S)
                self._worker.kill()
                self._worker.join()
        self._end_leash()
        self._database.close()
        self._locked.close()
        log.info("stopped", extra={"action": "stopped"})
