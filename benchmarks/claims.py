"""Claiming a job in PostgreSQL where many workers do so, and what anybody there waits for a lock.

    python benchmarks/claims.py [--claimants 32] [--seconds 20]

Each claimant has connections of its own, claims once a second (32 of them: 115,000 jobs an hour) and writes the
result down; two receivers record slices of the same series and two senders deliver meanwhile. The server is one of this
machine's own, with its disk's fsync. It says of itself who waited for a lock for over 100 ms (log_lock_waits).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from pathlib import Path
from random import Random

from figures import Figure, tell

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from contourd.delivery.deliveries import Deliveries
from contourd.dicom.network.events import ReceivedInstance
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.intake.intake import Intake
from contourd.settings import Route, SeriesSettings
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.states import JobState, RetryPolicy, SeriesState
from contourd.store.tables import JobRow, SeriesRow
from contourd.system.clock import utc_now
from tests.databases import Cluster

PROCESSES, RECEIVERS, SENDERS, EVERY_S = 4, 2, 2, 1.0
LONGEST_CLAIM_MS, LOCK_WAIT_MS = 10.0, 100
WAITED = "still waiting for"  # of the server's log


def fill(database: Database, jobs: int) -> None:
    """Queue jobs."""
    now = utc_now()
    with database.transaction() as session:
        for number in range(jobs):
            at = now + timedelta(milliseconds=number)
            series = SeriesRow(
                series_uid=f"2.25.{number}", state=SeriesState.COMPLETE, created_at=at, last_instance_at=at
            )
            session.add(series)
            session.flush()
            job = JobRow(
                series_id=series.id, revision=1, model="hn7", state=JobState.QUEUED, created_at=at, updated_at=at
            )
            job.destinations = ["pacs"]
            session.add(job)


def claim(url: str, name: str, until: float) -> list[float]:
    """Claim and finish jobs, one a second; returns how long each claim took, ms."""
    database, times = Database(url), list[float]()
    queue = Queue(database)
    database.revision()  # the connection is made before
    time.sleep(Random(name).random() * EVERY_S)
    while time.monotonic() < until:
        began = time.perf_counter()
        job = queue.fetch_job(name, 60.0)
        took_s = time.perf_counter() - began
        if job is None:
            break
        times.append(took_s * 1000)
        queue.finish_job(job.claim, {"pacs": f"outgoing/{job.id}.dcm"})
        time.sleep(max(0.0, EVERY_S - (time.perf_counter() - began)))
    database.close()
    return times


def claim_in_threads(url: str, names: Sequence[str], until: float) -> list[float]:
    """Be several claimants."""
    with ThreadPoolExecutor(len(names)) as pool:
        return [ms for times in pool.map(lambda name: claim(url, name, until), names) for ms in times]


def receive(url: str, root: Path, association: int, until: float) -> None:
    """Record slices, of the same series as the other receiver."""
    database = Database(url)
    intake = Intake(database, root, SeriesSettings(), (Route(model="hn7", destinations=("pacs",)),))
    for number in count(association, RECEIVERS):
        if time.monotonic() > until:
            break
        uid = f"1.2.{number // 200}"
        intake.instance_stored(ReceivedInstance(association, "CT1", uid, f"{uid}.{number}", f"{number}", "0" * 64, "p"))
        time.sleep(0.1)
    database.close()


def send(url: str, until: float) -> None:
    """Deliver what there is."""
    database = Database(url)
    sending = Deliveries(database, RetryPolicy(30.0, 1800.0, 86400.0))
    while time.monotonic() < until:
        delivery = sending.fetch_delivery("pacs")
        if delivery is None:
            time.sleep(0.05)
        else:
            sending.finish_delivery(delivery, Outcome(OutcomeKind.ACCEPTED, "", 0))
    database.close()


def measure(cluster: Cluster, claimants: int, seconds: float, root: Path) -> list[float]:
    """Return how long each claim took, ms."""
    cluster.make_template()
    url = cluster.url(cluster.make())
    database = Database(url)
    database.upgrade()
    fill(database, round(claimants * seconds / EVERY_S) + claimants)
    database.close()
    until = time.monotonic() + seconds
    names = [f"worker {n}" for n in range(claimants)]
    with ProcessPoolExecutor(PROCESSES + RECEIVERS + SENDERS) as pool:
        claims = [pool.submit(claim_in_threads, url, names[n::PROCESSES], until) for n in range(PROCESSES)]
        others = [pool.submit(receive, url, root, n, until) for n in range(RECEIVERS)]
        others += [pool.submit(send, url, until) for _ in range(SENDERS)]
        for done in others:
            done.result()
        return [ms for done in claims for ms in done.result()]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claimants", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20.0)
    chosen = parser.parse_args()
    cluster = Cluster("log_lock_waits=on", f"deadlock_timeout={LOCK_WAIT_MS}ms")
    try:
        cluster.start()
        with tempfile.TemporaryDirectory() as folder:
            times = measure(cluster, chosen.claimants, chosen.seconds, Path(folder))
        told = [line for line in cluster.log.read_text(errors="replace").splitlines() if WAITED in line]
    finally:
        cluster.remove()
    print(*told, sep="\n")
    at_most = sorted(times)[int(len(times) * 0.95)]
    print(f"{len(times)} claims, 95 of 100 within {at_most:.1f} ms, the slowest {max(times):.1f} ms")
    subject = f"Claiming a job in PostgreSQL with {chosen.claimants} claimants"
    tell(Figure(subject, "ms", statistics.median(times), limit=LONGEST_CLAIM_MS))
    tell(Figure(f"Waits for a lock of over {LOCK_WAIT_MS} ms, {chosen.claimants} claimants", "", len(told), limit=0.5))


if __name__ == "__main__":
    main()
