"""The listening side of what comes back: RT structure sets of planning systems, from whom the settings allow.

Of a structure set only what names it is read here, as far as that stands: the rest is another process's affair, so that
none delays an image. Success is answered when its file is durable and recorded.
"""

from __future__ import annotations

import logging
from io import BytesIO
from typing import Any

from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage
from pynetdicom import AE

from contourd.dicom.network.events import OpenAssociation, ReceivedReview, ReviewSink, Witness
from contourd.dicom.network.file_meta import file_meta
from contourd.dicom.network.incoming import DatasetBytes
from contourd.dicom.reading.instance import LONGEST_UID, UNREADABLE, VALID_UID
from contourd.errors import InstanceMismatch, RequestMalformed, SeriesUnusable
from contourd.reasons.catalogue import HoldReason
from contourd.spool.folder import REVIEWS, Spool
from contourd.system.logs import one_line

log = logging.getLogger(__name__)

# Not the deflated one: what comes from another node is bounded by its bytes.
SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
# Beyond it nothing names a structure set or its patient; a damaged header has no end.
LAST_GROUP, MOST_BYTES = 0x0010, 2**20


class ReviewSCP:
    """Takes structure sets from these calling AE titles."""

    def __init__(self, allowed: frozenset[str], spool: Spool, sink: ReviewSink) -> None:
        self._allowed = allowed
        self._spool = spool
        self._sink = sink

    def add_to(self, ae: AE) -> None:
        """Add RT Structure Set Storage to what an application entity offers."""
        ae.add_supported_context(RTStructureSetStorage, SYNTAXES)

    def requested(self, association: Any, witness: Witness) -> None:
        """Take the offer away from an association that is asked for by anybody else, who is told of where he asks."""
        title = one_line(association.requestor.primitive.calling_ae_title).strip()
        if title in self._allowed:
            return
        acceptor = association.acceptor
        acceptor.supported_contexts = [
            context for context in acceptor.supported_contexts if context.abstract_syntax != RTStructureSetStorage
        ]
        proposed = association.requestor.primitive.presentation_context_definition_list
        if any(context.abstract_syntax == RTStructureSetStorage for context in proposed):
            reason = "RT Structure Set Storage is rejected: no [[reviewer]] has this AE title"
            address = str(association.requestor.address_info.address)
            log.warning("%s", reason, extra={"action": "refuse", "calling_ae": title, "peer": address})
            witness("structure sets rejected", address, title, reason)

    def is_for(self, event: Any) -> bool:
        """Return whether a C-STORE request is one of a structure set."""
        return bool(event.context.abstract_syntax == RTStructureSetStorage)

    def take(self, event: Any, opened: OpenAssociation) -> None:
        """Store a structure set durably, and have it recorded.

        Raises
        ------
        RequestMalformed, InstanceMismatch, SeriesUnusable
            It is not what its request says, or says of itself nothing that can be read.
        SpoolError, QueueUnavailable
            It cannot be stored or recorded now; the sink keeps nothing of it.
        """
        request, syntax = event.request, event.context.transfer_syntax
        if (flaw := getattr(request, "flaw", None)) is not None:
            opened.told_flaw(flaw)
            raise RequestMalformed(flaw.status, flaw.text)
        dataset: DatasetBytes = request.DataSet or DatasetBytes()
        sop_class, sop_instance, patient_id = read_identity(dataset.getbuffer(), syntax.is_implicit_VR)
        if sop_class != RTStructureSetStorage or (sop_class, sop_instance) != (
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID),
        ):
            raise InstanceMismatch("the dataset's SOP class and instance are not the command's; correct the sender")
        patient = self._spool.pseudonym(patient_id)
        meta = file_meta(sop_class, sop_instance, syntax, opened.calling_ae)
        path = self._spool.store_instance([meta, dataset.getbuffer()], REVIEWS)
        received = ReceivedReview(opened.number, opened.calling_ae, sop_instance, path, dataset.sha256, patient)
        self._sink.review_stored(received)
        log.info(
            "a structure set came back",
            extra={"action": "review", "association": opened.number, "calling_ae": opened.calling_ae},
        )


def read_identity(content: memoryview, implicit: bool) -> tuple[str, str, str]:
    """Return SOP class, SOP instance and Patient ID of a structure set, of whose beginning alone it makes anything.

    Raises
    ------
    SeriesUnusable
        It cannot be read, or does not name itself.
    """
    try:
        read = read_dataset(BytesIO(content[:MOST_BYTES]), implicit, True, stop_when=_is_beyond)
        uids = [str(read.get(keyword, "") or "") for keyword in ("SOPClassUID", "SOPInstanceUID")]
        patient_id = str(read.get("PatientID", "") or "").strip()
    except UNREADABLE as error:
        raise SeriesUnusable(HoldReason.DATASET_UNREADABLE, said=type(error).__name__) from error
    if not all(len(uid) <= LONGEST_UID and VALID_UID.fullmatch(uid) for uid in uids):
        raise SeriesUnusable(HoldReason.DATASET_UNREADABLE, said="it lacks a UID of its own, or of its class")
    return uids[0], uids[1], patient_id


def _is_beyond(tag: BaseTag, vr: str | None, length: int) -> bool:  # noqa: ARG001
    return tag.group > LAST_GROUP
