"""Open an association to another node and ask one thing of it; whatever goes wrong is an outcome (DICOM PS3.8 7)."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, _config, evt
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation

from contourd.dicom.rtstruct_write import IMPLEMENTATION, IMPLEMENTATION_NAME
from contourd.dicom.tls import calling_context
from contourd.errors import NodeError
from contourd.logs import one_line
from contourd.outcomes import Outcome, OutcomeKind
from contourd.settings import Destination, SenderNode

TRANSIENT_REJECTION = 0x02
# PS3.5 6.2: VR LO.
LONGEST_COMMENT = 64
Peer = Destination | SenderNode

# Its own handlers format every message for a log that nobody reads, with what the messages carry.
_config.LOG_HANDLER_LEVEL = "none"


class Caller:
    """Opens one association for each thing that is asked."""

    def __init__(self, calling_ae: str) -> None:
        self._calling_ae = calling_ae

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
        try:
            association = self._associate(peer, contexts, roles, handlers)
        except NodeError as error:  # its certificates cannot be used
            return Outcome(OutcomeKind.UNREACHABLE, str(error))
        except OSError as error:  # the host's name cannot be resolved
            return Outcome(OutcomeKind.UNREACHABLE, f"{where(peer)} cannot be reached: {error.strerror or error}")
        if not association.is_established:
            return _not_established(association, peer)
        try:
            return send(association)
        except ValueError:  # its text may quote what cannot be encoded
            return Outcome(OutcomeKind.REFUSED, f"what is to be sent to {where(peer)} cannot be encoded")
        except RuntimeError:  # the association ended before the request went out
            return Outcome(OutcomeKind.RETRY, f"{where(peer)} closed the connection")
        finally:
            if association.is_established:
                association.release()

    def _associate(
        self,
        peer: Peer,
        contexts: Sequence[tuple[UID, UID]],
        roles: Sequence[SCP_SCU_RoleSelectionNegotiation],
        handlers: Sequence[Any],
    ) -> Any:
        ae = AE(ae_title=self._calling_ae)
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
            evt_handlers=[(evt.EVT_CONN_OPEN, _without_delay), *handlers],
        )


def where(peer: Peer) -> str:
    """Name a node for a person."""
    return f"{peer.name} ({peer.ae_title} at {peer.host}:{peer.port})"


def told(status: int, comment: object) -> str:
    """Put a DIMSE status and the other node's own words into a reason."""
    said = one_line(comment or "", LONGEST_COMMENT)
    return f"status 0x{status:04X}" + (f" ({said})" if said else "")


def _tls(peer: Peer) -> tuple[ssl.SSLContext, str] | None:
    return (calling_context(peer.tls, peer.name), peer.host) if peer.tls is not None else None


def _without_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _not_established(association: Any, peer: Peer) -> Outcome:
    if association.is_rejected:
        primitive = association.acceptor.primitive
        if primitive.result == TRANSIENT_REJECTION:
            return Outcome(OutcomeKind.RETRY, f"{where(peer)} rejected the association for now: {primitive.reason_str}")
        return Outcome(
            OutcomeKind.REFUSED, f"{where(peer)} rejected the association: {primitive.reason_str}; check the AE titles"
        )
    if association.rejected_contexts:
        wanted = association.rejected_contexts[0].abstract_syntax.name
        return Outcome(OutcomeKind.REFUSED, f"{where(peer)} does not take {wanted}; allow it there")
    by_tls = " by TLS: it does not answer, or one of the certificates is not accepted" if peer.tls else ""
    return Outcome(OutcomeKind.UNREACHABLE, f"{where(peer)} cannot be reached{by_tls}")
