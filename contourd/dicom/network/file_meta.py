"""The file meta information of a received instance (DICOM PS3.10 7.1)."""

from __future__ import annotations

import struct
from pathlib import Path

from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID

from contourd.dicom.uids import IMPLEMENTATION, IMPLEMENTATION_NAME

LONGEST_AE_TITLE = 16


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax: UID, sending_ae: str = "") -> bytes:
    """Pack preamble and file meta information (PS3.10 7.1) by hand; pydicom takes a fifth of the receiving time.

    Parameters
    ----------
    sending_ae
        Sending Application Entity Title (0002,0017): who sent the image is known wherever the image is.
    """
    elements = b"".join(
        (
            struct.pack("<HH2sHI", 2, 0x0001, b"OB", 0, 2) + b"\0\1",
            _short(0x0002, b"UI", sop_class_uid),
            _short(0x0003, b"UI", sop_instance_uid),
            _short(0x0010, b"UI", transfer_syntax),
            _short(0x0012, b"UI", IMPLEMENTATION),
            _short(0x0013, b"SH", IMPLEMENTATION_NAME),
            _short(0x0017, b"AE", sending_ae[:LONGEST_AE_TITLE]) if sending_ae else b"",
        )
    )
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0x0000, b"UL", 4, len(elements)) + elements


def _short(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


def sender_of(path: Path) -> str:
    """Return who sent a stored image, empty where its file does not say; raises as pydicom does on no DICOM file."""
    return str(read_file_meta_info(path).get("SendingApplicationEntityTitle", "") or "").strip()
