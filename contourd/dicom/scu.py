"""Deliver one RTSTRUCT to a destination by C-STORE, and classify the outcome (DICOM PS3.4 B.2.3)."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage
from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from contourd.dicom.instance import UNREADABLE
from contourd.dicom.tls import calling_context
from contourd.errors import NodeError
from contourd.logs import one_line
from contourd.settings import Destination

# PS3.4 B.2.3, PS3.7 annex C.
WARNINGS = (0xB000, 0xB006, 0xB007)
DUPLICATE, PROCESSING_FAILURE = 0x0111, 0x0110
TRANSIENT_REJECTION = 0x02
# PS3.5 6.2: VR LO.
LONGEST_COMMENT = 64

# Its own handlers format every message for a log that nobody reads, with what the messages carry.
_config.LOG_HANDLER_LEVEL = "none"


class OutcomeKind(Enum):
    """What to do next."""

    ACCEPTED = "accepted"  # Success, or a warning: the destination has it
    RETRY = "retry"  # unreachable, busy, out of resources
    REFUSED = "refused"  # the destination will not take it: a person must act


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a delivery ended; ``reason`` is for the person who reads the status."""

    kind: OutcomeKind
    reason: str
    status: int | None = None


class Sender(Protocol):
    """Delivers a file."""

    def deliver(self, path: Path, destination: Destination) -> Outcome:
        """Send one structure set; whatever goes wrong is an outcome, never an exception."""


class StorageSCU:
    """Sends over one association for each file."""

    def __init__(self, calling_ae: str) -> None:
        self._calling_ae = calling_ae

    def deliver(self, path: Path, destination: Destination) -> Outcome:
        """Send one structure set; Implicit VR Little Endian is preferred, for contours may be longer than 64 kB."""
        try:
            dataset = pydicom.dcmread(path)
        except UNREADABLE as error:
            return Outcome(
                OutcomeKind.REFUSED, f"the structure set {path.name} cannot be read ({error}); contour again"
            )
        contexts = [(RTStructureSetStorage, syntax) for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian)]
        return self._ask(destination, contexts, lambda association: association.send_c_store(dataset))

    def echo(self, destination: Destination) -> Outcome:
        """Send one verification request."""
        return self._ask(
            destination, [(Verification, ImplicitVRLittleEndian)], lambda association: association.send_c_echo()
        )

    def _ask(
        self, destination: Destination, contexts: Sequence[tuple[UID, UID]], send: Callable[[Any], Dataset]
    ) -> Outcome:
        ae = self._ae(destination)
        for abstract_syntax, transfer_syntax in contexts:
            ae.add_requested_context(abstract_syntax, transfer_syntax)
        try:
            tls = self._tls(destination)
            association = ae.associate(
                destination.host,
                destination.port,
                ae_title=destination.ae_title,
                tls_args=tls,
                evt_handlers=[(evt.EVT_CONN_OPEN, _without_delay)],
            )
        except NodeError as error:  # its certificates cannot be used
            return Outcome(OutcomeKind.RETRY, str(error))
        except OSError as error:  # the host's name cannot be resolved
            return Outcome(OutcomeKind.RETRY, f"{_where(destination)} cannot be reached: {error.strerror or error}")
        if not association.is_established:
            return _not_established(association, destination)
        try:
            return _classify(send(association), destination)
        except ValueError as error:
            return Outcome(OutcomeKind.REFUSED, f"{_where(destination)} cannot be sent to: {error}")
        except RuntimeError:  # the association ended before the request went out
            return Outcome(OutcomeKind.RETRY, f"{_where(destination)} closed the connection")
        finally:
            if association.is_established:
                association.release()

    def _tls(self, destination: Destination) -> tuple[ssl.SSLContext, str] | None:
        if destination.tls is None:
            return None
        return calling_context(destination.tls, destination.name), destination.host

    def _ae(self, destination: Destination) -> AE:
        ae = AE(ae_title=self._calling_ae)
        ae.connection_timeout = ae.acse_timeout = destination.connect_timeout_s
        ae.dimse_timeout = ae.network_timeout = destination.response_timeout_s
        ae.maximum_pdu_size = 0
        return ae


def _without_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _where(destination: Destination) -> str:
    return f"{destination.name} ({destination.ae_title} at {destination.host}:{destination.port})"


def _not_established(association: Any, destination: Destination) -> Outcome:
    where = _where(destination)
    if association.is_rejected:
        primitive = association.acceptor.primitive
        if primitive.result == TRANSIENT_REJECTION:
            return Outcome(OutcomeKind.RETRY, f"{where} rejected the association for now: {primitive.reason_str}")
        return Outcome(
            OutcomeKind.REFUSED, f"{where} rejected the association: {primitive.reason_str}; check the AE titles"
        )
    if association.rejected_contexts:
        wanted = association.rejected_contexts[0].abstract_syntax.name
        return Outcome(OutcomeKind.REFUSED, f"{where} does not take {wanted}; allow it there")
    by_tls = " by TLS: it does not answer, or one of the certificates is not accepted" if destination.tls else ""
    return Outcome(OutcomeKind.RETRY, f"{where} cannot be reached{by_tls}")


def _classify(response: Dataset, destination: Destination) -> Outcome:
    where = _where(destination)
    if "Status" not in response:
        return Outcome(OutcomeKind.RETRY, f"{where} did not answer, or the connection broke")
    status = int(response.Status)
    comment = one_line(response.get("ErrorComment") or "", LONGEST_COMMENT)
    told = f"status 0x{status:04X}" + (f" ({comment})" if comment else "")
    if status == 0x0000:
        return Outcome(OutcomeKind.ACCEPTED, "", status)
    if status in WARNINGS:
        return Outcome(OutcomeKind.ACCEPTED, f"{where} took it with a warning: {told}", status)
    if status == DUPLICATE:  # an earlier answer was lost
        return Outcome(OutcomeKind.ACCEPTED, f"{where} has it already: {told}", status)
    if status >> 8 == 0xA7 or status == PROCESSING_FAILURE:
        return Outcome(OutcomeKind.RETRY, f"{where} cannot take it now: {told}", status)
    return Outcome(OutcomeKind.REFUSED, f"{where} refused the structure set: {told}", status)
