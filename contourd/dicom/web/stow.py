"""Deliver one file to a destination by STOW-RS, and prove that it is there (PS3.18 10.5).

What is called sent is what the answer names as stored, by SOP class and instance. With ``verify`` it must be found
there besides (WADO-RS metadata, PS3.18 10.4).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from uuid import uuid4

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.dicom.reading.files import read_dicom
from contourd.dicom.reading.instance import UNREADABLE
from contourd.dicom.web.answers import AnswerUnreadable, outcome_of, read_answer
from contourd.dicom.web.exchange import Answer, WebCalls, named
from contourd.settings import Destination
from contourd.system import logs

SOP_INSTANCE_UID = "00080018"
DICOM_JSON, DICOM_XML = "application/dicom+json", "application/dicom+xml"
# The metadata of a structure set hold its points, those of a segmentation each of its frames.
MOST_METADATA_BYTES = 64 << 20
# 200: all stored; 202: some, or with warnings; 409: none. Each says in its body what became of what.
WITH_REPORT = frozenset({200, 202, 409})


class StowSender:
    """Sends each file by a request of its own."""

    def __init__(self) -> None:
        self._calls = WebCalls()

    def deliver(self, path: Path, destination: Destination) -> Outcome:
        """Send one file; whatever goes wrong is an outcome, never an exception."""
        try:
            dataset = read_dicom(path)
            content = _encoded(dataset)
            instance = (str(dataset.SOPClassUID), str(dataset.SOPInstanceUID))
        except (*UNREADABLE, AttributeError) as error:
            return Outcome(
                OutcomeKind.REFUSED, f"the file {path.name} cannot be read ({logs.error_text(error)}); contour again"
            )
        boundary = uuid4().hex
        # Its transfer syntax stands in the file: Orthanc 1.7 stores nothing of a part whose media type names it, too.
        part = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": f"{DICOM_JSON}, {DICOM_XML};q=0.5",
        }
        body = part + content + f"\r\n--{boundary}--\r\n".encode()
        answer = self._calls.ask(destination, "POST", "studies", headers, body)
        outcome = answer if isinstance(answer, Outcome) else _judged(answer, instance, destination)
        if outcome.kind is OutcomeKind.ACCEPTED and destination.verify:
            return self._verified(outcome, dataset, destination)
        return outcome

    def echo(self, destination: Destination) -> Outcome:
        """Ask for one study by QIDO-RS: whoever answers that by its rules is there."""
        answer = self._calls.ask(destination, "GET", "studies?limit=1", {"Accept": DICOM_JSON})
        if isinstance(answer, Outcome):
            return answer
        where = named(destination)
        if answer.status == 204 or (answer.status == 200 and _is_list(answer.content)):
            return Outcome(OutcomeKind.ACCEPTED, "")
        if answer.status == 200:
            return Outcome(OutcomeKind.IMPROPER, f"{where} answers, but no DICOMweb: look at its url")
        return Outcome(OutcomeKind.REFUSED, f"{where} refuses a query ({answer.status}): look at its url")

    def hang_up(self) -> None:
        """Break off what is under way."""
        self._calls.hang_up()

    def _verified(self, outcome: Outcome, dataset: Dataset, destination: Destination) -> Outcome:
        """Ask for the metadata of what was taken: only what is found there is called sent."""
        uids = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
        path = "studies/{}/series/{}/instances/{}/metadata".format(*uids)
        answer = self._calls.ask(destination, "GET", path, {"Accept": DICOM_JSON}, most=MOST_METADATA_BYTES)
        where = named(destination)
        if isinstance(answer, Outcome):
            return Outcome(OutcomeKind.RETRY, f"it was taken, and whether it is there is not known: {answer.reason}")
        if answer.status == 200 and str(uids[2]) in _named_instances(answer.content):
            return outcome
        return Outcome(OutcomeKind.RETRY, f"{where} took it, and does not have it when asked ({answer.status})")


def _encoded(dataset: Dataset) -> bytes:
    """Return the file's bytes; Implicit VR is none of DICOMweb's (PS3.18 8.7.3.5.2)."""
    if dataset.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _judged(answer: Answer, instance: tuple[str, str], destination: Destination) -> Outcome:
    where = named(destination)
    if answer.status not in WITH_REPORT:
        kind = OutcomeKind.IMPROPER if 200 <= answer.status < 300 else OutcomeKind.REFUSED
        return Outcome(kind, f"{where} answered {answer.status}: {_MEANINGS.get(answer.status, 'nothing is stored')}")
    try:
        report = read_answer(answer.content)
    except AnswerUnreadable:
        said = f"{where} answered {answer.status} with no report of what is stored; it does not count as sent"
        return Outcome(OutcomeKind.IMPROPER, said)
    outcome = outcome_of(report, instance, where, answer.status)
    if answer.status == 409 and outcome.kind is OutcomeKind.ACCEPTED and instance in report.stored:
        return Outcome(OutcomeKind.IMPROPER, f"{where} answered 409, and names it as stored all the same")
    return outcome


_MEANINGS: Mapping[int, str] = {
    400: "it does not understand the request",
    404: "there is no DICOMweb at its url",
    405: "it does not store by STOW-RS at its url",
    406: "it cannot answer as it is asked to",
    413: "the file is larger than it takes",
    415: "it does not take DICOM files, or not in this transfer syntax",
}


def _is_list(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), list)
    except (ValueError, RecursionError):
        return False


def _named_instances(content: bytes) -> list[str]:
    """Name the instances of a DICOM JSON list."""
    try:
        return [str(one[SOP_INSTANCE_UID]["Value"][0]) for one in json.loads(content)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []
