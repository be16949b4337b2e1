"""A destination of the tests that keeps what it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage
from pynetdicom import AE, evt

from tests.peers import LOOPBACK


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
