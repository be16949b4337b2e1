"""A connection that its peer closes leaves nothing behind, whatever it brought."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from pynetdicom.association import Association

from tests.integration.receiving import Start, associate
from tests.peers import LOOPBACK

CONNECTIONS = 20


def waiting() -> int:
    return sum(isinstance(thread, Association) for thread in threading.enumerate())


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.0\r\n\r\n", b"\x01\x00\x00\x00\x00\x20half"])
def test_no_thread_waits_for_a_peer_that_is_gone(start: Start, sent: bytes) -> None:
    port = start(request_timeout_s=60.0).port
    for _ in range(CONNECTIONS):
        with socket.create_connection((LOOPBACK, port)) as connection:
            connection.sendall(sent)
    associate(port).release()  # now the listener has accepted those before it
    deadline = time.monotonic() + 20
    while waiting() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert waiting() == 0


def test_no_thread_waits_for_a_peer_of_a_node_that_has_ended(start: Start) -> None:
    receiver = start(request_timeout_s=60.0)
    with socket.create_connection((LOOPBACK, receiver.port)):
        deadline = time.monotonic() + 20
        while not waiting():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        receiver.scp.stop()
        while waiting() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert waiting() == 0
