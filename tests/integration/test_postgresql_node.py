"""The real node on PostgreSQL: carried over from SQLite, through a crash of the server, and no other site's."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.store.database import Database
from tests import databases
from tests.bright import phantom, series_uid
from tests.integration.destination import receiver
from tests.integration.quick_node import watched
from tests.integration.serving import send
from tests.interop.node import contourd, serve, write_configuration
from tests.peers import free_port

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def umask():
    """The commands set it for their own process, which here is the test's."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def cluster() -> Iterator[databases.Cluster]:
    """Run a server that keeps what it has committed."""
    cluster = databases.Cluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


def test_a_site_is_carried_over_and_goes_on(cluster: databases.Cluster, tmp_path: Path, bright_bundle: Path) -> None:
    folder, port, name = tmp_path / "node", free_port(), cluster.make()
    url = cluster.url(name)
    first, second, third = (
        write_ct_series(phantom(), tmp_path / name, SeriesIdentity(name, f"{name}^Test")) for name in ("a", "b", "c")
    )
    in_postgresql = f'[database]\nurl = "{url}"\n'
    with receiver() as peer:
        pacs = {"pacs": ("RECEIVER", peer.port)}
        with serve(folder, bright_bundle, pacs, port) as node:
            assert set(send(port, sorted(first.iterdir())).values()) == {0}
            watched(node).wait_until(lambda s: s["counts"]["DELIVERED"] == 1)
            assert "already serves the spool" in contourd("db", "move", url, "--config", node.configuration).output
        moved = contourd("db", "move", url, "--config", node.configuration)
        assert "rows of" in moved.output
        assert databases.PASSWORD not in moved.output
        with serve(folder, bright_bundle, pacs, port, more=in_postgresql) as node:
            assert set(send(port, sorted(second.iterdir())).values()) == {0}
            watched(node).wait_until(lambda s: s["counts"]["DELIVERED"] == 2)
            cluster.stop(signal.SIGQUIT)  # as if its machine had lost power
            assert set(send(port, sorted(third.iterdir())[:1]).values()) == {0xA700}
            assert "cannot be reached: nothing listens" in contourd("status", "--config", node.configuration).output
            cluster.start()
            assert set(send(port, sorted(third.iterdir())).values()) == {0}
            status = watched(node).wait_until(lambda s: s["counts"]["DELIVERED"] == 3)
            assert status["destinations"][0]["state"] == "UP"
            told = contourd("status", "--config", node.configuration)
            assert (told.status, "DELIVERED 3" in told.output) == (0, True)
            assert "pg_dump" in contourd("db", "backup", tmp_path / "copy", "--config", node.configuration).output
        assert sorted(uid for _, uid in peer.received) == sorted(map(series_uid, (first, second, third)))
        assert databases.PASSWORD not in node.log
        assert url not in node.log
        of_another = write_configuration(tmp_path / "other", free_port(), bright_bundle, pacs, more=in_postgresql)
        refused = contourd("serve", "--config", of_another)
        assert refused.status == 2
        assert "is of another site" in refused.output
        assert "copy site.key" in refused.output
    back = tmp_path / "back.sqlite"
    assert contourd("db", "move", f"sqlite:///{back}", "--config", node.configuration).status == 0
    with closing(sqlite3.connect(back)) as file:
        assert file.execute("SELECT count(*) FROM jobs WHERE state = 'DELIVERED'").fetchone() == (3,)
        assert ("db move",) in file.execute("SELECT action FROM audit").fetchall()
    again = Database(f"sqlite:///{back}")
    again.check()
    again.close()
