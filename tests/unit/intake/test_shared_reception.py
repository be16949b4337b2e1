"""Two processes receive for one database: a series that either holds open is judged by nobody."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from contourd.store.states import SeriesState
from contourd.store.tables import OpenSeriesRow
from tests.intake_node import Node, ct

pytestmark = pytest.mark.both_databases


class Pair:
    """Two intakes of one node's database; ``first`` or ``second`` is the one that the sender speaks to."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.intakes = {name: node.restarted() for name in ("first", "second")}
        for name, intake in self.intakes.items():
            intake.share(name)

    def at(self, name: str) -> Node:
        self.node.intake = self.intakes[name]
        return self.node

    def open_rows(self) -> list[str]:
        with self.node.database.reading() as session:
            return sorted(session.scalars(select(OpenSeriesRow.process)))

    def wait(self, seconds: float) -> SeriesState:
        """Let time pass, and let each look at the quiet series, as if it led."""
        self.node.wait(seconds)
        for intake in self.intakes.values():
            intake.close_quiet()
        return SeriesState(self.node.series().state)


@pytest.fixture
def pair(node: Node) -> Pair:
    return Pair(node)


@pytest.mark.parametrize(("opens", "other"), [("first", "second"), ("second", "first")])
def test_a_series_that_comes_through_both_is_one_and_waits_for_both(pair, tmp_path, opens, other):
    paths = ct(tmp_path / "ct")
    association = pair.at(opens).open()
    for path in paths[:10]:
        pair.node.store(association, path)
    pair.at(other).send(paths[10:])
    assert pair.open_rows() == [opens]
    assert pair.wait(3600) == SeriesState.RECEIVING  # contiguous and quiet, and open at the one
    pair.at(opens).intake.association_closed(association, aborted=False)
    assert pair.open_rows() == []
    assert pair.wait(9) == SeriesState.RECEIVING
    assert pair.wait(1) == SeriesState.COMPLETE
    (job,) = pair.node.jobs()
    assert (job.revision, pair.node.instances()) == (1, 20)


def test_two_associations_of_one_process_hold_it_until_the_second_ends(pair, tmp_path):
    paths = ct(tmp_path / "ct")
    node = pair.at("first")
    associations = [node.open(), node.open()]
    for number, path in enumerate(paths):
        node.store(associations[number % 2], path)
    node.intake.association_closed(associations[0], aborted=False)
    assert pair.open_rows() == ["first"]
    assert pair.wait(60) == SeriesState.RECEIVING
    node.intake.association_closed(associations[1], aborted=False)
    assert pair.wait(10) == SeriesState.COMPLETE


def test_what_a_dead_process_was_receiving_is_broken_off(pair, tmp_path):
    paths = ct(tmp_path / "ct")
    association = pair.at("first").open()
    for path in paths[:18]:
        pair.node.store(association, path)
    living = pair.at("second").intake
    living.process_ended("first")
    assert pair.open_rows() == []
    del pair.intakes["first"]
    assert pair.wait(59) == SeriesState.RECEIVING
    assert pair.wait(1) == SeriesState.HELD
    assert str(pair.node.series().reason).startswith("contourd was ended in mid-series; 18 contiguous slices are here")


def test_a_process_that_starts_leaves_alone_what_another_holds_open(pair, tmp_path):
    association = pair.at("first").open()
    for path in ct(tmp_path / "ct"):
        pair.node.store(association, path)
    pair.at("second").intake.recover({"first"})
    pair.at("first").intake.association_closed(association, aborted=False)
    assert pair.wait(10) == SeriesState.COMPLETE


def test_a_process_that_stops_holds_nothing_open(pair, tmp_path):
    association = pair.at("first").open()
    for path in ct(tmp_path / "ct"):
        pair.node.store(association, path)
    pair.node.now = pair.node.now.replace(second=30)  # it had sent all
    pair.node.intake.stopped()
    assert pair.open_rows() == []
    del pair.intakes["first"]
    pair.at("second")
    assert pair.wait(10) == SeriesState.COMPLETE


def test_another_hosts_clock_neither_hastens_nor_delays_a_series(pair, tmp_path):
    paths = ct(tmp_path / "ct")
    for intake in pair.intakes.values():
        intake.close_quiet()
    now = pair.node.now
    pair.node.set_clock(-3600)  # of the host that receives
    pair.at("second").send(paths)
    pair.node.set_clock(3600)
    assert pair.node.now == now
    pair.at("first")
    pair.intakes = {"first": pair.intakes["first"]}
    assert pair.wait(1) == SeriesState.RECEIVING
    assert pair.wait(8) == SeriesState.RECEIVING
    assert pair.wait(1) == SeriesState.COMPLETE
