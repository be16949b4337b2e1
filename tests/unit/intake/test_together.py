"""What several associations bring at the same time; and which images take the short way into the database."""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event, select

from contourd.dicom.network.events import ReceivedInstance
from contourd.errors import SeriesFull
from contourd.intake.further_images import add_further
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import SeriesSettings
from contourd.store.database import Database
from contourd.store.states import SeriesState
from contourd.store.tables import InstanceRow, SeriesRow
from tests.intake_node import Node, ct
from tests.queueing import START

pytestmark = pytest.mark.both_databases


def received(node: Node, association: int, series: str, number: int) -> ReceivedInstance:
    path = f"{series}-{number}.dcm"
    (node.root / path).write_bytes(b"an image")
    return ReceivedInstance(association, "CT1", series, f"{series}.{number}", path, "0" * 64, "pseudonym")


def test_associations_that_send_at_once_have_every_image_and_their_own_refusal(node) -> None:
    """The third series is full after five images; what the others send meanwhile is not refused with it."""
    node.restarted(settings=SeriesSettings(quiet_s=10, gapped_s=60, max_instances=5))
    begin = threading.Barrier(4)

    def send(series: int) -> list[bool]:
        association, taken = node.open(), []
        begin.wait(20)
        for number in range(8 if series == 3 else 5):
            try:
                node.intake.instance_stored(received(node, association, f"1.2.{series}", number))
            except SeriesFull:
                taken.append(False)
            else:
                taken.append(True)
        node.intake.association_closed(association, False)
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(send, (1, 2, 3, 4)))
    assert taken == [[True] * 5, [True] * 5, [True] * 5 + [False] * 3, [True] * 5]
    assert node.instances() == 20
    assert len(list(node.root.iterdir())) == 20  # none of a refused image
    with node.database.reading() as session:
        rows = session.execute(select(SeriesRow.series_uid, InstanceRow.sop_instance_uid).join(InstanceRow)).all()
    assert {(uid, sop.rpartition(".")[0]) for uid, sop in rows} == {(f"1.2.{n}",) * 2 for n in (1, 2, 3, 4)}


def test_the_end_of_an_association_comes_after_its_images(node) -> None:
    """While another association's image is being written, the end of none overtakes an image of its own."""
    order: list[tuple[int, str]] = []
    begin = threading.Barrier(3)

    def send(series: int) -> None:
        association = node.open()
        begin.wait(20)
        for number in range(10):
            node.intake.instance_stored(received(node, association, f"1.2.{series}", number))
            with node.database.reading() as session:
                known = session.scalars(
                    select(InstanceRow.path).where(InstanceRow.path == f"1.2.{series}-{number}.dcm")
                )
                order.append((series, "there" if known.first() else "not there"))
        node.intake.association_closed(association, False)
        order.append((series, "closed"))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(send, (1, 2, 3)))
    for series in (1, 2, 3):
        assert [what for n, what in order if n == series] == ["there"] * 10 + ["closed"]


@pytest.fixture
def begun(node, tmp_path):
    association = node.open()
    for path in ct(tmp_path / "ct")[:3]:
        node.store(association, path)
    return node


def further(node: Node, **changes) -> ReceivedInstance:
    new = ReceivedInstance(1, "CT1", node.series().series_uid, "1.2.3", "new.dcm", "0" * 64, "pseudonym")
    return dataclasses.replace(new, **changes)


def short(node: Node, arrived: ReceivedInstance, most: int = 100) -> bool:
    with node.database.by_driver() as cursor:
        return add_further(cursor, arrived, most, node.now)


@pytest.mark.sqlite_alone
def test_a_further_image_is_added_and_its_series_is_not_quiet(begun) -> None:
    begun.now = begun.now.replace(hour=1)
    assert short(begun, further(begun))
    assert begun.instances() == 4
    assert begun.series().last_instance_at == begun.now
    with begun.database.reading() as session:
        row = session.scalars(select(InstanceRow).where(InstanceRow.sop_instance_uid == "1.2.3")).one()
    assert (row.path, row.sha256, row.received_at, row.series_id) == ("new.dcm", "0" * 64, begun.now, begun.series().id)


@pytest.mark.sqlite_alone
def test_what_there_is_more_to_decide_about_is_left_alone(begun) -> None:
    with begun.database.reading() as session:
        known = session.scalars(select(InstanceRow.sop_instance_uid)).first()
    before = begun.series().last_instance_at
    begun.now = begun.now.replace(hour=1)
    assert not short(begun, further(begun, series_instance_uid="1.2.9"))
    assert not short(begun, further(begun, sop_instance_uid=known))
    assert not short(begun, further(begun), most=3)
    assert begun.instances() == 3
    assert begun.series().last_instance_at == before


@pytest.mark.sqlite_alone
@pytest.mark.parametrize(
    "changes",
    [
        {"state": SeriesState.HELD, "reason": Reason.of(HoldReason.NO_ROUTE)},
        {"state": SeriesState.COMPLETE},
        {"calling_ae": ""},
        {"purged_at": START},
    ],
)
def test_a_series_of_which_more_is_to_be_known_is_left_alone(begun, changes) -> None:
    with begun.database.transaction() as session:
        row = session.scalars(select(SeriesRow)).one()
        for name, value in changes.items():
            setattr(row, name, value)
    assert not short(begun, further(begun))
    assert begun.instances() == 3


@pytest.mark.sqlite_alone
def test_a_further_image_takes_three_statements(begun, tmp_path) -> None:
    """What is asked of the database for nearly every image that is received, and nothing by SQLAlchemy."""
    by_sqlalchemy: list[str] = []
    event.listen(begun.database.engine, "before_cursor_execute", lambda *call: by_sqlalchemy.append(call[2]))
    said: list[str] = []
    with begun.database.by_driver() as cursor:
        cursor.connection.set_trace_callback(said.append)  # the pool gives this connection to whoever is next
    del said[:]
    begun.store(1, ct(tmp_path / "ct")[3])
    first_words = [one.split()[0] for one in dict.fromkeys(said)]  # one with triggers is told for each of them
    assert first_words == ["BEGIN", "SELECT", "INSERT", "UPDATE", "COMMIT"], said
    assert by_sqlalchemy == []


@pytest.mark.sqlite_alone
def test_an_image_is_written_the_same_by_either_way(begun, monkeypatch) -> None:
    """The driver stores what SQLAlchemy would."""
    series = begun.series().series_uid
    begun.now = begun.now.replace(hour=1, microsecond=250)
    begun.intake.instance_stored(received(begun, 1, series, 1))
    with monkeypatch.context() as patch:
        patch.setattr(Database, "is_sqlite", False)
        begun.restarted()  # an intake that leaves the driver alone
    begun.intake.instance_stored(received(begun, 1, series, 2))
    with begun.database.engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT series_id, sha256, received_at, typeof(series_id), typeof(received_at), typeof(sha256) "
            "FROM instances WHERE sop_instance_uid LIKE :like",
            {"like": f"{series}._"},
        ).all()
        touched = connection.exec_driver_sql("SELECT typeof(last_instance_at) FROM series").scalar()
    assert len(rows) == 2
    assert rows[0] == rows[1]
    assert touched == "text"
    assert begun.series().last_instance_at == begun.now


@pytest.mark.sqlite_alone
def test_what_contradicts_leaves_the_driver_without_a_trace(begun) -> None:
    def contradict() -> None:
        with begun.database.by_driver() as cursor:
            assert add_further(cursor, further(begun), 100, begun.now)
            cursor.execute("UPDATE instances SET series_id = NULL")

    with pytest.raises(sqlite3.IntegrityError):
        contradict()
    assert begun.instances() == 3
    assert short(begun, further(begun))
