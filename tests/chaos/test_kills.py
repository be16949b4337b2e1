"""The short form of the chaos campaign: SIGKILL at named points and at random moments under load, with a fixed seed."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from tests.chaos import hearing
from tests.chaos.campaign import kill_at_points, kill_at_random
from tests.chaos.hearing import strike_parts
from tests.chaos.points import NAMED, TRANSITIONS, in_the_tables, of_transitions
from tests.chaos.site import Site, site
from tests.chaos.verdict import judge

SEED, KILLS, LONGEST_S = 20261124, 4, 3.0
SETTLING_S = 200.0
SHORT = (
    "after the commit of series RECEIVING COMPLETE",
    "in the middle of a PDU",
    "a receiver, after the commit",
    "after rename, before the commit",
    "after the commit, before the response",
    "after the RTSTRUCT, before the state: the worker",
    "the destination's C-STORE-RSP is lost",
    "storage commitment is recorded, not answered",
    "after the commit of jobs DELIVERING QUEUED",
    "in shutdown, after reception ends",
    "at the start, after the queue's recovery",
)


def test_every_transition_has_its_kill() -> None:
    assert in_the_tables() <= TRANSITIONS.keys()
    created = {name for name in TRANSITIONS if re.match(r"\w+ - ", name)}
    assert TRANSITIONS.keys() - in_the_tables() == created
    names = [point.name for point in (*of_transitions(), *NAMED)]
    assert len(set(names)) == len(names)


# pynetdicom leaves the socket of a refused connection to the garbage collector; the senders here meet many.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(400)  # a minute where nothing else runs
def test_nothing_is_lost_and_nothing_doubled(tmp_path: Path, bright_bundle: Path) -> None:
    points = {point.name: point for point in (*of_transitions(), *NAMED)}
    with site(tmp_path, bright_bundle, SEED) as node:
        kill_at_points(node, [points[name] for name in SHORT])
        kill_at_random(node, KILLS, random.Random(SEED), LONGEST_S)
        assert node.settle(SETTLING_S) == 0
        assert node.kills == len(SHORT) + KILLS
        verdict = judge(node)
        assert verdict.problems == ()
        assert verdict.acknowledged == 24 * verdict.series >= 24 * len(SHORT[:-1])
        _the_verdict_sees_what_is_wrong(node)


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(600)  # half a minute where nothing else runs
def test_a_node_that_lost_a_part_is_well_again_or_ends_and_says_no_more_than_a_peer_hears(
    tmp_path: Path,
    bright_bundle: Path,
) -> None:
    with site(tmp_path, bright_bundle, SEED, page=True) as node:
        heard = strike_parts(node, hearing.SHORT)
        assert [problem for one in heard for problem in one.problems] == []
        assert node.settle(SETTLING_S) == 0
        assert judge(node).problems == ()
    wrong = [hearing.Heard("deaf", 60.0, 60.0, 0.0), hearing.Heard("a false alarm", 60.0, 0.0, 60.0)]
    assert [len(one.problems) for one in wrong] == [1, 1]


def _the_verdict_sees_what_is_wrong(node: Site) -> None:
    """Do to the spool and the destinations what must never happen; each is found."""
    ((first,), (second,)) = node.server.ask("SELECT path FROM instances ORDER BY id LIMIT 2")
    changed = node.server.spool / first
    changed.write_bytes(changed.read_bytes()[:-2] + b"\x01\x7f")
    assert judge(node).lost == 1
    (node.server.spool / second).rename(node.server.spool / "incoming" / "other.dcm")
    found = judge(node)
    assert found.lost == 2
    assert any("belongs to nothing: incoming/other.dcm" in problem for problem in found.problems)
    steady = node.destinations[0]
    series, (uid,) = next(iter(steady.order.items()))
    steady.digests[uid].add("of another copy")
    assert judge(node).doubled == 1
    steady.order[series].append("1.2.3")
    assert judge(node).doubled == 2
    del steady.order[series]
    steady.copies[uid] = 0
    assert judge(node).missing == 2
