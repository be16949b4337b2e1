"""What was told by alerts, in the database: for whoever leads next."""

from __future__ import annotations

import pytest

from contourd.store.told_alerts import ToldAlerts

pytestmark = pytest.mark.both_databases


def test_what_a_channel_was_told_is_kept_for_itself(database, clock):
    told = ToldAlerts(database, clock)
    told.keep("mail", ["held/job 1/3", "disk/disk of host a/"])
    clock.advance(5)
    told.keep("webhook", ["held/job 1/3"])
    told.keep("mail", ["held/job 1/3", "failed/job 2/9"])
    assert ToldAlerts(database).read() == {"mail": ["held/job 1/3", "failed/job 2/9"], "webhook": ["held/job 1/3"]}
    told.keep("mail", [])
    assert told.read() == {"webhook": ["held/job 1/3"]}
    told.forget()
    assert told.read() == {}


def test_what_an_earlier_version_kept_is_carried_over_once(database, clock):
    told = ToldAlerts(database, clock)
    assert told.carry_over({"mail": ["held/job 1/3", "held/job 1/3"], "webhook": []})
    assert told.read() == {"mail": ["held/job 1/3"]}
    told.forget()
    assert not ToldAlerts(database, clock).carry_over({"mail": ["held/job 2/4"]})  # of another host
    assert told.read() == {}
