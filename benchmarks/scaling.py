"""Workers of several hosts on one PostgreSQL: what their number brings.

    python benchmarks/scaling.py [--workers 1 2 4 8] [--network 2.0] [--seconds 20]

PostgreSQL flushes to the disk as a site's would. Each worker is a process that claims a job, sleeps as long as its
network would take, renews its lease meanwhile, and records a structure set; beside them jobs of 178 images are added as
fast as they are taken, and one process sends what is contoured. Nothing is read or contoured, so that two cores are
enough for eight workers: what is measured is what they have in common, the database. ``claims.py`` has many claimants.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.queues import Queue as Results
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any

import psycopg
from figures import Figure, tell
from sqlalchemy import func, insert, select

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from contourd.delivery.deliveries import Deliveries
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.states import JobState, RetryPolicy, SeriesState
from contourd.store.tables import InstanceRow, JobRow, SeriesRow
from tests.databases import Cluster

IMAGES, LEASE_S, DESTINATION = 178, 60.0, "pacs"
AHEAD = 3  # queued jobs for each worker
START_S, LOOK_S, FEED_S = 120.0, 0.005, 0.1
LONGEST_LOCK_MS, LINEAR = 100.0, 1 / 0.9
LOGGED = ("log_lock_waits=on", f"deadlock_timeout={LONGEST_LOCK_MS:.0f}ms")
WAITS = "SELECT 1000 * extract(epoch FROM clock_timestamp() - min(waitstart)) FROM pg_locks WHERE NOT granted"
CONTEXT = multiprocessing.get_context("spawn")


def add_jobs(database: Database, first: int, number: int) -> None:
    """Add jobs of complete series."""
    now = datetime.now(UTC)
    with database.transaction() as session:
        for i in range(first, first + number):
            series = SeriesRow(series_uid=f"2.25.{i}", state=SeriesState.COMPLETE, created_at=now, last_instance_at=now)
            session.add(series)
            session.flush()
            images = [
                {"series_id": series.id, "sop_instance_uid": f"2.25.{i}.{k}", "path": f"{i}/{k}", "sha256": "0" * 64}
                for k in range(IMAGES)
            ]
            session.execute(insert(InstanceRow), [{**image, "received_at": now} for image in images])
            job = {"series_id": series.id, "revision": 1, "model": "hn7", "destinations": [DESTINATION]}
            session.add(JobRow(**job, state=JobState.QUEUED, created_at=now, updated_at=now))


def work(url: str, name: str, network_s: float, ready: Barrier, ends_after_s: float, results: Results[Any]) -> None:
    """Claim, wait, record, until the time is over; tell how many, in how long, and each claim's time."""
    database = Database(url)
    queue, claims_ms, done = Queue(database), list[float](), 0
    ready.wait(START_S)
    began = last = time.perf_counter()
    while time.perf_counter() - began < ends_after_s:
        asked = time.perf_counter()
        job = queue.fetch_job(name, LEASE_S)
        if job is None:
            time.sleep(LOOK_S)
            continue
        claims_ms.append((time.perf_counter() - asked) * 1000)
        time.sleep(network_s / 2)
        queue.renew_lease(job.claim, LEASE_S)
        time.sleep(network_s / 2)
        queue.finish_job(job.claim, {DESTINATION: f"outgoing/{job.id}.dcm"})
        done, last = done + 1, time.perf_counter()
    results.put((done, last - began, claims_ms))
    database.close()


def feed(url: str, wanted: int, stopping: Event) -> None:
    """Keep so many jobs queued."""
    database, made = Database(url), 1_000_000
    while not stopping.wait(FEED_S):
        with database.reading() as session:
            queued = session.scalar(select(func.count()).where(JobRow.state == JobState.QUEUED)) or 0
        if queued < wanted:
            add_jobs(database, made, wanted - queued)
            made += wanted - queued
    database.close()


def send(url: str, stopping: Event) -> None:
    """Take each delivery that is due, and record that it was accepted."""
    database = Database(url)
    deliveries = Deliveries(database, RetryPolicy(30.0, 1800.0, 86400.0))
    while not stopping.wait(FEED_S):
        while (delivery := deliveries.fetch_delivery(DESTINATION)) is not None:
            deliveries.finish_delivery(delivery, Outcome(OutcomeKind.ACCEPTED, "", 0))
    database.close()


class LockWaits:
    """Looks for locks that are waited for, and how long."""

    def __init__(self, url: str) -> None:
        self.longest_ms = 0.0
        self._url, self._stopping = url, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stopping.wait(LOOK_S):
                ((waited,),) = connection.execute(WAITS).fetchall()
                self.longest_ms = max(self.longest_ms, float(waited or 0.0))

    def stop(self) -> float:
        """End, and return the longest in ms."""
        self._stopping.set()
        self._thread.join()
        return self.longest_ms


@contextmanager
def beside(url: str, wanted: int) -> Iterator[None]:
    """Add jobs and send structure sets meanwhile."""
    stopping = CONTEXT.Event()
    helpers = [
        CONTEXT.Process(target=feed, args=(url, wanted, stopping)),
        CONTEXT.Process(target=send, args=(url, stopping)),
    ]
    for helper in helpers:
        helper.start()
    try:
        yield
    finally:
        stopping.set()
        for helper in helpers:
            helper.join()


def gather(processes: Sequence[Any], results: Results[Any]) -> list[Any]:
    """Start processes, and return what each told."""
    for process in processes:
        process.start()
    found = [results.get(timeout=10 * START_S) for _ in processes]
    for process in processes:
        process.join()
    return found


def series_an_hour(url: str, workers: int, network_s: float, seconds: float) -> tuple[float, list[float]]:
    """Let so many workers work; returns their series an hour, and the claims' times in ms."""
    results = CONTEXT.Queue()
    ready = CONTEXT.Barrier(workers)
    made = [
        CONTEXT.Process(target=work, args=(url, f"worker-{workers}-{i}", network_s, ready, seconds, results))
        for i in range(workers)
    ]
    with beside(url, AHEAD * workers):
        found = gather(made, results)
    rate = sum(done / took for done, took, _ in found if took) * 3600
    return rate, [ms for _, _, claims in found for ms in claims]


def empty_queue(server: Any, jobs: int) -> str:
    """Make a queue of its own with so many jobs; returns its URL."""
    url: str = server.url(server.make())
    database = Database(url)
    database.upgrade()
    add_jobs(database, 1, jobs)
    database.close()
    return url


def watched(url: str, call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns, and the longest wait for a lock meanwhile, in ms."""
    waits = LockWaits(url)
    try:
        returned = call()
    finally:
        longest_ms = waits.stop()
    return returned, longest_ms


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--network", type=float, default=2.0, help="seconds that a series' network takes")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each number of workers works")
    asked = parser.parse_args()
    server = Cluster(*LOGGED)
    server.start()
    longest_ms, one = 0.0, 0.0
    try:
        for workers in asked.workers:
            url = empty_queue(server, AHEAD * workers)
            work_now = (url, workers, asked.network, asked.seconds)
            (rate, claims), waited = watched(url, lambda now=work_now: series_an_hour(*now))
            one = one or rate / workers
            longest_ms = max(longest_ms, waited)
            peer = {"peer": f"{workers} x one worker", "theirs": 3600 / (one * workers), "goal": LINEAR}
            tell(
                Figure(
                    f"{workers} workers on one PostgreSQL, a network of {asked.network:g} s: a series each",
                    "s",
                    3600 / rate,
                    **(peer if workers != asked.workers[0] else {}),
                )
            )
            print(f"  {rate:,.0f} series an hour; a claim takes {statistics.median(claims):.2f} ms, median")
    finally:
        server.stop()
        logged = server.log.read_text(errors="replace").count("still waiting for")
        server.remove()
    tell(Figure("Those workers: the longest wait for a lock", "ms", longest_ms, limit=LONGEST_LOCK_MS))
    print(f"  PostgreSQL's log has {logged} waits over {LONGEST_LOCK_MS:.0f} ms")


if __name__ == "__main__":
    main()
