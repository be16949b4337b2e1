"""Claims and reports of a queue that remembers many finished jobs: whether both stay flat.

    python benchmarks/finished_jobs.py [--jobs 1000 1000000]

For each size the medians of claiming a job, claiming a delivery and reading what ``contourd status`` shows, beside
those of the first size.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from figures import Figure, tell
from sqlalchemy import insert

from contourd.jobs.database import Database
from contourd.jobs.deliveries import Deliveries
from contourd.jobs.job import DeliveryState, JobState, RetryPolicy, SeriesState
from contourd.jobs.queue import Queue
from contourd.jobs.report import read_report
from contourd.jobs.tables import DeliveryRow, JobRow, SeriesRow

CHUNK, RUNS, OPEN = 20_000, 20, 40
NAMES = ("Claiming a job", "Claiming a delivery", "The query of `contourd status`")
LIMITS = (5.0, 5.0, 100.0)
# What is flat may differ by the noise of a run.
FLAT = 1.5
START = datetime(2026, 1, 1, tzinfo=UTC)


def fill(database: Database, finished: int) -> None:
    """Add finished jobs, each with its series and delivery, and a few open ones at the end."""
    for first in range(1, finished + OPEN + 1, CHUNK):
        ids = range(first, min(first + CHUNK, finished + OPEN + 1))
        series, jobs, deliveries = [], [], []
        for i in ids:
            at = START + timedelta(seconds=i)
            done = i <= finished
            series.append(
                {
                    "id": i,
                    "series_uid": f"2.25.{i}",
                    "state": SeriesState.COMPLETE,
                    "revision": 1,
                    "created_at": at,
                    "last_instance_at": at,
                }
            )
            jobs.append(
                {
                    "id": i,
                    "series_id": i,
                    "revision": 1,
                    "model": "hn7",
                    "destinations": "pacs",
                    "state": JobState.DELIVERED if done else JobState.QUEUED,
                    "lease_until": None,
                    "created_at": at,
                    "updated_at": at,
                }
            )
            if done or i % 2:
                deliveries.append(
                    {
                        "job_id": i,
                        "destination": "pacs",
                        "state": DeliveryState.DELIVERED if done else DeliveryState.PENDING,
                        "not_before": at,
                        "created_at": at,
                        "updated_at": at,
                    }
                )
        with database.transaction() as session:
            session.execute(insert(SeriesRow), series)
            session.execute(insert(JobRow), jobs)
            session.execute(insert(DeliveryRow), deliveries)


def median_ms(call: Callable[[], object]) -> float:
    """Time a call."""
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1_000, 1_000_000])
    sizes = parser.parse_args().jobs
    smallest: tuple[float, ...] | None = None
    for finished in sizes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "queue.sqlite"
            database = Database(f"sqlite:///{file}")
            database.upgrade()
            fill(database, finished)
            queue, deliveries = Queue(database), Deliveries(database, RetryPolicy(30.0, 1800.0, 86400.0))
            claim = median_ms(lambda queue=queue: queue.claim("benchmark", 60.0))
            delivery = median_ms(lambda deliveries=deliveries: deliveries.claim("pacs"))
            report = median_ms(lambda database=database: read_report(database))
            database.close()
            megabytes = file.stat().st_size / 1e6
        print(f"{finished:,} finished jobs, {megabytes:.0f} MB")
        times, peer = (claim, delivery, report), f"with {min(sizes):,}"
        smallest = smallest or times
        for what, ms, first, limit in zip(NAMES, times, smallest, LIMITS, strict=True):
            of_peer = {} if finished == sizes[0] else {"peer": peer, "theirs": first, "goal": FLAT}
            tell(Figure(f"{what}, {finished:,} finished jobs", "ms", ms, limit=limit, **of_peer))


if __name__ == "__main__":
    main()
