"""Open an association to another node and ask one thing of it; whatever goes wrong is an outcome (DICOM PS3.8 7)."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any

from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation

from contourd.dicom.network.answers import PendingRequests
from contourd.dicom.network.commitment_messages import MOST_BYTES
from contourd.dicom.network.guard import BROKEN, LEAST_PDU_BYTES, AssociationBounds, AssociationGuard, BoundsBreach
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.dicom.network.pynetdicom_internals import CallingEntity, Seam, connection_of, largest_pdu, replace_method
from contourd.dicom.network.tls import calling_context
from contourd.dicom.uids import IMPLEMENTATION, IMPLEMENTATION_NAME
from contourd.errors import NodeError
from contourd.settings import Destination, SenderNode
from contourd.system.logs import one_line

TRANSIENT_REJECTION = 0x02
# PS3.5 6.2: VR LO.
LONGEST_COMMENT = 64
# What an acceptance with 128 contexts, or a fragment of an answer, cannot fill; then an answer, and the largest report
# of storage commitment with what is around its fragments.
LONGEST_PDU_BYTES, LARGEST_MESSAGE_BYTES = 1 << 20, 2 * MOST_BYTES
Peer = Destination | SenderNode


class OutgoingAssociation:
    """An association to a peer that is asked for, and what the peer did wrong on it."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._guard: AssociationGuard | None = None
        self._association: Any = None
        self.breach: BoundsBreach | None = None
        self.details = ""

    def begin(self, association: Any, transport: Any) -> None:
        """Hold the association, which has not begun, to its bounds."""
        peer = self._peer
        bounds = AssociationBounds(LONGEST_PDU_BYTES, peer.response_timeout_s, LARGEST_MESSAGE_BYTES)
        self._guard = AssociationGuard(association, transport, bounds, self._breached)
        self._association = association
        PendingRequests(association, self._guard, peer.response_timeout_s)
        replace_method(association, Seam.SERVE_ALL, self._run)
        association.bind(evt.EVT_CONN_OPEN, self._opened)
        association.bind(evt.EVT_ACCEPTED, lambda _: self.allow(None))

    def _opened(self, event: Any) -> None:
        connection = connection_of(event.assoc)
        if connection is not None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.allow(self._peer.connect_timeout_s)

    def _run(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BROKEN as error:
            self._breached(BoundsBreach.BROKE, type(error).__name__)

    def _breached(self, breach: BoundsBreach, details: str) -> None:
        if self.breach is None:
            self.breach = breach
            self.details = details

    def allow(self, seconds: float | None) -> None:
        """Limit the time that all further traffic may take."""
        if self._guard is not None:
            self._guard.allow(seconds)

    def hang_up(self) -> None:
        """Close the connection, whatever is under way."""
        if self._guard is not None:
            self._guard.hang_up()

    def end(self) -> None:
        """Release the association, in the time that the peer has for that, and let go of all that it had."""
        association = self._association
        if association is None:
            return
        try:
            if association.is_established and self.breach is None:
                self.allow(self._peer.connect_timeout_s)
                association.release()
        except BROKEN as error:
            self._breached(BoundsBreach.BROKE, type(error).__name__)
        finally:
            if self._guard is not None:
                self._guard.end()

    @property
    def text(self) -> str:
        """What the peer did wrong."""
        return "; ".join(filter(None, (self.breach.value if self.breach else "", self.details)))


class AssociationRequestor:
    """Opens one association for each thing that is asked."""

    def __init__(self, calling_ae: str) -> None:
        self._calling_ae = calling_ae
        self._calls: set[OutgoingAssociation] = set()
        self._lock = threading.Lock()

    def ask(
        self,
        peer: Peer,
        contexts: Sequence[tuple[UID, UID]],
        send: Callable[[Any], Outcome],
        roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
        handlers: Sequence[Any] = (),
    ) -> Outcome:
        """Associate, send, release.

        Parameters
        ----------
        contexts
            (abstract syntax, transfer syntax), a presentation context each.
        send
            Is given the association.
        roles, handlers
            Of pynetdicom, for the association.
        """
        call = OutgoingAssociation(peer)
        with self._lock:
            self._calls.add(call)
        try:
            outcome = self._asked(call, peer, contexts, send, (roles, handlers))
            answered = outcome.status is not None or outcome.kind is OutcomeKind.ACCEPTED
            if call.breach is None or answered or outcome.kind is OutcomeKind.UNREACHABLE:
                return outcome
            return Outcome(OutcomeKind.IMPROPER, f"{peer_text(peer)} breaks the rules of DICOM: {call.text}")
        finally:
            call.end()
            with self._lock:
                self._calls.discard(call)

    def hang_up(self) -> None:
        """Break off whatever is under way: a peer that takes its time must not keep contourd from ending."""
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.hang_up()

    def _asked(
        self,
        call: OutgoingAssociation,
        peer: Peer,
        contexts: Sequence[tuple[UID, UID]],
        send: Callable[[Any], Outcome],
        extras: tuple[Sequence[SCP_SCU_RoleSelectionNegotiation], Sequence[Any]],
    ) -> Outcome:
        try:
            association = self._associate(call, peer, contexts, *extras)
        except NodeError as error:  # its certificates cannot be used
            return Outcome(OutcomeKind.UNREACHABLE, str(error))
        except OSError as error:  # the host's name cannot be resolved
            return Outcome(OutcomeKind.UNREACHABLE, f"{peer_text(peer)} cannot be reached: {error.strerror or error}")
        except BROKEN as error:
            text = f"what it answers to the request for an association makes no sense ({type(error).__name__})"
            return Outcome(OutcomeKind.UNREACHABLE, f"{peer_text(peer)} breaks the rules of DICOM: {text}")
        if not association.is_established:
            return _not_established(association, peer, call)
        if reason := _unusable(association):
            association.abort()
            return Outcome(OutcomeKind.UNREACHABLE, f"{peer_text(peer)} cannot be used: {reason}")
        try:
            return send(association)
        except (ValueError, AttributeError):  # its text may quote what cannot be encoded
            return Outcome(OutcomeKind.REFUSED, f"what is to be sent to {peer_text(peer)} cannot be encoded")
        except BROKEN:  # the association ended before the request went out
            return Outcome(OutcomeKind.RETRY, f"{peer_text(peer)} closed the connection")

    def _associate(
        self,
        call: OutgoingAssociation,
        peer: Peer,
        contexts: Sequence[tuple[UID, UID]],
        roles: Sequence[SCP_SCU_RoleSelectionNegotiation],
        handlers: Sequence[Any],
    ) -> Any:
        ae = CallingEntity(self._calling_ae, call.begin)
        ae.implementation_class_uid = IMPLEMENTATION
        ae.implementation_version_name = IMPLEMENTATION_NAME
        ae.connection_timeout = ae.acse_timeout = peer.connect_timeout_s
        ae.dimse_timeout = ae.network_timeout = peer.response_timeout_s
        for abstract_syntax, transfer_syntax in contexts:
            ae.add_requested_context(abstract_syntax, transfer_syntax)
        return ae.associate(
            peer.host,
            peer.port,
            ae_title=peer.ae_title,
            ext_neg=list(roles),
            tls_args=_tls(peer),
            evt_handlers=list(handlers),
        )


def peer_text(peer: Peer) -> str:
    """Name a node for a person."""
    return f"{peer.name} ({peer.ae_title} at {peer.host}:{peer.port})"


def answer_text(status: int, comment: object) -> str:
    """Put a DIMSE status and the other node's own words into a reason."""
    message = one_line(comment or "", LONGEST_COMMENT)
    return f"status 0x{status:04X}" + (f" ({message})" if message else "")


def _tls(peer: Peer) -> tuple[ssl.SSLContext, str] | None:
    return (calling_context(peer.tls, peer.name), peer.host) if peer.tls is not None else None


def _unusable(association: Any) -> str:
    """Return why nothing can be sent on an association that was accepted; empty where it can."""
    largest = largest_pdu(association)
    if 0 < largest < LEAST_PDU_BYTES:
        return f"it takes PDUs of at most {largest} bytes; let it take 16384 or more"
    proposed = {context.context_id: context.transfer_syntax for context in association.requestor.requested_contexts}
    for context in association.accepted_contexts:
        if len(context.transfer_syntax) != 1 or context.transfer_syntax[0] not in proposed[context.context_id]:
            return "it accepts a transfer syntax that was not proposed"
    return ""


def _not_established(association: Any, peer: Peer, call: OutgoingAssociation) -> Outcome:
    if call.breach is not None:
        return Outcome(OutcomeKind.UNREACHABLE, f"{peer_text(peer)} cannot be reached: {call.text}")
    if association.is_rejected:
        primitive = association.acceptor.primitive
        if primitive.result == TRANSIENT_REJECTION:
            return Outcome(
                OutcomeKind.RETRY, f"{peer_text(peer)} rejected the association for now: {primitive.reason_str}"
            )
        return Outcome(
            OutcomeKind.REFUSED,
            f"{peer_text(peer)} rejected the association: {primitive.reason_str}; check the AE titles",
        )
    if association.rejected_contexts:
        wanted = association.rejected_contexts[0].abstract_syntax.name
        return Outcome(OutcomeKind.REFUSED, f"{peer_text(peer)} does not take {wanted}; allow it there")
    by_tls = " by TLS: it does not answer, or one of the certificates is not accepted" if peer.tls else ""
    return Outcome(OutcomeKind.UNREACHABLE, f"{peer_text(peer)} cannot be reached{by_tls}")
