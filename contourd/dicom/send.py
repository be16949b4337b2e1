"""Send a CT series to a node: the test sender (DICOM PS3.4 annex B, as SCU)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

from contourd.errors import NodeError

SUCCESS = 0x0000


def send_series(paths: Sequence[Path], calling_ae: str, host: str, port: int, called_ae: str) -> Iterator[Path]:
    """Send CT files over one association; yields each when it is acknowledged.

    Raises
    ------
    NodeError
        The node cannot be reached, or refuses an image: with its status.
    """
    ae = AE(ae_title=calling_ae)
    ae.maximum_pdu_size = 0
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        ae.add_requested_context(CTImageStorage, syntax)
    association = ae.associate(host, port, ae_title=called_ae)
    if not association.is_established:
        raise NodeError(f"{called_ae} at {host}:{port} does not take the association; check host, port and AE titles")
    try:
        for path in paths:
            response = association.send_c_store(pydicom.dcmread(path))
            status = response.get("Status")
            if status != SUCCESS:
                told = (
                    "no answer" if status is None else f"status 0x{int(status):04X} {response.get('ErrorComment', '')}"
                )
                raise NodeError(f"{called_ae} refused {path.name}: {told}")
            yield path
    finally:
        if association.is_established:
            association.release()
