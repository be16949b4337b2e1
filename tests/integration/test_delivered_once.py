"""Killed between the destination's Success and the commit that records it: the same object is sent again, once."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage
from pynetdicom import AE, evt

from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.store.queue import Queue
from tests.interop.node import CONTOURD, Node, write_configuration
from tests.peers import LOOPBACK, free_port, running
from tests.phantom import read_series, structure_set, write_series
from tests.queueing import add_job, in_force

SUCCESS, DUPLICATE = 0x0000, 0x0111
WAIT_S = 120.0
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.timeout(300),
]


class Destination:
    """Takes structure sets; while ``database`` is locked by it, nothing that contourd learns can be recorded."""

    def __init__(self, database: Path) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.has_answered = threading.Event()
        self._database = database
        self._lock: sqlite3.Connection | None = None
        ae = AE("PACS")
        ae.add_supported_context(RTStructureSetStorage, ImplicitVRLittleEndian)
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store), (evt.EVT_RELEASED, self._released)]
        self.server: Any = ae.start_server((LOOPBACK, 0), block=False, evt_handlers=handlers)
        self.port = self.server.socket.getsockname()[1]

    def _store(self, event: Any) -> int:
        again = bool(self.received)
        if not again:
            self._lock = sqlite3.connect(self._database, isolation_level=None, check_same_thread=False, timeout=60)
            self._lock.execute("BEGIN IMMEDIATE")
        self.received.append((str(event.request.AffectedSOPInstanceUID), event.request.DataSet.getvalue()))
        return DUPLICATE if again else SUCCESS

    def _released(self, event: Any) -> None:  # noqa: ARG002
        """The sender has the answer: it releases the association only then."""
        self.has_answered.set()

    def unlock(self) -> None:
        assert self._lock is not None
        self._lock.rollback()
        self._lock.close()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Make the spool of a node whose one structure set waits to be sent."""
    folder = tmp_path / "node" / "spool"
    Spool(folder)
    dataset = structure_set(read_series(write_series(tmp_path / "ct")))
    dataset.save_as(folder / "outgoing" / "1.dcm", enforce_file_format=True)
    database = Database(f"sqlite:///{folder / 'contourd.sqlite'}")
    database.upgrade()
    queue = Queue(database)
    job = add_job(database)
    queue.fetch_job("a", 60)
    queue.finish_job(in_force(queue, job), {"pacs": "outgoing/1.dcm"})
    database.close()
    return folder


@pytest.fixture
def destination(spool: Path) -> Iterator[Destination]:
    peer = Destination(spool / "contourd.sqlite")
    yield peer
    peer.server.shutdown()
    peer.server.ae.shutdown()


def test_a_success_that_was_not_recorded_is_answered_by_the_same_object(
    tmp_path: Path,
    bright_bundle: Path,
    spool: Path,
    destination: Destination,
) -> None:
    folder, port = tmp_path / "node", free_port()
    configuration = write_configuration(folder, port, bright_bundle, {"pacs": ("PACS", destination.port)})
    command = [*CONTOURD, "serve", "--config", str(configuration)]
    with (folder / "first.log").open("wb") as log:
        first = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        assert destination.has_answered.wait(WAIT_S), (folder / "first.log").read_text()
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    destination.unlock()
    with closing(sqlite3.connect(spool / "contourd.sqlite")) as database:
        assert database.execute("SELECT state FROM deliveries").fetchall() == [("SENDING",)]
        assert database.execute("SELECT count(*) FROM attempts").fetchone() == (0,)
    with running(command, port, folder / "contourd.log") as server:
        status = Node(folder, port, server).wait_until(lambda s: [j["state"] for j in s["jobs"]] == ["DELIVERED"])
    sent, sent_again = destination.received
    assert sent == sent_again
    (delivery,) = status["jobs"][0]["deliveries"]
    assert "has it already: status 0x0111" in delivery["reason"]
    (line,) = status["destinations"]
    assert (line["state"], line["waiting"]) == ("UP", 0)
    assert line["tries"] == {"accepted 0x0111": 1, "interrupted": 1}
