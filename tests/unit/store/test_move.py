"""The queue carried from SQLite to PostgreSQL and back: every row, or none."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text

from contourd.errors import BackupError
from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.store.move import move_queue
from contourd.store.queue import Queue
from contourd.store.site import belong_to_site
from contourd.store.tables import Table
from tests import databases, showcase
from tests.queueing import START, add_job


@pytest.fixture
def served(cluster: databases.Cluster, tmp_path) -> Iterator[Database]:
    with databases.kept_in(cluster):
        database = databases.open_queue(tmp_path, "served", empty=True)
        yield database
        database.close()


@pytest.fixture
def site(database, tmp_path) -> Database:
    """Fill the queue of SQLite with something of every kind."""
    showcase.fill_queue(database, Spool(tmp_path / "spool"))
    belong_to_site(database, "0" * 64, START)
    return database


def content(database: Database) -> dict[str, list[tuple[object, ...]]]:
    found = {}
    with database.reading() as session:
        for table in Table.metadata.sorted_tables:
            rows = session.execute(table.select().order_by(*table.primary_key)).all()
            found[table.name] = [tuple(row) for row in rows]
    found["tallies"] = [row for row in found["tallies"] if row[-1]]
    return found


def test_all_of_it_goes_over_and_comes_back(site, served, tmp_path):
    before = content(site)
    moved = move_queue(site, served)
    assert content(served) == before
    assert moved.rows == sum(len(rows) for name, rows in before.items() if name != "tallies")
    back = Database(f"sqlite:///{tmp_path / 'back.sqlite'}")
    move_queue(served, back)
    assert content(back) == before
    back.close()


def test_the_queue_goes_on_where_it_was_carried_to(site, served):
    last = max(row[0] for row in content(site)["jobs"])
    move_queue(site, served)
    assert add_job(served, 4242) == last + 1
    assert Queue(served).fetch_job("w", 60) is not None


def test_a_database_that_is_not_empty_is_refused(site, served):
    served.upgrade()
    add_job(served)
    before = content(served)
    with pytest.raises(BackupError, match="is not empty: there are rows in series"):
        move_queue(site, served)
    assert content(served) == before


def test_a_database_that_a_node_uses_is_refused(site, served):
    served.upgrade()
    with (
        psycopg.connect(served.url, application_name="contourd"),
        pytest.raises(BackupError, match="stop contourd on every host"),
    ):
        move_queue(site, served)
    assert not any(content(served).values())


def test_a_row_that_does_not_fit_leaves_nothing(site, served):
    with site.transaction() as session:
        session.execute(text("UPDATE jobs SET worker = :long WHERE id = 1"), {"long": "w" * 65})
    with pytest.raises(BackupError, match="does not fit"):
        move_queue(site, served)
    assert not any(content(served).values())


def test_a_row_that_is_changed_on_its_way_is_found(site, served):
    served.upgrade()
    with served.transaction() as session:
        session.execute(
            text(
                "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN NEW.patient := 'another'; RETURN NEW; END $$"
            )
        )
        session.execute(text("CREATE TRIGGER spoils BEFORE INSERT ON series FOR EACH ROW EXECUTE FUNCTION spoil()"))
    with pytest.raises(BackupError, match="row 1 of series is not what it was"):
        move_queue(site, served)
    assert not any(content(served).values())
