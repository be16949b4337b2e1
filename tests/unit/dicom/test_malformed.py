"""A request that breaks the rules of DIMSE is answered by its status (PS3.7 annex C); what can be taken is no flaw."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import pytest
from pydicom.uid import CTImageStorage
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dsutils import decode
from pynetdicom.pdu_primitives import P_DATA

from contourd.dicom.network.incoming import ArrivingMessage, DatasetBytes
from contourd.dicom.network.malformed import FlawedMessage, FlawedRequest, failure, flaw_of
from contourd.dicom.network.titles import correct_ae_titles
from tests.fuzz.pdus import command, echo_fields, request, request_items, store_fields

UID = b"1.2.3.4"
# What is changed in a C-STORE-RQ (None: left out) -> status, offending element, and what is told.
FLAWS = [
    ({0x0002: b"31"}, 0x0122, 0x0002, "C-STORE names no UID as its Affected SOP Class UID"),
    ({0x0002: b"1.2.abc\0"}, 0x0122, 0x0002, "C-STORE names no UID as its Affected SOP Class UID"),
    ({0x0002: b"1." * 33}, 0x0122, 0x0002, "C-STORE names no UID as its Affected SOP Class UID"),
    ({0x0002: b""}, 0x0212, 0x0002, "C-STORE lacks its Affected SOP Class UID"),
    ({0x0002: None}, 0x0212, 0x0002, "C-STORE lacks its Affected SOP Class UID"),
    ({0x1000: b"1..2"}, 0x0117, 0x1000, "C-STORE names no UID as its Affected SOP Instance UID"),
    ({0x1000: bytes(2)}, 0x0212, 0x1000, "C-STORE lacks its Affected SOP Instance UID"),
    ({0x1000: None}, 0x0212, 0x1000, "C-STORE lacks its Affected SOP Instance UID"),
    ({0x0110: None}, 0x0212, 0x0110, "C-STORE lacks its Message ID"),
    ({0x0110: b"\1\0\0\0"}, 0x0212, 0x0110, "C-STORE lacks its Message ID"),
    ({0x0800: None}, 0x0212, 0x0800, "C-STORE lacks its Command Data Set Type"),
    ({0x0100: b"\x77\x07"}, 0x0211, 0x0100, "operation 0777 is not known"),
]


def changed(fields: dict[int, bytes], changes: dict[int, bytes | None]) -> bytes:
    return command({element: value for element, value in {**fields, **changes}.items() if value is not None})


@pytest.mark.parametrize(("changes", "status", "element", "told"), FLAWS)
def test_a_flaw_has_its_status_and_its_element(changes, status, element, told) -> None:
    flaw = flaw_of(changed(store_fields(UID, 7), changes))
    assert flaw is not None
    assert (flaw.status, flaw.element, flaw.text) == (status, element, told)
    answer = decode(BytesIO(failure(flaw)), True, True)
    assert answer.Status == status
    assert answer.CommandField == (0x8777 if 0x0100 in changes else 0x8001)
    assert answer.MessageIDBeingRespondedTo == (0 if 0x0110 in changes else 7)
    assert answer.CommandDataSetType == 0x0101
    assert answer.OffendingElement == element
    assert answer.ErrorComment == told
    assert answer.CommandGroupLength == len(failure(flaw)) - 12


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        (store_fields(UID), {}),
        (store_fields(UID), {0x0110: bytes(2)}),  # zero is a number like any other
        (store_fields(UID), {0x0700: None}),  # nothing here goes by priority
        (store_fields(UID), {0x0700: b"\x09\0"}),
        (store_fields(UID), {0x0002: bytes(str(CTImageStorage), "ascii") + b"  \0"}),
        (store_fields(b"1.2.03"), {}),
        (store_fields(UID), {0x0100: b"\x01\x80"}),  # an answer
        (store_fields(UID), {0x0100: b"\xff\x0f"}),  # C-CANCEL has none
        (echo_fields(), {}),
        (echo_fields(), {0x0800: None}),  # a data set may follow, or not
    ],
)
def test_what_is_no_flaw_or_cannot_be_answered(fields, changes) -> None:
    assert flaw_of(changed(fields, changes)) is None


@pytest.mark.parametrize("content", [b"", b"abc", command(store_fields(UID))[:-1], struct.pack("<HHI", 8, 5, 0)])
def test_bytes_that_are_no_command_are_left_to_pynetdicom(content) -> None:
    assert flaw_of(content) is None


def test_every_uid_of_a_dimse_n_request_is_looked_at() -> None:
    action = {0x0003: UID + b"\0", 0x0100: b"\x30\x01", 0x0110: b"\1\0", 0x0800: b"\0\0", 0x1001: UID + b"\0"}
    assert flaw_of(command(action)) is None
    assert flaw_of(command({**action, 0x0003: b"1.x\0"})).status == 0x0118
    assert flaw_of(command({**action, 0x1001: b"1.x\0"})).status == 0x0117


def arriving(*items: tuple[int, bytes]) -> P_DATA:
    data = P_DATA()
    data.presentation_data_value_list.extend(items)
    return data


def begun() -> Any:
    message: Any = DIMSEMessage()
    message.__class__, message.data_set = ArrivingMessage, DatasetBytes()
    return message


def test_a_flawed_c_store_is_read_to_its_end_and_keeps_its_image() -> None:
    message, content = begun(), changed(store_fields(UID, 7), {0x0002: b"31"})
    assert not message.decode_msg(arriving((3, b"\x01" + content[:20])))
    assert not message.decode_msg(arriving((3, b"\x03" + content[20:]), (3, b"\x00abc")))
    assert message.decode_msg(arriving((3, b"\x02def")))
    assert isinstance(message, FlawedMessage)
    request = message.message_to_primitive()
    assert (request.MessageID, request.DataSet.getvalue(), request.flaw.status) == (7, b"abcdef", 0x0122)
    assert request._context_id == 3


def test_a_flawed_request_without_a_data_set_is_whole_at_once() -> None:
    message = begun()
    assert message.decode_msg(arriving((9, b"\x03" + changed(echo_fields(), {0x0002: b"31"}))))
    answered = message.message_to_primitive()
    assert isinstance(answered, FlawedRequest)
    assert not answered.is_valid_request


@pytest.mark.parametrize(
    ("calling", "left", "flaw"),
    [
        (b"SCANNER", b"SCANNER", ""),
        (b"SCANNER\0\0\0", b"SCANNER", ""),
        (b" SCANNER", b"SCANNER", ""),
        (bytes(16), b"?", "its calling AE title is empty"),
        (b" " * 16, b"?", "its calling AE title is empty"),
        (b" \0 \0", b"?", "its calling AE title is empty"),
        (b"A\\B", b"?", "its calling AE title holds characters that are none"),
        (b"A\nB", b"?", "its calling AE title holds characters that are none"),
        (b"\xff" * 16, b"?", "its calling AE title holds characters that are none"),
    ],
)
def test_titles(calling, left, flaw) -> None:
    sent = bytearray(request(request_items(), calling=calling))
    assert correct_ae_titles(sent) == flaw
    assert sent[26:42] == left.ljust(16)
    assert sent[10:26] == b"CONTOURD".ljust(16)
    assert len(sent) == len(request(request_items()))
