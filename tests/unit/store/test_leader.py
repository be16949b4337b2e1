"""One leads, another takes over when it is gone; and who waits is told that there is something to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from contourd.node.hint_listener import HintListener
from contourd.store.database import Database
from contourd.store.hints import DELIVERIES, JOBS, Hints, hint
from contourd.store.leader import Leadership
from contourd.store.queue import Queue
from tests import databases
from tests.queueing import add_job

SOON_S = 20.0


@pytest.fixture
def served(cluster: databases.Cluster, tmp_path) -> Iterator[Database]:
    with databases.kept_in(cluster):
        database = databases.open_queue(tmp_path)
        yield database
        database.close()


@pytest.fixture
def two(served) -> Iterator[list[Leadership]]:
    made = [Leadership(served) for _ in range(2)]
    yield made
    for one in made:
        one.close()


def cut_off(served: Database, whose: str) -> None:
    """End connections as a server that is restarted does."""
    with psycopg.connect(served.url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a "
            f"WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND {whose}"
        )


def leading(two: list[Leadership]) -> list[bool]:
    return [one.leads() for one in two]


def test_one_leads_and_goes_on_leading(two):
    assert leading(two) == [True, False]
    assert leading(two[::-1]) == [False, True]


def test_who_resigns_is_followed(two):
    assert leading(two) == [True, False]
    two[0].resign()
    assert two[1].leads()
    assert not two[0].leads()


def test_who_loses_its_connection_knows_and_is_followed(two, served):
    assert leading(two) == [True, False]
    cut_off(served, "EXISTS (SELECT 1 FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory')")
    assert not two[0].leads()
    assert two[1].leads()
    assert not two[0].leads()


def test_what_is_led_apart_has_a_leader_each(served):
    one, other = Leadership(served), Leadership(served, key=7)
    assert (one.leads(), other.leads()) == (True, True)
    one.close()
    other.close()


def test_nobody_leads_without_the_server_and_nothing_is_raised(served):
    served.close()
    away = Database("postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=1")
    leadership = Leadership(away)
    assert not leadership.leads()
    leadership.close()
    away.close()


def test_the_node_of_a_sqlite_queue_always_leads(database):
    assert leading([Leadership(database), Leadership(database)]) == [True, True]


def test_a_hint_comes_with_its_commit_and_only_on_its_channel(served):
    with Hints(served, JOBS) as hints:
        assert hints.wait(0.01)  # at first: what was told before is not known
        with served.transaction() as session:
            hint(session, JOBS)
            assert not hints.wait(0.05)
        assert hints.wait(SOON_S)
        with served.transaction() as session:
            hint(session, DELIVERIES)
        assert not hints.wait(0.05)
        with served.transaction() as session:
            hint(session, JOBS)
            session.rollback()
        assert not hints.wait(0.05)


def test_who_waits_is_woken_at_once(served):
    with Hints(served, JOBS) as hints:
        hints.wait(0.01)

        def tell() -> None:
            with served.transaction() as session:
                hint(session, JOBS)

        later, began = threading.Timer(0.2, tell), time.monotonic()
        later.start()
        assert hints.wait(SOON_S)
        assert time.monotonic() - began < SOON_S / 2
        later.join()


def test_a_lost_connection_is_a_timeout_and_then_a_new_one(served):
    with Hints(served, JOBS) as hints:
        hints.wait(0.01)
        cut_off(served, "query LIKE 'LISTEN%'")
        assert not hints.wait(0.05)
        assert hints.wait(0.05)  # connected again: look
        with served.transaction() as session:
            hint(session, JOBS)
        assert hints.wait(SOON_S)


def test_in_sqlite_only_time_passes(database):
    with Hints(database, JOBS) as hints:
        assert not hints.wait(0.01)
        with database.transaction() as session:
            hint(session, JOBS)
        assert not hints.wait(0.01)


def test_an_order_and_structure_sets_are_told_to_those_that_wait(served):
    stopping, told = threading.Event(), {JOBS: threading.Event(), DELIVERIES: threading.Event()}
    for channel, event in told.items():
        HintListener(served, (channel,), event.set, stopping).start()
    queue = Queue(served)
    job = add_job(served, 1)
    for event in told.values():
        assert event.wait(SOON_S)  # at first: what was told before is not known
        event.clear()
    queue.order_job(job, "an order")
    assert told[JOBS].wait(SOON_S)
    assert not told[DELIVERIES].is_set()
    queue.finish_job(queue.fetch_job("w", 60).claim, {"pacs": "outgoing/1.dcm"})
    assert told[DELIVERIES].wait(SOON_S)
    stopping.set()
