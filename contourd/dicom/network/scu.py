"""Deliver one file to a destination by C-STORE, and classify the outcome (DICOM PS3.4 B.2.3)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from contourd.dicom.network.association import AssociationRequestor, answer_text, peer_text
from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.dicom.reading.files import read_dicom
from contourd.dicom.reading.instance import UNREADABLE
from contourd.dicom.reading.patient_identity import without_identity
from contourd.settings import Destination
from contourd.system import logs

# PS3.4 B.2.3, PS3.7 annex C.
WARNINGS = (0xB000, 0xB006, 0xB007)
DUPLICATE, PROCESSING_FAILURE = 0x0111, 0x0110


class DeliveryClient(Protocol):
    """Delivers a file."""

    def deliver(self, path: Path, destination: Destination) -> Outcome:
        """Send one structure set; whatever goes wrong is an outcome, never an exception."""

    def echo(self, destination: Destination) -> Outcome:
        """Ask whether the destination answers: accepted or refused, it does."""

    def hang_up(self) -> None:
        """Break off what is under way; it ends as what is tried again."""


class StorageSCU:
    """Sends over one association for each file."""

    def __init__(self, calling_ae: str) -> None:
        self._caller = AssociationRequestor(calling_ae)

    def deliver(self, path: Path, destination: Destination) -> Outcome:
        """Send one structure set; Implicit VR Little Endian is preferred, for contours may be longer than 64 kB."""
        try:
            dataset = read_dicom(path)
        except UNREADABLE as error:
            return Outcome(
                OutcomeKind.REFUSED,
                f"the structure set {path.name} cannot be read ({logs.error_text(error)}); contour again",
            )
        contexts = [(dataset.SOPClassUID, syntax) for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian)]

        def send(association: Any) -> Outcome:
            outcome = _classify(association.send_c_store(dataset), destination)
            # A destination may quote the patient in what it answers.
            return replace(outcome, reason=without_identity(outcome.reason, dataset))

        return self._caller.ask(destination, contexts, send)

    def echo(self, destination: Destination) -> Outcome:
        """Send one verification request."""

        def send(association: Any) -> Outcome:
            return _classify(association.send_c_echo(), destination)

        return self._caller.ask(destination, [(Verification, ImplicitVRLittleEndian)], send)

    def hang_up(self) -> None:
        """Break off what is under way."""
        self._caller.hang_up()


def _classify(response: Dataset, destination: Destination) -> Outcome:
    if "Status" not in response:
        return Outcome(OutcomeKind.RETRY, f"{peer_text(destination)} did not answer, or the connection broke")
    status = int(response.Status)
    message = answer_text(status, response.get("ErrorComment"))
    if status == 0x0000:
        return Outcome(OutcomeKind.ACCEPTED, "", status)
    if status in WARNINGS:
        return Outcome(OutcomeKind.ACCEPTED, f"{peer_text(destination)} took it with a warning: {message}", status)
    if status == DUPLICATE:  # an earlier answer was lost
        return Outcome(OutcomeKind.ACCEPTED, f"{peer_text(destination)} has it already: {message}", status)
    if status >> 8 == 0xA7 or status == PROCESSING_FAILURE:
        return Outcome(OutcomeKind.RETRY, f"{peer_text(destination)} cannot take it now: {message}", status)
    return Outcome(OutcomeKind.REFUSED, f"{peer_text(destination)} refused the structure set: {message}", status)
