"""A C-ECHO of the node to its own port: what a peer would see of it (DICOM PS3.7 9.3.5, PS3.8 9.3).

It goes through the kernel, the thread that accepts and a process that receives, as any peer's. The listener knows it by
the address of its socket, which nobody else can have meanwhile: it is let in whatever the node's peers and limits are,
shows no certificate, and leaves nothing in the audit trail.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from contourd.dicom.network.pynetdicom_internals import connection_of
from contourd.dicom.uids import IMPLEMENTATION
from contourd.errors import NodeError
from contourd.settings import NodeSettings

ECHO_S = 10.0
# PS3.8 9.3: types of PDUs and of their items.
ASSOCIATE_RQ = 1
ASSOCIATE_AC = 2
P_DATA = 4
RELEASE_RQ = 5
RELEASE_RP = 6
APPLICATION = 16
PROPOSED = 32
ACCEPTED = 33
ABSTRACT = 48
TRANSFER = 64
USER = 80
LARGEST = 81
IMPLEMENTED = 82
APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
CONTEXT_ID = 1
LAST_COMMAND = 3
MESSAGE_ID = 1
LARGEST_PDU_BYTES = 16384
# PS3.7 E.1: elements of a command; C-ECHO-RQ, C-ECHO-RSP, and that no data set follows.
COMMAND_FIELD = 0x0100
RESPONDED_TO = 0x0120
STATUS = 0x0900
ECHO_RQ = 0x0030
ECHO_RSP = 0x8030
NO_DATA_SET = 0x0101
# PS3.8 9.3.3: after the head of an A-ASSOCIATE-AC; 9.3.3.2: the result of a context.
AC_HEAD_BYTES, RESULT_AT = 68, 2
ELEMENT = struct.Struct("<HHL")

Address = tuple[str, int]


class SelfEchoRegistry:
    """The addresses from which the node calls itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[Address] = set()

    def expect(self, address: Address) -> None:
        """Record one, before it connects."""
        with self._lock:
            self._open.add(address)

    def forget(self, address: Address) -> None:
        """Forget it."""
        with self._lock:
            self._open.discard(address)

    def __contains__(self, address: object) -> bool:
        with self._lock:
            return isinstance(address, tuple) and tuple(address[:2]) in self._open


def own_title_refusal(association: Any, node: NodeSettings) -> str:
    """Return why a caller may not use the node's own title, which is for commands of this machine alone; else empty."""
    title, allowed = str(association.requestor.primitive.calling_ae_title).strip(), node.allowed_callers
    if not allowed or title in allowed or title != node.ae_title:
        return ""
    connection = connection_of(association)
    here = connection is not None and connection.getsockname()[0] == connection.getpeername()[0]
    return "" if here else "the node's own AE title, from another machine"


def echo_self(
    node: NodeSettings, listening: socket.socket, calls: SelfEchoRegistry, limit_s: float | None = None
) -> None:
    """Associate with the socket that listens, have a C-ECHO answered, and release.

    Raises
    ------
    NodeError
        It is not answered in the time, or not with Success; in words.
    """
    try:
        with _connected(node, listening, calls, time.monotonic() + (limit_s or ECHO_S)) as call:
            call.send(_associate_rq(node))
            _require_accepted(call.receive(ASSOCIATE_AC))
            call.send(_echo_rq())
            _require_success(call.receive(P_DATA))
            call.send(_pdu(RELEASE_RQ, bytes(4)))
            call.receive(RELEASE_RP)
    except (OSError, ValueError, struct.error) as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NodeError(f"the node's own port does not answer a C-ECHO: {text}") from error


class _Call:
    """A connection, until a moment."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self._connection = connection
        self._until = until

    def send(self, content: bytes) -> None:
        self._bound()
        self._connection.sendall(content)

    def receive(self, wanted: int) -> bytes:
        """Return what a PDU of a type holds."""
        kind, length = struct.unpack(">BxL", self._read(6))
        if kind != wanted or length > LARGEST_PDU_BYTES:
            raise ValueError(f"a PDU of type {kind} came in the place of {wanted}")
        return self._read(length)

    def _read(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            self._bound()
            got = self._connection.recv(count - len(content))
            if not got:
                raise ConnectionError("the connection was closed")
            content += got
        return content

    def _bound(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        self._connection.settimeout(left)


@contextmanager
def _connected(node: NodeSettings, listening: socket.socket, calls: SelfEchoRegistry, until: float) -> Iterator[_Call]:
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    with socket.socket(listening.family, socket.SOCK_STREAM) as connection:
        connection.bind((host, 0))
        own: Address = connection.getsockname()[:2]
        calls.expect(own)
        try:
            connection.settimeout(max(0.1, until - time.monotonic()))
            connection.connect((host, port))
            if node.tls is None:
                yield _Call(connection, until)
                return
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # it is this very process
            with context.wrap_socket(connection) as encrypted:
                yield _Call(encrypted, until)
        finally:
            calls.forget(own)


def _pdu(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxL", kind, len(content)) + content


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def _associate_rq(node: NodeSettings) -> bytes:
    """Encode an A-ASSOCIATE-RQ (PS3.8 9.3.2); the calling title is one that the node lets in."""
    calling = node.allowed_callers[0] if node.allowed_callers else node.ae_title
    titles = f"{node.ae_title:16}{calling:16}".encode("ascii")
    context = bytes([CONTEXT_ID, 0, 0, 0])
    context += _item(ABSTRACT, Verification.encode()) + _item(TRANSFER, ImplicitVRLittleEndian.encode())
    user = _item(LARGEST, struct.pack(">L", LARGEST_PDU_BYTES)) + _item(IMPLEMENTED, IMPLEMENTATION.encode())
    items = _item(APPLICATION, APPLICATION_CONTEXT) + _item(PROPOSED, context) + _item(USER, user)
    return _pdu(ASSOCIATE_RQ, struct.pack(">HH", 1, 0) + titles + bytes(32) + items)


def _require_accepted(content: bytes) -> None:
    at = AC_HEAD_BYTES
    while at < len(content):
        kind, length = struct.unpack_from(">BxH", content, at)
        if kind == ACCEPTED and content[at + 4 + RESULT_AT] == 0:
            return
        at += 4 + length
    raise ValueError("verification is not accepted")


def _echo_rq() -> bytes:
    uid = Verification.encode() + b"\0" * (len(Verification) % 2)
    elements = [(0x0002, uid)]
    numbers = ((COMMAND_FIELD, ECHO_RQ), (0x0110, MESSAGE_ID), (0x0800, NO_DATA_SET))
    elements += [(element, struct.pack("<H", number)) for element, number in numbers]
    command = b"".join(ELEMENT.pack(0, element, len(value)) + value for element, value in elements)
    command = ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(command)) + command
    return _pdu(P_DATA, struct.pack(">LBB", len(command) + 2, CONTEXT_ID, LAST_COMMAND) + command)


def _require_success(content: bytes) -> None:
    found, at = dict[int, int](), 6
    while at < len(content):
        _, element, length = ELEMENT.unpack_from(content, at)
        at += ELEMENT.size
        if length == struct.calcsize("<H"):
            (found[element],) = struct.unpack_from("<H", content, at)
        at += length
    wanted = {COMMAND_FIELD: ECHO_RSP, RESPONDED_TO: MESSAGE_ID, STATUS: 0}
    if any(found.get(element) != value for element, value in wanted.items()):
        raise ValueError(f"the answer is {found}")
