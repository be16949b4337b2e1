"""The answer that is packed by hand, beside pynetdicom's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from pydicom.uid import CTImageStorage
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dimse_primitives import C_ECHO, C_STORE

from contourd.dicom.network.success import answer


def response(uid: str = "1.2.3.4", message: int = 7, status: int = 0) -> C_STORE:
    primitive = C_STORE()
    primitive.MessageID = primitive.MessageIDBeingRespondedTo = message
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = CTImageStorage, uid
    primitive.Status = status
    return primitive


def sent(primitive, most: int = 16384) -> tuple[list[bytes], list[object]]:
    """Return the fragments that were packed by hand, and what was left to pynetdicom."""
    packed, left = [], []
    dul = SimpleNamespace(send_pdu=lambda data: packed.append(data.presentation_data_value_list))
    dimse = SimpleNamespace(maximum_pdu_size=most, dul=dul)
    answer(SimpleNamespace(dimse=dimse, dul=dul), lambda one, context: left.append((one, context)), primitive, 3)
    return packed, left


@pytest.mark.parametrize("uid", ["1.2.3.4", "1.2.3.45", "2.25." + "9" * 59])
@pytest.mark.parametrize("message", [0, 1, 65535])
def test_it_is_what_pynetdicom_packs(uid: str, message: int) -> None:
    theirs = C_STORE_RSP()
    theirs.primitive_to_message(response(uid, message))
    (fragment,) = list(theirs.encode_msg(3, 16384))
    packed, left = sent(response(uid, message))
    assert packed == [fragment.presentation_data_value_list]
    assert left == []


@pytest.mark.parametrize("most", [100, 0])
def test_one_that_does_not_fit_into_a_pdu_is_left_to_pynetdicom(most: int) -> None:
    packed, left = sent(response(), most)
    assert (len(packed), len(left)) == ((0, 1) if most else (1, 0))


def test_every_other_message_is_left_to_pynetdicom() -> None:
    refusal, echo, request = response(status=0xA700), C_ECHO(), C_STORE()
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CTImageStorage, "1.2.3"
    for primitive in (refusal, echo, request):
        assert sent(primitive) == ([], [(primitive, 3)])
