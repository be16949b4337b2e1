"""One request that breaks the rules costs its sender that one: it is answered, told of, and the association goes on."""

from __future__ import annotations

import struct
from pathlib import Path

import pydicom
import pytest

from tests.fuzz.pdus import (
    CT,
    DATA,
    ECHO,
    ECHO_CONTEXT,
    Item,
    command,
    echo_fields,
    p_data,
    request,
    request_items,
    store,
    store_fields,
)
from tests.fuzz.receiving import Peer
from tests.integration.receiving import Receiver, watched
from tests.peers import LOOPBACK
from tests.phantom import encoded

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning")
EXPLICIT_CONTEXT = 3


@pytest.fixture
def image(images: list[Path]) -> tuple[bytes, bytes]:
    """An image's UID, and its dataset."""
    return pydicom.dcmread(images[0]).SOPInstanceUID.encode(), encoded(images[0])


def spoilt(uid: bytes, dataset: bytes, changes: dict[int, bytes | None]) -> bytes:
    fields = {n: value for n, value in {**store_fields(uid, 7), **changes}.items() if value is not None}
    return p_data((EXPLICIT_CONTEXT, 3, command(fields))) + p_data((EXPLICIT_CONTEXT, 2, dataset))


def status_in(answer: bytes) -> int:
    at = answer.index(struct.pack("<HHL", 0, 0x0900, 2)) + 8
    return int.from_bytes(answer[at : at + 2], "little")


REQUESTS = [
    ({0x0002: b"31"}, 0x0122, "C-STORE names no UID as its Affected SOP Class UID"),
    ({0x1000: b"1..2"}, 0x0117, "C-STORE names no UID as its Affected SOP Instance UID"),
    ({0x1000: None}, 0x0212, "C-STORE lacks its Affected SOP Instance UID"),
    ({0x0110: None}, 0x0212, "C-STORE lacks its Message ID"),
    ({0x0100: b"\x77\x07"}, 0x0211, "operation 0777 is not known"),
]


@pytest.mark.parametrize(("changes", "status", "told"), REQUESTS)
def test_the_good_images_behind_a_malformed_request_are_taken(tmp_path, image, changes, status, told) -> None:
    uid, dataset = image
    with watched(tmp_path) as (scp, witness):
        peer = Peer(scp.port)
        peer.associate()
        for _ in range(2):
            peer.socket.sendall(spoilt(uid, dataset, changes))
            kind, answer = peer.answer()
            assert (kind, status_in(answer), CT in answer) == (DATA, status, False)
        peer.socket.sendall(store(EXPLICIT_CONTEXT, uid, dataset))
        assert peer.status() == 0
        peer.socket.sendall(ECHO)
        assert peer.status() == 0
        peer.close()
        deed = ("request refused", LOOPBACK, "FUZZ", f"{told}: answered with status 0x{status:04X}")
        assert witness.wait_for("request refused") == deed
        assert witness.deeds.count(deed) == 1


def test_a_malformed_echo_costs_no_image(receiver: Receiver, image) -> None:
    peer = Peer(receiver.port)
    peer.associate()
    peer.socket.sendall(p_data((ECHO_CONTEXT, 3, command({**echo_fields(), 0x0002: b"31"}))))
    assert peer.status() == 0x0122
    peer.socket.sendall(store(EXPLICIT_CONTEXT, *image))
    assert peer.status() == 0
    peer.close()


@pytest.mark.parametrize("changes", [{0x0110: bytes(2)}, {0x0700: None}, {0x0700: b"\x09\0"}])
def test_what_harms_nobody_is_taken(receiver: Receiver, image, changes) -> None:
    peer = Peer(receiver.port)
    peer.associate()
    peer.socket.sendall(spoilt(*image, changes))
    assert peer.status() == 0
    peer.close()


def test_a_store_without_a_data_set_is_answered(receiver: Receiver, image) -> None:
    peer = Peer(receiver.port)
    peer.associate()
    peer.socket.sendall(p_data((EXPLICIT_CONTEXT, 3, command({**store_fields(image[0]), 0x0800: b"\1\1"}))))
    assert peer.status() == 0xC000
    peer.socket.sendall(store(EXPLICIT_CONTEXT, *image))
    assert peer.status() == 0
    peer.close()


@pytest.mark.parametrize(
    ("title", "why"),
    [
        (bytes(16), "its calling AE title is empty"),
        (b" " * 16, "its calling AE title is empty"),
        (b"\xff" * 16, "its calling AE title holds characters that are none"),
    ],
)
def test_a_caller_without_a_title_is_rejected_and_told_of(tmp_path, caplog, title, why) -> None:
    with watched(tmp_path) as (scp, witness):
        peer = Peer(scp.port)
        peer.socket.sendall(request(request_items(), calling=title))
        assert peer.answer() == (3, b"\0\1\1\3")  # rejected for good, by the user: calling AE title not recognized
        peer.close()
        assert witness.wait_for("association rejected") == ("association rejected", LOOPBACK, "?", why)
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("title", [bytes(16), b" " * 16])
def test_a_called_title_that_is_empty_is_not_ours(tmp_path, caplog, title) -> None:
    with watched(tmp_path) as (scp, witness):
        peer = Peer(scp.port)
        peer.socket.sendall(request(request_items(), called=title))
        assert peer.answer() == (3, b"\0\1\1\7")
        peer.close()
        deed = ("association rejected", LOOPBACK, "FUZZ", "a wrong calling or called AE title")
        assert witness.wait_for("association rejected") == deed
    assert not [record for record in caplog.records if record.exc_info]


def test_titles_that_are_padded_by_nuls_are_taken(receiver: Receiver) -> None:
    peer = Peer(receiver.port)
    peer.socket.sendall(request(request_items(), calling=b"SCANNER\0\0", called=b"CONTOURD\0"))
    assert peer.answer()[0] == 2
    peer.close()
    receiver.sink.wait_for("opened", 1, "SCANNER", LOOPBACK)


def test_a_request_that_cannot_be_read_is_told_of_without_a_traceback(tmp_path, caplog) -> None:
    application = Item(0x10, b"1.2.840.10008.3.1.1.1")
    hostile = [application, Item(0x20, (Item(0x99, b"what"),), bytes((1, 0, 0, 0)))]
    with watched(tmp_path) as (scp, witness):
        peer = Peer(scp.port)
        peer.socket.sendall(request(hostile))
        peer.until_closed()
        peer.close()
        action, address, title, why = witness.wait_for("connection refused")
    assert (action, address, title) == ("connection refused", LOOPBACK, "")
    assert why.startswith("a PDU of type 01 cannot be read: ")
    assert not [record for record in caplog.records if record.exc_info]
