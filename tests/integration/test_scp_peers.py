"""Operations that are not offered, a share of the associations for each address, the time of a request, the clock."""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from contourd.dicom.network.events import AssociationLimits
from contourd.dicom.network.guard import LEAST_PDU_BYTES
from contourd.dicom.network.outcomes import OutcomeKind
from contourd.dicom.network.scu import StorageSCU
from tests.fuzz.pdus import CT, ECHO, RELEASE_RQ, VERIFICATION, Item, command, p_data, pdu, request, request_items
from tests.fuzz.receiving import Peer
from tests.integration.receiving import Start, associate, ended, sending, watched
from tests.peers import LOOPBACK
from tests.rogues import Line, rogue

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning")
UNRECOGNIZED, NOT_SUPPORTED = 0x0211, 0x0122
# PS3.7 E.1, with what names the SOP class: affected by DIMSE-C, N-EVENT-REPORT and N-CREATE, requested by the others.
OPERATIONS = {
    "C-FIND": (0x0020, 0x0002),
    "C-MOVE": (0x0021, 0x0002),
    "C-GET": (0x0010, 0x0002),
    "C-ECHO": (0x0030, 0x0002),
    "N-EVENT-REPORT": (0x0100, 0x0002),
    "N-GET": (0x0110, 0x0003),
    "N-SET": (0x0120, 0x0003),
    "N-ACTION": (0x0130, 0x0003),
    "N-CREATE": (0x0140, 0x0002),
    "N-DELETE": (0x0150, 0x0003),
}
CONTEXT = 3


def asking(name: str, sop_class: bytes = CT, message: int = 5) -> bytes:
    """Ask for an operation on a CT context, with a data set of nothing where it has one."""
    field, names = OPERATIONS[name]
    instance = 0x1000 if names == 0x0002 else 0x1001
    elements = {
        names: sop_class + b"\0" * (len(sop_class) % 2),
        0x0100: struct.pack("<H", field),
        0x0110: struct.pack("<H", message),
        0x0600: b"NOBODY",
        0x0700: b"\0\0",
        0x0800: b"\1\1" if name in ("C-ECHO", "N-DELETE", "N-GET") else b"\0\0",
        instance: b"1.2.3\0",
        0x1002: b"\1\0",
        0x1008: b"\1\0",
    }
    sent = p_data((CONTEXT, 3, command(elements)))
    return sent if elements[0x0800] == b"\1\1" else sent + p_data((CONTEXT, 2, b""))


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_is_not_offered_is_answered_and_the_association_lasts(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with watched(tmp_path) as (scp, witness):
        peer = Peer(scp.port)
        peer.associate()
        for _ in range(3):
            peer.socket.sendall(asking(name))
            assert peer.status() == UNRECOGNIZED
        peer.socket.sendall(ECHO)
        assert peer.status() == 0
        peer.socket.sendall(RELEASE_RQ)
        peer.until_closed()
        peer.close()
        assert witness.wait_for("request refused")[1:] == (LOOPBACK, "FUZZ", f"{name} on CT Image Storage")
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.exc_info for record in told] == [None]


def test_a_message_of_another_sop_class_than_its_context_is_not_served(tmp_path: Path) -> None:
    store = {0x0002: VERIFICATION + b"\0", 0x0100: b"\1\0", 0x0110: b"\1\0", 0x0700: b"\0\0", 0x0800: b"\0\0"}
    with watched(tmp_path) as (scp, _):
        peer = Peer(scp.port)
        peer.associate()
        peer.socket.sendall(p_data((CONTEXT, 3, command({**store, 0x1000: b"1.2.3\0"})), (CONTEXT, 2, b"")))
        assert peer.status() == NOT_SUPPORTED
        peer.close()


@pytest.mark.parametrize("largest", [1, 6, LEAST_PDU_BYTES - 1])
def test_a_sender_that_takes_no_answer_is_rejected(start: Start, largest: int, caplog) -> None:
    receiver = start()
    items = [*request_items()[:-1], Item(0x50, (Item(0x51, struct.pack(">L", largest)), Item(0x52, b"1.2.3")))]
    peer = Peer(receiver.port)
    peer.socket.sendall(request(items))
    assert peer.answer() == (3, bytes((0, 1, 1, 1)))
    peer.close()
    assert "it takes PDUs of less than 128 bytes alone" in caplog.text


def test_a_sender_that_names_no_maximum_length_gets_its_answers(start: Start) -> None:
    peer = Peer(start().port)
    peer.socket.sendall(request([*request_items()[:-1], Item(0x50, (Item(0x52, b"1.2.3"),))]))
    assert peer.answer()[0] == 2
    peer.socket.sendall(ECHO)
    assert peer.status() == 0
    peer.close()


def test_each_party_has_its_share_and_no_more() -> None:
    places = AssociationLimits(5, 2)
    many, all_taken = "too many associations of this address (node.associations_per_peer)", "too many associations"
    assert [places.admit(n, "10.0.0.1") for n in (1, 2, 3)] == ["", "", many]
    assert places.admit(4, "::ffff:10.0.0.1") == many  # the same address, by IPv6
    assert [places.admit(n, f"2001:db8::{n}") for n in (5, 6, 7)] == ["", "", many]  # one network of IPv6
    assert places.admit(8, "2001:db8:0:1::1") == ""
    assert places.admit(9, "10.0.0.2") == all_taken
    places.gone(1)
    places.gone(3)  # had none
    assert [places.admit(n, "10.0.0.1") for n in (10, 11)] == ["", all_taken]


def test_one_address_leaves_room_for_others(start: Start, caplog) -> None:
    receiver = start(max_associations=4, associations_per_peer=2)
    with sending(receiver.port), sending(receiver.port):
        assert not associate(receiver.port).is_established
        assert "too many associations of this address" in caplog.text
        peer = socket.create_connection((LOOPBACK, receiver.port), source_address=("127.0.0.2", 0))
        peer.sendall(request(request_items()))
        assert peer.recv(1) == b"\2"
        peer.close()
    deadline = time.monotonic() + 20
    while not (further := associate(receiver.port)).is_established and time.monotonic() < deadline:
        time.sleep(0.05)  # a place is free a moment after its association
    assert further.is_established
    further.release()


@pytest.mark.parametrize("step", [1, 40])
def test_a_request_that_drips_ends_in_the_time_of_a_request(start: Start, step: int) -> None:
    receiver = start(request_timeout_s=1.0, network_timeout_s=60.0)
    content = request(request_items(), called=b"CONTOURD") + bytes(4000)
    with socket.create_connection((LOOPBACK, receiver.port)) as dripping:
        began, done = time.monotonic(), threading.Event()

        def drip() -> None:
            try:
                for at in range(0, len(content), step):
                    dripping.sendall(content[at : at + step])
                    if done.wait(0.1):
                        return
            except OSError:
                return

        thread = threading.Thread(target=drip)
        thread.start()
        ended(dripping, 20)
        took_s = time.monotonic() - began
        done.set()
        thread.join()
    assert 0.5 < took_s < 5


def test_a_request_that_drips_keeps_its_place_no_longer(start: Start) -> None:
    receiver = start(request_timeout_s=0.5)
    dripping = [socket.create_connection((LOOPBACK, receiver.port)) for _ in range(8)]
    for connection in dripping:
        connection.sendall(pdu(1, b"", 4000))
    for connection in dripping:
        ended(connection, 10)
        connection.close()
    with sending(receiver.port) as association:
        assert association.send_c_echo().Status == 0


@pytest.mark.parametrize("jump_s", [-1e6, 1e6])
def test_a_clock_that_is_set_ends_no_association(start: Start, monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    receiver, real = start(network_timeout_s=30.0, request_timeout_s=30.0), time.time
    peer = Peer(receiver.port)
    peer.associate()
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    for _ in range(3):
        time.sleep(0.3)
        peer.socket.sendall(ECHO)
        assert peer.status() == 0
    peer.socket.sendall(RELEASE_RQ)
    peer.until_closed()
    receiver.sink.wait_for("closed", 1, False)
    peer.close()


@pytest.mark.parametrize("jump_s", [-1e6, 1e6])
def test_nor_one_of_ours(monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    real = time.time

    def play(line: Line) -> None:
        line.accept()
        asked = line.asked()
        monkeypatch.setattr(time, "time", lambda: real() + jump_s)
        time.sleep(0.5)
        line.send(asked.answer())
        line.asked()

    with rogue(play) as peer:
        assert StorageSCU("CONTOURD").echo(peer.destination(response_timeout_s=30.0)).kind is OutcomeKind.ACCEPTED
