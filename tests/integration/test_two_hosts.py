"""Two hosts behind haproxy, on PostgreSQL and an object store: one series; the same bytes on each; a dump put back."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests import databases
from tests.chaos.hosts import NAMED
from tests.chaos.peers import dataset_digest
from tests.integration.quick_node import QuickNode
from tests.integration.receiving import sending
from tests.integration.serving import send, series, wait
from tests.interop.node import CONTOURD, write_configuration
from tests.peers import LOOPBACK, StoreSCP, free_port, require, running, storescp
from tests.s3 import Bucket

NAMES = ("ct-a", "ct-b")
BALANCER = """
global
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 5m
    timeout server 5m
listen dicom
    bind {address}:{port}
    balance roundrobin
"""


def on_host(name: str, *command: str) -> tuple[str, ...]:
    """Return a command of contourd as it runs on a host of that name."""
    return ("unshare", "--uts", *NAMED, name, *CONTOURD, *command)


class Site:
    """Two hosts with nothing in common but database and bucket, and haproxy before them."""

    def __init__(self, folder: Path, url: str, bucket: Bucket, bundle: Path, pacs: StoreSCP) -> None:
        self.folder, self.url, self.pacs = folder, url, pacs
        self.ports = {name: free_port() for name in NAMES}
        destinations = {"pacs": (pacs.ae_title, pacs.port)}
        more = bucket.toml(20.0) + f'[database]\nurl = "{url}"\n'
        self.configurations = {
            name: write_configuration(folder / name, port, bundle, destinations, more, "receivers = 1")
            for name, port in self.ports.items()
        }

    @contextmanager
    def serving(self) -> Iterator[tuple[int, list[QuickNode]]]:
        """Run both, and haproxy; returns its port."""
        with ExitStack() as stack:
            nodes, port = list[QuickNode](), free_port()
            for name, of_node in self.ports.items():
                command = on_host(name, "serve", "--config", str(self.configurations[name]))
                log = self.folder / name / "contourd.log"
                nodes.append(QuickNode(log.parent, of_node, stack.enter_context(running(command, of_node, log))))
            balancer = self.folder / "haproxy.cfg"
            servers = "".join(f"    server {name} {LOOPBACK}:{at}\n" for name, at in self.ports.items())
            balancer.write_text(BALANCER.format(address=LOOPBACK, port=port) + servers)
            command = (require("haproxy"), "-db", "-f", str(balancer))
            stack.enter_context(running(command, port, self.folder / "haproxy.log"))
            yield port, nodes

    def run(self, name: str, *command: str) -> str:
        """Run a command on a host; returns what it says."""
        full = on_host(name, *command, "--config", str(self.configurations[name]))
        ran = subprocess.run(full, capture_output=True, text=True, timeout=300, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(query.encode()).fetchall()


@pytest.fixture
def site(tmp_path: Path, cluster: databases.Cluster, bucket: Bucket, bright_bundle: Path) -> Iterator[Site]:
    if subprocess.run(on_host("ct-a", "--version"), capture_output=True, check=False).returncode:
        pytest.skip("this user may give no process a host name (unshare)")
    with storescp(tmp_path / "pacs") as pacs:
        yield Site(tmp_path, cluster.url(cluster.make()), bucket, bright_bundle, pacs)


def send_through_both(port: int, paths: list[Path]) -> None:
    """Send half of a series on an association that stays open meanwhile, so that the other half goes to the other."""
    half = len(paths) // 2
    with sending(port) as association:
        assert {int(association.send_c_store(path).Status) for path in paths[:half]} == {0}
        assert set(send(port, paths[half:]).values()) == {0}


@pytest.mark.peers
@pytest.mark.timeout(900)  # half a minute where nothing else runs
def test_a_series_through_both_hosts_is_one_and_the_other_host_makes_the_same_bytes_again(
    site: Site, tmp_path: Path
) -> None:
    first, later = series(tmp_path, "P1"), series(tmp_path, "P2")
    dump = tmp_path / "contourd.dump"
    with site.serving() as (port, (node, _)):
        send_through_both(port, first)
        wait(lambda: len(list(site.pacs.folder.iterdir())) == 1, node)
        node.wait_until(lambda s: s["counts"].get("DELIVERED") == 1)
        assert site.ask("SELECT revision, state FROM series") == [(1, "COMPLETE")]
        assert site.ask("SELECT revision, state, attempts FROM jobs") == [(1, "DELIVERED", 1)]
        hosts = "SELECT substring(path, 19, 4), count(*) FROM instances GROUP BY 1 ORDER BY 1"
        assert site.ask(hosts) == [(name, len(first) // 2) for name in NAMES]
        ((contoured,),) = site.ask("SELECT host FROM contourings JOIN processes ON processes.id = process")
        (other,) = set(NAMES) - {contoured}
        assert "the same bytes" in site.run(other, "replay", "1")
        here = site.folder / other / "spool" / "incoming"
        assert len(list(here.glob("*/*.dcm"))) == len(first)  # half of them, and its work, by way of the store
        subprocess.run(["pg_dump", "--format=custom", f"--file={dump}", site.url], check=True, capture_output=True)
        send_through_both(port, later)
        node.wait_until(lambda s: s["counts"].get("DELIVERED") == 2)
    restored = ["pg_restore", "--clean", "--if-exists", f"--dbname={site.url}", str(dump)]
    subprocess.run(restored, check=True, capture_output=True)
    assert site.ask("SELECT count(*) FROM series") == [(1,)]
    for name in NAMES:
        assert "start contourd again" in site.run(name, "db", "restore", str(dump), "--put-back")
    with site.serving() as (_, (node, _)):
        counted = "SELECT count(*) FROM instances GROUP BY series_id ORDER BY series_id"
        wait(lambda: site.ask(counted) == [(len(first),), (len(later),)], node)
        node.wait_until(lambda s: s["counts"].get("DELIVERED") == 2)
    # What was made and sent after the dump is made again, and sent again: the same structure set, byte for byte.
    sets = [dataset_digest(path) for path in site.pacs.folder.iterdir()]
    assert len(sets) == 3
    assert len(set(sets)) == 2
