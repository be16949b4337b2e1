"""The hash of a received dataset is that of the bytes that are stored, however they came."""

from __future__ import annotations

import hashlib
from functools import partial
from io import BytesIO
from types import SimpleNamespace

import pytest
from pydicom.uid import CTImageStorage
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

from contourd.dicom.dataset_bytes import DatasetBytes, receive

CONTENT = bytes(range(256)) * 50


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def dimse() -> DIMSEServiceProvider:
    dimse = DIMSEServiceProvider(SimpleNamespace(get_handlers=lambda _event: []))
    dimse.receive_primitive = partial(receive, dimse, dimse.receive_primitive)
    return dimse


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
