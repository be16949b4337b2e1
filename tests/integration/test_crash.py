"""kill -9 of worker and daemon at random moments: nothing that was acknowledged is lost, nothing is doubled."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage
from pynetdicom import AE, evt

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from tests.interop.conftest import bright_bundle, phantom  # noqa: F401  a fixture
from tests.interop.node import CONTOURD, GAPPED_S, Node, write_configuration
from tests.peers import LOOPBACK, free_port, wait_for_port

SERIES, KILLS, SEED = 5, 10, 20261123


class Receiver:
    """A destination that keeps what it was sent: (SOP Instance UID, SeriesInstanceUID of the CT)."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str]] = []
        ae = AE(ae_title="RECEIVER")
        ae.add_supported_context(RTStructureSetStorage, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
        self.server = ae.start_server((LOOPBACK, 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])
        self.port = self.server.socket.getsockname()[1]

    def _store(self, event: Any) -> int:
        ds = event.dataset
        of = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
        self.received.append((str(ds.SOPInstanceUID), str(of.SeriesInstanceUID)))
        return 0x0000


@contextmanager
def receiver() -> Iterator[Receiver]:
    peer = Receiver()
    try:
        yield peer
    finally:
        peer.server.shutdown()


class Server:
    """A daemon that is killed and started again."""

    def __init__(self, folder: Path, configuration: Path) -> None:
        self.command = [*CONTOURD, "serve", "--config", str(configuration)]
        self.log = (folder / "contourd.log").open("ab")
        self.start()

    def start(self) -> None:
        self.running = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def kill_worker(self) -> None:
        for child in psutil.Process(self.running.pid).children():
            with suppress(psutil.NoSuchProcess):  # it may end by itself meanwhile
                if "spawn_main" in " ".join(child.cmdline()):
                    child.send_signal(signal.SIGKILL)

    def kill_daemon(self) -> None:
        self.running.send_signal(signal.SIGKILL)
        self.running.wait()
        self.start()

    def stop(self) -> int:
        self.running.terminate()
        status = self.running.wait(60)
        self.log.close()
        return status


def send_until_acknowledged(paths: list[Path], port: int, acknowledged: dict[str, Path]) -> None:
    """Send a series as a patient sender does: what was not acknowledged is sent again."""
    ae = AE(ae_title="CT1")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    waiting = list(paths)
    deadline = time.monotonic() + 120
    while waiting and time.monotonic() < deadline:
        association = ae.associate(LOOPBACK, port, ae_title="CONTOURD")
        while waiting and association.is_established:
            try:
                response = association.send_c_store(waiting[0])
            except RuntimeError:  # the connection broke between two images
                break
            if response.get("Status", None) != 0x0000:
                break
            path = waiting.pop(0)
            acknowledged[str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)] = path
        if association.is_established:
            association.release()
        if waiting:
            time.sleep(0.2)


# pynetdicom leaves the socket of a refused connection to the garbage collector; the sender here meets many.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(600)
def test_killed_at_ten_random_moments(tmp_path, bright_bundle):  # noqa: F811
    rng = random.Random(SEED)
    folders = [
        write_ct_series(phantom(), tmp_path / f"p{i}", SeriesIdentity(f"p{i}", f"P{i}^Test")) for i in range(SERIES)
    ]
    acknowledged: dict[str, Path] = {}
    with receiver() as peer:
        port = free_port()
        configuration = write_configuration(tmp_path / "node", port, bright_bundle, {"pacs": ("RECEIVER", peer.port)})
        # Ten kills may well meet one job more than twice; that it would then be held is another test's matter.
        text = configuration.read_text().replace('device = "cpu"', 'device = "cpu"\nmax_attempts = 20')
        # A sender that finds no node asks again at once, but on a busy machine not within three seconds.
        text = text.replace(f"gapped_s = {GAPPED_S}", "gapped_s = 15.0")
        configuration.write_text(text)
        server = Server(tmp_path / "node", configuration)
        node = Node(tmp_path / "node", port, server.running)
        try:
            senders = [
                threading.Thread(target=send_until_acknowledged, args=(sorted(f.iterdir()), port, acknowledged))
                for f in folders
            ]
            for sender in senders:
                sender.start()
            for kill in range(KILLS):
                time.sleep(rng.uniform(0.2, 5.0))
                (server.kill_worker if kill % 2 == 0 else server.kill_daemon)()
            for sender in senders:
                sender.join()
            assert len(acknowledged) == SERIES * 24
            node = Node(tmp_path / "node", port, server.running)
            status = node.wait_until(lambda s: s["counts"].get("DELIVERED", 0) == SERIES, 240)
            # All may have been delivered before the last kill; SIGTERM ends a daemon that has not begun as any program.
            wait_for_port(port, server.running, tmp_path / "node" / "contourd.log")
        finally:
            ended = server.stop()
        assert ended == 0
        _check(tmp_path / "node" / "spool", status, peer, acknowledged)


def _check(spool: Path, status: Any, peer: Receiver, acknowledged: dict[str, Path]) -> None:
    assert [job["state"] for job in status["jobs"]] == ["DELIVERED"] * SERIES
    by_series: dict[str, set[str]] = {}
    for instance, series in peer.received:
        by_series.setdefault(series, set()).add(instance)
    assert len(by_series) == SERIES
    assert all(len(instances) == 1 for instances in by_series.values())
    with closing(sqlite3.connect(spool / "contourd.sqlite")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        stored = dict(database.execute("SELECT sop_instance_uid, path FROM instances"))
    assert stored.keys() == acknowledged.keys()
    for instance, path in stored.items():
        assert pydicom.dcmread(spool / path) == pydicom.dcmread(acknowledged[instance])
