"""A message as it arrives: its hash is that of the stored bytes, its command the one that pynetdicom reads."""

from __future__ import annotations

import hashlib
import random
import struct
from functools import partial
from io import BytesIO
from types import SimpleNamespace

import pytest
from pydicom.uid import CTImageStorage
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

from contourd.dicom.network.incoming import DatasetBytes, StoreCommand, read_store, receive
from contourd.dicom.network.malformed import flaw_of
from contourd.dicom.network.scp import StorageSCP  # noqa: F401 (pydicom warns of nothing where it is imported)

CONTENT = bytes(range(256)) * 50


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def dimse() -> DIMSEServiceProvider:
    dimse = DIMSEServiceProvider(SimpleNamespace(get_handlers=lambda _event: []))
    dimse.receive_primitive = partial(receive, SimpleNamespace(dimse=dimse), dimse.receive_primitive)
    return dimse


def plain() -> DIMSEServiceProvider:
    return DIMSEServiceProvider(SimpleNamespace(get_handlers=lambda _event: []))


def fragments(number: int, content: bytes, most: int) -> list[P_DATA]:
    request = C_STORE()
    request.MessageID, request.Priority = number, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CTImageStorage, f"1.2.{number}"
    request.DataSet = BytesIO(content)
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    return list(message.encode_msg(1, most))


@pytest.mark.parametrize("step", [1, 7, 4096, len(CONTENT)])
def test_in_whatever_pieces_it_is_written(step: int) -> None:
    dataset = DatasetBytes()
    for at in range(0, len(CONTENT), step):
        dataset.write(memoryview(CONTENT)[at : at + step])
    assert (dataset.getvalue(), dataset.sha256) == (CONTENT, sha256(CONTENT))


def test_nothing_has_the_hash_of_nothing() -> None:
    assert DatasetBytes().sha256 == sha256(b"")


@pytest.mark.parametrize("most", [1000, 16384, 0])
def test_each_message_has_its_own(dimse: DIMSEServiceProvider, most: int) -> None:
    contents = {number: CONTENT[number:] for number in range(1, 4)}
    for number, content in contents.items():
        for fragment in fragments(number, content, most):
            dimse.receive_primitive(fragment)
    for number, content in contents.items():
        _, request = dimse.msg_queue.get(block=False)
        assert request.MessageID == number
        assert (request.DataSet.getvalue(), request.DataSet.sha256) == (content, sha256(content))


def test_what_pynetdicom_drops_is_not_hashed(dimse: DIMSEServiceProvider) -> None:
    """A fragment that follows the last one in the same PDU belongs to no message."""
    command, data = fragments(1, CONTENT, 0)
    data.presentation_data_value_list.append((1, b"\x02more"))
    dimse.receive_primitive(command)
    dimse.receive_primitive(data)
    _, request = dimse.msg_queue.get(block=False)
    assert (request.DataSet.getvalue(), request.DataSet.sha256) == (CONTENT, sha256(CONTENT))


def command_of(number: int, content: bytes = CONTENT) -> bytes:
    (_, fragment), *_ = fragments(number, content, 0)[0].presentation_data_value_list
    return fragment[1:]


def element(number: int, value: bytes, group: int = 0) -> bytes:
    return struct.pack("<HHI", group, number, len(value)) + value


def test_the_usual_command_is_read_by_hand() -> None:
    assert read_store(command_of(7)) == StoreCommand(7, 2, CTImageStorage, "1.2.7")
    assert read_store(command_of(65535)) == StoreCommand(65535, 2, CTImageStorage, "1.2.65535")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        command_of(1)[:-1],
        command_of(1)[:-6],
        command_of(1) + b"\0",
        command_of(1) + element(0x1031, b"\1\0"),
        command_of(1) + element(0x1000, b"1.2.9\0"),
        command_of(1) + element(0x0010, b"x ", group=8),
        command_of(1).replace(element(0x0100, b"\1\0"), element(0x0100, b"\x30\0")),
        command_of(1).replace(element(0x0100, b"\1\0"), element(0x0100, b"\1\0\1\0")),
        command_of(1).replace(element(0x0800, b"\1\0"), element(0x0800, b"\1\1")),
        command_of(1).replace(b"1.2.1\0", b"1.2\\1\0"),
        command_of(1).replace(b"1.2.1\0", b"1.2.a\0"),
        command_of(1).replace(b"1.2.1\0", b"1.02.1"),
        command_of(1).replace(element(0x0700, b"\2\0"), b""),
    ],
)
def test_whatever_is_unusual_is_left_to_pynetdicom(content: bytes) -> None:
    assert content != command_of(1)
    assert read_store(content) is None


def outcome(dimse: DIMSEServiceProvider, command: bytes) -> object:
    """Return what becomes of a message with a command, its dataset in a PDU of its own."""
    told: list[str] = []
    dimse._assoc.dul = SimpleNamespace(event_queue=SimpleNamespace(put=told.append))
    try:
        for fragment in (b"\3" + command, b"\2" + CONTENT):
            data = P_DATA()
            data.presentation_data_value_list.append((5, fragment))
            dimse.receive_primitive(data)
        context, request = dimse.msg_queue.get(block=False)
    except Exception as error:
        return type(error).__name__
    said = {name: value for name, value in vars(request).items() if name != "_dataset"}
    return context, type(request), said, request.DataSet and request.DataSet.getvalue(), told


def test_a_command_that_is_read_by_hand_is_the_request_that_pynetdicom_reads(dimse: DIMSEServiceProvider) -> None:
    """Also where bytes of it are other than they should be: the same request, or the same refusal."""
    rng, by_hand = random.Random(0), 0
    for _ in range(1000):
        command = bytearray(command_of(rng.choice([1, 258, 65535])))
        for _ in range(rng.choice([0, 1, 1, 2])):
            command[rng.randrange(len(command))] = rng.choice([0, 1, 2, 46, 49, rng.randrange(256)])
        for one in (dimse, theirs := plain()):
            one.message = None
        read = read_store(bytes(command))
        by_hand += read is not None
        if flaw_of(bytes(command)) is not None or (read is not None and read.priority > 2):
            continue  # what pynetdicom would abort for
        assert outcome(dimse, bytes(command)) == outcome(theirs, bytes(command)), bytes(command)
    assert by_hand > 300


def test_a_priority_that_is_none_refuses_no_image(dimse: DIMSEServiceProvider) -> None:
    command = command_of(1).replace(element(0x0700, b"\2\0"), element(0x0700, b"\7\0"))
    context, kind, said, dataset, told = outcome(dimse, command)
    assert (context, kind, said["_priority"], dataset, told) == (5, C_STORE, 0, CONTENT, [])


def test_a_second_command_in_a_message_is_pynetdicom_s_affair(dimse: DIMSEServiceProvider) -> None:
    """One that follows the first without a dataset between them."""
    theirs = plain()
    for one in (dimse, theirs):
        for number in (1, 2):
            data = P_DATA()
            data.presentation_data_value_list.append((1, b"\3" + command_of(number)))
            one.receive_primitive(data)
        for fragment in fragments(3, CONTENT, 0)[1:]:
            one.receive_primitive(fragment)
    (_, ours), (_, other) = (one.msg_queue.get(block=False) for one in (dimse, theirs))
    assert (ours.MessageID, ours.DataSet.getvalue()) == (other.MessageID, other.DataSet.getvalue()) == (2, CONTENT)
