"""A disk that fills up at every stage, and is freed: the node stays up, loses nothing, doubles nothing and goes on."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pydicom
import pytest

from contourd.store.states import JobState
from tests.bright import referenced_series
from tests.disks import Disk, small_disk
from tests.integration.serving import OUT_OF_RESOURCES, WAIT_S, send, series, wait, worker_of
from tests.interop.node import CONTOURD, Node, write_configuration
from tests.peers import free_port, running, storescp

SIZE_MB = 24


@contextmanager
def node_on(disk: Disk, folder: Path, model: Path, destination: int, log: Path | None = None) -> Iterator[Node]:
    """Serve from a spool on the small disk; its settings, and by default its log, lie elsewhere."""
    port = free_port()
    configuration = write_configuration(folder, port, model, {"pacs": ("PACS", destination)})
    text = configuration.read_text().replace(f'root = "{folder / "spool"}"', f'root = "{disk.root / "spool"}"')
    configuration.write_text(text.replace("[series]", "min_free_gb = 0.0\n[series]"))
    command = [*CONTOURD, "serve", "--config", str(configuration)]
    with running(command, port, log or folder / "contourd.log") as server:
        yield Node(folder, port, server)


def trouble(node: Node) -> int:
    """Count how often the node has said that it waits for room."""
    return node.log.count("finds no space") + node.log.count("the job waits")


def wait_for_trouble(node: Node, more_than: int) -> None:
    wait(lambda: trouble(node) > more_than, node)


def states(disk: Disk) -> list[str]:
    """Read the jobs' states past contourd, which may be stopped."""
    with closing(sqlite3.connect(f"file:{disk.root}/spool/contourd.sqlite?mode=ro", uri=True, timeout=30)) as database:
        return [state for (state,) in database.execute("SELECT state FROM jobs ORDER BY id")]


@pytest.mark.peers
def test_a_disk_that_fills_up_at_every_stage(tmp_path, bright_bundle):
    destination = free_port()
    first, second = series(tmp_path, "p1"), series(tmp_path, "p2")
    with (
        small_disk(tmp_path / "disk", SIZE_MB) as disk,
        node_on(disk, tmp_path / "node", bright_bundle, destination) as node,
    ):
        # Before anything was received, the site's key included.
        disk.fill()
        assert set(send(node.port, first[:2]).values()) == {OUT_OF_RESOURCES}
        disk.free()
        # In mid-series.
        assert set(send(node.port, first[:10]).values()) == {0}
        disk.fill()
        assert set(send(node.port, first[10:]).values()) == {OUT_OF_RESOURCES}
        assert "No space left on device" in node.log
        disk.free()
        assert set(send(node.port, first).values()) == {0}
        # Between the last image and the job, and then the structure set.
        disk.fill()
        wait_for_trouble(node, 0)
        disk.free()
        wait(lambda: states(disk) == [JobState.DELIVERING], node)
        # While a worker contours: there is no room for the structure set.
        assert set(send(node.port, second).values()) == {0}
        wait(lambda: states(disk) == [JobState.DELIVERING, JobState.CONTOURING], node)
        worker = worker_of(node)
        worker.suspend()
        disk.fill()
        worker.resume()
        wait(lambda: "the job waits: " in node.log, node)
        disk.free()
        wait(lambda: states(disk) == [JobState.DELIVERING] * 2, node)
        told = trouble(node)
        # The destination comes back while what it answers cannot be written down.
        disk.fill()
        with storescp(tmp_path / "pacs", "PACS", destination) as pacs:
            wait(lambda: bool(list(pacs.folder.iterdir())) or trouble(node) > told, node)
            assert states(disk) == [JobState.DELIVERING] * 2
            disk.free()
            node.wait_until(lambda s: s["counts"].get("DELIVERED", 0) == 2)
            received = pacs.datasets()
        assert len({ds.SOPInstanceUID for ds in received}) == 2
        assert len({referenced_series(ds) for ds in received}) == 2
        check_images(disk, [*first, *second])
        assert node.server.poll() is None


def check_images(disk: Disk, sent: list[Path]) -> None:
    with closing(sqlite3.connect(disk.root / "spool" / "contourd.sqlite")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        stored = dict(database.execute("SELECT sop_instance_uid, path FROM instances"))
    originals = {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in sent}
    assert stored.keys() == originals.keys()
    for instance, path in stored.items():
        assert pydicom.dcmread(disk.root / "spool" / path) == pydicom.dcmread(originals[instance])
    files = {path.name for path in (disk.root / "spool" / "incoming").rglob("*.dcm")}
    assert files == {Path(path).name for path in stored.values()}  # nothing is left of what was refused


@pytest.mark.peers
def test_stopping_and_starting_with_a_full_disk(tmp_path, bright_bundle):
    paths = series(tmp_path, "p1")
    with small_disk(tmp_path / "disk", SIZE_MB) as disk:
        log = disk.root / "contourd.log"
        with node_on(disk, tmp_path / "node", bright_bundle, free_port(), log) as node:
            assert set(send(node.port, paths).values()) == {0}
            disk.fill()
            assert OUT_OF_RESOURCES in send(node.port, series(tmp_path, "p2")).values()
            node.server.send_signal(signal.SIGTERM)
            assert node.server.wait(WAIT_S) == 0
        disk.free()
        with (
            storescp(tmp_path / "pacs", "PACS") as pacs,
            node_on(disk, tmp_path / "node", bright_bundle, pacs.port) as again,
        ):
            again.wait_until(lambda s: s["counts"].get("DELIVERED", 0) == 1)
            assert len(pacs.datasets()) == 1
