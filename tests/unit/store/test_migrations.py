"""Every revision, up and down, with a row in every table; versions refuse each other with the command that mends it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Boolean, Connection, DateTime, Float, Integer, MetaData, select, text
from sqlalchemy.exc import IntegrityError

from contourd.errors import QueueUnavailable, SchemaMismatch
from contourd.model.remarks import Finding, Measure, Remark, RemarkCheck, Remarks, RemarkVerdict
from contourd.model.runtime_description import RuntimeDescription
from contourd.store.contourings import read_contoured
from contourd.store.database import Database, alembic_config, revisions
from contourd.store.tables import SCHEMA_REVISION, JobRow
from tests.databases import open_queue

pytestmark = pytest.mark.both_databases

MOMENT = datetime(2026, 1, 1, 12, tzinfo=UTC)
STATES = {
    "series": "COMPLETE",
    "jobs": "DELIVERING",
    "deliveries": "PENDING",
    "commitments": "REQUESTED",
    "commitment_requests": "PENDING",
    "constancy_checks": "GREEN",
    "shadows": "COMPARED",
    "tallies": "COMPLETE",
    "events": "COMPLETE",
    "reviews": "COMPARED",
    "tally_sums": "COMPLETE",
    "tally_changes": "COMPLETE",
}
# What is read as a record, where "text" would be none.
RECORDS = {
    ("contourings", "runtime"): RuntimeDescription("torch", "2", "fp32", "cpu", "x86_64, AVX2", 2).to_json(),
    ("contourings", "versions"): "{}",
    ("jobs", "remark_records"): "[]",
    ("deliveries", "product"): "rtstruct",
    ("processes", "role"): "worker",
    ("processes", "loaded"): "",
    ("review_organs", "fate"): "touched",
}
Content = dict[str, list[dict[str, Any]]]


@pytest.fixture
def database(tmp_path):
    database = open_queue(tmp_path, empty=True)
    yield database
    database.close()


def migrate(database: Database, step: Any, revision: str) -> None:
    config = alembic_config()
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        step(config, revision)
        connection.commit()


def tables(connection: Connection) -> list[Any]:
    found = MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def fill(database: Database) -> None:
    """Put a row into every table that has none: ids are 1, so that every reference is to the row that is there."""
    with database.engine.connect() as connection:
        for table in tables(connection):
            if connection.execute(table.select()).first() is not None:
                continue
            row = {}
            for column in table.columns:
                kind = column.type
                is_number = isinstance(kind, Integer | Boolean | Float)
                row[column.name] = 1 if is_number else MOMENT if isinstance(kind, DateTime) else "text"
            row |= {column: text for (name, column), text in RECORDS.items() if name == table.name and column in row}
            state = {"state": STATES[table.name]} if "state" in row else {}
            patients = {"series_id": None} if table.name == "constancy_series" else {}  # the series is a patient's
            connection.execute(table.insert(), row | state | patients)
            if not database.is_sqlite and "id" in table.columns:
                count_on = f"SELECT setval(seq, 1) FROM pg_get_serial_sequence('{table.name}', 'id') AS seq"
                connection.execute(text(count_on))  # the next row that is made by itself is the second
        connection.commit()


def content(database: Database) -> Content:
    with database.engine.connect() as connection:
        return {t.name: [dict(row) for row in connection.execute(t.select()).mappings()] for t in tables(connection)}


def check(database: Database) -> None:
    if not database.is_sqlite:
        return  # it refuses a row whose reference is to none
    with database.engine.connect() as connection:
        assert connection.execute(text("PRAGMA integrity_check")).all() == [("ok",)]
        assert connection.execute(text("PRAGMA foreign_key_check")).all() == []


def common(old: Content, new: Content) -> tuple[Content, Content]:
    """Keep of both the tables and columns that both have."""
    shared = [name for name in old if name in new]
    columns = {name: old[name][0].keys() & new[name][0].keys() for name in shared}
    kept = [{n: [{c: row[c] for c in columns[n]} for row in side[n]] for n in shared} for side in (old, new)]
    return kept[0], kept[1]


def test_up_and_down_every_revision_with_rows_in_every_table(database):
    known = revisions()
    assert known[-1] == SCHEMA_REVISION
    assert len(known) >= 3
    before: Content = {}
    for revision in known:
        migrate(database, command.upgrade, revision)
        assert database.revision() == revision
        check(database)
        old, new = common(before, content(database))
        assert old == new
        fill(database)
        before = content(database)
        assert all(before.values())
    for revision in reversed(known[:-1]):
        database.downgrade(revision)
        assert database.revision() == revision
        check(database)
        old, new = common(before, content(database))
        assert old == new
        before = content(database)
        assert all(before.values())
    for _ in range(2):  # the second time there is nothing to do
        database.upgrade()
        check(database)
    old, new = common(before, content(database))
    assert old == new
    database.check()


def test_an_older_version_sends_nothing_of_a_constancy_check(database):
    database.upgrade()
    fill(database)
    with database.transaction() as session:
        session.execute(text("UPDATE constancy_series SET series_id = 1"))
        session.execute(text("UPDATE series SET state = 'RECEIVING'"))
    database.downgrade("0002")
    found = content(database)
    assert [found[name][0]["state"] for name in ("series", "jobs")] == ["HELD", "SUPERSEDED"]
    assert "constancy check" in found["jobs"][0]["reason"]


def test_a_delivery_that_awaits_its_commitment_is_sent_again_by_an_older_version(database):
    database.upgrade()
    fill(database)
    with database.transaction() as session:
        session.execute(text("UPDATE deliveries SET state = 'SENT'"))
    database.downgrade("0002")
    assert content(database)["deliveries"][0]["state"] == "SENDING"


def test_an_upgrade_that_fails_changes_nothing(database):
    migrate(database, command.upgrade, "0002")
    fill(database)
    before = content(database)
    with database.engine.connect() as connection:
        connection.execute(text("CREATE TABLE commitments (id INTEGER)"))  # stands in the way of revision 0003
        connection.commit()
    with pytest.raises(QueueUnavailable, match="already exists"):
        database.upgrade()
    with database.engine.connect() as connection:
        connection.execute(text("DROP TABLE commitments"))
        connection.commit()
    assert database.revision() == "0002"
    assert content(database) == before
    check(database)
    database.upgrade()
    database.check()


def test_only_an_empty_database_is_made_by_itself(database):
    with pytest.raises(SchemaMismatch, match="`contourd serve` makes its tables"):
        database.check()
    database.prepare()
    database.prepare()
    assert database.revision() == SCHEMA_REVISION
    database.downgrade("0002")
    for refusing in (database.prepare, database.check):
        with pytest.raises(SchemaMismatch, match=r"revision 0002, this version needs .* run `contourd db upgrade`"):
            refusing()
    assert database.revision() == "0002"


def test_a_newer_database_is_refused_with_the_ways_out(database):
    database.upgrade()
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for refusing in (database.prepare, database.check, database.upgrade, lambda: database.downgrade("0001")):
        with pytest.raises(SchemaMismatch, match=rf"9999, .*newer contourd.*`contourd db downgrade {SCHEMA_REVISION}`"):
            refusing()
    assert database.revision() == "9999"


@pytest.mark.parametrize("revision", [SCHEMA_REVISION, "9999", "head", ""])
def test_down_is_down(database, revision):
    database.upgrade()
    with pytest.raises(SchemaMismatch, match=r"is not older|there is no revision"):
        database.downgrade(revision)
    assert database.revision() == SCHEMA_REVISION


@pytest.mark.parametrize("because", ["hold", "refusal"])
def test_an_older_version_contours_nothing_that_waits_for_a_person_or_an_image(database, because):
    database.upgrade()
    fill(database)
    with database.transaction() as session:
        session.execute(
            text("UPDATE series SET state = 'RECEIVING', hold_code = '', hold_detail = '', interrupted = 'open'")
        )
        if because == "hold":
            session.execute(
                text("UPDATE series SET hold_code = 'sent_twice', hold_detail = '{\"images\": 2, \"series\": 1}'")
            )
            session.execute(text("UPDATE refusals SET series_uid = '1.2.3'"))
    database.downgrade("0003")
    (series,) = content(database)["series"]
    assert (series["state"], series["interrupted"]) == ("HELD", "aborted")
    assert ("sent twice" if because == "hold" else "were refused") in series["reason"]


def test_the_destinations_of_older_jobs_are_carried_over_in_their_order(database):
    migrate(database, command.upgrade, "0004")
    fill(database)
    with database.engine.connect() as connection:
        connection.execute(text("UPDATE jobs SET destinations = 'tps,archive,pacs'"))
        connection.commit()
    database.upgrade()
    with database.reading() as session:
        assert list(session.scalars(select(JobRow)).one().destinations) == ["tps", "archive", "pacs"]
    with database.transaction() as session:
        session.scalars(select(JobRow)).one().destinations.append("second")
    database.downgrade("0004")
    assert content(database)["jobs"][0]["destinations"] == "tps,archive,pacs,second"


WORDS = (
    ("cpu (x86_64, AVX512, 2 threads, OpenVINO 2026.1 bf16)",
     RuntimeDescription("openvino", "2026.1", "bf16", "cpu", "x86_64, AVX512", 2)),
    ("cpu (aarch64, DEFAULT, 8 threads, torch 2.9.1+cpu fp32)",
     RuntimeDescription("torch", "2.9.1+cpu", "fp32", "cpu", "aarch64, DEFAULT", 8)),
    ("cuda:1 (NVIDIA H200, CUDA 13.0, torch 2.9.1 fp16)",
     RuntimeDescription("torch", "2.9.1", "fp16", "cuda:1", "NVIDIA H200", cuda="13.0")),
    ("cuda:0 (Tesla T4, torch fp16)",
     RuntimeDescription("torch", "", "fp16", "cuda:0", "", words="cuda:0 (Tesla T4, torch fp16)")),
)  # fmt: skip


@pytest.mark.parametrize(("words", "record"), WORDS)
def test_what_ran_an_older_job_is_carried_over_from_words_to_a_record_and_back(database, words, record):
    migrate(database, command.upgrade, "0005")
    fill(database)
    with database.engine.connect() as connection:
        same = "job_id, at, model_name, model_version, model_sha256, contourd, settings, images, images_sha256"
        connection.execute(
            text(
                f"INSERT INTO contourings ({same}, outputs, device, libraries) "
                f"SELECT {same}, '[]', :device, 'Python 3.12.1, torch 2.9.1' FROM contourings"
            ),
            {"device": words},
        )
        connection.commit()
    database.upgrade()
    kept = read_contoured(database, 1).contouring
    assert (kept.runtime, kept.libraries) == (record, {"Python": "3.12.1", "torch": "2.9.1"})
    assert kept.runtime.text() == words
    with pytest.raises(IntegrityError, match="only appended to"), database.transaction() as session:
        session.execute(text("UPDATE contourings SET images = 2"))
    database.downgrade("0005")
    row = content(database)["contourings"][-1]
    assert (row["device"], row["libraries"]) == (words, "Python 3.12.1, torch 2.9.1")


def remarked(database: Database, words: str) -> Remarks:
    """Bring a job that an older version remarked upon in words to this version; returns what stands there now."""
    migrate(database, command.upgrade, "0006")
    fill(database)
    with database.engine.connect() as connection:
        connection.execute(text("UPDATE jobs SET remarks = :words"), {"words": words})
        connection.commit()
    database.upgrade()
    with database.reading() as session:
        return session.scalars(select(JobRow)).one().remarks


def test_the_remarks_of_older_jobs_are_carried_over_and_told_as_they_were(database):
    words = (
        "outside the model's limits, released: small adult; seen (mp) (the patient's age is 9 years); "
        "not commissioned: the model does not know the usual size and place of any organ, only sides are checked; "
        "withheld: SpinalCord (it lies on the other side of the patient); "
        "check: Parotid_L (volume 3.1 cc, expected 5.3 to 129.2 cc; its lattices disagree: 1 of 2 found it); "
        "check: Parotid_R (volume 3.1 cc, expected 5.3 to 129.2 cc); header: the Study ID is left out"
    )
    remarks = remarked(database, words)
    assert remarks.text() == words
    assert [(r.finding.structure, r.finding.check, r.verdict) for r in remarks.records] == [
        ("", "limits", "note"),
        ("", "distribution", "note"),
        ("SpinalCord", "earlier", "withhold"),
        ("Parotid_L", "earlier", "flag"),
        ("Parotid_R", "earlier", "flag"),
        ("", "header", "note"),
    ]
    database.downgrade("0006")
    assert content(database)["jobs"][0]["remarks"] == words


@pytest.mark.parametrize("words", ["", "what nobody knows"])
def test_other_words_are_kept_as_they_are(database, words):
    assert remarked(database, words).text() == words


def test_a_measured_remark_is_told_by_its_figures_to_an_older_version(database):
    database.upgrade()
    fill(database)
    found = Finding("Larynx", RemarkCheck.VOLUME, Measure.VOLUME_CC, 71.2, (8.9, 60.1))
    with database.transaction() as session:
        session.scalars(select(JobRow)).one().remarks = Remarks((Remark(found, RemarkVerdict.FLAG),))
    database.downgrade("0006")
    told = "check: Larynx (volume: volume_cc 71.2, expected 8.9 to 60.1)"
    assert content(database)["jobs"][0]["remarks"] == told


@pytest.mark.parametrize(
    ("state", "words", "now", "code", "confirm"),
    [
        ("HELD", "waits for confirmation: a person is to look", "CONFIRMING", "waits_for_confirmation", 1),
        ("HELD", "held by marie: missing slices at z = 1", "HELD", "held_by_person", 0),
        ("SUPERSEDED", "cancelled by marie: sent by mistake", "CANCELLED", "cancelled_by_person", 0),
        ("SUPERSEDED", "another slice arrived; a newer revision takes its place", "SUPERSEDED", "newer_revision", 0),
        ("HELD", "cuda:0 ran out of memory: CUDA out of memory", "HELD", "device_out_of_memory", 0),
        ("HELD", "the frame of reference is not the CT's", "HELD", "other_images", 0),
        ("HELD", "what nobody ever said", "HELD", "other", 0),
        ("FAILED", "pacs: PACS refused the structure set", "FAILED", "delivery_refused", 0),
    ],
)
def test_reasons_of_before_have_codes_keep_their_words_and_come_back(database, state, words, now, code, confirm):
    migrate(database, command.upgrade, "0007")
    fill(database)
    path = "incoming/20260101/0a1b.dcm"
    with database.engine.connect() as connection:
        values = {"state": state, "words": words, "confirm": bool(confirm)}
        connection.execute(
            text("UPDATE jobs SET state = :state, reason = :words, confirm = :confirm, confirmed_by = ''"), values
        )
        connection.execute(text("UPDATE events SET subject = 'series', detail = :told"), {"told": f"twice: {path}"})
        connection.commit()
    database.upgrade()
    with database.reading() as session:
        job = session.scalars(select(JobRow)).one()
        assert (job.state, job.reason_code, str(job.reason)) == (now, code, words)
        assert session.scalar(text("SELECT path FROM contradicting_files")) == path
        assert session.scalar(text("SELECT number FROM tallies WHERE table_name = 'jobs' AND state = :s"), {"s": now})
    database.downgrade("0007")
    (row,) = content(database)["jobs"]
    assert (row["state"], row["reason"]) == (state, words)
    check(database)
