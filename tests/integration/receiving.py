"""A running SCP, what it told its sink, and a sender."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
)
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # type: ignore[attr-defined]

from contourd.dicom.network.events import ReceivedInstance, RefusedInstance
from contourd.dicom.network.scp import StorageSCP
from contourd.settings import NodeSettings
from contourd.spool.folder import Spool
from tests.peers import LOOPBACK, free_port

WAIT_S = 20.0


@dataclass
class Recorder:
    """A sink that keeps what it is told, by the how-manieth association it is of; ``before_storing`` runs where a
    database would be written.
    """

    root: Path
    before_storing: Callable[[], None] = lambda: None
    told: list[tuple[Any, ...]] = field(default_factory=list)
    received: list[ReceivedInstance] = field(default_factory=list)
    refused: list[RefusedInstance] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    accepted: list[int] = field(default_factory=list)

    def association_opened(self, association_id: int, calling_ae: str, peer: str) -> None:
        self.accepted.append(association_id)
        self._note("opened", association_id, calling_ae, peer)

    def instance_stored(self, received: ReceivedInstance) -> None:
        self.before_storing()
        assert (self.root / received.path).is_file()
        self.received.append(received)
        self._note("stored", received.association_id)

    def instance_refused(self, refused: RefusedInstance) -> None:
        self.refused.append(refused)
        self._note("refused", refused.association_id)

    def association_closed(self, association_id: int, aborted: bool) -> None:
        self._note("closed", association_id, aborted)

    def _note(self, what: str, association_id: int, *more: Any) -> None:
        with self.changed:
            self.told.append((what, self.accepted.index(association_id) + 1, *more))
            self.changed.notify_all()

    def wait_for(self, *what: Any) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: what in self.told, WAIT_S), f"{what} did not come: {self.told}"


@dataclass
class Receiver:
    scp: StorageSCP
    sink: Recorder
    spool: Spool

    @property
    def port(self) -> int:
        return self.scp.port

    def files(self) -> list[Path]:
        return sorted(path for path in self.spool.root.rglob("*.dcm"))


Start = Callable[..., Receiver]


def associate(port: int, *syntaxes: str, calling: str = "SCANNER", called: str = "CONTOURD") -> Any:
    sender = AE(calling)
    for syntax in syntaxes or [ExplicitVRLittleEndian]:
        sender.add_requested_context(CTImageStorage, syntax)
    sender.add_requested_context(Verification)
    return sender.associate(LOOPBACK, port, ae_title=called)


@contextmanager
def sending(port: int, *syntaxes: str) -> Iterator[Any]:
    association = associate(port, *syntaxes)
    assert association.is_established
    yield association
    association.release()


class Witness:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.deeds: list[tuple[str, str, str, str]] = []
        self.changed = threading.Condition()

    def __call__(self, *deed: str) -> None:
        with self.changed:
            self.deeds.append((deed[0], deed[1], deed[2], deed[3]))
            self.changed.notify_all()

    def wait_for(self, action: str) -> tuple[str, str, str, str]:
        def found() -> tuple[str, str, str, str] | None:
            return next((deed for deed in self.deeds if deed[0] == action), None)

        with self.changed:
            deed = self.changed.wait_for(found, WAIT_S)
            assert deed, self.deeds
            return deed


@contextmanager
def watched(tmp_path: Path, **node: Any) -> Iterator[tuple[StorageSCP, Witness]]:
    witness, spool = Witness(), Spool(tmp_path / "spool")
    scp = StorageSCP(NodeSettings(host=LOOPBACK, port=free_port(), **node), spool, Recorder(spool.root), witness)
    scp.start()
    try:
        yield scp, witness
    finally:
        scp.stop()
        gc.collect()


def ended(connection: socket.socket, within_s: float) -> float:
    """Wait until the node closes a connection; returns how long that took."""
    connection.settimeout(within_s)
    began = time.monotonic()
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - began
