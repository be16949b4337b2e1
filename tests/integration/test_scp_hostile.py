"""Peers that break the rules of the protocol: an association that breaks has ended, and nothing piles up."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pydicom
import pytest

from contourd.dicom.network.guard import MOST_WAITING
from tests.fuzz.pdus import AC, CT, ECHO, EXPLICIT, IMPLICIT, RELEASED, context, pdu, request, request_items, store
from tests.fuzz.receiving import Peer
from tests.integration.receiving import Receiver, sending
from tests.phantom import encoded

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning")


def echo(port: int) -> bool:
    with sending(port) as association:
        return association.send_c_echo().Status == 0


BREAKS = {
    "a second request": request(request_items()),
    "an acceptance": request(request_items(), kind=AC),
    "a release response": pdu(RELEASED, bytes(4)),
    "an unknown PDU": pdu(0x99, b"abc"),
    "a message without a command": pdu(4, b"\0\0\0\2\3\2"),
    "a fragment of no context": pdu(4, b"\0\0\0\3\xff\3a"),
    "a PDV that is longer than its PDU": pdu(4, b"\0\0\xff\xff\3\3"),
    "a command that is none": pdu(4, b"\0\0\0\6\3\3\xff\xff\xff\xff"),
    "an end in the middle of a PDU": pdu(4, b"", 100),
}


@pytest.mark.parametrize("what", BREAKS)
def test_an_association_that_breaks_has_ended(receiver: Receiver, what: str) -> None:
    peer = Peer(receiver.port)
    peer.associate()
    peer.socket.sendall(BREAKS[what])
    peer.socket.shutdown(1)
    peer.until_closed()
    peer.close()
    receiver.sink.wait_for("closed", 1, True)
    assert receiver.scp.open_associations == 0
    assert echo(receiver.port)


def closed(receiver: Receiver) -> list[tuple[object, ...]]:
    return [what for what in receiver.sink.told if what[0] == "closed"]


def test_a_peer_that_is_gone_before_it_is_accepted(receiver: Receiver) -> None:
    """Pynetdicom's state machine knows no acceptance of a connection that is closed."""
    for _ in range(20):
        peer = Peer(receiver.port)
        peer.socket.sendall(request(request_items()))
        peer.socket.shutdown(1)
        peer.until_closed()
        peer.close()
        with receiver.sink.changed:
            assert receiver.sink.changed.wait_for(lambda: receiver.scp.open_associations == 0, 20)
    numbers = sorted(what[1] for what in receiver.sink.told if what[0] == "opened")
    with receiver.sink.changed:  # one may be told while the next comes
        assert receiver.sink.changed.wait_for(lambda: len(closed(receiver)) == len(numbers), 20)
    assert sorted(closed(receiver)) == [("closed", number, True) for number in numbers]
    assert echo(receiver.port)


def test_a_peer_that_does_not_wait_for_answers_is_cut_off(receiver: Receiver, images: list[Path], caplog) -> None:
    """While one instance is stored, hundreds of others would wait in memory."""
    held = threading.Event()
    receiver.sink.before_storing = lambda: held.wait(20) and None
    uid = pydicom.dcmread(images[0]).SOPInstanceUID.encode()
    peer = Peer(receiver.port)
    peer.associate()
    with suppress(ConnectionError):
        peer.socket.sendall(b"".join(store(3, uid, encoded(images[0]), n) for n in range(20)))
    peer.until_closed()
    held.set()
    receiver.sink.wait_for("closed", 1, True)
    peer.close()
    assert "does not wait for answers" in caplog.text
    assert len(receiver.files()) <= 1 + MOST_WAITING


def test_a_thousand_contexts_and_a_thousand_user_items(receiver: Receiver) -> None:
    contexts = [context(n & 0xFF | 1, CT, EXPLICIT, IMPLICIT) for n in range(1000)]
    items = request_items()
    for hostile in ([items[0], *contexts, items[-1]], [*items[:-1], *[items[-1]] * 1000]):
        peer = Peer(receiver.port)
        peer.socket.sendall(request(hostile))
        peer.socket.shutdown(1)
        peer.until_closed()
        peer.close()
    assert echo(receiver.port)


@pytest.mark.parametrize("title", [b"a\n2026 ERROR x", b"\x1b[2J", b"\xff" * 16, bytes(16)])
def test_a_calling_ae_title_cannot_forge_a_line(receiver: Receiver, title: bytes, caplog) -> None:
    peer = Peer(receiver.port)
    peer.socket.sendall(request(request_items(), calling=title) + ECHO)
    peer.socket.shutdown(1)
    peer.until_closed()
    peer.close()
    titles = [record.calling_ae for record in caplog.records if hasattr(record, "calling_ae")]
    assert all(str(one).isprintable() for one in titles)
    assert all(str(what[2]).isprintable() for what in receiver.sink.told if what[0] == "opened")
    assert echo(receiver.port)
