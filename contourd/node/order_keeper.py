"""Each job that was made or released gets its order, and one that nobody can do as it was ordered is told."""

from __future__ import annotations

import logging
import time

from contourd import __version__
from contourd.errors import ModelError
from contourd.models.orders import OrderBook, order_digest, passes_by_itself, version_of
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Settings
from contourd.store.backoff import Seconds
from contourd.store.database import Database
from contourd.store.processes import Processes
from contourd.store.queue import Queue
from contourd.store.states import ProcessRole

log = logging.getLogger(__name__)

# For so long every worker may leave an order to others: a host may come back, or be mended, and each judges anew what
# it has declined within a minute.
NOBODY_HOLDS_S = 300.0


class OrderKeeper:
    """Orders jobs by the settings of this node, while it leads.

    Parameters
    ----------
    elapsed
        Monotonic seconds.
    """

    def __init__(self, database: Database, settings: Settings, elapsed: Seconds = time.monotonic) -> None:
        self._queue = Queue(database)
        self._book = OrderBook(database, settings)
        self._processes = Processes(database)
        self._elapsed = elapsed
        self._nobodys: dict[str, float] = {}

    def review_orders(self) -> None:
        """See to the orders that wait and that nobody does; raises QueueUnavailable."""
        self.renew_orders()
        self.hold_nobodys()

    def order_jobs(self) -> None:
        """Order what was made or released; a job whose model cannot be found is held. Raises QueueUnavailable."""
        for job in self._queue.unordered_jobs():
            try:
                order = self._book.order_of(job.model, job.destinations, job.sent_with, job.partial)
            except ModelError as error:
                log.error("the job is held: %s", error, extra={"action": "hold", "job": job.id})
                self._queue.hold_unordered(job.id, error.reason)
            else:
                self._queue.order_job(job.id, order)

    def renew_orders(self) -> None:
        """Order anew what was ordered of a version that no process has any more; raises QueueUnavailable."""
        versions = {__version__} | {one.version for one in self._processes.running()}
        for order in self._queue.waiting_orders():
            if version_of(order) not in versions:
                self._queue.withdraw_order(order)
                log.warning(
                    "jobs that were ordered of contourd %s are ordered of %s",
                    version_of(order),
                    __version__,
                    extra={"action": "order"},
                )

    def hold_nobodys(self) -> None:
        """Hold the jobs of orders that every worker of every host has declined for a while; raises QueueUnavailable.

        Where no worker runs, or one has not judged an order yet, nobody has said that it cannot be done.
        """
        workers = [one for one in self._processes.running() if one.role is ProcessRole.WORKER]
        reasons = dict[str, dict[str, Reason]]()
        for order in self._queue.waiting_orders():
            digest = order_digest(order)
            why = {one.identity.host: one.cannot[digest] for one in workers if digest in one.cannot}
            if (
                workers
                and all(digest in one.cannot for one in workers)
                and not any(map(passes_by_itself, why.values()))
            ):
                reasons[order] = why
        self._nobodys = {order: self._nobodys.get(order, self._elapsed()) for order in reasons}
        for order, since in self._nobodys.items():
            if self._elapsed() - since < NOBODY_HOLDS_S:
                continue
            reason = Reason.of(HoldReason.ORDER_OF_NOBODY, hosts=reasons[order])
            for job in self._queue.hold_ordered(order, reason):
                log.error("the job is held: %s", reason, extra={"action": "hold", "job": job})
