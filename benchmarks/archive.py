"""The list of all jobs at 100,000 and at 1,000,000 of them: each filter's first page, and one deep in the list.

    python benchmarks/archive.py [--jobs 100000 1000000] [--postgresql URL]

The database is filled by bulk inserts, with SQLite or in the empty database of PostgreSQL that the URL names. Beside
the medians of the pages stand those of claiming a job and of recording an image with the indexes of the list, and
without them, by turns in one run: their ratio is what the list costs reception and contouring.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from job_queue import median_ms
from sqlalchemy import insert, text

from contourd.dicom.network.events import ReceivedInstance
from contourd.intake.intake import Intake
from contourd.observe.archive import read_archive
from contourd.observe.archive_filter import ArchiveFilter, read_filter
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Route, SeriesSettings
from contourd.store.archive_tables import JobFacetRow, PatientNameRow, SeriesDescriptionRow
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.route_choice import RouteChoice
from contourd.store.states import DeliveryState, JobState, SeriesState
from contourd.store.tables import DeliveryRow, JobDestinationRow, JobRow, SeriesRow, Table

CHUNK, RUNS, BY_TURNS = 20_000, 15, 300
LIMIT_MS = 100.0
START = datetime(2020, 1, 1, tzinfo=UTC)
SENDERS, MODELS, DESTINATIONS = ("CT1", "CT2", "PACS", "RARE"), ("hn7", "glands", "rare"), ("pacs", "tps", "rare")
# One in a thousand is of the rare kind.
ONE_IN = 1000
INDEXES = ("jobs_by_creation", "jobs_of_state", "jobs_by_reason", "series_of_state", "ix_series_patient")
WRONG = Reason.of(HoldReason.SLICES_MISSING, z_mm=[1.0])
CHOICE = RouteChoice(1, (), "0" * 64).to_json()


def rows_of(i: int, dice: random.Random) -> Iterator[tuple[type[Table], dict[str, object]]]:
    """Make the rows of one series, and of its job where it is not held."""
    at = START + timedelta(minutes=i)
    sender, model = (
        some[-1] if dice.randrange(ONE_IN) == 0 else some[dice.randrange(len(some) - 1)] for some in (SENDERS, MODELS)
    )
    held = i % 50 == 0
    series = {"id": i, "series_uid": f"2.25.{i}", "patient": f"{i // 3:010x}", "calling_ae": sender, "revision": 1}
    why = {"reason_code": WRONG.code.value, "reason_detail": WRONG.dump()} if held else {}
    state = SeriesState.HELD if held else SeriesState.COMPLETE
    yield (
        SeriesRow,
        {
            "reason_code": "",
            "reason_detail": "",
            **series,
            "state": state,
            "created_at": at,
            "last_instance_at": at,
            **why,
        },
    )
    texts = {
        "study_date": f"{at:%Y%m%d}",
        "description": "Head Neck",
        "body_part": "NECK",
        "protocol": "HN",
        "station": "SIM",
    }
    yield SeriesDescriptionRow, {"series_id": i, **texts}
    yield PatientNameRow, {"name_hmac": f"{i // 3:032x}", "series_id": i}
    if held:
        return
    failed = dice.randrange(ONE_IN) == 0
    state = JobState.FAILED if failed else JobState.DELIVERED
    code, detail = (HoldReason.WORKER_ENDED.value, "{}") if failed else ("", "")
    job = {"id": i, "series_id": i, "revision": 1, "model": model, "state": state, "route_choice": CHOICE}
    yield (
        JobRow,
        {**job, "reason_code": code, "reason_detail": detail, "lease_until": None, "created_at": at, "updated_at": at},
    )
    names = [
        DESTINATIONS[0],
        *([DESTINATIONS[1]] if i % 2 else []),
        *([DESTINATIONS[2]] if dice.randrange(ONE_IN) == 0 else []),
    ]
    for position, name in enumerate(names):
        yield JobDestinationRow, {"job_id": i, "position": position, "destination": name}
        to = DeliveryState.REFUSED if failed and not position else DeliveryState.DELIVERED
        yield DeliveryRow, {
            "job_id": i, "destination": name, "state": to, "not_before": at, "created_at": at, "updated_at": at
        }  # fmt: skip
    facets = [("sender", sender), ("model", model), ("route", "1"), *(("destination", name) for name in names)]
    if i % 5 == 0:
        facets += [("remark", "volume"), ("remark", "flag")]
    for facet, value in facets:
        yield JobFacetRow, {"facet": facet, "value": value, "at": at, "job_id": i}


def fill(database: Database, jobs: int) -> None:
    """Add series and jobs."""
    dice = random.Random(1)
    for first in range(1, jobs + 1, CHUNK):
        chunk: dict[type[Table], list[dict[str, object]]] = {}
        for i in range(first, min(first + CHUNK, jobs + 1)):
            for table, row in rows_of(i, dice):
                chunk.setdefault(table, []).append(row)
        with database.transaction() as session:
            for table, rows in chunk.items():
                session.connection().execute(insert(table.__table__), rows)
    if not database.is_sqlite:
        for table in Table.metadata.sorted_tables:
            if "id" in table.columns and table.name != "site":
                with database.transaction() as session:
                    session.execute(
                        text(
                            f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), "
                            f"(SELECT coalesce(max(id), 1) FROM {table.name})) "
                            f"WHERE pg_get_serial_sequence('{table.name}', 'id') IS NOT NULL"
                        )
                    )
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))


def asked(jobs: int) -> dict[str, ArchiveFilter]:
    """Return what is timed: name -> filter."""
    now = datetime.now(UTC)
    middle = START + timedelta(minutes=jobs // 2)
    pairs = {
        "everything": [],
        "a week in the middle": [("since", f"{middle:%Y-%m-%d}"), ("until", f"{middle + timedelta(days=7):%Y-%m-%d}")],
        "delivered": [("state", "DELIVERED")],
        "needs a person": [("state", s) for s in ("CONFIRMING", "HELD", "FAILED")],
        "a usual sender": [("sender", "CT1")],
        "a rare sender": [("sender", "RARE")],
        "a rare model and a usual destination": [("model", "rare"), ("destination", "tps")],
        "two usual ones": [("model", "glands"), ("destination", "tps"), ("sender", "CT2")],
        "two that meet never": [("model", "glands"), ("remark", "symmetry"), ("sender", "CT2")],
        "failed to a destination": [("destination", "tps"), ("state", "FAILED")],
        "a destination refused": [("destination", "pacs"), ("delivery", "refused")],
        "a remark": [("remark", "volume")],
        "a route": [("route", "1")],
        "a class of reasons": [("reason", "missing_slices")],
        "a class of reasons of a sender": [("reason", "missing_slices"), ("sender", "RARE")],
        "a patient by ID": [("patient", f"{jobs // 6:010x}")],
        "a patient by name": [("patient", f"{jobs // 6:032x}")],
        "a patient who never came": [("patient", "f" * 32)],
    }
    found = {name: read_filter(some, now) for name, some in pairs.items()}
    deep = f"{middle:%Y%m%dT%H%M%S%f}Z-j{jobs // 2}"
    found |= {f"{name}, from the middle": read_filter([*pairs[name], ("before", deep)], now)
              for name in ("everything", "delivered", "two usual ones")}  # fmt: skip
    return found


def writing(database: Database, root: Path, jobs: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Return what is slowed where an index is too many: recording an image, and a job's claim and end."""
    intake = Intake(database, root, SeriesSettings(), (Route(model="hn7", destinations=("pacs",)),))
    number = iter(range(10**9))

    def record() -> None:
        n = next(number)
        uid = f"2.25.{jobs}.{n // 100}"
        intake.instance_stored(ReceivedInstance(1, "CT1", uid, f"{uid}.{n}", f"{n}.dcm", "", "pseudonym"))

    queue = Queue(database)

    def work() -> None:
        job = queue.fetch_job("benchmark", 60.0)
        assert job is not None
        queue.finish_job(job.claim, {})

    with database.transaction() as session:
        for table in (SeriesRow, JobRow):
            rows = []
            for i in range(jobs + 1, jobs + 1 + 4 * BY_TURNS):
                at = START + timedelta(minutes=i)
                times = {"created_at": at, "last_instance_at" if table is SeriesRow else "updated_at": at}
                own = {"series_uid": f"2.25.{i}", "state": "COMPLETE"} if table is SeriesRow else {
                    "series_id": i, "revision": 1, "model": "hn7", "state": "QUEUED", "lease_until": None
                }  # fmt: skip
                rows.append({"id": i, **own, **times})
            session.execute(insert(table), rows)
    yield "recording an image", record
    yield "claiming and ending a job", work


def slowed(database: Database, root: Path, jobs: int) -> dict[str, float]:
    """Return how many times as long what is written takes with the indexes of the list, by turns of both."""
    calls = dict(writing(database, root, jobs))
    made = {
        name: next(index for table in Table.metadata.sorted_tables for index in table.indexes if index.name == name)
        for name in INDEXES
    }
    times: dict[tuple[str, bool], list[float]] = {(name, with_): [] for name in calls for with_ in (True, False)}
    for with_ in (True, False, True, False):
        with database.engine.begin() as connection:
            for index in made.values():
                (index.create if with_ else index.drop)(connection, checkfirst=True)
        for name, call in calls.items():
            times[name, with_].append(median_ms(call, BY_TURNS // 2))
    return {name: statistics.mean(times[name, True]) / statistics.mean(times[name, False]) for name in calls}


def measure(url: str, root: Path, jobs: int) -> bool:
    """Fill a database, time it and print; says whether every page came in its time."""
    database = Database(url)
    database.upgrade()
    began = time.perf_counter()
    fill(database, jobs)
    print(f"\n{jobs:,} series on {database.engine.dialect.name}, filled in {time.perf_counter() - began:.0f} s")
    well = True
    for name, chosen in asked(jobs).items():
        page = read_archive(database, chosen)
        took = median_ms(lambda chosen=chosen: read_archive(database, chosen), RUNS)
        well &= took < LIMIT_MS
        looked = f", looked back to {page.looked_to:%Y-%m-%d}" if page.looked_to else ""
        print(f"{took:8.1f} ms  {name}: {len(page.lines)} lines{looked}{'' if took < LIMIT_MS else '  TOO LONG'}")
    for name, ratio in slowed(database, root, jobs).items():
        print(f"{ratio:8.2f} x   {name}, with the indexes of the list")
    database.close()
    return well


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--postgresql", help="URL of an empty database, in the place of SQLite; takes one size")
    told = parser.parse_args()
    well = True
    for jobs in told.jobs:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            well &= measure(told.postgresql or f"sqlite:///{root / 'contourd.sqlite'}", root, jobs)
    raise SystemExit(0 if well else 1)


if __name__ == "__main__":
    main()
