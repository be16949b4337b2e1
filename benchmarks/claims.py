"""Claiming a job in PostgreSQL where many workers do so, and what anybody there waits for a lock.

    python benchmarks/claims.py [--claimants 32] [--seconds 20] [--before CHECKOUT]

Two loads, of claimants that have connections of their own, and ask for jobs of 178 images that are in an object store:

- 10,000 series an hour: each claims, contours as long as that leaves it (a sleep), writes the result down, and claims
  again; two receivers record slices of the same series, and two senders deliver meanwhile;
- flat out: each claims again at once, and nothing else is done. What a claim takes is then how long the others' claims
  keep the processors; so throughput is told, and the processor time of a claim at the server and at the claimant.

The server is one of this machine's own, with its disk's fsync. It says of itself who waited for a lock for over 100 ms
(log_lock_waits). ``--before`` measures another checkout in turns with this one: ratios hold on a machine that is busy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from multiprocessing import Manager
from pathlib import Path
from random import Random
from threading import Barrier
from typing import Any

import psutil
import psycopg
from figures import Figure, tell

sys.path.insert(0, os.environ.get("CONTOURD_BENCHMARK_CODE") or str(Path(__file__).resolve().parents[1]))

from contourd.delivery.deliveries import Deliveries
from contourd.dicom.network.events import ReceivedInstance
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.intake.intake import Intake
from contourd.settings import Route, SeriesSettings
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.states import RetryPolicy
from tests.databases import Cluster

CODE = "CONTOURD_BENCHMARK_CODE"  # the checkout that is measured, if not this one
PROCESSES, RECEIVERS, SENDERS, IMAGES = 4, 2, 2, 178
SERIES_AN_HOUR = 10_000
LONGEST_CLAIM_MS, LOCK_WAIT_MS = 10.0, 100
# Claims that each makes before: a connection that is new reads the catalogue, and prepares its statements later.
WARM, LONGEST_START_S = 6, 300.0
MOST_A_SECOND = 400  # claims, for which jobs are made
WAITED = "still waiting for"  # of the server's log
ORDER, DESTINATION = '{"model": "hn7"}', "pacs"
FILL = f"""
INSERT INTO series (series_uid, state, revision, interrupted, calling_ae, patient, created_at, last_instance_at)
    SELECT '2.25.' || n, 'COMPLETE', 1, '', '', '', now(), now() FROM generate_series(1, %(jobs)s) n;
INSERT INTO instances (series_id, sop_instance_uid, path, sha256, received_at)
    SELECT s.id, s.series_uid || '.' || k, 'incoming/20260101/' || s.id || '-' || k || '.dcm', repeat('0', 64), now()
    FROM series s, generate_series(1, {IMAGES}) k;
INSERT INTO stored_files (path, object, offset_bytes, size_bytes, sha256, stored_at)
    SELECT path, 'series/' || series_id, 0, 1, sha256, now() FROM instances;
INSERT INTO jobs (series_id, revision, model, state, attempts, worker, contouring_order, override, remark_records,
                  confirm, confirmed_by, created_at, updated_at)
    SELECT id, 1, 'hn7', 'QUEUED', 0, '', '{ORDER}', '', '', false, '', now() + id * interval '1 ms', now() FROM series;
INSERT INTO job_destinations (job_id, position, destination) SELECT id, 0, '{DESTINATION}' FROM jobs;
"""


@dataclass(frozen=True, slots=True)
class Claims:
    """How long each took, ms; the processor time of all of them at their claimants, s."""

    took_ms: list[float]
    processor_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """What was claimed, how long it took, the server's processor time meanwhile, and what its log says of waits."""

    claims: Claims
    took_s: float
    server_s: float
    waits: list[str]


@dataclass(frozen=True, slots=True)
class Measured:
    """What is told of both loads; the processor times are of one claim."""

    at_rate_ms: float
    at_rate_95_ms: float
    claims: int
    a_second: float
    flat_out_ms: float
    server_ms: float
    claimant_ms: float
    waits: list[str]


def fill(url: str, jobs: int) -> None:
    """Queue jobs, each of a series of its own."""
    database = Database(url)
    database.upgrade()
    database.close()
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in FILL.split(";\n"):
            if statement.strip():
                connection.execute(statement.encode(), {"jobs": jobs} if "%(jobs)s" in statement else None)
        connection.execute("VACUUM ANALYZE")


def claim(url: str, name: str, seconds: float, pause_s: float, ready: Barrier) -> Claims:
    """Claim, and where there is a pause contour and finish, until the time is over."""
    database, took_ms, processor_s = Database(url), list[float](), 0.0
    queue, rng = Queue(database, host=name), Random(name)
    for _ in range(WARM):
        job = queue.fetch_job(name, 60.0, (), [ORDER])
        assert job is not None
        queue.finish_job(job.claim, {DESTINATION: f"outgoing/{job.id}.dcm"})
    ready.wait(LONGEST_START_S)
    until = time.monotonic() + seconds
    time.sleep(rng.random() * pause_s)
    while time.monotonic() < until:
        began, used = time.perf_counter(), time.thread_time()
        job = queue.fetch_job(name, 60.0, (), [ORDER])
        took_ms.append((time.perf_counter() - began) * 1000)
        processor_s += time.thread_time() - used
        if job is None:
            raise RuntimeError("there were too few jobs")
        if pause_s:
            time.sleep(min(pause_s, max(0.0, until - time.monotonic())))
            queue.finish_job(job.claim, {DESTINATION: f"outgoing/{job.id}.dcm"})
    database.close()
    return Claims(took_ms, processor_s)


def claim_in_threads(url: str, names: Sequence[str], seconds: float, pause_s: float, ready: Barrier) -> Claims:
    """Be several claimants."""
    with ThreadPoolExecutor(len(names)) as pool:
        all_of = list(pool.map(lambda name: claim(url, name, seconds, pause_s, ready), names))
    return together(all_of)


def together(all_of: Sequence[Claims]) -> Claims:
    """Return the claims of all."""
    return Claims([ms for one in all_of for ms in one.took_ms], sum(one.processor_s for one in all_of))


def receive(url: str, root: Path, association: int, until: float) -> None:
    """Record slices, of the same series as the other receiver."""
    database = Database(url)
    intake = Intake(database, root, SeriesSettings(), (Route(model="hn7", destinations=(DESTINATION,)),))
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
        delivery = sending.fetch_delivery(DESTINATION)
        if delivery is None:
            time.sleep(0.05)
        else:
            sending.finish_delivery(delivery, Outcome(OutcomeKind.ACCEPTED, "", 0))
    database.close()


def load(cluster: Cluster, claimants: int, seconds: float, pause_s: float, jobs: int, root: Path) -> Load:
    """Let all claim; with a pause there are receivers and senders beside them."""
    url, beside = cluster.url(cluster.make()), RECEIVERS + SENDERS if pause_s else 0
    fill(url, jobs + WARM * claimants)
    names = [f"worker{n}" for n in range(claimants)]
    with Manager() as manager, ProcessPoolExecutor(PROCESSES + beside) as pool:
        ready: Any = manager.Barrier(claimants + 1)
        given = seconds, pause_s, ready
        claims = [pool.submit(claim_in_threads, url, names[n::PROCESSES], *given) for n in range(PROCESSES)]
        ready.wait(LONGEST_START_S)
        used_s, began, from_byte = processor_s(cluster), time.monotonic(), cluster.log.stat().st_size
        if beside:
            others = [pool.submit(receive, url, root, n, began + seconds) for n in range(RECEIVERS)]
            others += [pool.submit(send, url, began + seconds) for _ in range(SENDERS)]
            for done in others:
                done.result()
        found = together([done.result() for done in claims])
    told = cluster.log.read_bytes()[from_byte:].decode(errors="replace").splitlines()
    waits = [line for line in told if WAITED in line]
    return Load(found, time.monotonic() - began, processor_s(cluster) - used_s, waits)


def processor_s(cluster: Cluster) -> float:
    """Return what the server used of the processors, those of its processes that ended included."""
    assert cluster.server is not None
    first = psutil.Process(cluster.server.pid)
    each = [one.cpu_times() for one in (first, *first.children(recursive=True))]
    return sum(one.user + one.system for one in each) + each[0].children_user + each[0].children_system


def measure(claimants: int, seconds: float) -> Measured:
    """Measure both loads on a server of their own."""
    cluster = Cluster("log_lock_waits=on", f"deadlock_timeout={LOCK_WAIT_MS}ms")
    pause_s = 3600 * claimants / SERIES_AN_HOUR
    try:
        cluster.start()
        with tempfile.TemporaryDirectory() as folder:
            jobs = claimants * (2 + round(seconds / pause_s))
            rate = load(cluster, claimants, seconds, pause_s, jobs, Path(folder))
            jobs = round(MOST_A_SECOND * seconds / 2)
            flat_out = load(cluster, claimants, seconds / 2, 0.0, jobs, Path(folder))
    finally:
        cluster.remove()
    at_rate, number = sorted(rate.claims.took_ms), len(flat_out.claims.took_ms)
    return Measured(
        at_rate_ms=statistics.median(at_rate),
        at_rate_95_ms=at_rate[int(len(at_rate) * 0.95)],
        claims=len(at_rate),
        a_second=number / flat_out.took_s,
        flat_out_ms=statistics.median(flat_out.claims.took_ms),
        server_ms=flat_out.server_s / number * 1000,
        claimant_ms=flat_out.claims.processor_s / number * 1000,
        waits=rate.waits + flat_out.waits,
    )


def measure_other(checkout: Path, claimants: int, seconds: float) -> Measured:
    """Do so with the program of another checkout."""
    command = [sys.executable, __file__, "--claimants", str(claimants), "--seconds", str(seconds), "--json"]
    ran = subprocess.run(command, env={**os.environ, CODE: str(checkout)}, capture_output=True, text=True, check=True)
    return Measured(**json.loads(ran.stdout))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claimants", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long; flat out half of it")
    parser.add_argument("--before", type=Path, help="another checkout to compare with, in turns")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="only what was measured")
    chosen = parser.parse_args()
    if chosen.json:
        print(json.dumps(asdict(measure(chosen.claimants, chosen.seconds))))
        return
    ours, theirs = list[Measured](), list[Measured]()
    for _ in range(chosen.turns):
        if chosen.before is not None:
            theirs.append(measure_other(chosen.before, chosen.claimants, chosen.seconds))
        ours.append(measure(chosen.claimants, chosen.seconds))
    show(ours, theirs, chosen.claimants)


def show(ours: Sequence[Measured], theirs: Sequence[Measured], claimants: int) -> None:
    """Tell the medians of all turns."""
    waits = [line for one in ours for line in one.waits]
    print(*waits, sep="\n", end="\n" if waits else "")

    def figure(subject: str, of: Callable[[Measured], float], limit: float | None = None) -> None:
        before = {"peer": "before", "theirs": statistics.median(map(of, theirs))} if theirs else {}
        tell(Figure(f"{claimants} claimants, {subject}", "ms", statistics.median(map(of, ours)), limit=limit, **before))

    number, rate = sum(one.claims for one in ours), f"{SERIES_AN_HOUR:,} series an hour"
    print(f"{number} claims at {rate}; flat out {statistics.median(one.a_second for one in ours):.0f} claims a second")
    figure(f"{rate}: a claim", lambda one: one.at_rate_ms, LONGEST_CLAIM_MS)
    figure(f"{rate}: 95 of 100 claims within", lambda one: one.at_rate_95_ms)
    figure("flat out: each other claim comes after", lambda one: 1000 / one.a_second)
    figure("flat out: a claim", lambda one: one.flat_out_ms)
    figure("flat out: a claim's processor time at the server", lambda one: one.server_ms)
    figure("flat out: a claim's processor time at the claimant", lambda one: one.claimant_ms)
    tell(Figure(f"{claimants} claimants: waits for a lock of over {LOCK_WAIT_MS} ms", "", len(waits), limit=0.5))


if __name__ == "__main__":
    main()
