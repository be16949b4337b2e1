"""A transfer that broke off: held though its slices have no gap, until all of it came again in good order."""

from __future__ import annotations

from datetime import timedelta

import pytest

from contourd.store.states import SeriesState
from tests.intake_node import Node, ct

pytestmark = pytest.mark.both_databases


def test_a_series_in_whose_middle_the_node_was_killed_is_held_even_if_contiguous(node: Node, tmp_path):
    """72 slices of 90 have no gap, either: nobody saw the sender end."""
    association, paths = node.open(), ct(tmp_path / "ct")
    for path in paths[:18]:
        node.store(association, path)
    node.restarted().recover()
    node.wait(60)
    assert node.series().state == SeriesState.HELD
    assert str(node.series().reason).startswith("contourd was ended in mid-series; 18 contiguous slices are here")
    node.send(paths)
    node.wait(10)
    assert (node.series().state, len(node.jobs())) == (SeriesState.COMPLETE, 1)


@pytest.mark.parametrize("idle_s", [9, 10])
def test_of_an_association_that_is_open_at_a_stop_the_quiet_decides(node: Node, tmp_path, idle_s):
    association = node.open()
    for path in ct(tmp_path / "ct"):
        node.store(association, path)
    node.now += timedelta(seconds=idle_s)
    node.intake.stopped()
    node.restarted().recover()
    node.wait(60)
    assert node.series().state == (SeriesState.COMPLETE if idle_s == 10 else SeriesState.HELD)


@pytest.mark.parametrize("broken_off", ["aborted", "killed"])
def test_what_was_broken_off_at_its_very_end_goes_on_when_all_of_it_came_again(node: Node, tmp_path, broken_off):
    association, paths = node.open(), ct(tmp_path / "ct")
    for path in paths:
        node.store(association, path)
    if broken_off == "aborted":
        node.intake.association_closed(association, aborted=True)
    node.restarted().recover()
    node.wait(60)
    assert node.series().state == SeriesState.HELD
    node.send(paths[3:])  # a part of it says nothing of the rest
    node.wait(60)
    assert node.series().state == SeriesState.HELD
    node.send(paths)
    node.wait(10)
    assert (node.series().state, len(node.jobs())) == (SeriesState.COMPLETE, 1)


@pytest.mark.parametrize("waited_s", [0, 60])
@pytest.mark.parametrize("further", [slice(17, 18), slice(17, 20), slice(16, 18)])
def test_a_further_slice_does_not_make_a_broken_off_series_whole(node: Node, tmp_path, waited_s, further):
    paths = ct(tmp_path / "ct")
    node.send(paths[:17], aborted=True)
    node.wait(waited_s)
    node.send(paths[further])
    node.wait(60)
    assert (node.series().state, len(node.jobs())) == (SeriesState.HELD, 0)
    assert str(node.series().reason).startswith("the sender aborted in mid-series")
    node.release(node.series().id)
    node.wait(0)
    assert node.series().state == SeriesState.COMPLETE


@pytest.mark.parametrize("waited_s", [0, 60])
def test_a_broken_off_series_may_come_again_in_several_associations(node: Node, tmp_path, waited_s):
    paths = ct(tmp_path / "ct")
    node.send(paths[:17], aborted=True)
    node.wait(waited_s)
    node.send(paths[10:])
    node.send(paths[:9])
    node.wait(60)
    assert node.series().state == SeriesState.HELD
    node.send(paths[9:10])
    node.wait(10)
    assert (node.series().state, len(node.jobs())) == (SeriesState.COMPLETE, 1)


def test_of_two_associations_at_once_the_one_that_broke_off_must_come_again(node: Node, tmp_path):
    paths = ct(tmp_path / "ct")
    one, other = node.open(), node.open()
    for path in paths[:6]:
        node.store(one, path)
    node.store(other, paths[10])
    node.intake.association_closed(one, aborted=True)
    for path in (*paths[6:10], *paths[11:]):
        node.store(other, path)
    node.intake.association_closed(other, aborted=False)
    node.wait(60)
    assert node.series().state == SeriesState.HELD
    node.send(paths[:6])
    node.wait(10)
    assert node.series().state == SeriesState.COMPLETE
