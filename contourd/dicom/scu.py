"""Deliver one RTSTRUCT to a destination by C-STORE, and classify the outcome (DICOM PS3.4 B.2.3)."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from contourd.settings import Destination

WARNINGS = (0xB000, 0xB006, 0xB007)
TRANSIENT_REJECTION = 0x02
PROCESSING_FAILURE = 0x0110


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
        """Send one structure set; never raises for what a peer does."""


class StorageSCU:
    """Sends over one association for each file."""

    def __init__(self, calling_ae: str) -> None:
        self._calling_ae = calling_ae

    def deliver(self, path: Path, destination: Destination) -> Outcome:
        """Send one structure set; Implicit VR Little Endian is preferred, for contours may be longer than 64 kB."""
        ae = self._ae(destination)
        ae.add_requested_context(RTStructureSetStorage, [ImplicitVRLittleEndian])
        ae.add_requested_context(RTStructureSetStorage, [ExplicitVRLittleEndian])
        association = self._associate(ae, destination)
        if not association.is_established:
            return _not_established(association, destination)
        try:
            if not association.accepted_contexts:
                return Outcome(OutcomeKind.REFUSED, f"{destination.name} does not take RT structure sets")
            return _classify(association.send_c_store(pydicom.dcmread(path)), destination)
        except ValueError as error:
            return Outcome(OutcomeKind.REFUSED, f"{destination.name} does not take RT structure sets ({error})")
        finally:
            if association.is_established:
                association.release()

    def echo(self, destination: Destination) -> Outcome:
        """Send one verification request."""
        ae = self._ae(destination)
        ae.add_requested_context(Verification)
        association = self._associate(ae, destination)
        if not association.is_established:
            return _not_established(association, destination)
        try:
            return _classify(association.send_c_echo(), destination)
        finally:
            if association.is_established:
                association.release()

    def _ae(self, destination: Destination) -> AE:
        ae = AE(ae_title=self._calling_ae)
        ae.connection_timeout = ae.acse_timeout = destination.connect_timeout_s
        ae.dimse_timeout = ae.network_timeout = destination.response_timeout_s
        ae.maximum_pdu_size = 0
        return ae

    def _associate(self, ae: AE, destination: Destination) -> Any:
        return ae.associate(
            destination.host,
            destination.port,
            ae_title=destination.ae_title,
            evt_handlers=[(evt.EVT_CONN_OPEN, _without_delay)],
        )


def _without_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _not_established(association: Any, destination: Destination) -> Outcome:
    where = f"{destination.name} ({destination.ae_title} at {destination.host}:{destination.port})"
    if association.is_rejected:
        primitive = association.acceptor.primitive
        result, reason = getattr(primitive, "result", None), getattr(primitive, "reason_str", "")
        transient = result == TRANSIENT_REJECTION
        kind = OutcomeKind.RETRY if transient else OutcomeKind.REFUSED
        return Outcome(kind, f"{where} rejected the association: {reason or 'no reason given'}; check the AE titles")
    if (
        association.acceptor.primitive is not None
        and not association.accepted_contexts
        and association.rejected_contexts
    ):
        return Outcome(OutcomeKind.REFUSED, f"{where} does not take RT structure sets")
    return Outcome(OutcomeKind.RETRY, f"{where} cannot be reached")


def _classify(response: Any, destination: Destination) -> Outcome:
    if "Status" not in response:
        return Outcome(OutcomeKind.RETRY, f"{destination.name} did not answer, or the connection broke")
    status = int(response.Status)
    comment = str(response.get("ErrorComment", "") or "")
    told = f"status 0x{status:04X}" + (f" ({comment})" if comment else "")
    if status == 0x0000:
        return Outcome(OutcomeKind.ACCEPTED, "", status)
    if status in WARNINGS:
        return Outcome(OutcomeKind.ACCEPTED, f"{destination.name} took it with a warning: {told}", status)
    if status >> 8 == 0xA7 or status == PROCESSING_FAILURE:
        return Outcome(OutcomeKind.RETRY, f"{destination.name} has no room now: {told}", status)
    return Outcome(OutcomeKind.REFUSED, f"{destination.name} refused the structure set: {told}", status)
