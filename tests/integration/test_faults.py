"""A database that is locked or damaged, a disk that is read-only or rots, a delivery that hangs: the real node."""

from __future__ import annotations

import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from contourd.errors import NodeError
from contourd.node.daemon import Daemon
from contourd.settings import load_settings
from tests.disks import read_only
from tests.integration.receiving import associate
from tests.integration.serving import OUT_OF_RESOURCES, WAIT_S, send, series, wait, worker_of
from tests.interop.node import CONTOURD, Node, contourd, serve, write_configuration
from tests.peers import LOOPBACK, children_running, free_port, listening_socket, running, storescp


def database_of(folder: Path) -> Path:
    return folder / "spool" / "contourd.sqlite"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock for writing, as another program would."""
    with closing(sqlite3.connect(database_of(folder), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_a_database_that_is_locked_for_long(tmp_path, bright_bundle):
    paths, folder, port = series(tmp_path, "p1"), tmp_path / "node", free_port()
    with serve(folder, bright_bundle, {"pacs": ("PACS", free_port())}, port) as node:
        with locked(folder):
            assert send(port, paths[:1]) == {paths[0]: OUT_OF_RESOURCES}
            wait(lambda: "closing quiet series failed" not in node.log, node)
            wait(lambda: node.log.count("is locked by another program") >= 2, node)
        assert not list((folder / "spool" / "incoming").rglob("*.dcm"))
        assert set(send(port, paths).values()) == {0}
        status = node.wait_until(lambda s: s["counts"].get("DELIVERING", 0) == 1)
        assert status["jobs"][0]["attempts"] == 1
        assert node.log.count("Traceback") == 0
        node.server.terminate()
        assert node.server.wait(WAIT_S) == 0
    # A start while it is locked waits, and then serves.
    log = folder / "second.log"
    with log.open("wb") as out, locked(folder):
        command = [*CONTOURD, "serve", "--config", str(folder / "contourd.toml")]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        again = Node(folder, port, server)
        wait(lambda: "is locked by another program; it is tried again" in log.read_text(), again)
    try:
        wait(lambda: "listening as" in log.read_text(), again)
    finally:
        server.terminate()
        assert server.wait(WAIT_S) == 0


def test_a_damaged_database_is_refused_at_the_start_with_the_remedy(tmp_path):
    configuration = write_configuration(tmp_path, free_port(), "hn7", {"pacs": ("PACS", free_port())})
    database_of(tmp_path).parent.mkdir(mode=0o700)
    database_of(tmp_path).write_bytes(b"no database" * 1000)
    ran = contourd("serve", "--config", configuration, timeout_s=WAIT_S)
    assert ran.status == 1
    assert f"the database {database_of(tmp_path)} is damaged; stop contourd, put its latest backup" in ran.output
    assert "Traceback" not in ran.output


@pytest.mark.peers
def test_a_read_only_disk_is_refused_at_the_start_and_takes_no_image(tmp_path, start, images):
    receiver = start()
    spool = receiver.spool.root
    association = associate(receiver.port)
    with read_only(spool):
        assert association.send_c_store(images[0]).Status == OUT_OF_RESOURCES
        configuration = write_configuration(tmp_path, free_port(), "hn7", {"pacs": ("PACS", free_port())})
        ran = contourd("serve", "--config", configuration, timeout_s=WAIT_S)
        assert ran.status != 0
        assert "Read-only file system" in ran.output
        assert "Traceback" not in ran.output
    assert association.send_c_store(images[0]).Status == 0
    association.release()


@pytest.mark.peers
def test_images_that_rotted_are_held_by_their_position_and_mended_by_sending_again(tmp_path, bright_bundle):
    paths, folder = series(tmp_path, "p1"), tmp_path / "node"
    with (
        storescp(tmp_path / "pacs", "PACS") as pacs,
        serve(folder, bright_bundle, {"pacs": ("PACS", pacs.port)}) as node,
    ):
        worker = worker_of(node)
        worker.suspend()
        assert set(send(node.port, paths).values()) == {0}
        node.wait_until(lambda s: s["counts"].get("QUEUED", 0) == 1)
        with closing(sqlite3.connect(database_of(folder))) as database:
            stored = [path for (path,) in database.execute("SELECT path FROM instances ORDER BY id")]
        changed, gone = folder / "spool" / stored[3], folder / "spool" / stored[10]
        content = bytearray(changed.read_bytes())
        content[-100] ^= 1  # one bit of one pixel
        changed.write_bytes(content)
        gone.unlink()
        worker.resume()
        status = node.wait_until(lambda s: s["counts"].get("HELD", 0) == 1)
        # Slices 3 and 10 of those that begin at -36 mm and are 3 mm apart.
        assert status["jobs"][0]["reason"] == (
            "2 of 24 received images are gone or changed (z = -27.00, -6.00 mm); "
            "have the disk examined, and send the series again"
        )
        assert pacs.datasets() == []
        assert set(send(node.port, paths).values()) == {0}
        status = node.wait_until(lambda s: s["counts"].get("DELIVERED", 0) == 1)
        assert [job["state"] for job in status["jobs"]] == ["DELIVERED", "SUPERSEDED"]
        assert len(pacs.datasets()) == 1
        assert len(list((folder / "spool" / "incoming").rglob("*.dcm"))) == 24


def test_a_node_whose_listener_has_ended_ends_too(tmp_path, bright_bundle):
    port = free_port()
    configuration = write_configuration(tmp_path, port, bright_bundle, {"pacs": ("PACS", free_port())})
    daemon = Daemon(load_settings(configuration))

    def end_listener() -> None:
        while not daemon.serving:
            time.sleep(0.05)
        with listening_socket(port) as listening:
            listening.shutdown(socket.SHUT_RDWR)  # as if its loop had broken

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    ending = threading.Thread(target=end_listener, daemon=True)
    ending.start()
    try:
        with pytest.raises(NodeError, match="ended by itself"):
            daemon.run()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    ending.join()
    assert children_running("spawn_main") == set()  # the worker has ended


def test_a_second_signal_does_not_wait_for_a_delivery_that_hangs(tmp_path, bright_bundle):
    paths, folder = series(tmp_path, "p1"), tmp_path / "node"
    with socket.create_server((LOOPBACK, 0)) as silent:
        silent.settimeout(WAIT_S)
        names = {"pacs": ("PACS", silent.getsockname()[1])}
        with serve(folder, bright_bundle, names, more="connect_timeout_s = 300.0\n") as node:
            assert set(send(node.port, paths).values()) == {0}
            connection, _ = silent.accept()  # and says nothing
            node.server.terminate()
            wait(lambda: "stopping" in node.log, node)
            node.server.terminate()
            assert node.server.wait(30) == 0
            assert "a delivery under way did not end" in node.log
            connection.close()
    with closing(sqlite3.connect(database_of(folder))) as database:
        assert database.execute("SELECT state FROM deliveries").fetchall() == [("SENDING",)]
    with (
        storescp(tmp_path / "pacs", "PACS", names["pacs"][1]) as pacs,
        running([*CONTOURD, "serve", "--config", str(node.configuration)], node.port, folder / "contourd.log") as again,
    ):
        Node(folder, node.port, again).wait_until(lambda s: s["counts"].get("DELIVERED", 0) == 1)
        assert len(pacs.datasets()) == 1
