"""A message as it arrives: its dataset is hashed fragment by fragment, and a C-STORE-RQ is read by hand.

By its last fragment the peer has done the waiting. pydicom takes longer for the seven elements of the usual C-STORE-RQ
(DICOM PS3.7 9.3.1.1) than the disk for the image; whatever is unusual about one is left to it.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage

from contourd.dicom.network.malformed import begin_flawed, flaw_of
from contourd.dicom.network.pynetdicom_internals import (
    begin_message,
    change_message_class,
    message_under_way,
    store_request,
)

# PS3.8 E.2: a command, and its last fragment.
LAST_OF_COMMAND = 0b11
# PS3.7 9.3.1.1: low, medium and high are 2, 0 and 1; nothing here goes by it.
PRIORITIES, ANY_PRIORITY = frozenset({0, 1, 2}), 0
# PS3.7 E.1: what (0000,0100) says of a C-STORE-RQ, and (0000,0800) where there is no dataset.
STORE, NO_DATASET = 0x0001, 0x0101
GROUP_LENGTH, SOP_CLASS, FIELD, MESSAGE_ID, PRIORITY, DATASET_TYPE, SOP_INSTANCE = USUAL = (
    *(0x0000, 0x0002, 0x0100, 0x0110, 0x0700, 0x0800, 0x1000),
)
ELEMENT, NUMBER = struct.Struct("<HHI"), struct.Struct("<H")
# PS3.5 9.1.
VALID_UID, LONGEST_UID = re.compile(rb"[012](\.(0|[1-9][0-9]*))+"), 64


class DatasetBytes(BytesIO):
    """What a message carries, as it was sent; it is written from its beginning to its end, once."""

    def __init__(self) -> None:
        super().__init__()
        self._hash = hashlib.sha256()

    def write(self, content: Any, /) -> int:
        """Add a fragment."""
        self._hash.update(content)
        return super().write(content)

    @property
    def sha256(self) -> str:
        """Of what was written."""
        return self._hash.hexdigest()


@dataclass(frozen=True, slots=True)
class StoreCommand:
    """The usual C-STORE-RQ."""

    message_id: int
    priority: int
    sop_class_uid: str
    sop_instance_uid: str


def read_store(content: bytes) -> StoreCommand | None:
    """Read a command set, implicit VR little endian (PS3.7 6.3.1); None where it is not the usual C-STORE-RQ."""
    found: dict[int, bytes] = {}
    at = 0
    while at + ELEMENT.size <= len(content):
        group, element, length = ELEMENT.unpack_from(content, at)
        at += ELEMENT.size + length
        if group or element in found or at > len(content):
            return None
        found[element] = content[at - length : at]
    if at != len(content) or tuple(found) != USUAL:
        return None
    if any(len(found[number]) != NUMBER.size for number in (FIELD, MESSAGE_ID, PRIORITY, DATASET_TYPE)):
        return None
    uids = [found[element].removesuffix(b"\0") for element in (SOP_CLASS, SOP_INSTANCE)]
    if not all(len(uid) <= LONGEST_UID and VALID_UID.fullmatch(uid) for uid in uids):
        return None
    field, message_id, priority, dataset_type = (
        NUMBER.unpack(found[element])[0] for element in (FIELD, MESSAGE_ID, PRIORITY, DATASET_TYPE)
    )
    if field != STORE or dataset_type == NO_DATASET:
        return None
    return StoreCommand(message_id, priority, uids[0].decode("ascii"), uids[1].decode("ascii"))


class StoreMessage(C_STORE_RQ):
    """A C-STORE-RQ whose command set was read by hand."""

    command: StoreCommand

    def message_to_primitive(self) -> Any:
        """Return the request."""
        request = store_request(self.command.message_id, self.context_id, self.data_set)
        request.Priority = self.command.priority if self.command.priority in PRIORITIES else ANY_PRIORITY
        request.AffectedSOPClassUID = self.command.sop_class_uid
        request.AffectedSOPInstanceUID = self.command.sop_instance_uid
        return request


class ArrivingMessage(DIMSEMessage):
    """A message whose command has not come yet."""

    data_set: DatasetBytes

    def decode_msg(self, primitive: Any, assoc: Any = None) -> bool:
        """Take a part of it, the usual C-STORE-RQ by hand; returns whether it was the last."""
        items = primitive.presentation_data_value_list
        last = next((n for n, (_, data) in enumerate(items) if data[0] & LAST_OF_COMMAND == LAST_OF_COMMAND), None)
        if last is None or self.data_set.tell():
            return super().decode_msg(primitive, assoc)
        content = self.encoded_command_set.getvalue() + b"".join(bytes(data[1:]) for _, data in items[: last + 1])
        command = read_store(content) if len(items) == 1 else None
        if command is not None:
            read = change_message_class(self, StoreMessage)
            read.context_id = items[last][0]
            read.command = command
            return False
        flaw = flaw_of(content)
        return super().decode_msg(primitive, assoc) if flaw is None else begin_flawed(self, primitive, last, flaw)


def receive(association: Any, take: Callable[[Any], None], primitive: Any) -> None:
    """Take a part of a message; the first one begins a message."""
    if message_under_way(association) is None:
        begin_message(association, ArrivingMessage).data_set = DatasetBytes()
    take(primitive)
