"""Alerts of several hosts: whoever leads goes on where the last one stopped; without the database each tells alone."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from contourd.errors import NoticeNotSent, QueueUnavailable
from contourd.observe.alerts import AWAY_S, FILE, Alerts
from contourd.settings import AlertSettings, Destination, Route, Settings, SpoolSettings
from contourd.spool.watching import StoreStanding
from contourd.store.processes import Processes, ProcessFigures
from contourd.store.states import ProcessRole
from contourd.store.tables import ProcessRow
from contourd.store.told_alerts import ToldAlerts
from contourd.system.identity import host_name
from tests.s3 import KEY


class Channel:
    """Remembers what it was told."""

    name = "mail"

    def __init__(self) -> None:
        self.began: list[str] = []
        self.ended: list[str] = []
        self.takes = True

    def send(self, notice) -> None:
        if not self.takes:
            raise NoticeNotSent("it is off")
        self.began += [concern.text for concern in notice.began]
        self.ended += notice.ended

    def told(self) -> tuple[list[str], list[str]]:
        """What came since the last time."""
        now = self.began, self.ended
        self.began, self.ended = [], []
        return now


def host(tmp_path: Path, name: str, database, clock, **more) -> tuple[Alerts, Channel]:
    (tmp_path / name).mkdir(exist_ok=True)
    values = {"disk_free_gb": 0.001, **more.pop("alerts", {})}
    elsewhere = {"database": {"url": "postgresql://db.example/contourd"}} if more.get("shared") else {}
    settings = Settings(
        **elsewhere,
        spool=SpoolSettings(root=tmp_path / name, **more),
        destination=(Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=1),),
        route=(Route(model="hn7", destinations=("pacs",)),),
        alerts=AlertSettings(**values),
    )
    channel = Channel()
    return Alerts(settings, database, [channel], clock, clock.elapsed), channel


def worker_of(database, clock, name: str, figures: ProcessFigures) -> None:
    """Have a worker of another host tell figures."""
    processes = Processes(database, clock, clock.elapsed)
    processes.begin(name, ProcessRole.WORKER, "cuda:0")
    processes.beat(name, figures)
    with database.transaction() as session:
        session.get_one(ProcessRow, name).host = name


@pytest.mark.both_databases
def test_the_next_leader_repeats_nothing_and_tells_what_is_over(tmp_path, database, clock):
    (first, to_first), (second, to_second) = (host(tmp_path, name, database, clock) for name in ("a", "b"))
    worker_of(database, clock, "gpu1", ProcessFigures(500_000, 10**12))
    first.check()
    assert to_first.told() == (["less than 0.001 GB of disk are free on host gpu1"], [])
    second.check()
    assert to_second.told() == ([], [])
    Processes(database, clock).beat("gpu1", ProcessFigures(10**11, 10**12))
    second.check()
    first.check()
    assert (to_first.told(), to_second.told()) == (([], []), ([], ["disk of host gpu1"]))


def test_of_hosts_that_do_not_lead_none_tells(tmp_path, database, clock):
    alerts, channel = host(tmp_path, "a", database, clock)
    worker_of(database, clock, "gpu1", ProcessFigures(500_000, 10**12))
    alerts.check(lambda: False)
    assert channel.told() == ([], [])


def test_a_file_of_before_is_carried_over_and_removed(tmp_path, database, clock):
    alerts, channel = host(tmp_path, "a", database, clock, alerts={"disk_free_gb": 1e9})
    kept = ["disk/disk/", "destination/destination pacs/"]
    (tmp_path / "a" / FILE).write_text(json.dumps({"mail": kept}))
    alerts.check()
    assert channel.told() == ([], ["destination pacs"])  # the disk is as full as it was
    assert not (tmp_path / "a" / FILE).exists()
    assert ToldAlerts(database).read() == {"mail": [f"disk/disk of host {host_name()}/"]}
    other, to_other = host(tmp_path, "b", database, clock, alerts={"disk_free_gb": 1e9})
    (tmp_path / "b" / FILE).write_text(json.dumps({"mail": kept}))
    other.check()
    assert to_other.told() == ([], [])
    assert not (tmp_path / "b" / FILE).exists()


def test_a_file_that_is_none_is_removed_and_everything_told(tmp_path, database, clock):
    alerts, channel = host(tmp_path, "a", database, clock, alerts={"disk_free_gb": 1e9})
    (tmp_path / "a" / FILE).write_text("[1")
    alerts.check()
    assert channel.told() == ([f"less than 1e+09 GB of disk are free on host {host_name()}"], [])
    assert not (tmp_path / "a" / FILE).exists()


def away(*asked):  # noqa: ARG001
    raise QueueUnavailable("the database is away")


def test_a_host_that_cannot_reach_the_database_tells_that_after_a_while_and_when_it_is_back(
    tmp_path, database, clock, monkeypatch
):
    alerts, channel = host(tmp_path, "a", database, clock, alerts={"disk_free_gb": 1e9})
    with monkeypatch.context() as broken:
        broken.setattr(ToldAlerts, "read", away)
        for leads in (True, False):  # nobody leads without it
            with pytest.raises(QueueUnavailable):
                alerts.check(lambda leads=leads: leads)
            assert channel.told() == ([], [])
            clock.advance(AWAY_S)
            channel.takes = False
            with pytest.raises(QueueUnavailable):
                alerts.check(lambda leads=leads: leads)
            channel.takes = True
            clock.advance(60)
            for _ in range(2):
                with pytest.raises(QueueUnavailable):
                    alerts.check(lambda leads=leads: leads)
            if leads:
                ((text,), ended) = channel.told()
                assert text == (
                    f"host {host_name()} cannot reach the database: nothing is received, contoured or sent there; "
                    f"less than 1e+09 GB of disk are free on host {host_name()}"
                )
                assert ended == []
    assert channel.told() == ([], [])
    alerts.check(lambda: False)
    alerts.check(lambda: False)
    assert channel.told() == ([], [f"database on host {host_name()}"])


def test_what_was_told_and_could_not_be_written_down_is_not_told_again(tmp_path, database, clock, monkeypatch):
    alerts, channel = host(tmp_path, "a", database, clock, alerts={"disk_free_gb": 1e9})
    with monkeypatch.context() as broken:
        broken.setattr(ToldAlerts, "keep", away)
        with pytest.raises(QueueUnavailable):
            alerts.check()
    assert len(channel.told()[0]) == 1
    alerts.check()
    assert channel.told() == ([], [])
    assert list(ToldAlerts(database).read()) == ["mail"]


def test_a_store_that_does_not_answer_a_host_is_told_once_and_when_it_is_back(tmp_path, database, clock):
    credentials = tmp_path / "s3.credentials"
    credentials.write_text(KEY)
    store = {"endpoint": "http://127.0.0.1:1", "bucket": "bucket", "credentials_file": credentials}
    alerts, channel = host(tmp_path, "a", database, clock, store=store)
    down = StoreStanding(False, clock(), "it refuses")
    worker_of(database, clock, "gpu1", ProcessFigures(10**11, 10**12, down))
    alerts.check()
    clock.advance(60)
    Processes(database, clock).beat("gpu1", ProcessFigures(10**11, 10**12, down))
    alerts.check()
    assert channel.told() == ([], [])  # it may be restarted
    clock.advance(1)
    alerts.check()
    alerts.check()
    assert channel.told() == (["the object store does not answer host gpu1"], [])
    Processes(database, clock).beat("gpu1", ProcessFigures(10**11, 10**12, StoreStanding(True, clock(), "it refuses")))
    clock.now += timedelta(seconds=1)
    alerts.check()
    assert channel.told() == ([], ["object store on host gpu1"])


def test_hosts_that_share_a_folder_have_one_disk(tmp_path, database, clock):
    alerts, channel = host(tmp_path, "a", database, clock, shared=True, alerts={"disk_free_gb": 1e9})
    worker_of(database, clock, "gpu1", ProcessFigures(500_000, 10**12))
    alerts.check()
    assert channel.told() == ([f"less than 1e+09 GB of disk are free on host {host_name()}"], [])
