"""Requests that break the rules of DIMSE (DICOM PS3.7 9 and 10): answered by a failure status (annex C), one by one.

pynetdicom aborts the association of such a request, and with it go the good images behind it.
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from pydicom.uid import CTImageStorage
from pynetdicom.dimse_messages import DIMSEMessage

from contourd.dicom.network.pynetdicom_internals import (
    Seam,
    change_message_class,
    replace_method,
    send_data,
    store_request,
)

log = logging.getLogger(__name__)

# PS3.7 annex C.
NO_SUCH_INSTANCE = 0x0117
CLASS_NOT_SUPPORTED = 0x0122
UNRECOGNIZED_OPERATION = 0x0211
MISTYPED = 0x0212
NO_SUCH_CLASS = 0x0118  # of DIMSE-N
# PS3.7 E.1.
AFFECTED_CLASS = 0x0002
REQUESTED_CLASS = 0x0003
FIELD = 0x0100
MESSAGE_ID = 0x0110
DATASET_TYPE = 0x0800
AFFECTED_INSTANCE = 0x1000
REQUESTED_INSTANCE = 0x1001
NAMES: Mapping[int, str] = MappingProxyType(
    {
        AFFECTED_CLASS: "Affected SOP Class UID",
        REQUESTED_CLASS: "Requested SOP Class UID",
        MESSAGE_ID: "Message ID",
        DATASET_TYPE: "Command Data Set Type",
        AFFECTED_INSTANCE: "Affected SOP Instance UID",
        REQUESTED_INSTANCE: "Requested SOP Instance UID",
    }
)
STORE = 0x0001
CANCEL = 0x0FFF
RESPONSE = 0x8000
NO_DATASET = 0x0101
# Request -> its name, and the UIDs that it must hold.
REQUESTS: Mapping[int, tuple[str, tuple[int, ...]]] = MappingProxyType(
    {
        STORE: ("C-STORE", (AFFECTED_CLASS, AFFECTED_INSTANCE)),
        0x0010: ("C-GET", (AFFECTED_CLASS,)),
        0x0020: ("C-FIND", (AFFECTED_CLASS,)),
        0x0021: ("C-MOVE", (AFFECTED_CLASS,)),
        0x0030: ("C-ECHO", (AFFECTED_CLASS,)),
        0x0100: ("N-EVENT-REPORT", (AFFECTED_CLASS, AFFECTED_INSTANCE)),
        0x0110: ("N-GET", (REQUESTED_CLASS, REQUESTED_INSTANCE)),
        0x0120: ("N-SET", (REQUESTED_CLASS, REQUESTED_INSTANCE)),
        0x0130: ("N-ACTION", (REQUESTED_CLASS, REQUESTED_INSTANCE)),
        0x0140: ("N-CREATE", (AFFECTED_CLASS,)),
        0x0150: ("N-DELETE", (REQUESTED_CLASS, REQUESTED_INSTANCE)),
    }
)
ELEMENT, NUMBER = struct.Struct("<HHI"), struct.Struct("<H")
# PS3.5 9.1; zeroes at the beginning of a component do no harm. A class is one of the Standard's, or of somebody's root.
VALID_UID, LONGEST_UID = re.compile(rb"[0-9]+(\.[0-9]+)*"), 64
VALID_CLASS = re.compile(rb"[012](\.[0-9]+)+")
LONGEST_COMMENT, NO_INSTANCE = 64, "0"
# PS3.8 E.2: a command, a last fragment, and both.
COMMAND = 0b01
LAST = 0b10
LAST_OF_COMMAND = 0b11


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is wrong with a request, and how it is answered.

    Attributes
    ----------
    operation
        As ``C-STORE``.
    element
        Of group 0000, the one that is wrong.
    """

    field: int
    message_id: int
    has_dataset: bool
    status: int
    element: int
    operation: str
    why: str

    @property
    def text(self) -> str:
        """Return it in words, for a log and for an Error Comment."""
        return f"{self.operation} {self.why}"


def flaw_of(command: bytes) -> Flaw | None:
    """Judge a command set, implicit VR little endian; None where it is right, or nothing of it can be answered."""
    found = _elements(command)
    field = _number(found, FIELD)
    if found is None or field is None or field & RESPONSE or field == CANCEL:
        return None
    message_id, dataset_type = _number(found, MESSAGE_ID), _number(found, DATASET_TYPE)
    if dataset_type is None and field != STORE:  # whether a data set follows, nobody knows
        return None
    operation, required = REQUESTS.get(field, (f"operation {field:04X}", ()))
    has_dataset = dataset_type != NO_DATASET

    def flaw(status: int, element: int, reason: str) -> Flaw:
        return Flaw(field, message_id or 0, has_dataset, status, element, operation, reason)

    if field not in REQUESTS:
        return flaw(UNRECOGNIZED_OPERATION, FIELD, "is not known")
    for element, value in ((MESSAGE_ID, message_id), (DATASET_TYPE, dataset_type)):
        if value is None:
            return flaw(MISTYPED, element, f"lacks its {NAMES[element]}")
    for element in required:
        if not found.get(element, b"").strip(b"\0 "):
            return flaw(MISTYPED, element, f"lacks its {NAMES[element]}")
    for element in (AFFECTED_CLASS, REQUESTED_CLASS, AFFECTED_INSTANCE, REQUESTED_INSTANCE):
        of_class = element in (AFFECTED_CLASS, REQUESTED_CLASS)
        if element in found and not _is_uid(found[element], VALID_CLASS if of_class else VALID_UID):
            status = CLASS_NOT_SUPPORTED if operation.startswith("C-") else NO_SUCH_CLASS
            status = status if of_class else NO_SUCH_INSTANCE
            return flaw(status, element, f"names no UID as its {NAMES[element]}")
    return None


def _elements(content: bytes) -> dict[int, bytes] | None:
    found: dict[int, bytes] = {}
    at = 0
    while at + ELEMENT.size <= len(content):
        group, element, length = ELEMENT.unpack_from(content, at)
        at += ELEMENT.size + length
        if group or at > len(content):
            return None
        found[element] = content[at - length : at]
    return found if at == len(content) else None


def _number(found: Mapping[int, bytes] | None, element: int) -> int | None:
    value = (found or {}).get(element, b"")
    return int(NUMBER.unpack(value)[0]) if len(value) == NUMBER.size else None


def _is_uid(value: bytes, pattern: re.Pattern[bytes]) -> bool:
    uid = value.rstrip(b"\0 ")
    return not uid or (len(uid) <= LONGEST_UID and pattern.fullmatch(uid) is not None)


class FlawedMessage(DIMSEMessage):
    """A request whose command set is wrong; its data set is read to its end."""

    flaw: Flaw

    def message_to_primitive(self) -> Any:
        """Return what is to be answered: a C-STORE as one that is refused with its image, anything else by itself."""
        if self.flaw.field != STORE:
            return FlawedRequest(self.flaw)
        request = store_request(self.flaw.message_id, self.context_id, self.data_set)
        request.flaw = self.flaw
        # Without UIDs it would not be served; no answer repeats these.
        request.AffectedSOPClassUID = CTImageStorage
        request.AffectedSOPInstanceUID = NO_INSTANCE
        return request


@dataclass(frozen=True, slots=True)
class FlawedRequest:
    """A request that is answered by its failure status alone."""

    flaw: Flaw
    is_valid_request = False
    msg_type = "malformed"


def begin_flawed(message: Any, primitive: Any, last: int, flaw: Flaw) -> bool:
    """Make a message one whose request is flawed; ``last`` is the item that ends its command. Says whether it is whole.

    Raises
    ------
    ValueError
        A command goes on behind its end.
    """
    items = primitive.presentation_data_value_list
    flawed = change_message_class(message, FlawedMessage)
    flawed.context_id = items[last][0]
    flawed.flaw = flaw
    if not flaw.has_dataset:
        return True
    for _, data in items[last + 1 :]:
        if data[0] & COMMAND:
            raise ValueError("a command goes on behind its end")
        message.data_set.write(data[1:])
        if data[0] & LAST:
            return True
    return False


def answer_flawed(association: Any, witness: Callable[[str], None]) -> Callable[[Flaw], None]:
    """Answer flawed requests of an accepted association, and tell whose fault they were.

    Parameters
    ----------
    witness
        Is told of each kind of flaw once.

    Returns
    -------
    What tells of a flaw, for a C-STORE that is refused elsewhere.
    """
    seen: set[str] = set()

    def tell(flaw: Flaw) -> None:
        log.warning("%s: answered with status 0x%04X", flaw.text, flaw.status, extra={"action": "refuse"})
        if flaw.text not in seen:
            seen.add(flaw.text)
            witness(f"{flaw.text}: answered with status 0x{flaw.status:04X}")

    replace_method(association, Seam.SERVE, partial(_serve, association, tell))
    return tell


def _serve(
    association: Any,
    refused: Callable[[Flaw], None],
    serve: Callable[[Any, int], None],
    message: Any,
    context_id: int,
) -> None:
    if not isinstance(message, FlawedRequest):
        serve(message, context_id)
        return
    refused(message.flaw)
    send_data(association, context_id, bytes([LAST_OF_COMMAND]) + failure(message.flaw))


def failure(flaw: Flaw) -> bytes:
    """Pack the command set of the answer, implicit VR little endian (PS3.7 6.3.1, C.3 to C.5)."""
    comment = flaw.text[:LONGEST_COMMENT].encode("ascii")
    elements = b"".join(
        (
            _element(0x0100, NUMBER.pack(flaw.field | RESPONSE)),
            _element(0x0120, NUMBER.pack(flaw.message_id)),
            _element(DATASET_TYPE, NUMBER.pack(NO_DATASET)),
            _element(0x0900, NUMBER.pack(flaw.status)),
            _element(0x0901, struct.pack("<HH", 0, flaw.element)),
            _element(0x0902, comment + b" " * (len(comment) % 2)),
        )
    )
    return _element(0x0000, struct.pack("<I", len(elements))) + elements


def _element(element: int, value: bytes) -> bytes:
    return ELEMENT.pack(0, element, len(value)) + value
