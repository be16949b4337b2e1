"""The short form of the campaign of several hosts: each of them, PostgreSQL and the store, struck once under load."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.hosts import Hosts, several_hosts
from tests.chaos.hosts_campaign import blows_of, in_short, strike_each
from tests.chaos.verdict import judge_hosts

SEED, SETTLING_S, LEASE_S = 20261130, 300.0, 2.0


# pynetdicom leaves the socket of a refused connection to the garbage collector; the senders here meet many.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(600)  # a minute where nothing else runs
def test_nothing_is_lost_and_nothing_doubled_between_hosts(tmp_path: Path, bright_bundle: Path) -> None:
    with several_hosts(tmp_path / "hosts", bright_bundle, SEED, LEASE_S) as hosts:
        together = in_short(hosts)
        assert {blow for blows in together for blow in blows} == set(blows_of(hosts))
        strike_each(hosts, together, random.Random(SEED))
        hosts.settle(SETTLING_S)
        verdict = judge_hosts(hosts)
        assert verdict.problems == ()
        assert verdict.kills == len(blows_of(hosts))
        assert verdict.series == len(together)
        assert verdict.acknowledged == 24 * verdict.series
        _the_verdict_sees_what_is_wrong(hosts)


def _the_verdict_sees_what_is_wrong(hosts: Hosts) -> None:
    """Do to the store and a destination what must never happen; each is found."""
    ((path, name),) = hosts.ask("SELECT path, object FROM stored_files JOIN instances USING (path) LIMIT 1")
    hosts.bucket.open().delete(name)
    assert judge_hosts(hosts).lost >= 1, path
    steady = hosts.destinations[0]
    series, (uid, *_) = next(iter(steady.order.items()))
    steady.digests[uid].add("of a late result")
    assert judge_hosts(hosts).doubled == 1
    steady.copies["1.2.3"] = 1
    assert judge_hosts(hosts).late == 1
    del steady.copies["1.2.3"]
    del steady.order[series]
    steady.copies[uid] = 0
    assert judge_hosts(hosts).missing == 2
