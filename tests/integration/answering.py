"""A node that answers each C-STORE as a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from tests.peers import LOOPBACK

Answer = Callable[[int, evt.Event], int]


@contextmanager
def answering(answer: Answer, *classes: str) -> Iterator[str]:
    """Run a node that answers as told by the number of the request, from 1; gives its address."""
    count = 0

    def store(event: evt.Event) -> int:
        nonlocal count
        count += 1
        return answer(count, event)

    ae = AE("PEER")
    for sop_class in classes or (CTImageStorage, RTStructureSetStorage):
        ae.add_supported_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    ae.add_supported_context(Verification)
    server = ae.start_server((LOOPBACK, 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield f"PEER@{LOOPBACK}:{server.socket.getsockname()[1]}"
    finally:
        server.shutdown()
