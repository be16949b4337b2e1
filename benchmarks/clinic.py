"""A clinic around a node: when series come and how, who sends them, and the archive that takes their structure sets."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage
from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import Verification

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.uids import derived_uid
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.system.loopback import LOOPBACK

# From hour to hour of the day, how many series come in an hour, relative to each other.
DAY = ((7.0, 8.0, 1.0), (8.0, 10.0, 3.0), (10.0, 12.0, 1.5), (12.0, 13.0, 0.5), (13.0, 17.0, 1.2), (17.0, 19.0, 0.4))
FIRST_H, LAST_H = DAY[0][0], DAY[-1][1]
OUTAGE_H = (12.0, 13.0)  # nobody answers for the archive
AGAIN_H = 1 / 60  # until what was aborted is sent again
TWICE_H = 0.75  # until what was delivered long ago is sent once more
SUCCESS = 0x0000
# pynetdicom's reactor takes an answer away from its own sender now and then, of storescp as of contourd: send again.
GIVE_UP_S, ANSWER_S, PAUSE_S = 120.0, 5.0, 0.1
SLICE_MM, FIELD_MM = 3.0, 500.0


def _at_once(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


# A sender that waits for more to send before it sends takes 40 ms an image.
AT_ONCE = [(evt.EVT_CONN_OPEN, _at_once)]


class Kind(StrEnum):
    """How a series comes."""

    WHOLE = "sent once"
    TWICE = "sent twice"
    ABORTED = "aborted in mid-series, and sent again"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One series: its number, from 0, and the hour of the day at which it is sent first."""

    number: int
    hour: float
    kind: Kind


def arrivals(number: int, seed: int = 0) -> list[Arrival]:
    """Draw a day's series, the earliest first; a tenth of them comes twice, and a tenth is aborted."""
    rng = np.random.default_rng(seed)
    weights = np.array([(end - begin) * rate for begin, end, rate in DAY])
    spans = rng.choice(len(DAY), number, p=weights / weights.sum())
    hours = np.sort([rng.uniform(*DAY[span][:2]) for span in spans])
    kinds = rng.choice(list(Kind), number, p=(0.8, 0.1, 0.1))
    return [Arrival(i, float(hour), Kind(kind)) for i, (hour, kind) in enumerate(zip(hours, kinds, strict=True))]


def write_series(folder: Path, number: int, slices: int, matrix: int) -> tuple[str, list[Path]]:
    """Write the CT of patient ``number``: an oval trunk with noise; returns its UID and its files."""
    pixel_mm = FIELD_MM / matrix
    grid = Grid.regular((slices, matrix, matrix), (SLICE_MM, pixel_mm, pixel_mm), (-FIELD_MM / 2, -FIELD_MM / 2, 0.0))
    y, x = (axis * pixel_mm - FIELD_MM / 2 for axis in np.ogrid[:matrix, :matrix])
    trunk = (x / 95) ** 2 + (y / 110) ** 2 <= 1
    noise = np.random.default_rng(number).integers(-20, 20, grid.shape, dtype=np.int16)
    patient = f"CLINIC{number:05d}"
    written = write_ct_series(
        Volume(grid, np.where(trunk, 40, -1000).astype(np.int16) + noise),
        folder / patient,
        SeriesIdentity(patient, f"Clinic^{number}"),
    )
    return str(derived_uid(patient, "series")), sorted(written.iterdir())


@dataclass
class Sent:
    """What senders know: series -> when its last image was acknowledged first; and how often they had to try again."""

    at: dict[str, float] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)
    tried_again: int = 0
    given_up: list[str] = field(default_factory=list)
    images: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Scanner:
    """Sends series to a node."""

    def __init__(self, port: int, sent: Sent) -> None:
        _config.STORE_SEND_CHUNKED_DATASET = True  # the file's own bytes
        self._port, self._sent = port, sent

    def send(self, uid: str, paths: list[Path], abort_after: int | None = None) -> None:
        """Send a series until all of it is acknowledged; or a part of it, and abort."""
        ae = AE("SCANNER")
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        ae.dimse_timeout, ae.maximum_pdu_size = ANSWER_S, 0
        waiting, deadline = list(paths[:abort_after]), time.monotonic() + GIVE_UP_S
        with self._sent.lock:
            self._sent.began.setdefault(uid, time.monotonic())
        while waiting and time.monotonic() < deadline:
            association = ae.associate(LOOPBACK, self._port, ae_title="CONTOURD", evt_handlers=AT_ONCE)
            while waiting and association.is_established:
                if getattr(association.send_c_store(waiting[0]), "Status", None) != SUCCESS:
                    break
                waiting.pop(0)
                with self._sent.lock:
                    self._sent.images += 1
            if association.is_established:
                association.abort() if abort_after is not None else association.release()
            if waiting:
                with self._sent.lock:
                    self._sent.tried_again += 1
                time.sleep(PAUSE_S)
        with self._sent.lock:
            if waiting:
                self._sent.given_up.append(uid)
            elif abort_after is None:
                self._sent.at.setdefault(uid, time.monotonic())


class Archive:
    """Takes structure sets, and can be away."""

    ae_title = "PACS"

    def __init__(self) -> None:
        self.at: dict[str, float] = {}  # series -> when its first structure set came
        self.copies: dict[str, list[str]] = defaultdict(list)  # series -> UIDs of the structure sets that came
        self._ae = AE(self.ae_title)
        self._ae.add_supported_context(RTStructureSetStorage, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
        self._ae.add_supported_context(Verification)
        self._server: Any = None
        self.port = 0
        self.come_back()

    def come_back(self) -> None:
        """Listen, at the same port as ever."""
        handlers = [(evt.EVT_C_STORE, self._store)]
        self._server = self._ae.start_server((LOOPBACK, self.port), block=False, evt_handlers=handlers)
        self.port = int(self._server.socket.getsockname()[1])

    def go_away(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()

    def _store(self, event: Any) -> int:
        now, uid = time.monotonic(), str(event.request.AffectedSOPInstanceUID)
        series = referenced_series(event.dataset)
        self.at.setdefault(series, now)
        self.copies[series].append(uid)
        return SUCCESS

    def doubled(self) -> int:
        """Count what came beyond one structure set a series."""
        return sum(len(uids) - 1 for uids in self.copies.values())

    def lost(self, acknowledged: Iterable[str]) -> list[str]:
        """Name the series that were acknowledged and brought no structure set."""
        return [uid for uid in acknowledged if uid not in self.at]


def referenced_series(structure_set: pydicom.Dataset) -> str:
    """Return the UID of the series that a structure set was drawn on."""
    frame = structure_set.ReferencedFrameOfReferenceSequence[0]
    return str(frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID)


def remove(paths: list[Path]) -> None:
    """Remove a written series."""
    shutil.rmtree(paths[0].parent)
