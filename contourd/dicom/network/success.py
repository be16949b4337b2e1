"""The answer to a C-STORE that succeeded (DICOM PS3.7 9.3.1.2), packed by hand: pydicom takes longer than the fsync."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from pynetdicom.dimse_primitives import C_STORE

from contourd.dicom.network.pynetdicom_internals import fits_into_pdu, send_data

SUCCESS = 0x0000
# PS3.7 E.1: C-STORE-RSP, and no data set.
C_STORE_RSP, NO_DATA_SET = 0x8001, 0x0101
# PS3.8 E.2: a command, and its last fragment. PS3.8 9.3.5.1: what of a PDU is not the fragment.
LAST_OF_COMMAND, AROUND_FRAGMENT_BYTES = b"\x03", 6


def answer(association: Any, send: Callable[[Any, int], None], primitive: Any, context_id: int) -> None:
    """Send a message; any other than such an answer, or one that does not fit into a PDU, as pynetdicom does."""
    fragment = _fragment(primitive)
    if not fragment or not fits_into_pdu(association, len(fragment) + AROUND_FRAGMENT_BYTES):
        send(primitive, context_id)
        return
    send_data(association, context_id, fragment)


def _fragment(primitive: Any) -> bytes:
    if not isinstance(primitive, C_STORE) or primitive.Status != SUCCESS:
        return b""
    sop_class, sop_instance = primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID
    answered = primitive.MessageIDBeingRespondedTo
    if sop_class is None or sop_instance is None or answered is None:
        return b""
    return LAST_OF_COMMAND + command_set(sop_class, sop_instance, answered)


def command_set(sop_class_uid: str, sop_instance_uid: str, message_id: int) -> bytes:
    """Pack the command set, implicit VR little endian (PS3.7 6.3.1)."""
    elements = b"".join(
        (
            _uid(0x0002, sop_class_uid),
            _number(0x0100, C_STORE_RSP),
            _number(0x0120, message_id),
            _number(0x0800, NO_DATA_SET),
            _number(0x0900, SUCCESS),
            _uid(0x1000, sop_instance_uid),
        )
    )
    return struct.pack("<HHII", 0, 0x0000, 4, len(elements)) + elements


def _number(element: int, value: int) -> bytes:
    return struct.pack("<HHIH", 0, element, 2, value)


def _uid(element: int, uid: str) -> bytes:
    value = uid.encode("ascii")
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, element, len(value)) + value
