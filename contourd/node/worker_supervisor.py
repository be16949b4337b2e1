"""The worker process, watched from the process that receives: started again when it dies, killed when it hangs.

What breaks its worker costs a job an attempt; a worker that breaks without a job is started ever more seldom.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from contourd.errors import QueueUnavailable
from contourd.node.exits import exit_text
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Settings
from contourd.store.queue import Lease, Queue
from contourd.system.clock import AgeTracker, Monotonic
from contourd.system.identity import new_process_id
from contourd.system.signals import send_hint, watch_hints

log = logging.getLogger(__name__)

# Between the deaths of workers that died without a job: doubled each time.
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 300.0
SPENT_ALIVE_S = 60.0
WorkerMain = Callable[[Settings, str, Connection], None]


def run_worker(settings: Settings, name: str, parent: Connection) -> None:
    """Run a worker; torch is loaded in its process alone, which leaves this one small and quick to start."""
    from contourd.node import worker

    worker.main(settings, name, parent)


class Supervisor:
    """Keeps one worker process running.

    Parameters
    ----------
    stopping
        Set when the node stops: no worker is started any more.
    main
        What the process runs; by default a worker.
    contoured
        Called when the worker says that it has finished a job.
    """

    def __init__(
        self,
        settings: Settings,
        queue: Queue,
        stopping: threading.Event,
        main: WorkerMain | None = None,
        monotonic: Monotonic = time.monotonic,
        contoured: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._contoured = contoured
        self._queue = queue
        self._stopping = stopping
        self._main = main or run_worker
        self._monotonic = monotonic
        self._leases = AgeTracker(monotonic=monotonic)
        self._lock = threading.Lock()
        self._worker: BaseProcess | None = None
        self._name = ""
        self._leash: Connection | None = None
        self._began = self._not_before = 0.0
        self._useless = 0
        self._killed_for: Reason | None = None

    @property
    def name(self) -> str:
        """Under which the worker is known, made anew with each start; empty before the first."""
        return self._name

    @property
    def pid(self) -> int | None:
        """The worker's process, if there is one."""
        return self._worker.pid if self._worker is not None and self._worker.is_alive() else None

    @property
    def starts_in_s(self) -> float:
        """How long the next start is put off."""
        return max(0.0, self._not_before - self._monotonic())

    def start(self) -> None:
        """Start a worker."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._name = new_process_id()
        process = context.Process(
            target=self._main, args=(self._settings, self._name, theirs), name=self._name, daemon=True
        )
        try:
            process.start()
        except OSError as error:  # no memory, no process, no descriptor
            ours.close()
            self._put_off(f"a worker cannot be started: {error.strerror}")
            return
        finally:
            theirs.close()
        self._worker, self._leash, self._began, self._killed_for = process, ours, self._monotonic(), None
        threading.Thread(
            target=watch_hints, args=(ours, self._contoured), name=f"hints of {self._name}", daemon=True
        ).start()

    def hint(self) -> None:
        """Make the worker look for a job now, where it rests."""
        with self._lock:
            if self._leash is not None:
                send_hint(self._leash)

    def watch(self) -> None:
        """Start a new worker where the last one died, and take its job from it; raises QueueUnavailable."""
        with self._lock:
            if self._stopping.is_set():
                return
            if self._worker is None:
                if self._monotonic() >= self._not_before:
                    self.start()
                return
            if self._worker.is_alive():
                if self._monotonic() - self._began > SPENT_ALIVE_S:
                    self._useless = 0
                return
            reason = self._killed_for or Reason.of(HoldReason.WORKER_ENDED, how=exit_text(self._worker.exitcode))
            broke = self._queue.release_jobs_of(self._name, reason, self._settings.worker.max_attempts)
            self._let_go()
            for job in broke:
                log.error("%s; the job's attempt is spent", reason, extra={"action": "worker", "job": job})
            if broke or self._killed_for:
                self._useless, self._not_before = 0, self._monotonic()
                self.start()
            else:
                self._put_off(str(reason))

    def _put_off(self, reason: str) -> None:
        wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**self._useless)
        self._useless = min(self._useless + 1, 30)
        self._not_before = self._monotonic() + wait_s
        log.error("%s; a new one starts in %.0f s", reason, wait_s, extra={"action": "worker"})

    def _let_go(self) -> None:
        if self._leash is not None:
            self._leash.close()
        self._worker = self._leash = None

    def expire_leases(self) -> None:
        """Take the job of this worker where its lease was not renewed, and kill the worker: it hangs.

        A lease has run out when it stood unchanged for its time, whatever the clock says. While the queue cannot be
        had nobody can renew, and the time does not count.
        """
        try:
            leases = [lease for lease in self._queue.list_leases() if lease.claim.worker == self._name]
            for lease in leases:
                if self._leases.seen_s(lease.claim, lease.until) > self._settings.worker.lease_s:
                    self._revoke(lease)
            self._leases.keep(lease.claim for lease in leases)
        except QueueUnavailable:
            self._leases.clear()
            raise

    def _revoke(self, lease: Lease) -> None:
        settings = self._settings.worker
        reason = Reason.of(HoldReason.WORKER_HUNG, seconds=settings.time_limit_s)
        if not self._queue.revoke_lease(lease, reason, settings.max_attempts):
            return
        log.error("%s; it is killed", reason, extra={"action": "lease", "job": lease.claim.job_id})
        with self._lock:
            if self._worker is not None:
                self._killed_for = reason
                self._worker.kill()

    def terminate(self) -> None:
        """Ask the worker to end after the job under way."""
        with self._lock:
            if self._worker is not None:
                with suppress(ProcessLookupError):
                    self._worker.terminate()

    def stop(self, grace_s: float, hasten: threading.Event) -> None:
        """Wait for the worker's end, and kill it after its time or when asked to hasten."""
        self.terminate()
        with self._lock:
            if self._worker is not None:
                deadline = self._monotonic() + grace_s
                while self._worker.is_alive() and self._monotonic() < deadline and not hasten.is_set():
                    self._worker.join(0.2)
                if self._worker.is_alive():
                    log.warning("the job under way did not end; it starts anew", extra={"action": "stop"})
                    self._worker.kill()
                    self._worker.join()
                with suppress(QueueUnavailable):  # else its lease runs out, or the next start finds it
                    self._queue.return_jobs_of(self._name, "its worker was stopped")
            self._let_go()
