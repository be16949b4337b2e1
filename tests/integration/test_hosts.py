"""Hosts that share one database: nodes that receive, of which one leads, and workers that contour and nothing else."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contourd.store.database import Database
from contourd.store.processes import Processes, RunningProcess
from contourd.store.site import belong_to_site
from contourd.store.states import ProcessRole
from tests import databases
from tests.integration.quick_node import QuickNode
from tests.integration.receiving import sending
from tests.integration.serving import WAIT_S, send, series, wait
from tests.interop.node import CONTOURD, QUIET_S, write_configuration
from tests.peers import free_port, running, storescp


@contextmanager
def working(configuration: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `contourd worker` until the block ends."""
    with log.open("ab") as out:
        command = [*CONTOURD, "worker", "--config", str(configuration)]
        worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield worker
    finally:
        worker.terminate()
        assert worker.wait(WAIT_S) == 0, log.read_text()[-4000:]


def processes_of(url: str) -> list[RunningProcess]:
    database = Database(url)
    try:
        return Processes(database).running()
    finally:
        database.close()


def test_a_worker_does_not_work_for_another_site(tmp_path, bright_bundle):
    configuration = write_configuration(tmp_path / "node", free_port(), bright_bundle, {"pacs": ("PACS", free_port())})
    (tmp_path / "node" / "spool").mkdir(exist_ok=True)
    database = Database(f"sqlite:///{tmp_path / 'node' / 'spool' / 'contourd.sqlite'}")
    database.prepare()
    belong_to_site(database, "a" * 64, datetime.now(UTC))
    database.close()
    command = [*CONTOURD, "worker", "--config", str(configuration)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert ended.returncode == 2
    assert "is of another site" in ended.stderr


@pytest.mark.peers
def test_a_node_without_workers_and_a_host_that_only_works(tmp_path, bright_bundle):
    folder, port = tmp_path / "node", free_port()
    paths = series(tmp_path, "p1")
    url = f"sqlite:///{folder}/spool/contourd.sqlite"
    with ExitStack() as stack:
        pacs = stack.enter_context(storescp(tmp_path / "pacs"))
        destinations = {"pacs": (pacs.ae_title, pacs.port)}
        configuration = write_configuration(folder, port, bright_bundle, destinations)
        command = [*CONTOURD, "serve", "--no-worker", "--config", str(configuration)]
        server = stack.enter_context(running(command, port, folder / "contourd.log"))
        node = QuickNode(folder, port, server)
        assert set(send(port, paths).values()) == {0}
        node.wait_until(lambda s: s["counts"].get("QUEUED") == 1)
        assert [one.role for one in processes_of(url)] == [ProcessRole.SERVE]
        with working(configuration, tmp_path / "worker.log") as worker:
            node.wait_until(lambda s: s["counts"].get("DELIVERED") == 1)
            served, worked = processes_of(url)
            assert (served.role, served.identity.pid) == (ProcessRole.SERVE, server.pid)
            assert (worked.role, worked.parent, worked.device) == (ProcessRole.WORKER, worker.pid, "cpu")
        assert [one.role for one in processes_of(url)] == [ProcessRole.SERVE]  # it said that it ended
        assert len(list(pacs.folder.iterdir())) == 1
    assert processes_of(url) == []


class Hosts:
    """Nodes of one PostgreSQL database; a folder that they share stands for the store of their images."""

    def __init__(self, stack: ExitStack, folder: Path, cluster: databases.Cluster, model: Path) -> None:
        self._stack, self._folder, self._model = stack, folder, model
        self.url = cluster.url(cluster.make())
        self.pacs = stack.enter_context(storescp(folder / "pacs"))

    def serve(self, name: str, *options: str) -> QuickNode:
        folder, port = self._folder / name, free_port()
        more = f'[database]\nurl = "{self.url}"\n'
        configuration = write_configuration(
            folder, port, self._model, {"pacs": (self.pacs.ae_title, self.pacs.port)}, more
        )
        spool, shared = folder / "spool", self._folder / "shared"
        spool.mkdir(0o700)
        shared.mkdir(0o700, exist_ok=True)
        for part in ("incoming", "outgoing"):
            (shared / part).mkdir(0o700, exist_ok=True)
            (spool / part).symlink_to(shared / part)
        (spool / "site.key").write_bytes(bytes(32))
        (spool / "site.key").chmod(0o600)
        command = [*CONTOURD, "serve", *options, "--config", str(configuration)]
        server = self._stack.enter_context(running(command, port, folder / "contourd.log"))
        return QuickNode(folder, port, server)


@pytest.fixture
def hosts(tmp_path, cluster, bright_bundle):
    with ExitStack() as stack:
        yield Hosts(stack, tmp_path, cluster, bright_bundle)


@pytest.mark.peers
def test_a_series_through_two_nodes_is_one_and_who_leads_is_followed_in_seconds(hosts, tmp_path):
    first, second = hosts.serve("first", "--no-worker"), hosts.serve("second")
    assert first.log.count("leads: ") + second.log.count("leads: ") == 1
    paths = series(tmp_path, "p1")
    half = len(paths) // 2
    with sending(first.port) as association:
        assert {int(association.send_c_store(path).Status) for path in paths[:half]} == {0}
        assert set(send(second.port, paths[half:]).values()) == {0}
        time.sleep(3 * QUIET_S)
        status = second.status()
        assert (status["counts"]["RECEIVING"], status["jobs"]) == (1, [])  # the first holds it open
    status = second.wait_until(lambda s: s["counts"].get("DELIVERED") == 1)
    (job,) = status["jobs"]
    assert (job["revision"], job["attempts"]) == (1, 1)
    leader, other = (first, second) if "leads: " in first.log else (second, first)
    leader.server.kill()
    leader.server.wait()
    began = time.monotonic()
    wait(lambda: "leads: " in other.log, other)
    assert time.monotonic() - began < 15
