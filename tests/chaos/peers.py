"""The peers of a node that is killed: senders that send until they have Success, destinations that misbehave."""

from __future__ import annotations

import hashlib
import itertools
import random
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom.filereader import read_file_meta_info
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage
from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from tests.peers import LOOPBACK

SUCCESS, OUT_OF_RESOURCES, MISMATCH = 0x0000, 0xA700, 0xA900
PREAMBLE = 132
SCANNER = "CT1"
SEND_AGAIN_S, ANSWER_S, SENDING_S = 0.3, 20.0, 1800.0


def without_delay(opened: list[socket.socket]) -> list[Any]:
    """Return handlers that keep the sockets, for pynetdicom leaves those open whose peer was killed."""

    def open_(event: Any) -> None:
        connection = event.assoc.dul.socket.socket
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.append(connection)

    return [(evt.EVT_CONN_OPEN, open_)]


def dataset_digest(path: Path) -> str:
    """SHA-256 of the bytes after the file meta information, which are what travels."""
    content = path.read_bytes()
    length = int(read_file_meta_info(path).FileMetaInformationGroupLength)
    return hashlib.sha256(content[PREAMBLE + 12 + length :]).hexdigest()


@dataclass
class Acknowledged:
    """What was answered with Success: SOP Instance UID -> SHA-256 of the bytes that were sent."""

    digests: dict[str, str] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, path: Path) -> None:
        with self.changed:
            self.digests[str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)] = dataset_digest(path)
            self.changed.notify_all()

    def wait_for_more(self, than: int, timeout_s: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: len(self.digests) > than, timeout_s)


def send(
    paths: list[Path], port: int | Sequence[tuple[str, int]], acknowledged: Acknowledged, ae_title: str = SCANNER
) -> None:
    """Send as a patient scanner does: what was not acknowledged is sent again, on another association.

    Parameters
    ----------
    port
        Of several addresses, each association goes to the next, and after some images there is another: as behind a
        balancer.
    """
    _config.STORE_SEND_CHUNKED_DATASET = True  # the file's own bytes
    ae = AE(ae_title)
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    ae.dimse_timeout = ANSWER_S  # pynetdicom's own reactor takes an answer away from its sender now and then
    waiting, deadline = list(paths), time.monotonic() + SENDING_S
    opened: list[socket.socket] = []
    addresses = itertools.cycle([(LOOPBACK, port)] if isinstance(port, int) else port)
    some = len(paths) if isinstance(port, int) else max(1, len(paths) // 2)
    while waiting and time.monotonic() < deadline:
        association = ae.associate(*next(addresses), ae_title="CONTOURD", evt_handlers=without_delay(opened))
        left = max(0, len(waiting) - some)
        while len(waiting) > left and association.is_established:
            try:
                response = association.send_c_store(waiting[0])
            except RuntimeError:  # the connection broke between two images
                break
            if response.get("Status", None) != SUCCESS:
                break
            acknowledged.add(waiting.pop(0))
        broke_off = len(waiting) > left
        if association.is_established:
            association.release()
        if broke_off:
            time.sleep(SEND_AGAIN_S)
    for connection in opened:
        connection.close()


class Destination:
    """Takes structure sets and keeps what it stored, in the order in which it came first.

    Parameters
    ----------
    moods
        Chances that a first try is answered with "out of resources", cut before it is stored, cut after it is stored.
    """

    def __init__(
        self, name: str, moods: tuple[float, float, float] = (0, 0, 0), seed: int = 0, address: str = LOOPBACK
    ) -> None:
        self.name, self.ae_title = name, name.upper()
        self.answers_once: dict[str, int] = {}  # series -> the status that its first structure set is answered with
        self.order: dict[str, list[str]] = defaultdict(list)  # series -> SOP Instance UIDs
        self.digests: dict[str, set[str]] = defaultdict(set)
        self.copies: dict[str, int] = defaultdict(int)
        self._moods, self._rng = moods, random.Random(seed)
        self._tried: set[str] = set()
        self._lock = threading.Lock()
        ae = AE(ae_title=self.ae_title)
        ae.add_supported_context(RTStructureSetStorage, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
        ae.add_supported_context(Verification)
        self._connections: list[socket.socket] = []
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_CONN_OPEN, self._opened), *self.support(ae)]
        self.server: Any = ae.start_server((address, 0), block=False, evt_handlers=handlers)
        self.port = int(self.server.socket.getsockname()[1])

    def support(self, ae: AE) -> list[Any]:  # noqa: ARG002
        """Add what else it takes to its application entity; returns the handlers."""
        return []

    def _opened(self, event: Any) -> None:
        self._connections.append(event.assoc.dul.socket.socket)

    def _store(self, event: Any) -> int:
        sent = event.request.DataSet.getvalue()
        uid, series = str(event.request.AffectedSOPInstanceUID), referenced_series(event.dataset)
        with self._lock:
            mood = self._rng.random() if uid not in self._tried else 1.0
            first = uid not in self._tried
            self._tried.add(uid)
            busy, cut, lost = self._moods
            if first and series in self.answers_once:
                return self.answers_once[series]
            if mood < busy:
                return OUT_OF_RESOURCES
            if mood < busy + cut:
                event.assoc.abort()
                return OUT_OF_RESOURCES
            if uid not in self.copies:
                self.order[series].append(uid)
            self.copies[uid] += 1
            self.digests[uid].add(hashlib.sha256(sent).hexdigest())
        if mood < busy + cut + lost:
            event.assoc.abort()
        return SUCCESS

    def doubled(self) -> int:
        """How many times a structure set came again."""
        return sum(self.copies.values()) - len(self.copies)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for connection in self._connections:  # pynetdicom leaves those open whose peer was killed
            connection.close()


def referenced_series(rtstruct: pydicom.Dataset) -> str:
    frame = rtstruct.ReferencedFrameOfReferenceSequence[0]
    return str(frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID)
