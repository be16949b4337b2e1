"""Each job that was made or released gets its order, and one that nobody can do as it was ordered is told."""

from __future__ import annotations

import logging

from contourd import __version__
from contourd.errors import ModelError
from contourd.models.orders import OrderBook, version_of
from contourd.settings import Settings
from contourd.store.database import Database
from contourd.store.processes import Processes
from contourd.store.queue import Queue

log = logging.getLogger(__name__)


class OrderKeeper:
    """Orders jobs by the settings of this node, while it leads."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._queue = Queue(database)
        self._book = OrderBook(database, settings)
        self._processes = Processes(database)

    def order_jobs(self) -> None:
        """Order what was made or released; a job whose model cannot be found is held. Raises QueueUnavailable."""
        for job in self._queue.unordered_jobs():
            try:
                order = self._book.order_of(job.model, job.destinations, job.sent_with)
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
