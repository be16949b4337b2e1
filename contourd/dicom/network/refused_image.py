"""What an image that is refused says of itself: read as far as it can be, so that its series is marked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import Any, NamedTuple

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, CTImageStorage, DeflatedExplicitVRLittleEndian

from contourd.dicom.network.events import InstanceSink, OpenAssociation, RefusedInstance, Witness
from contourd.dicom.network.incoming import DatasetBytes
from contourd.dicom.network.pynetdicom_internals import accepted_contexts, message_under_way
from contourd.dicom.network.refusal_status import OUT_OF_RESOURCES, PROCESSING_FAILURE, answer, status_of
from contourd.dicom.reading.decoders import inflate
from contourd.dicom.reading.instance import LONGEST_UID, UNREADABLE, VALID_UID
from contourd.errors import ContourdError, RequestMalformed, SeriesUnusable
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.system.logs import error_text

log = logging.getLogger(__name__)

LONGEST_REASON = 200

NAMED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
# Beyond Series Instance UID (0020,000E) nothing names an image; a damaged header has no end.
LAST_GROUP, MOST_BYTES = 0x0020, 2**24


class Command(NamedTuple):
    """What a C-STORE request says of its image, under the names that pynetdicom gives it."""

    AffectedSOPClassUID: str
    AffectedSOPInstanceUID: str


class RefusalResponder:
    """Answers images that are not taken, and has their series marked."""

    def __init__(self, sink: InstanceSink, witness: Witness) -> None:
        self._sink = sink
        self._witness = witness

    def refuse(self, error: Exception, event: Any, opened: OpenAssociation) -> Dataset:
        """Return the response to a C-STORE request that an error refuses."""
        status = status_of(error)
        unexpected = status == PROCESSING_FAILURE
        opened.refusals[status] += 1
        if opened.refusals[status] == 1:  # a burst has one reason; `ended` counts it
            log.log(
                logging.ERROR if unexpected else logging.WARNING,
                "instance refused with status 0x%04X: %s",
                status,
                error_text(error) if unexpected else error,
                extra=_where(opened),
                exc_info=error if unexpected else None,
            )
        reason, request = "internal error; see the log of contourd" if unexpected else str(error), event.request
        self._witness(
            "instance refused", str(event.assoc.requestor.address), opened.calling_ae, f"{status:04X}: {reason}"
        )
        name = partial(refused_image, opened, request, getattr(request, "DataSet", None), event.context.transfer_syntax)
        self._mark(name, status, _reason_of(error, unexpected))
        made = answer(status, reason)
        if isinstance(error, RequestMalformed):
            made.AffectedSOPClassUID = made.AffectedSOPInstanceUID = None
        return made

    def ended(self, opened: OpenAssociation) -> None:
        """Report how many images of an association were refused beyond the first of each status."""
        for status, number in sorted(opened.refusals.items()):
            if number > 1:
                log.warning("%d instances in all were refused with status 0x%04X", number, status, extra=_where(opened))

    def cut_off(self, association: Any, opened: OpenAssociation, cause: str) -> None:
        """Mark the series of the image in whose middle an association is ended."""
        reason = Reason.of(HoldReason.IMAGE_CUT_OFF, said=cause[:LONGEST_REASON])
        self._mark(partial(refused_in_part, opened, association), OUT_OF_RESOURCES, reason)

    def _mark(self, name: Callable[[], RefusedInstance | None], status: int, cause: Reason) -> None:
        """Mark a series; the sender gets its answer in any case."""
        try:
            refused = name()
            if refused is not None:
                self._sink.instance_refused(replace(refused, status=status, reason=cause))
        except (*UNREADABLE, ContourdError, RuntimeError, Warning) as error:
            log.error("a refusal is not recorded: %s", error_text(error), extra={"action": "refuse"}, exc_info=error)


def _reason_of(error: Exception, unexpected: bool) -> Reason:
    if unexpected or not isinstance(error, ContourdError):
        return Reason(HoldReason.INTERNAL_ERROR)
    return error.reason


def _where(opened: OpenAssociation) -> dict[str, object]:
    return {"action": "refuse", "association": opened.number, "calling_ae": opened.calling_ae}


def refused_image(
    opened: OpenAssociation, command: Any, dataset: DatasetBytes | None, transfer_syntax: UID
) -> RefusedInstance | None:
    """Name a refused image by its dataset, else by its command; None where it is certainly no CT image.

    Parameters
    ----------
    command
        Its SOP class and instance are read, whatever they are.
    dataset
        As far as it came.

    Returns
    -------
    Without status and reason; with no Series Instance UID where it cannot be read.
    """
    sop_class, sop_instance, series = _named(dataset, transfer_syntax) if dataset is not None else ("", "", "")
    if (sop_class or _uid(getattr(command, "AffectedSOPClassUID", ""))) != CTImageStorage:
        return None
    return RefusedInstance(
        association_id=opened.number,
        calling_ae=opened.calling_ae,
        series_instance_uid=series,
        sop_instance_uid=sop_instance or _uid(getattr(command, "AffectedSOPInstanceUID", "")),
        sha256=dataset.sha256 if dataset is not None else "",
    )


def refused_in_part(opened: OpenAssociation, association: Any) -> RefusedInstance | None:
    """Name the image that an association is in the middle of, None where it is in the middle of none."""
    message = message_under_way(association)
    command = getattr(message, "command", None)
    if command is None:
        return None
    syntax = accepted_contexts(association)[message.context_id].transfer_syntax[0]
    named = Command(command.sop_class_uid, command.sop_instance_uid)
    return refused_image(opened, named, message.data_set, syntax)


def _named(dataset: DatasetBytes, transfer_syntax: UID) -> tuple[str, str, str]:
    try:
        content = dataset.getbuffer()
        if transfer_syntax == DeflatedExplicitVRLittleEndian:
            content = memoryview(inflate(content, "dataset"))
        read = read_dataset(
            BytesIO(content[:MOST_BYTES]),
            transfer_syntax.is_implicit_VR,
            transfer_syntax.is_little_endian,
            stop_when=_is_beyond,
        )
        sop_class, sop_instance, series = (_uid(_value(read, keyword)) for keyword in NAMED)
    except (*UNREADABLE, SeriesUnusable):
        return "", "", ""
    return sop_class, sop_instance, series


def _is_beyond(tag: BaseTag, vr: str | None, length: int) -> bool:  # noqa: ARG001
    return tag.group > LAST_GROUP


def _value(read: Dataset, keyword: str) -> object:
    try:
        return read.get(keyword, "")
    except UNREADABLE:
        return ""


def _uid(value: object) -> str:
    """Return a UID that is one, else nothing."""
    text = str(value or "")
    return text if len(text) <= LONGEST_UID and VALID_UID.fullmatch(text) else ""
