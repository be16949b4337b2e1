"""A clinic's day in minutes: how long structure sets take, what the node holds meanwhile, and what it cannot carry.

    python benchmarks/clinic_day.py [--series 200] [--minutes 4] [--slices 30] [--matrix 256] [--network-s 0.1] [--ramp]

The real ``contourd serve`` with its worker. Only the network is replaced by a sleep: by default 0.1 s, about what the
paper states for a P40, so this is no measurement of a device. Two hundred series come as in a clinic, with a burst in
the morning and fewer at noon; a tenth is sent twice, a tenth aborted in mid-series and sent again; the archive is away
from 12 to 13 o'clock. ``quiet_s``, ``gapped_s`` and the retries are shortened like the day; the node's own polling,
once a second, is not. With ``--ramp`` ever more series an hour follow, until the node falls behind. Senders and archive
run on the same machine, and take their share of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
from clinic import (
    AGAIN_H,
    FIRST_H,
    LAST_H,
    OUTAGE_H,
    TWICE_H,
    Archive,
    Arrival,
    Kind,
    Scanner,
    Sent,
    arrivals,
    remove,
    write_series,
)
from clinic_node import NETWORK_S, make_bundle
from figures import Figure, tell
from node import associates, association_request, configure, running
from sqlalchemy import select

from contourd.observe.report import jobs_by_state
from contourd.store.database import Database
from contourd.store.tables import EventRow, JobRow, SeriesRow
from contourd.system.loopback import free_port

SENDERS, LOOK_S, DRAIN_S, START_S = 8, 0.5, 180.0, 120.0
QUIET_S, GAPPED_S, FIRST_RETRY_S, LONGEST_RETRY_S = 15.0, 180.0, 30.0, 1800.0
WAITING, DELIVERING = ("QUEUED", "CONTOURING"), ("DELIVERING",)
# A node falls behind when its last series take more than twice as long as those of the first, slowest step.
FIRST_RATE, STEEPNESS, STEP_S, LATE = 1200.0, 1.5, 20.0, 2.0
# What a series passes, and which part of the node gives out where it takes ever longer.
STAGES = {
    "reception": "reception",
    "completion": "the closing of series",
    "waiting": "the worker",
    "contouring": "the worker",
    "delivery": "delivery",
}


@dataclass
class Watched:
    """What was seen of the node's processes and of its queue."""

    main: psutil.Process
    database: Database
    rss_mb: dict[str, float] = field(default_factory=lambda: {"main": 0.0, "worker": 0.0})
    deepest: dict[str, int] = field(default_factory=lambda: {"waiting": 0, "delivering": 0})
    ended: threading.Event = field(default_factory=threading.Event)

    def worker(self) -> psutil.Process | None:
        """Return the largest child: it alone loads torch."""
        children = self.main.children()
        return max(children, key=lambda child: child.memory_info().rss) if children else None

    def look(self) -> None:
        """Take note, until told to end."""
        while not self.ended.wait(LOOK_S):
            worker = self.worker()
            for name, process in (("main", self.main), ("worker", worker)):
                if process is not None:
                    self.rss_mb[name] = max(self.rss_mb[name], process.memory_info().rss / 1e6)
            with self.database.reading() as session:
                counts = jobs_by_state(session)
            for name, states in (("waiting", WAITING), ("delivering", DELIVERING)):
                self.deepest[name] = max(self.deepest[name], sum(counts.get(state, 0) for state in states))

    def processor_s(self) -> dict[str, float]:
        """Processor time so far."""
        found = {}
        for name, process in (("main", self.main), ("worker", self.worker())):
            if process is not None:
                times = process.cpu_times()
                found[name] = times.user + times.system
        return found


@dataclass(frozen=True, slots=True)
class Clinic:
    """A node at work, those around it, and the size of their series."""

    port: int
    folder: Path
    archive: Archive
    sent: Sent
    watched: Watched
    slices: int
    matrix: int

    def written(self, number: int) -> tuple[str, list[Path]]:
        """Write one series."""
        return write_series(self.folder / "series", number, self.slices, self.matrix)

    def drain(self) -> bool:
        """Wait until every series that was acknowledged has its structure set."""
        deadline = time.monotonic() + DRAIN_S
        while self.archive.lost(list(self.sent.at)) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        return not self.archive.lost(list(self.sent.at))

    def stages(self, uids: Sequence[str]) -> dict[str, list[float]]:
        """Return stage -> its seconds for each series, from the senders' clocks and the node's own events."""
        offset = time.time() - time.monotonic()
        found: dict[str, list[float]] = {stage: [] for stage in STAGES}
        with self.watched.database.reading() as session:
            jobs = dict(session.execute(select(JobRow.id, SeriesRow.series_uid).join(SeriesRow)).all())
            times: dict[str, dict[str, float]] = {uid: {} for uid in uids}
            for row in session.scalars(select(EventRow).where(EventRow.subject == "job")):
                times.get(jobs[row.subject_id], {})[row.event] = row.at.timestamp() - offset
        for uid, at in times.items():
            marks = (self.sent.began[uid], self.sent.at[uid], *map(at.get, ("queued", "claim", "contoured")))
            marks = (*marks, self.archive.at.get(uid))
            for stage, (since, until) in zip(STAGES, pairwise(marks), strict=True):
                if since is not None and until is not None:
                    found[stage].append(until - since)
        return found


def percentiles(values: Sequence[float]) -> str:
    """Return the 50th, 90th and 99th in a few words."""
    if not values:
        return "none"
    return " / ".join(f"{p:.1f}" for p in np.percentile(values, (50, 90, 99))) + f" s of {len(values)}"


def day(clinic: Clinic, planned: Sequence[Arrival], hour_s: float) -> tuple[float, float]:
    """Let a day pass; returns when the archive went away and when it came back."""
    scanner = Scanner(clinic.port, clinic.sent)
    series = {arrival.number: clinic.written(arrival.number) for arrival in planned}
    begin, outage = time.monotonic(), [0.0, 0.0]

    def first(arrival: Arrival) -> None:
        uid, paths = series[arrival.number]
        if arrival.kind is Kind.ABORTED:
            scanner.send(uid, paths, abort_after=len(paths) // 2)
            time.sleep(AGAIN_H * hour_s)
        scanner.send(uid, paths)

    def away(index: int, act: Callable[[], None]) -> None:
        act()
        outage[index] = time.monotonic()

    plan: list[tuple[float, Callable[[], None]]] = [
        *((a.hour, lambda a=a: first(a)) for a in planned),
        *((a.hour + TWICE_H, lambda a=a: scanner.send(*series[a.number])) for a in planned if a.kind is Kind.TWICE),
        (OUTAGE_H[0], lambda: away(0, clinic.archive.go_away)),
        (OUTAGE_H[1], lambda: away(1, clinic.archive.come_back)),
    ]
    running_ones: list[Future[None]] = []
    with ThreadPoolExecutor(SENDERS) as pool:
        for hour, act in sorted(plan, key=lambda step: step[0]):
            time.sleep(max(0.0, begin + (hour - FIRST_H) * hour_s - time.monotonic()))
            running_ones.append(pool.submit(act))
    for one in running_ones:
        one.result()
    for _, paths in series.values():
        remove(paths)
    return outage[0], outage[1]


def step(clinic: Clinic, rate: float, first: int) -> list[str]:
    """Send at so many series an hour for a while; returns the series."""
    scanner = Scanner(clinic.port, clinic.sent)
    number = max(2, round(rate * STEP_S / 3600))
    series = [clinic.written(first + i) for i in range(number)]
    begin = time.monotonic()
    with ThreadPoolExecutor(SENDERS) as pool:
        for i, (uid, paths) in enumerate(series):
            time.sleep(max(0.0, begin + i * 3600 / rate - time.monotonic()))
            pool.submit(scanner.send, uid, paths)
    clinic.drain()
    for _, paths in series:
        remove(paths)
    return [uid for uid, _ in series]


def ramp(clinic: Clinic, first: int) -> None:
    """Send ever more series an hour until the last is delivered late, and tell what gave out."""
    rate, sustained, usual_s, idle = FIRST_RATE, 0.0, 0.0, dict[str, float]()
    while True:
        before = clinic.watched.processor_s()
        uids = step(clinic, rate, first)
        first += len(uids)
        spent = {name: after - before.get(name, 0.0) for name, after in clinic.watched.processor_s().items()}
        taken = sorted(clinic.archive.at[uid] for uid in uids if uid in clinic.archive.at)
        behind = [clinic.archive.at.get(uid, np.inf) - clinic.sent.at.get(uid, np.inf) for uid in uids[-3:]]
        usual_s = usual_s or float(np.median(behind))
        late = float(np.median(behind)) > LATE * usual_s
        stages = {stage: float(np.median(times or [0.0])) for stage, times in clinic.stages(uids).items()}
        idle = idle or stages
        told = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages.items())
        shares = ", ".join(f"{name} {seconds / len(uids):.2f}" for name, seconds in spent.items())
        print(
            f"{rate:,.0f} series an hour, {len(uids)} sent: median s: {told}; processor s a series: {shares}",
            flush=True,
        )
        if late or len(taken) < len(uids):
            break
        sustained, rate = rate, rate * STEEPNESS
    each_s = (taken[-1] - taken[0]) / (len(taken) - 1)
    worst = max(stages, key=lambda stage: stages[stage] - idle[stage])
    print(
        f"kept up for {STEP_S:g} s with {sustained:,.0f} series an hour; overloaded it delivers "
        f"{3600 / each_s:,.0f} an hour, {24 * 3600 / each_s:,.0f} in 24 h. The first to give out: {STAGES[worst]}"
    )
    tell(Figure("A node that has more than it can carry: a series each", "s", each_s))


def report(
    clinic: Clinic, planned: Sequence[Arrival], outage: tuple[float, float], processor_s: Mapping[str, float]
) -> None:
    """Tell how the day was."""
    sent, archive, watched = clinic.sent, clinic.archive, clinic.watched
    acknowledged = [uid for uid in sent.at if uid in archive.at]
    spans = {uid: (sent.at[uid], archive.at[uid]) for uid in acknowledged}
    met = {uid for uid, (begin, end) in spans.items() if begin <= outage[1] and end >= outage[0]}
    usual = [end - begin for uid, (begin, end) in spans.items() if uid not in met]
    print(f"last image to delivery, 50 / 90 / 99 %: {percentiles(usual)} that the outage did not meet")
    print(f"  with those that it met: {percentiles([end - begin for begin, end in spans.values()])}")
    for stage, times in clinic.stages([uid for uid in acknowledged if uid not in met]).items():
        print(f"  {stage}: {percentiles(times)}")
    lost, doubled = archive.lost(sent.at), archive.doubled()
    kinds = ", ".join(f"{sum(a.kind is kind for a in planned)} {kind}" for kind in Kind)
    print(f"{len(planned)} series ({kinds}), {sent.images} images; senders tried again {sent.tried_again} times")
    print(
        f"deepest queue: {watched.deepest['waiting']} to be contoured, {watched.deepest['delivering']} to be delivered"
    )
    print("processor s a series: " + ", ".join(f"{k} {v / len(planned):.2f}" for k, v in processor_s.items()))
    for percent in (50, 99):
        subject = f"A clinic's day: last image to delivery, {percent} % of the series"
        tell(Figure(subject, "s", float(np.percentile(usual, percent))))
    for name, megabytes in watched.rss_mb.items():
        tell(Figure(f"A clinic's day: most memory of the {name} process", "MB", megabytes))
    missing = len(lost) + len(sent.given_up) + len(planned) - len(sent.at)
    tell(Figure("A clinic's day: series lost", "series", missing, limit=0))
    tell(Figure("A clinic's day: structure sets delivered twice", "structure sets", doubled, limit=0))


def main() -> None:
    """Let the day pass, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--slices", type=int, default=30)
    parser.add_argument("--matrix", type=int, default=256)
    parser.add_argument("--network-s", type=float, default=0.1, help="what the network takes for a series")
    parser.add_argument("--ramp", action="store_true", help="find out how many series an hour the node carries")
    asked = parser.parse_args()
    os.environ[NETWORK_S] = str(asked.network_s)
    hour_s = asked.minutes * 60 / (LAST_H - FIRST_H)
    faster = 3600 / hour_s
    quiet_s = QUIET_S / faster
    sections = {
        "series": f"quiet_s = {quiet_s}\ngapped_s = {GAPPED_S / faster}",
        "delivery": f"first_retry_s = {FIRST_RETRY_S / faster}\nmax_retry_s = {LONGEST_RETRY_S / faster}",
        "worker": 'device = "cpu"\nruntime = "torch"',  # neither is asked
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder, archive, port = Path(temporary), Archive(), free_port()
        settings = configure(
            folder, port, str(make_bundle(folder / "asleep")), {archive.ae_title: archive.port}, sections
        )
        command = [sys.executable, str(Path(__file__).with_name("clinic_node.py")), "serve", "--config", str(settings)]
        with running(command, folder / "node.log") as server:
            deadline = time.monotonic() + START_S
            while not associates(port, association_request("CONTOURD")) and time.monotonic() < deadline:
                time.sleep(LOOK_S)
            database = Database(f"sqlite:///{folder / 'spool' / 'contourd.sqlite'}")
            watched = Watched(psutil.Process(server.pid), database)
            clinic = Clinic(port, folder, archive, Sent(), watched, asked.slices, asked.matrix)
            uid, paths = clinic.written(99_999)
            Scanner(port, clinic.sent).send(uid, paths)  # the model is loaded meanwhile
            if not clinic.drain():
                raise SystemExit(f"the node delivers nothing:\n{(folder / 'node.log').read_text()[-4000:]}")
            clinic.sent.at.clear()
            clinic.sent.images = 0
            looking = threading.Thread(target=watched.look)
            looking.start()
            try:
                before = watched.processor_s()
                planned = arrivals(asked.series)
                print(
                    f"a day of {LAST_H - FIRST_H:.0f} h in {asked.minutes:g} min, {faster:.0f} times as fast: "
                    f"{asked.slices} slices of {asked.matrix} x {asked.matrix}, the network sleeps "
                    f"{asked.network_s:g} s, quiet_s {quiet_s:.2f} s for {QUIET_S:g} s",
                    flush=True,
                )
                outage = day(clinic, planned, hour_s)
                clinic.drain()
                spent = {name: after - before.get(name, 0.0) for name, after in watched.processor_s().items()}
                report(clinic, planned, outage, spent)
                if asked.ramp:
                    ramp(clinic, asked.series)
            finally:
                watched.ended.set()
                looking.join()
                database.close()
        archive.go_away()


if __name__ == "__main__":
    main()
