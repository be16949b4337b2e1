"""The delivering half of a node, with a peer behind each destination, and a clock that the test moves."""

from __future__ import annotations

import threading

from contourd.delivery.commitments import Commitments
from contourd.delivery.deliverer import Deliverer, DeliveryServices
from contourd.delivery.deliveries import Deliveries
from contourd.observe.report import DeliveryLine, read_report
from contourd.settings import Destination
from contourd.store.queue import Queue
from contourd.store.states import RetryPolicy
from tests.databases import open_queue
from tests.queueing import Clock, Peer, add_job, in_force

DAY_S = 86400
POLICY = RetryPolicy(30, 1800, DAY_S)


class Node:
    """The delivering half of a node, with one peer behind each destination."""

    def __init__(self, folder, names=("pacs",)) -> None:
        self.clock = Clock()
        self.folder = folder
        self.database = open_queue(folder)
        self.database.upgrade()
        self.queue = Queue(self.database, self.clock)
        self.peers = {name: Peer() for name in names}
        self.start()

    def start(self) -> None:
        self.deliveries = Deliveries(self.database, POLICY, self.clock)
        self.deliveries.recover()
        self.commitments = Commitments(self.database, POLICY, {}, self.clock)
        self.deliverers = {
            name: Deliverer(
                Destination(name=name, ae_title=name.upper(), host="h", port=104),
                DeliveryServices(self.folder, self.deliveries, self.commitments, peer, peer),
                threading.Event(),
                self.clock.elapsed,
            )
            for name, peer in self.peers.items()
        }

    def contour(self, number: int, *names: str) -> int:
        """Make a job with a structure set for each destination, "NUMBER.dcm"."""
        job = add_job(self.database, number, ",".join(names))
        self.queue.fetch_job("worker", 60)
        self.queue.finish_job(in_force(self.queue, job), dict.fromkeys(names, f"{number}.dcm"))
        return job

    def run(self, seconds: float, step_s: float = 10) -> None:
        for _ in range(round(seconds / step_s)):
            for deliverer in self.deliverers.values():
                deliverer.deliver_due()
            self.clock.advance(step_s)

    def delivery(self, job: int, name: str = "pacs") -> DeliveryLine:
        (line,) = [j for j in read_report(self.database).jobs if j.id == job]
        return next(d for d in line.deliveries if d.destination == name)
