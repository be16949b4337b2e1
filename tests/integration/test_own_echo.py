"""The node's C-ECHO to itself: as true as a peer's, let in whatever the peers and limits are, and nowhere written."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from contourd.dicom.network.own_echo import SelfEchoRegistry, echo_self
from contourd.dicom.network.scp import StorageSCP
from contourd.errors import NodeError
from contourd.settings import NodeSettings, NodeTLS
from contourd.spool.folder import Spool
from tests.certificates import Authority
from tests.integration.receiving import Recorder, Start, associate
from tests.peers import LOOPBACK, free_port, listening_socket

SHORT_S = 0.5


def test_a_node_that_lets_nobody_in_answers_itself_and_writes_nothing(start: Start) -> None:
    witnessed: list[tuple[str, ...]] = []
    limits = {"allowed_peers": ("192.0.2.0/24",), "allowed_callers": ("CT1",), "max_associations": 1}
    receiver = start(witness=lambda *deed: witnessed.append(deed), **limits)
    receiver.scp.try_echo()
    assert (receiver.sink.told, witnessed) == ([], [])
    with socket.create_connection((LOOPBACK, receiver.port), timeout=10) as stranger:  # from the same address
        assert stranger.recv(1) == b""
    assert [deed[0] for deed in witnessed] == ["connection refused"]


def test_a_node_that_is_full_answers_itself(start: Start) -> None:
    receiver = start(max_associations=1, min_free_bytes=10**18)  # nor is there any room
    receiver.scp.try_echo()
    receiver.spool.min_free_bytes = 0
    association = associate(receiver.port)
    assert association.is_established
    receiver.scp.try_echo()
    assert associate(receiver.port).is_rejected
    association.release()


def test_it_takes_no_place_of_a_peer(start: Start) -> None:
    receiver = start(max_associations=1)
    for _ in range(3):
        receiver.scp.try_echo()
    association = associate(receiver.port)
    assert association.is_established
    association.release()


def test_it_is_answered_by_tls_without_a_certificate_and_nobody_else_is(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    pair = authority.sign("node")
    tls = NodeTLS(certificate=pair.certificate, key=pair.key, authorities=authority.certificate)
    node = NodeSettings(host=LOOPBACK, port=free_port(), tls=tls)
    scp = StorageSCP(node, Spool(tmp_path / "spool"), Recorder(tmp_path / "spool"))
    scp.start()
    try:
        scp.try_echo()
        with listening_socket(scp.port) as listening, pytest.raises(NodeError, match="does not answer a C-ECHO"):
            echo_self(node, listening, SelfEchoRegistry(), 5.0)  # of which the listener does not know
    finally:
        scp.stop()


# A PDU that says nothing, an A-ASSOCIATE-RJ, one of 4 GB, and an A-ASSOCIATE-AC that accepts no context.
ANSWERS = (b"", b"\x03\0\0\0\0\x04\0\1\1\1", b"\x02\0\xff\xff\xff\xff", b"\x02\0\0\0\0\x44" + bytes(68))


@pytest.mark.parametrize("content", ANSWERS)
def test_a_port_that_does_not_answer_or_answers_otherwise_is_told_in_its_time(content: bytes) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:

        def answer() -> None:
            connection, _ = silent.accept()
            with connection, suppress(ConnectionError):
                connection.sendall(content)
                connection.recv(1000)
                connection.recv(1000)  # until the caller has had enough

        thread = threading.Thread(target=answer)
        thread.start()
        began = time.monotonic()
        with pytest.raises(NodeError, match="does not answer a C-ECHO"):
            echo_self(NodeSettings(), silent, SelfEchoRegistry(), SHORT_S)
        assert time.monotonic() - began < SHORT_S + 2
        thread.join()


def test_an_answer_that_drips_has_no_more_time() -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:

        def drip() -> None:
            connection, _ = silent.accept()
            with connection:
                for byte in b"\x02\0\0\0\x01\0" + bytes(200):
                    try:
                        connection.sendall(bytes([byte]))
                    except OSError:
                        return
                    time.sleep(0.05)

        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        with pytest.raises(NodeError, match=r"no answer in time|timed out"):
            echo_self(NodeSettings(), silent, SelfEchoRegistry(), SHORT_S)
        assert time.monotonic() - began < SHORT_S + 2
        thread.join()
