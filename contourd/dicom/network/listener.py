"""The listening socket: who may connect, and in what time a connection must ask for an association (DICOM PS3.8 9.3).

pynetdicom shakes hands for TLS before it accepts the next connection, and counts connections that never ask for an
association as associations. Here each of these ends after its time, and none keeps another peer waiting. Where one of
its threads breaks down on what a peer sent, pynetdicom tells nobody that the association has ended; here it is told.
"""

from __future__ import annotations

import itertools
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from pynetdicom import evt
from pynetdicom.transport import ThreadedAssociationServer

from contourd.dicom.network.guard import BROKEN, AssociationBounds, AssociationGuard, BoundsBreach
from contourd.dicom.network.own_echo import SelfEchoRegistry
from contourd.dicom.network.pynetdicom_internals import (
    BeginningHandler,
    Seam,
    close_transport,
    forget_server,
    replace_method,
    stop_speaking,
    transport_of,
    trigger,
)
from contourd.dicom.network.reactor import wait_instead_of_polling
from contourd.system.addresses import Network, address_group, lies_in

# Connections of one address, and of all, that have not asked for an association yet.
PENDING_OF_ONE, PENDING = 8, 64
# What an association was cut off for, by the setting that says how much is allowed.
BREACHES: Mapping[BoundsBreach, str] = MappingProxyType(
    {
        BoundsBreach.PDU: "a PDU is longer than node.max_pdu_kb",
        BoundsBreach.MESSAGE: "an instance is larger than node.max_instance_mb",
        BoundsBreach.LATE: "what it sends does not end within node.network_timeout_s",
    }
)
# Is told the association, what its peer did and details, and the address.
Told = Callable[[Any, BoundsBreach, str, str], None]


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """Who may come in, and what each may do then.

    Attributes
    ----------
    peers
        Networks that may connect; empty: any.
    request_s
        In which a connection must shake hands for TLS and have asked for an association, to the last byte.
    """

    peers: tuple[Network, ...]
    request_s: float
    bounds: AssociationBounds


@dataclass(frozen=True, slots=True)
class SelfConnections:
    """The node's calls to itself, and with what they are answered where TLS is spoken."""

    calls: SelfEchoRegistry
    context: ssl.SSLContext | None = None


def allowed(address: str, peers: Sequence[Network]) -> bool:
    """Return whether an address may connect."""
    return not peers or lies_in(address, peers)


@dataclass(slots=True, eq=False)
class _Pending:
    """A connection that has not asked for an association yet; ``party`` is whose address it has."""

    party: str
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
    breached
        Is told where a peer did what it may not; its connection is cut.
    gone
        Is told the number of each connection that has ended.
    """

    daemon_threads = True

    def __init__(
        self,
        entrance: AdmissionPolicy,
        own: SelfConnections,
        refused: Callable[[str, str], None],
        breached: Told,
        gone: Callable[[int], None],
        *arguments: Any,
        **named: Any,
    ) -> None:
        self._entrance = entrance
        self._own = own
        self._refused = refused
        self._breached = breached
        self._gone = gone
        self._own_numbers: set[int] = set()
        self._count = itertools.count(1)
        self._numbers: dict[Any, int] = {}  # by the connection's socket, then by its association
        self._pending: dict[Any, _Pending] = {}  # by the connection's socket
        self._began: dict[Any, float] = {}  # by the connection's socket
        self._guards: dict[Any, AssociationGuard] = {}  # by the association
        self._lock = threading.Lock()
        named["request_handler"] = partial(BeginningHandler, self.begin)
        super().__init__(*arguments, **named)

    def get_request(self) -> Any:
        """Accept a connection; the handshake comes later, in its own thread."""
        listening: Any = self.socket
        client, address = listening.accept()
        return self._numbered(client, address, next(self._count)), address

    def _numbered(self, client: Any, address: Any, number: int) -> Any:
        client.settimeout(self._entrance.request_s)
        context = self.ssl_context
        if address in self._own.calls:
            context = self._own.context
            self._own_numbers.add(number)
        if context:
            client = context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        self._numbers[client], self._began[client] = number, time.monotonic()
        return client

    def number_of(self, association: Any) -> int:
        """Return the number of an association's connection."""
        return self._numbers[association]

    def is_own(self, association: Any) -> bool:
        """Return whether an association is the node's with itself."""
        return self._numbers.get(association) in self._own_numbers

    def _forget(self, connection: Any) -> None:
        """Report that a connection, or its association, has ended; once."""
        self._began.pop(connection, None)
        self._guards.pop(connection, None)
        number = self._numbers.pop(connection, None)
        if number is not None:
            self._own_numbers.discard(number)
            self._gone(number)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse addresses that may not connect, and those that hold too many connections without an association."""
        address = str(client_address[0])
        if client_address in self._own.calls:
            return True
        if not allowed(address, self._entrance.peers):
            self._refused(address, "its address is not in node.allowed_peers")
            self._forget(request)
            return False
        with self._lock:
            self._pending = {key: one for key, one in self._pending.items() if not one.gone}
            own = sum(one.party == address_group(address) for one in self._pending.values())
            crowded = own >= PENDING_OF_ONE or len(self._pending) >= PENDING
            if not crowded:
                self._pending[request] = _Pending(address_group(address))
        if crowded:
            self._refused(address, "too many connections without an association")
            self._forget(request)
        return not crowded

    def begin(self, request: Any, association: Any) -> None:
        """Hold the association that a connection is to become to its bounds, from the connection's beginning."""
        guard = AssociationGuard(
            association, transport_of(association), self._entrance.bounds, partial(self._report_breach, association)
        )
        wait_instead_of_polling(association)
        replace_method(association, Seam.SERVE_ALL, partial(self._run, association))
        guard.allow(self._began.pop(request) + self._entrance.request_s - time.monotonic())
        self._numbers[association], self._guards[association] = self._numbers.pop(request), guard
        with self._lock:
            if request in self._pending:
                self._pending[request].association = association

    def requested(self, association: Any) -> None:
        """Record that an association was asked for: its connection is none of the pending ones any more."""
        guard = self._guards.get(association)
        if guard is not None:
            guard.allow(None)
        with self._lock:
            self._pending = {key: one for key, one in self._pending.items() if one.association is not association}

    def cut(self, association: Any, breach: BoundsBreach) -> None:
        """Cut an association off, if it has not ended."""
        guard = self._guards.get(association)
        if guard is not None:
            guard.cut(breach)

    def guard_of(self, association: Any) -> AssociationGuard:
        """Return what holds an association to its bounds."""
        return self._guards[association]

    def _run(self, association: Any, run: Callable[[], None]) -> None:
        """Run an association's thread; however it ends, the connection is closed and its end is told."""
        try:
            run()
        except BROKEN as error:
            self._report_breach(association, BoundsBreach.BROKE, type(error).__name__)
        finally:
            stop_speaking(association)
            close_transport(association)
            address = association.requestor.address_info
            trigger(association, evt.EVT_CONN_CLOSE, {"address": address and address.as_tuple})
            self._forget(association)

    def _report_breach(self, association: Any, breach: BoundsBreach, details: str) -> None:
        address = association.requestor.address_info
        self._breached(association, breach, details, str(address.address) if address else "")

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
            self._refused(address, f"{doing}: {_error_text(error)}")
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
            self._refused(str(address[0]), f"the connection broke: {_error_text(error)}")
            connection.close()
            self._gone(number)
            return
        if self.verify_request(client, address):
            self.process_request(client, address)
        else:
            self.shutdown_request(client)

    def shutdown(self) -> None:
        """Release the socket that never listened."""
        self.server_close()
        forget_server(self.ae, self)


def _error_text(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__
