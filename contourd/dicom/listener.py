"""The listening socket: who may connect, and how long and how large a PDU may be (DICOM PS3.8 9.3).

pynetdicom reads a PDU of whatever length the peer announces, waits for the rest of it for ever, shakes hands for TLS
before it accepts the next connection, and counts connections that never ask for an association as associations. Here
each of these ends after its time, and none keeps another peer waiting. Where one of its threads breaks down on what a
peer sent, pynetdicom tells nobody that the association has ended; here it is told.
"""

from __future__ import annotations

import itertools
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pynetdicom import evt
from pynetdicom.fsm import InvalidEventError
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from contourd.addresses import Network, lies_in
from contourd.dicom.instance import UNREADABLE
from contourd.dicom.own_echo import OwnCalls
from contourd.dicom.reactor import wait_instead_of_polling

# Connections of one address, and of all, that have not asked for an association yet.
PENDING_OF_ONE, PENDING = 8, 64
# What pynetdicom's threads raise on PDUs and messages that come out of order or that it cannot make sense of.
BROKEN = (*UNREADABLE, InvalidEventError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a peer may do.

    Attributes
    ----------
    peers
        Networks that may connect; empty: any.
    pdu_bytes
        The longest PDU; a longer one ends the connection before it is read.
    pdu_s
        In which a PDU must arrive once it has begun.
    request_s
        In which a connection must shake hands for TLS, and then ask for an association.
    """

    peers: tuple[Network, ...]
    pdu_bytes: int
    pdu_s: float
    request_s: float


@dataclass(frozen=True, slots=True)
class Own:
    """The node's calls to itself, and with what they are answered where TLS is spoken."""

    calls: OwnCalls
    context: ssl.SSLContext | None = None


def allowed(address: str, peers: Sequence[Network]) -> bool:
    """Say whether an address may connect."""
    return not peers or lies_in(address, peers)


def read_whole(socket: Any, bounds: Bounds, count: int) -> bytearray:
    """Read so many bytes of a PDU; fewer where the peer closed the connection.

    Raises
    ------
    OSError
        The PDU is longer than it may be, or does not arrive in its time.
    """
    if count > bounds.pdu_bytes:
        raise OSError(f"a PDU of {count} bytes was announced, {bounds.pdu_bytes} are allowed")
    content, read, deadline = bytearray(count), 0, time.monotonic() + bounds.pdu_s
    view = memoryview(content)
    try:
        while read < count:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"only {read} of {count} bytes of a PDU came within {bounds.pdu_s:g} s")
            socket.settimeout(left)
            got = socket.recv_into(view[read:])
            if not got:
                break
            read += got
    finally:
        view.release()
        socket.settimeout(bounds.pdu_s)  # for what is sent
    return content if read == count else content[:read]


@dataclass(slots=True, eq=False)
class _Pending:
    """A connection that has not asked for an association yet."""

    address: str
    association: Any = None

    @property
    def gone(self) -> bool:
        """Whether its association's thread has run and ended."""
        return self.association is not None and self.association.ident is not None and not self.association.is_alive()


class AssociationListener(ThreadedAssociationServer):
    """Accepts connections within its bounds; each shakes hands and associates in a thread of its own.

    Parameters
    ----------
    refused
        Is told the address of a connection that comes to nothing, and why.
    gone
        Is told the number of each connection that has ended.
    """

    daemon_threads = True

    def __init__(
        self,
        bounds: Bounds,
        own: Own,
        refused: Callable[[str, str], None],
        gone: Callable[[int], None],
        *arguments: Any,
        **named: Any,
    ) -> None:
        self._bounds, self._own, self._refused, self._gone = bounds, own, refused, gone
        self._own_numbers: set[int] = set()
        self._count = itertools.count(1)
        self._numbers: dict[Any, int] = {}  # by the connection's socket, then by its association
        self._pending: dict[Any, _Pending] = {}  # by the connection's socket
        self._lock = threading.Lock()
        named["request_handler"] = partial(_Handler, self)
        super().__init__(*arguments, **named)

    @property
    def bounds(self) -> Bounds:
        """What a peer may do."""
        return self._bounds

    def get_request(self) -> Any:
        """Accept a connection; the handshake comes later, in its own thread."""
        listening: Any = self.socket
        client, address = listening.accept()
        return self._numbered(client, address, next(self._count)), address

    def _numbered(self, client: Any, address: Any, number: int) -> Any:
        client.settimeout(self._bounds.request_s)
        context = self.ssl_context
        if address in self._own.calls:
            context = self._own.context
            self._own_numbers.add(number)
        if context:
            client = context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        self._numbers[client] = number
        return client

    def number_of(self, association: Any) -> int:
        """Return the number of an association's connection."""
        return self._numbers[association]

    def is_own(self, association: Any) -> bool:
        """Say whether an association is the node's with itself."""
        return self._numbers.get(association) in self._own_numbers

    def _forget(self, connection: Any) -> None:
        """Tell that a connection, or its association, has ended; once."""
        number = self._numbers.pop(connection, None)
        if number is not None:
            self._own_numbers.discard(number)
            self._gone(number)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse addresses that may not connect, and those that hold too many connections without an association."""
        address = str(client_address[0])
        if client_address in self._own.calls:
            return True
        if not allowed(address, self._bounds.peers):
            self._refused(address, "its address is not in node.allowed_peers")
            self._forget(request)
            return False
        with self._lock:
            self._pending = {key: one for key, one in self._pending.items() if not one.gone}
            own = sum(one.address == address for one in self._pending.values())
            crowded = own >= PENDING_OF_ONE or len(self._pending) >= PENDING
            if not crowded:
                self._pending[request] = _Pending(address)
        if crowded:
            self._refused(address, "too many connections without an association")
            self._forget(request)
        return not crowded

    def begun(self, request: Any, association: Any) -> None:
        """Take note of the association that a connection is to become."""
        self._numbers[association] = self._numbers.pop(request)
        with self._lock:
            if request in self._pending:
                self._pending[request].association = association

    def requested(self, association: Any) -> None:
        """Take note that an association was asked for: its connection is none of the pending ones any more."""
        with self._lock:
            self._pending = {key: one for key, one in self._pending.items() if one.association is not association}

    def run_association(self, association: Any, run: Callable[[], None]) -> None:
        """Run an association's thread; however it ends, the connection is closed and its end is told."""
        try:
            run()
        except BROKEN as error:
            self._broke(association, error)
        finally:
            association.dul.kill_dul()
            association.dul.socket.close()
            address = association.requestor.address_info
            evt.trigger(association, evt.EVT_CONN_CLOSE, {"address": address and address.as_tuple})
            self._forget(association)

    def act(self, association: Any, do_action: Callable[[str], None], event: str) -> None:
        """Let the state machine act on an event; one that it cannot act on ends the association."""
        try:
            do_action(event)
        except BROKEN as error:
            association.dul.kill_dul()
            association.dul.to_user_queue.put(None)  # or its own thread would wait out its time for a request
            self._broke(association, error)

    def _broke(self, association: Any, error: Exception) -> None:
        address = association.requestor.address_info
        self._refused(str(address.address) if address else "", f"the association broke: {type(error).__name__}")

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands where TLS is used, and begin the association; a connection that cannot do so ends alone."""
        address, doing = str(client_address[0]), "no TLS connection came about"
        try:
            if isinstance(request, ssl.SSLSocket):
                request.do_handshake()
            doing = "the connection broke"
            self.finish_request(request, client_address)
        except (OSError, ValueError, RuntimeError) as error:
            with self._lock:
                pending = self._pending.pop(request, None)
            self._refused(address, f"{doing}: {_told(error)}")
            self.shutdown_request(request)
            self._forget(request)
            if pending is not None and pending.association is not None:
                self._forget(pending.association)


class HandedConnections(AssociationListener):
    """Has no socket that listens: it is handed connections that another process accepted."""

    def server_bind(self) -> None:
        """Leave the address to who listens there."""

    def server_activate(self) -> None:
        """Do not listen."""

    def take(self, connection: Any, address: Any, number: int) -> None:
        """Begin an association on a connection, within the same bounds."""
        try:
            client = self._numbered(connection, address, number)
        except (OSError, ValueError) as error:  # it has gone meanwhile
            self._refused(str(address[0]), f"the connection broke: {_told(error)}")
            connection.close()
            self._gone(number)
            return
        if self.verify_request(client, address):
            self.process_request(client, address)
        else:
            self.shutdown_request(client)

    def shutdown(self) -> None:
        """Let go of the socket that never listened."""
        self.server_close()
        servers: Any = self.ae._servers
        servers.remove(self)


def _told(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__


class _Handler(RequestHandler):
    """Begins the association of a connection, whose PDUs are read within bounds."""

    def __init__(self, listener: AssociationListener, *arguments: Any) -> None:
        self._listener = listener
        super().__init__(*arguments)

    def _create_association(self) -> Any:
        association: Any = super()._create_association()
        transport: Any = association.dul.socket
        transport.recv = partial(read_whole, transport.socket, self._listener.bounds)
        machine = association.dul.state_machine
        machine.do_action = partial(self._listener.act, association, machine.do_action)
        association.run = partial(self._listener.run_association, association, association.run)
        wait_instead_of_polling(association)
        self._listener.begun(self.request, association)
        return association
