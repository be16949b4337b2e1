"""How little PostgreSQL is asked for a claim and an image, and that nobody waits for a lock while files are read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import event, func, select, text

from contourd.dicom.network.events import ReceivedInstance
from contourd.errors import SeriesFull
from contourd.intake.intake import Intake
from contourd.spool.objects import StoredFile
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.tables import EventRow, InstanceRow, SeriesRow, StoredFileRow
from tests.intake_node import ROUTE, SETTINGS
from tests.queueing import add_job

LONGEST_WAIT_S = 20


pytestmark = pytest.mark.usefixtures("in_postgresql")


@pytest.fixture
def database(others) -> Database:
    return others()


def count(database: Database, table: type) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(table))


def intake_of(database: Database, root: Path) -> Intake:
    return Intake(database, root, SETTINGS, (ROUTE,))


def image(root: Path, association: int, series: str, number: int) -> ReceivedInstance:
    path = f"{series}-{number}-{association}.dcm"
    (root / path).write_bytes(b"an image")
    return ReceivedInstance(association, "CT1", series, f"{series}.{number}", path, "0" * 64, "pseudonym")


def test_a_claim_is_two_statements_and_no_connection_is_tried_before(others):
    database = others()
    first, second = add_job(database, 1, "pacs,tps"), add_job(database, 2)
    queue, asked = Queue(database), list[str]()
    assert queue.fetch_job("w", 60).id == first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(database.engine.dialect), "do_ping", lambda dialect, connection: asked.append("ping"))
        event.listen(database.engine, "before_cursor_execute", lambda *call: asked.append(call[2].split()[0]))
        job = queue.fetch_job("w", 60)
    assert asked == ["WITH", "SELECT"]
    assert (job.id, job.claim.token, job.paths, job.destinations) == (second, 1, ("2/0", "2/1"), ("pacs",))
    with database.reading() as session:
        (row,) = session.scalars(select(EventRow).where(EventRow.subject_id == second, EventRow.event == "claim"))
        assert (row.state, row.text, row.reason) == ("CONTOURING", "w", None)


def test_a_claim_finds_its_job_by_the_index_and_sorts_nothing(others):
    database, asked = others(), list[tuple[str, object]]()
    add_job(database)
    event.listen(database.engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
    Queue(database, host="here").fetch_job("w", 60, but=[99], orders=[""])
    with psycopg.connect(database.url) as connection:
        connection.execute("SET enable_seqscan = off")  # few rows are read as they lie
        rows = connection.execute(f"EXPLAIN {asked[0][0]}".encode(), asked[0][1]).fetchall()
    plan = "\n".join(line for (line,) in rows)
    assert "Index Scan using jobs_by_state" in plan
    assert "Sort" not in plan
    assert "Seq Scan" not in plan


def test_a_claim_passes_over_a_job_that_another_transaction_changes(others, database):
    first, second = add_job(database, 1), add_job(database, 2)
    queue = Queue(others())
    with database.transaction() as session:
        session.execute(text("UPDATE jobs SET attempts = 1 WHERE id = :first"), {"first": first})
        assert queue.fetch_job("w", 60).id == second
    assert queue.fetch_job("w", 60).id == first


def test_an_image_more_is_two_statements(others, tmp_path):
    database, asked = others(), list[str]()
    node = intake_of(database, tmp_path)
    node.instance_stored(image(tmp_path, 1, "1.2.3", 1))
    event.listen(database.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    node.instance_stored(image(tmp_path, 1, "1.2.3", 2))
    assert [statement.split()[0] for statement in asked] == ["SELECT", "WITH"]
    assert asked[0].endswith("FOR NO KEY UPDATE")
    with database.reading() as session:
        (series,) = session.scalars(select(SeriesRow))
        last = session.scalar(select(func.max(InstanceRow.received_at)))
        assert (series.interrupted, series.last_instance_at) == ("open", last)


def test_an_image_that_goes_into_the_store_at_once_is_two_statements_too(others, tmp_path):
    database = others()
    node = intake_of(database, tmp_path)
    for number in (1, 2):
        one = image(tmp_path, 1, "1.2.3", number)
        node.instance_stored(replace(one, stored=StoredFile(one.path, "waiting/a.tar", number, 8, "1" * 64)))
    with database.reading() as session:
        rows = [
            (row.path, row.object, row.offset_bytes, row.size_bytes, row.sha256, row.removed_at)
            for row in session.scalars(select(StoredFileRow).order_by(StoredFileRow.id))
        ]
    assert rows == [(f"1.2.3-{n}-1.dcm", "waiting/a.tar", n, 8, "1" * 64, None) for n in (1, 2)]


def test_a_series_takes_as_many_images_as_it_may_have_and_no_more(others, tmp_path):
    node = Intake(others(), tmp_path, SETTINGS.model_copy(update={"max_instances": 3}), (ROUTE,))
    for number in range(3):
        node.instance_stored(image(tmp_path, 1, "1.2.3", number))
    with pytest.raises(SeriesFull):
        node.instance_stored(image(tmp_path, 1, "1.2.3", 3))
    assert count(others(), InstanceRow) == 3


def test_no_receiver_waits_while_another_reads_the_file_of_an_image_that_came_again(others, tmp_path, monkeypatch):
    """PostgreSQL itself is asked who waits for a lock; the row of the series is what both need."""
    slow_s, receivers = 1.0, [intake_of(others(), tmp_path) for _ in range(2)]
    first = image(tmp_path, 0, "1.2.3", 1)
    receivers[0].instance_stored(first)
    reading = threading.Event()

    def read_slowly(path: Path) -> str:  # noqa: ARG001
        reading.set()
        time.sleep(slow_s)
        return "0" * 64

    monkeypatch.setattr("contourd.intake.image_recorder.stored_sha256", read_slowly)
    again = image(tmp_path, 2, "1.2.3", 1)
    with ThreadPoolExecutor(1) as pool, psycopg.connect(others().url, autocommit=True) as watching:
        coming = pool.submit(receivers[0].instance_stored, again)
        assert reading.wait(LONGEST_WAIT_S)
        waiting = pool_of_one(lambda: receivers[1].instance_stored(image(tmp_path, 1, "1.2.3", 2)))
        longest_s = 0.0
        waits = (
            "SELECT coalesce(extract(epoch FROM max(clock_timestamp() - waitstart)), 0) FROM pg_locks WHERE NOT granted"
        )
        while not coming.done():
            longest_s = max(longest_s, float(watching.execute(waits).fetchone()[0]))  # type: ignore[index]
            time.sleep(0.005)
        coming.result()
        waiting.join()
    assert longest_s < slow_s / 4
    assert count(others(), InstanceRow) == 2
    assert not (tmp_path / again.path).exists()


def pool_of_one(act: Callable[[], object]) -> threading.Thread:
    """Do it beside; returns its thread."""
    thread = threading.Thread(target=act)
    thread.start()
    return thread
