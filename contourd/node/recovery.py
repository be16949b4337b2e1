"""What dead processes left under way is taken up by those that live: jobs, deliveries, series that were being received.

Nothing is taken from a process that may live. Where one was taken for dead that is not, as behind a broken network, its
tokens are of before: nothing of it is recorded, and it sends nothing more.
"""

from __future__ import annotations

import logging
import time

from contourd.delivery.deliveries import Deliveries
from contourd.errors import QueueUnavailable
from contourd.intake.intake import Intake
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import WorkerSettings
from contourd.store.database import Database
from contourd.store.processes import Processes, RunningProcess
from contourd.store.queue import Queue
from contourd.store.states import ProcessRole
from contourd.system.clock import AgeTracker, Monotonic

log = logging.getLogger(__name__)

# So much later than its own host, which can kill it too, takes a job from a worker that hangs.
LATER_S = 10.0


class ProcessWatch:
    """Finds processes that are dead, and takes up what they left.

    Parameters
    ----------
    name
        The id of this process.
    """

    def __init__(
        self,
        name: str,
        database: Database,
        deliveries: Deliveries,
        intake: Intake,
        settings: WorkerSettings,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        self._name = name
        self._alone = database.is_sqlite
        self._queue = Queue(database)
        self._deliveries = deliveries
        self._intake = intake
        self._settings = settings
        self._processes = Processes(database, monotonic=monotonic)
        self._leases = AgeTracker(monotonic=monotonic)

    def begin(self) -> None:
        """Write down that this node runs; raises QueueUnavailable."""
        self._processes.begin(self._name, ProcessRole.SERVE)

    def recover(self) -> None:
        """At the start, take up what was left by whatever does not run now; raises QueueUnavailable.

        Who holds the spool's lock is the only node of a database in it.
        """
        running = self._processes.running()
        others = {one.id for one in running if one.role is ProcessRole.SERVE and one.id != self._name}
        dead = self._processes.dead(running, self._settings.lease_s, others if self._alone else ())
        for one in dead:  # those of this host have their successors now
            ended = self._processes.end if self._processes.is_of_this_host(one) else self._processes.end_as_gone
            ended(one.id)
        alive = {one.id for one in running} - {one.id for one in dead}
        self._queue.recover(alive)
        self._deliveries.recover_all_but(alive)
        self._intake.recover(others & alive)

    def watch(self) -> None:
        """While it leads, take up what is left by processes that die; raises QueueUnavailable."""
        try:
            running = self._processes.running()
            for one in self._processes.dead(running, self._settings.lease_s):
                if not self._processes.is_own(one):
                    self._take_up(one)
            self._expire_leases({one.id for one in running if self._processes.is_own(one)})
        except QueueUnavailable:
            self.forget()
            raise

    def forget(self) -> None:
        """Let every time count anew: this node does not watch, perhaps as nobody reaches the database to write."""
        self._processes.forget_beats()
        self._leases.clear()

    def _take_up(self, one: RunningProcess) -> None:
        reason = Reason.of(HoldReason.PROCESS_GONE, role=one.role, host=one.identity.host)
        self._processes.end_as_gone(one.id)
        if one.role is ProcessRole.WORKER:
            jobs = self._queue.release_jobs_of(one.id, reason, self._settings.max_attempts)
        else:
            jobs = []
            self._deliveries.recover(one.id, reason=str(reason))
            self._intake.process_ended(one.id)
        log.error("%s; jobs that are queued again: %d", reason, len(jobs), extra={"action": "gone", "worker": one.id})

    def _expire_leases(self, own: set[str]) -> None:
        """Take the jobs of workers of other hosts that hang: their own host cannot, or has nobody to do it."""
        leases = [lease for lease in self._queue.list_leases() if lease.claim.worker not in own]
        for lease in leases:
            if self._leases.seen_s(lease.claim, lease.until) > self._settings.lease_s + LATER_S:
                reason = Reason.of(HoldReason.WORKER_HUNG, seconds=self._settings.time_limit_s)
                if self._queue.revoke_lease(lease, reason, self._settings.max_attempts):
                    log.error("%s", reason, extra={"action": "lease", "job": lease.claim.job_id})
        self._leases.keep(lease.claim for lease in leases)
