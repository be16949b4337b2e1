"""The audit trail: appended only, floods counted, differences of settings and models, one time line with the events."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from contourd.cli.audit import moment
from contourd.errors import InvalidTransition, QueueUnavailable
from contourd.observe.timeline import TimelineFilter, read_timeline
from contourd.settings import Settings, shown_settings
from contourd.store.audit import MOST_KINDS, AuditEntry, AuditTrail
from contourd.store.tables import AuditRow, DeliveryRow, JobRow, SeriesRow
from contourd.store.transitions import record

pytestmark = pytest.mark.both_databases

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trail(database, clock) -> AuditTrail:
    return AuditTrail(database, clock)


def rows(database) -> list[tuple[str, str, str, str]]:
    with database.reading() as session:
        found = session.scalars(select(AuditRow).order_by(AuditRow.id))
        return [(row.actor, row.action, row.subject, row.detail) for row in found]


@pytest.mark.parametrize("change", ["UPDATE audit SET actor = 'nobody'", "DELETE FROM audit"])
def test_the_database_refuses_to_change_the_trail(database, trail, change):
    trail.record(AuditEntry("alice", "release", "series 1"))
    with pytest.raises(IntegrityError, match="only appended to"), database.transaction() as session:
        session.execute(text(change))
    assert rows(database) == [("alice", "release", "series 1", "")]


def test_a_flood_is_one_row_at_once_and_one_a_minute(database, trail, clock):
    for _ in range(500):
        trail.note("connection refused", "10.0.0.9", "", "its address is not in node.allowed_peers")
    trail.flush()
    first = ("10.0.0.9", "connection refused", "peer 10.0.0.9", "its address is not in node.allowed_peers")
    assert rows(database) == [first]
    clock.move(59)
    trail.note("connection refused", "10.0.0.9", "", "its address is not in node.allowed_peers")
    trail.flush()
    assert rows(database) == [first]
    clock.move(1)
    trail.flush()
    counted = (*first[:3], f"{first[3]}; 500 more since 12:00:00 UTC")
    assert rows(database) == [first, counted]
    clock.move(60)  # a minute in which nothing came: the next one counts as the first again
    trail.flush()
    trail.note("connection refused", "10.0.0.9", "", "its address is not in node.allowed_peers")
    trail.flush()
    assert rows(database) == [first, counted, first]


def test_other_peers_and_other_reasons_are_told_apart(database, trail):
    trail.note("association rejected", "10.0.0.1", "CT1", "too many associations")
    trail.note("association rejected", "10.0.0.1", "CT1", "the disk is nearly full")
    trail.note("association rejected", "10.0.0.2", "CT1", "too many associations")
    trail.flush()
    assert [(subject, detail) for _, _, subject, detail in rows(database)] == [
        ("peer 10.0.0.1", "too many associations"),
        ("peer 10.0.0.1", "the disk is nearly full"),
        ("peer 10.0.0.2", "too many associations"),
    ]


def test_a_flood_under_a_thousand_names_is_counted_together(database, trail, clock):
    for n in range(1000):
        trail.note("association rejected", "10.0.0.1", f"AE{n}", "a wrong calling or called AE title")
    trail.note("association accepted", "10.0.0.1", "CT1", "")  # another action is not crowded out
    clock.move(60)
    trail.flush()
    found = rows(database)
    assert len(found) == MOST_KINDS + 3
    assert found[MOST_KINDS][:3] == ("several", "association rejected", "other peers")
    assert found[-1] == (
        "several",
        "association rejected",
        "other peers",
        f"{1000 - MOST_KINDS - 1} more since 12:00:00 UTC",
    )


def test_an_ae_title_is_printable_in_the_trail(database, trail):
    trail.note("association accepted", "10.0.0.1", "CT\n1\x1b", "")
    trail.flush()
    assert rows(database)[0][0] == "CT?1?"


def test_noting_survives_a_database_that_takes_nothing(database, trail, caplog):
    with database.transaction() as session:
        session.execute(text("ALTER TABLE audit RENAME TO gone"))
    trail.note("association accepted", "10.0.0.1", "CT1", "")
    trail.flush()
    trail.flush()
    said = "no such table: audit" if database.is_sqlite else 'relation "audit" does not exist'
    assert [r.message for r in caplog.records] == [
        f"the audit trail waits: the database {database.name} cannot be used: {said}"
    ]
    with pytest.raises(QueueUnavailable, match=said):
        trail.record(AuditEntry("alice", "retry", "job 1"))
    with database.transaction() as session:
        session.execute(text("ALTER TABLE gone RENAME TO audit"))
    trail.flush()
    trail.flush()
    assert rows(database) == [("CT1", "association accepted", "peer 10.0.0.1", "")]


def test_what_there_is_no_room_for_is_counted(database, clock):
    trail = AuditTrail(database, clock, most_waiting=3)
    for n in range(5):
        trail.note("association accepted", "10.0.0.1", f"AE{n}", "")
    trail.flush()
    trail.note("association accepted", "10.0.0.1", "AE5", "")
    trail.flush()
    assert [(actor, action, detail) for actor, action, _, detail in rows(database)] == [
        *((f"AE{n}", "association accepted", "") for n in range(3)),
        ("contourd", "audit gap", "2 entries were lost"),
        ("AE5", "association accepted", ""),
    ]


def test_the_end_writes_the_counts_of_a_minute_that_is_not_over(database, trail):
    for _ in range(3):
        trail.note("association accepted", "10.0.0.1", "CT1", "")
    trail.close()
    assert [detail for *_, detail in rows(database)] == ["", "2 more since 12:00:00 UTC"]


def test_settings_are_recorded_where_they_differ(database, trail):
    assert trail.record_configuration({"node.port": "104", "node.host": '"a"'}) == ()  # the first start
    assert trail.record_configuration({"node.port": "104", "node.host": '"a"'}) == ()
    assert trail.record_configuration({"node.port": "11112", "spool.min_free_gb": "2.0"}) == (
        *("node.host", "node.port"),
        "spool.min_free_gb",
    )
    assert trail.record_configuration({"node.port": "11112", "spool.min_free_gb": "2.0"}) == ()
    assert [json.loads(detail) for *_, detail in rows(database)][1] == {
        "node.host": ['"a"', None],
        "node.port": ["104", "11112"],
        "spool.min_free_gb": [None, "2.0"],
    }


def test_a_model_is_recorded_when_it_is_another_one(database, trail):
    for sha256 in ("a" * 64, "a" * 64, "b" * 64, "b" * 64):
        trail.record_model("hn7", "1", sha256)
    for folder in ("/models/hn7", "/other/hn7", "/models/hn7/"):
        trail.record_model(folder, "1", "c" * 64)
    told = [(subject, json.loads(d)["before"], json.loads(d)["sha256"]) for _, _, subject, d in rows(database)]
    assert told == [
        ("model hn7", None, "a" * 64),
        ("model hn7", "a" * 64, "b" * 64),
        *(("model hn7", None, "c" * 64),) * 3,
    ]


def test_no_secret_is_shown():
    settings = Settings.model_validate(
        {
            "database": {"url": "postgresql+psycopg://contourd:tr0ub4dor@db.example:5432/queue?password=tr0ub4dor"},
            "node": {"tls": {"certificate": "/c.pem", "key": "/secret/node.key", "require_certificate": False}},
            "destination": [{"name": "pacs", "ae_title": "A", "host": "h", "port": 1, "tls": {"key": "/secret/k"}}],
            "route": [{"model": "hn7", "destinations": ["pacs"], "calling_ae": "CT1"}],
        }
    )
    shown = shown_settings(settings)
    assert shown["database.url"] == '"postgresql+psycopg://contourd@db.example:5432/queue"'
    assert shown["node.tls.key"] == shown["destination.pacs.tls.key"] == "set"
    assert (shown["node.port"], shown["destination.pacs.port"]) == ("11112", "1")
    assert shown["route.1.calling_ae"] == '"CT1"'
    assert "tr0ub4dor" not in str(shown)
    assert "/secret" not in str(shown)


def fill(database, trail, clock) -> None:
    """Two jobs of two series, each with a delivery, and what an operator did between."""
    moments = {"created_at": NOON, "updated_at": NOON}
    with database.transaction() as session:
        for n in (1, 2):
            session.add(SeriesRow(id=n, series_uid=f"1.{n}", state="COMPLETE", created_at=NOON, last_instance_at=NOON))
        session.flush()
        for n in (11, 12):
            session.add(
                JobRow(id=n, series_id=n - 10, revision=1, model="m", destinations=["p"], state="HELD", **moments)
            )
        session.flush()
        session.add(DeliveryRow(id=5, job_id=11, destination="pacs", state="PENDING", not_before=NOON, **moments))
        record(session, "series", 1, "completed", "COMPLETE", "", NOON + timedelta(seconds=1))
        record(session, "job", 12, "queued", "QUEUED", "m", NOON + timedelta(seconds=2))
        record(session, "job", 11, "hold", "HELD", "no patient found", NOON + timedelta(seconds=3))
        record(session, "delivery", 5, "claim", "SENDING", "", NOON + timedelta(seconds=5))
    clock.move(4)
    trail.record(AuditEntry("alice", "retry", "job 11"))
    clock.move(2)
    trail.record(AuditEntry("bob", "release", "series 2"))


def test_one_time_line_of_both(database, trail, clock):
    fill(database, trail, clock)
    day = (NOON, NOON + timedelta(days=1))
    lines = list(read_timeline(database, TimelineFilter(*day)))
    assert [(line.actor, line.action, line.subject, line.state, line.job, line.destination) for line in lines] == [
        ("contourd", "series completed", "series 1", "COMPLETE", None, None),
        ("contourd", "job queued", "job 12", "QUEUED", 12, None),
        ("contourd", "job hold", "job 11", "HELD", 11, None),
        ("alice", "retry", "job 11", "", 11, None),
        ("contourd", "delivery claim", "delivery 5", "SENDING", 11, "pacs"),
        ("bob", "release", "series 2", "", None, None),
    ]
    of_job = [line.subject for line in read_timeline(database, TimelineFilter(*day, job=11))]
    assert of_job == ["series 1", "job 11", "job 11", "delivery 5"]
    assert [line.detail for line in read_timeline(database, TimelineFilter(*day, action="job hold"))] == [
        "no patient found"
    ]
    part = TimelineFilter(NOON + timedelta(seconds=2), NOON + timedelta(seconds=4))
    assert [line.subject for line in read_timeline(database, part)] == ["job 12", "job 11"]  # without the end
    with pytest.raises(InvalidTransition, match="there is no job 99"):
        list(read_timeline(database, TimelineFilter(*day, job=99)))


def test_moments():
    import typer

    assert moment("2h", NOON) == NOON - timedelta(hours=2)
    assert moment("30min", NOON) == NOON - timedelta(minutes=30)
    assert moment("7 d", NOON) == NOON - timedelta(days=7)
    assert moment("2026-01-01T13:00:00+02:00", NOON) == NOON - timedelta(hours=1)
    assert moment("2026-11-24", NOON) == datetime(2026, 11, 24).astimezone()
    for wrong in ("yesterday", "2026-13-01", "-2h", ""):
        with pytest.raises(typer.BadParameter, match="neither a span"):
            moment(wrong, NOON)
