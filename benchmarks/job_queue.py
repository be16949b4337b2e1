"""Claims and reports of a queue that remembers many finished jobs: whether all of them stay flat.

    python benchmarks/job_queue.py [--jobs 1000 1000000]

For each size the medians of claiming a job, claiming a delivery, reading what ``contourd status``, the page and
/metrics show, and of the whole command ``contourd status --json``, beside those of the first size. Each finished job
has its series with an image, its events, its delivery and the try that brought it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from figures import Figure, tell
from sqlalchemy import insert

from contourd.delivery.deliveries import Deliveries
from contourd.observe.counts import EventCounters, read_standing
from contourd.observe.overview import read_details
from contourd.observe.report import read_report
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.states import DeliveryState, JobState, RetryPolicy, SeriesState
from contourd.store.tables import AttemptRow, DeliveryRow, EventRow, InstanceRow, JobRow, SeriesRow, Table

CHUNK, RUNS, COMMANDS, OPEN = 20_000, 20, 5, 40
# What is timed -> the largest median that is aimed at, in ms.
LIMITS = {
    "Claiming a job": 5.0,
    "Claiming a delivery": 5.0,
    "The query of `contourd status`": 100.0,
    "The queries of the page": 100.0,
    "The queries of /metrics": 100.0,
    "`contourd status --json`": 1000.0,
}
# What is flat may differ by the noise of a run.
FLAT = 1.5
START = datetime(2026, 1, 1, tzinfo=UTC)


def rows_of(i: int, done: bool) -> dict[type[Table], list[dict[str, object]]]:
    """Make the rows of one job: finished, or queued with a delivery for every other one."""
    at = START + timedelta(seconds=i)
    job = {"id": i, "series_id": i, "revision": 1, "model": "hn7", "destinations": "pacs", "lease_until": None}
    times = {"created_at": at, "updated_at": at}
    state = DeliveryState.DELIVERED if done else DeliveryState.PENDING
    delivery = {"id": i, "job_id": i, "destination": "pacs", "state": state, "not_before": at, **times}
    attempt = {"delivery_id": i, "destination": "pacs", "at": at, "outcome": "accepted", "status": 0}
    told = (("queued", "QUEUED"), ("claim", "CONTOURING"), ("contoured", "DELIVERING"), ("all delivered", "DELIVERED"))
    events = [
        {"at": at + timedelta(seconds=k), "subject": "job", "subject_id": i, "event": event, "state": after}
        for k, (event, after) in enumerate(told)
    ]
    series = {"id": i, "series_uid": f"2.25.{i}", "state": SeriesState.COMPLETE, "revision": 1}
    image = {"series_id": i, "sop_instance_uid": f"2.25.{i}.1", "path": f"{i}/1", "sha256": "", "received_at": at}
    return {
        SeriesRow: [{**series, "created_at": at, "last_instance_at": at}],
        InstanceRow: [image],
        JobRow: [{**job, "state": JobState.DELIVERED if done else JobState.QUEUED, **times}],
        DeliveryRow: [delivery] if done or i % 2 else [],
        AttemptRow: [attempt] if done else [],
        EventRow: events if done else events[:1],
    }


def fill(database: Database, finished: int) -> None:
    """Add finished jobs and a few open ones at the end."""
    for first in range(1, finished + OPEN + 1, CHUNK):
        jobs = [rows_of(i, i <= finished) for i in range(first, min(first + CHUNK, finished + OPEN + 1))]
        with database.transaction() as session:
            for table in jobs[0]:
                if rows := [row for job in jobs for row in job[table]]:
                    session.execute(insert(table), rows)


def median_ms(call: Callable[[], object], runs: int = RUNS) -> float:
    """Time a call."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def configure(folder: Path) -> Path:
    """Write the settings of a node whose spool is this folder."""
    file = folder / "contourd.toml"
    file.write_text(
        f'[spool]\nroot = "{folder}"\n[[destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\n'
        'port = 104\n[[route]]\nmodel = "hn7"\ndestinations = ["pacs"]\n',
        encoding="utf-8",
    )
    return file


def measure(folder: Path, finished: int) -> list[float]:
    """Fill a queue and time what reads it, in the order of ``LIMITS``."""
    file = folder / "contourd.sqlite"
    database = Database(f"sqlite:///{file}")
    database.upgrade()
    fill(database, finished)
    queue, deliveries = Queue(database), Deliveries(database, RetryPolicy(30.0, 1800.0, 86400.0))
    command = [sys.executable, "-m", "contourd", "status", "--json", "--config", str(configure(folder))]
    times = [
        median_ms(lambda: queue.fetch_job("benchmark", 60.0)),
        median_ms(lambda: deliveries.fetch_delivery("pacs")),
        median_ms(lambda: read_report(database)),
        median_ms(lambda: (read_report(database, 100), read_details(database, ("pacs",)))),
        median_ms(lambda: (read_standing(database), EventCounters(database, print).catch_up())),
        median_ms(lambda: subprocess.run(command, check=True, capture_output=True), COMMANDS),
    ]
    database.close()
    print(f"{finished:,} finished jobs, {file.stat().st_size / 1e6:.0f} MB")
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1_000, 1_000_000])
    sizes = parser.parse_args().jobs
    smallest: list[float] = []
    for finished in sizes:
        with tempfile.TemporaryDirectory() as folder:
            times = measure(Path(folder), finished)
        smallest = smallest or times
        for (what, limit), ms, first in zip(LIMITS.items(), times, smallest, strict=True):
            of_peer = {} if finished == sizes[0] else {"peer": f"with {sizes[0]:,}", "theirs": first, "goal": FLAT}
            tell(Figure(f"{what}, {finished:,} finished jobs", "ms", ms, limit=limit, **of_peer))


if __name__ == "__main__":
    main()
