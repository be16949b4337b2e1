"""The composition root of ``serve``: builds and wires everything, supervises the worker, and shuts down in order."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import threading
from contextlib import suppress
from functools import partial
from typing import IO

from contourd.clock import StepWatch
from contourd.dicom.scp import StorageSCP
from contourd.dicom.scu import OutcomeKind, Sender, StorageSCU
from contourd.dicom.spool import Spool
from contourd.dicom.tls import calling_context
from contourd.errors import NodeError, QueueUnavailable, SpoolError
from contourd.jobs.database import Database
from contourd.jobs.insistence import insist
from contourd.jobs.intake import Intake
from contourd.jobs.job import RetryPolicy
from contourd.jobs.queue import Queue
from contourd.jobs.retention import Retention
from contourd.jobs.timekeeping import follow_clock
from contourd.schedule import Schedule
from contourd.settings import Destination, Settings
from contourd.supervision import Supervisor

log = logging.getLogger(__name__)

POLL_S = 1.0
RETENTION_S = 60.0
GRACE_S = 60.0


class Daemon:
    """One node: reception and delivery in this process, contouring in a spawned one."""

    def __init__(self, settings: Settings, sender: Sender | None = None) -> None:
        self._settings = settings
        self._spool = Spool(settings.spool.root, int(settings.spool.min_free_gb * 1e9))
        self._locked = self._lock()
        self._spool.sweep()
        self._database = Database(settings.database_url)
        self._database.examine()
        self._database.upgrade()
        self._queue = Queue(self._database)
        self._intake = Intake(self._database, settings.spool.root, settings.series, settings.route)
        for destination in settings.destination:
            if destination.tls is not None:
                calling_context(destination.tls, destination.name)
        self._sender = sender or StorageSCU(settings.node.ae_title)
        self._scp = StorageSCP(settings.node, self._spool, self._intake)
        self._retention = Retention(self._database, self._spool, settings.retention)
        self._schedule = Schedule(len(settings.destination) + 5)
        self._stopping, self._hasten = threading.Event(), threading.Event()
        self._supervisor = Supervisor(settings, self._queue, self._stopping)
        self._clock, self._step_s, self._following = StepWatch(), 0.0, threading.Lock()

    def _lock(self) -> IO[str]:
        path = self._settings.spool.root / "contourd.lock"
        try:
            file = path.open("w")
        except OSError as error:
            raise SpoolError(f"spool.root: {path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise NodeError(f"another contourd already serves the spool {self._settings.spool.root}") from error
        return file

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; a second one does not wait for what is under way.

        Raises
        ------
        NodeError
            The port is taken, or a part of the node broke down.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_stop)
        if not insist(self._recover, self._stopping):
            return
        node = self._settings.node
        try:
            self._scp.start()
        except OSError as error:
            raise NodeError(f"cannot listen on {node.host}:{node.port}: {error.strerror}; change node.port") from error
        log.info("listening as %s on %s:%d", node.ae_title, node.host, self._scp.port, extra={"action": "start"})
        self._supervisor.start()
        self._begin()
        whole = True
        try:
            while whole and not self._stopping.wait(POLL_S):
                with suppress(QueueUnavailable):  # the jobs tell it
                    self._follow_clock()  # no job of its own, for a clock that is set back stops them all
                whole = self._scp.listening and self._schedule.alive
        finally:
            self._shut_down()
        if not whole:
            raise NodeError(
                "a thread of contourd ended by itself, and contourd with it; look at the log, start it again"
            )

    def _told_to_stop(self, number: int, frame: object) -> None:  # noqa: ARG002
        if self._stopping.is_set():
            self._hasten.set()
        self._stopping.set()

    def _recover(self) -> None:
        self._queue.recover()
        self._intake.recover()

    def _begin(self) -> None:
        every = self._schedule.every
        every(POLL_S, "closing quiet series", self._intake.close_quiet)
        every(POLL_S, "watching the worker", self._supervisor.watch)
        every(POLL_S, "expiring leases", self._supervisor.expire_leases)
        every(RETENTION_S, "retention", self._retention.run)
        for destination in self._settings.destination:  # a thread each: one that is down delays no other
            every(POLL_S, f"delivering to {destination.name}", partial(self._deliver, destination))
        self._schedule.start()

    def _follow_clock(self) -> None:
        """Let all that waits follow the clock where it was set; raises QueueUnavailable, and then does so next time."""
        with self._following:
            step_s = self._clock.step_s()
            if step_s:
                log.warning("the clock was set by %+.0f s; what waits follows it", step_s, extra={"action": "clock"})
                self._step_s += step_s
                self._retention.clock_was_set()
                self._schedule.clock_was_set()
            if self._step_s:
                follow_clock(self._database, self._step_s)
                self._step_s = 0.0

    def _postpone(self, delivery_id: int, reason: str, retry: RetryPolicy) -> None:
        self._follow_clock()  # or a clock set forwards would have it given up
        self._queue.postpone(delivery_id, reason, retry)

    def _deliver(self, destination: Destination) -> None:
        policy = self._settings.delivery
        retry = RetryPolicy(policy.first_retry_s, policy.max_retry_s, policy.give_up_after_s)
        while not self._stopping.is_set() and (delivery := self._queue.claim_delivery(destination.name)) is not None:
            about = {"job": delivery.job_id, "destination": destination.name}
            outcome = self._sender.deliver(self._settings.spool.root / delivery.output, destination)
            if outcome.kind is OutcomeKind.ACCEPTED:
                done = partial(self._queue.delivered, delivery.id, outcome.reason)
                log.info("delivered", extra={"action": "deliver", **about})
            elif outcome.kind is OutcomeKind.RETRY:
                done = partial(self._postpone, delivery.id, outcome.reason, retry)
                log.warning("will be sent again: %s", outcome.reason, extra={"action": "retry", **about})
            else:
                done = partial(self._queue.refuse, delivery.id, outcome.reason)
                log.error("refused: %s", outcome.reason, extra={"action": "refuse", **about})
            insist(done, self._stopping)  # or it would be sending until the next start

    def _shut_down(self) -> None:
        """Stop taking, let deliveries and the job under way end, and leave the rest for the next start."""
        log.info("stopping", extra={"action": "stop"})
        self._stopping.set()
        self._supervisor.terminate()
        self._scp.stop()
        ended = self._schedule.stop(GRACE_S, self._hasten)
        self._supervisor.stop(GRACE_S, self._hasten)
        self._database.close()
        self._locked.close()
        if ended:
            log.info("stopped", extra={"action": "stopped"})
            return
        log.warning(
            "stopped; a delivery under way did not end, it is sent again next time", extra={"action": "stopped"}
        )
        logging.shutdown()
        os._exit(0)  # Python would wait for its thread for ever
