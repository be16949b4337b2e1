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
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import IO

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from contourd import worker
from contourd.committing import Custody, Reporter
from contourd.delivering import Deliverer, Post
from contourd.dicom.calling import Peer
from contourd.dicom.commitment_scp import CommitmentSCP
from contourd.dicom.commitment_scu import CommitmentSCU
from contourd.dicom.scp import StorageSCP
from contourd.dicom.scu import Sender, StorageSCU
from contourd.dicom.spool import Spool
from contourd.dicom.tls import calling_context
from contourd.errors import NodeError
from contourd.jobs.commitment_requests import CommitmentRequests
from contourd.jobs.commitments import Commitments
from contourd.jobs.database import Database
from contourd.jobs.deliveries import Deliveries
from contourd.jobs.intake import Intake
from contourd.jobs.job import RetryPolicy
from contourd.jobs.queue import Queue
from contourd.settings import Settings

log = logging.getLogger(__name__)

POLL_S = 1.0
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
        peers: tuple[Peer, ...] = (*settings.destination, *settings.sender)
        for peer in peers:
            if peer.tls is not None:
                calling_context(peer.tls, peer.name)
        retry = settings.delivery
        policy = RetryPolicy(retry.first_retry_s, retry.max_retry_s, retry.give_up_after_s)
        commitments = Commitments(self._database, policy, {d.name: d.ae_title for d in settings.destination})
        wait_s = max((d.commitment_wait_s for d in settings.destination if d.commitment), default=0.0)
        self._post = Post(
            settings.spool.root,
            Deliveries(self._database, policy, commitment_wait_s=wait_s),
            commitments,
            sender or StorageSCU(settings.node.ae_title),
            CommitmentSCU(settings.node.ae_title, commitments),
        )
        requests = CommitmentRequests(self._database, policy, [s.ae_title for s in settings.sender])
        self._custody = Custody(settings.spool.root, requests, self._post.committer, settings.series.quiet_s)
        self._scp = StorageSCP(settings.node, self._spool, self._intake, self._commitment_scp(commitments))
        threads = len(settings.destination) + len(settings.sender) + 4
        self._scheduler = BackgroundScheduler(executors={"default": ThreadPoolExecutor(threads)})
        self._stopping = threading.Event()
        self._names = itertools.count(1)
        self._worker: BaseProcess | None = None
        self._worker_name = ""
        self._leash: Connection | None = None

    def _commitment_scp(self, commitments: Commitments) -> CommitmentSCP | None:
        """Take part in storage commitment only where the settings say so, in one role or the other."""
        if self._settings.node.commitment:
            return CommitmentSCP(commitments, self._custody.requests)
        if any(destination.commitment for destination in self._settings.destination):
            return CommitmentSCP(commitments)
        return None

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
        self._post.deliveries.recover()
        for destination in self._settings.destination:
            if not destination.commitment:
                self._post.deliveries.settle(destination.name)
        self._custody.requests.recover()
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
        for destination in self._settings.destination:  # a thread each: one that is down delays no other
            deliverer = Deliverer(destination, self._post, self._stopping)
            self._every(POLL_S, f"deliver to {destination.name}", deliverer.deliver_due)
        for sender in self._settings.sender:
            reporter = Reporter(sender, self._custody, self._stopping)
            self._every(POLL_S, f"report to {sender.ae_title}", reporter.report_due)
        self._scheduler.start()

    def _every(self, seconds: float, name: str, call: Callable[[], None]) -> None:
        self._scheduler.add_job(
            call, "interval", seconds=seconds, name=name, max_instances=1, coalesce=True, misfire_grace_time=None
        )

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

    def _end_leash(self) -> None:
        if self._leash is not None:
            self._leash.close()
            self._leash = None

    def _shut_down(self) -> None:
        """Stop taking, let deliveries and the job under way end, and leave the rest for the next start."""
        log.info("stopping", extra={"action": "stop"})
        self._scp.stop()
        self._scheduler.shutdown(wait=True)
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
