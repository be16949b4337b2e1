"""What PostgreSQL says and a person reads; connections that break; and that the password stands nowhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import select, text

from contourd.errors import NodeError, QueueUnavailable
from contourd.settings import DatabaseSettings, Destination, Route, Settings, shown_settings
from contourd.store.audit import AuditEntry, AuditTrail
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.tables import AuditRow
from contourd.store.write_retry import retry_write
from tests import databases
from tests.queueing import add_job

SECRET = "p@ss:w/rd?#%"


@pytest.fixture
def served(cluster: databases.Cluster, tmp_path) -> Iterator[Database]:
    with databases.kept_in(cluster):
        database = databases.open_queue(tmp_path)
        yield database
        database.close()


def told(url: str) -> str:
    """Return what is told of a database that cannot be used."""
    database = Database(url)
    try:
        with pytest.raises(QueueUnavailable) as found, database.transaction() as session:
            session.execute(text("UPDATE jobs SET state = state"))
    finally:
        database.close()
    return str(found.value)


def test_whatever_is_wrong_with_the_server_is_told_in_words(cluster, served):
    name = served.engine.url.database
    there = cluster.url(name)
    assert told(cluster.url(name, SECRET)) == (
        f"the database {name} on 127.0.0.1 does not take the password or user of database.url"
    )
    assert "is not on its server" in told(cluster.url("nothing"))
    assert "nothing listens at the host and port" in told(there.replace(str(cluster.port), "1"))
    assert "has no address" in told("postgresql://contourd@nowhere.invalid/queue")
    assert "is not reached by TLS" in told(f"{there}?sslmode=require")
    assert "is read-only: the server is a standby" in told(f"{there}?options=-c%20default_transaction_read_only%3Don")


def test_a_server_without_connections_left_is_told_as_that(cluster, served):
    name = served.engine.url.database
    cluster.execute("CREATE ROLE guest LOGIN PASSWORD 'guest' CONNECTION LIMIT 1")
    url = cluster.url(name).replace(cluster.url(name).partition("@")[0], "postgresql://guest:guest")
    try:
        with psycopg.connect(url):
            assert "has no connection left; raise max_connections" in told(url)
    finally:
        cluster.execute("DROP ROLE guest")


def test_a_user_that_may_not_write_is_told_to_make_it_the_owner(cluster, served):
    name = served.engine.url.database
    cluster.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    try:
        url = cluster.url(name).replace(cluster.url(name).partition("@")[0], "postgresql://guest:guest")
        assert "make the user of database.url the owner" in told(url)
    finally:
        cluster.execute("DROP ROLE guest")


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://contourd:{quote(SECRET, safe='')}@127.0.0.1:1/queue",
        "postgresql://contourd@127.0.0.1:1/queue?password=hunter2&connect_timeout=1",
        "postgresql://contourd:hunter2@nowhere.invalid/queue",
    ],
)
def test_the_password_is_in_no_error(url):
    database = Database(url)
    with pytest.raises(QueueUnavailable) as error:
        database.revision()
    database.close()
    chain = f"{error.value} {error.value!r} {error.value.__cause__} {error.value.__cause__!r} {database.name}"
    assert not [secret for secret in ("hunter2", SECRET, quote(SECRET, safe="")) if secret in chain]


@pytest.mark.parametrize(
    "url",
    ["postgresql://contourd:hunter@2@host/queue", "postgresql://contourd:hunter2@host:port/queue", "no url, hunter2"],
)
def test_a_url_that_cannot_be_read_is_refused_and_not_quoted(url):
    with pytest.raises(NodeError, match="in a password each of") as refused:
        Database(url)
    assert "hunter" not in str(refused.value)


@pytest.mark.parametrize("password", ["hunter2", "hun/ter2", "hun?ter2", "hun@ter2", "hun:ter2", "hun#ter2"])
@pytest.mark.parametrize("query", ["", "?sslmode=require&password=hunter3"])
def test_the_settings_that_are_shown_have_no_password(password, query):
    settings = Settings(
        database=DatabaseSettings(url=f"postgresql://contourd:{password}@host:5432/queue{query}"),
        destination=(Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=1),),
        route=(Route(model="hn7", destinations=("pacs",)),),
    )
    assert shown_settings(settings)["database.url"] == '"postgresql://contourd@host:5432/queue"'


def test_a_server_that_is_restarted_is_waited_for_and_nothing_is_lost(caplog):
    caplog.set_level(logging.INFO)
    cluster = databases.Cluster(*databases.UNSAFE_AND_FAST)
    try:
        cluster.start()
        database = Database(cluster.url(cluster.make()))
        database.upgrade()
        database.examine()
        queue, trail, stopping = Queue(database), AuditTrail(database), threading.Event()
        add_job(database)
        claim = queue.fetch_job("w", 60).claim
        cluster.stop()
        with pytest.raises(QueueUnavailable):
            queue.renew_lease(claim, 60)
        trail.note("association accepted", "10.0.0.1", "CT1", "")
        trail.flush()
        starting = threading.Timer(0.5, cluster.start)
        starting.start()
        assert retry_write(lambda: queue.renew_lease(claim, 60), stopping)
        starting.join()
        trail.flush()
        with database.reading() as session:
            assert [row.actor for row in session.scalars(select(AuditRow))] == ["CT1"]
        queue.finish_job(claim, {"pacs": "1.dcm"})
        database.close()
    finally:
        cluster.remove()
    assert databases.PASSWORD not in caplog.text
    assert quote(databases.PASSWORD) not in caplog.text


def test_connections_that_the_server_ended_are_replaced_before_they_are_used(served, cluster):
    queue = Queue(served)
    add_job(served)
    with psycopg.connect(cluster.url("postgres"), autocommit=True) as other:
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        assert other.execute(ended, [served.engine.url.database]).rowcount > 0
        left = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        while other.execute(left, [served.engine.url.database]).fetchone()[0]:
            time.sleep(0.01)
    assert queue.fetch_job("w", 60) is not None


def test_a_connection_that_lay_idle_is_asked_whether_it_lives(served, monkeypatch):
    """A host whose network went away is told nothing: only an answer shows that the server is there."""
    asked = list[str]()
    ping = type(served.engine.dialect).do_ping
    noted = lambda dialect, connection: asked.append("ping") or ping(dialect, connection)  # noqa: E731
    monkeypatch.setattr(type(served.engine.dialect), "do_ping", noted)
    served.probe()
    assert asked == []
    monkeypatch.setattr("contourd.store.postgresql.IDLE_S", 0.0)
    served.probe()
    assert asked == ["ping"]


def test_a_transaction_whose_connection_is_ended_is_undone_and_told(served, cluster):
    add_job(served)

    def lose() -> None:
        with served.transaction() as session:
            session.execute(text("UPDATE jobs SET state = 'FAILED'"))
            pid = session.scalar(text("SELECT pg_backend_pid()"))
            cluster.execute(f"SELECT pg_terminate_backend({pid})")
            session.execute(text("UPDATE jobs SET state = 'HELD'"))

    with pytest.raises(QueueUnavailable, match="is being stopped or started"):
        lose()
    assert Queue(served).fetch_job("w", 60) is not None


def test_a_nul_that_a_peer_sent_is_kept_as_a_sign_for_it(served):
    AuditTrail(served).record(AuditEntry("marie", "look", "", "a\0b"))
    with served.reading() as session:
        assert session.scalars(select(AuditRow.detail)).one() == "a\ufffdb"


def test_a_database_of_another_encoding_is_refused(cluster):
    name = "latin"
    cluster.execute("CREATE DATABASE {} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'", name)
    database = Database(cluster.url(name))
    with pytest.raises(QueueUnavailable, match="is encoded as SQL_ASCII; make another"):
        database.examine()
    database.close()
    cluster.drop(name)


def test_two_nodes_that_begin_together_make_the_tables_once(cluster):
    name = cluster.make()
    nodes = [Database(cluster.url(name)) for _ in range(3)]
    starting = [threading.Thread(target=node.prepare) for node in nodes]
    for one in starting:
        one.start()
    for one in starting:
        one.join()
    for node in nodes:
        node.check()
        node.close()
    cluster.drop(name)
