"""The Storage and Verification SCP (DICOM PS3.4 annexes A and B): Success only after the instance is durable.

Enforcement of AE titles is pynetdicom's own at association; notification handlers here only take note.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from contourd.dicom.series import Instance, read_instance
from contourd.dicom.spool import Spool
from contourd.errors import InstanceMismatch, QueueUnavailable, SeriesUnusable, SpoolError
from contourd.settings import NodeSettings

log = logging.getLogger(__name__)

TRANSFER_SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]

SUCCESS = 0x0000
# PS3.4 B.2.3: out of resources; data set does not match SOP class; cannot understand. PS3.7 C: processing failure.
OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND, PROCESSING_FAILURE = 0xA700, 0xA900, 0xC000, 0x0110
STATUS: Mapping[type[Exception], int] = MappingProxyType(
    {
        SpoolError: OUT_OF_RESOURCES,
        QueueUnavailable: OUT_OF_RESOURCES,
        InstanceMismatch: MISMATCH,
        SeriesUnusable: CANNOT_UNDERSTAND,
    }
)


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """An instance whose file is durable.

    Attributes
    ----------
    path
        Relative to the spool.
    sha256
        Of the dataset's bytes as they were sent, without the file meta information.
    patient
        A keyed pseudonym of PatientID.
    """

    association_id: int
    calling_ae: str
    series_instance_uid: str
    sop_instance_uid: str
    path: str
    sha256: str
    patient: str


class InstanceSink(Protocol):
    """Who is told of what the SCP receives."""

    def association_opened(self, association_id: int, calling_ae: str, peer: str) -> None:
        """Take note of an accepted association."""

    def instance_stored(self, received: ReceivedInstance) -> None:
        """Record a durable instance; an exception refuses it."""

    def association_closed(self, association_id: int, aborted: bool) -> None:
        """Take note that an association ended, once."""


class StorageSCP:
    """Listens for CT images and verification requests."""

    def __init__(self, node: NodeSettings, spool: Spool, sink: InstanceSink) -> None:
        self._node = node
        self._spool = spool
        self._sink = sink
        self._numbers = itertools.count(1)
        self._open: dict[Any, int] = {}
        self._ae = AE(ae_title=node.ae_title)
        self._ae.maximum_pdu_size = 0
        self._ae.maximum_associations = node.max_associations
        self._ae.network_timeout = node.network_timeout_s
        self._ae.require_called_aet = True
        self._ae.require_calling_aet = list(node.allowed_callers)
        self._ae.add_supported_context(CTImageStorage, TRANSFER_SYNTAXES)
        self._ae.add_supported_context(Verification, TRANSFER_SYNTAXES)
        self._server: Any = None
        self._stopping = False

    def start(self) -> None:
        """Listen in the background.

        Raises
        ------
        OSError
            The address cannot be used.
        """
        handlers: list[Any] = [
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_C_STORE, self._c_store),
            (evt.EVT_RELEASED, self._released),
            (evt.EVT_ABORTED, self._aborted),
            (evt.EVT_CONN_CLOSE, self._aborted),
            (evt.EVT_REJECTED, self._rejected),
        ]
        self._server = self._ae.start_server((self._node.host, self._node.port), block=False, evt_handlers=handlers)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.socket.getsockname()[1])

    def stop(self, grace_s: float = 5.0) -> None:
        """Refuse new associations, give open ones ``grace_s`` to end, and abort the rest.

        What is aborted here is not reported to the sink: the sender did nothing wrong, and the next start waits for it.
        """
        if self._server is None:
            return
        self._server.shutdown()
        for association in list(self._ae.active_associations):
            association.join(grace_s)
            grace_s = 0.0 if association.is_alive() else grace_s
        self._stopping = True
        self._ae.shutdown()

    def _accepted(self, event: Any) -> None:
        number = self._open[event.assoc] = next(self._numbers)
        calling = str(event.assoc.requestor.ae_title)
        self._sink.association_opened(number, calling, str(event.assoc.requestor.address))
        log.info("association accepted", extra={"action": "accept", "association": number, "calling_ae": calling})

    def _released(self, event: Any) -> None:
        self._closed(event.assoc, aborted=False)

    def _aborted(self, event: Any) -> None:
        self._closed(event.assoc, aborted=True)

    def _closed(self, association: Any, aborted: bool) -> None:
        number = self._open.pop(association, None)
        if number is None or self._stopping:
            return
        log.info(
            "association %s", "aborted" if aborted else "released", extra={"action": "close", "association": number}
        )
        try:
            self._sink.association_closed(number, aborted)
        except QueueUnavailable:
            log.exception("the end of an association could not be recorded", extra={"association": number})

    def _rejected(self, event: Any) -> None:
        requestor = event.assoc.requestor
        log.warning(
            "association rejected: wrong AE title, or too many associations",
            extra={"action": "reject", "calling_ae": str(requestor.ae_title), "peer": str(requestor.address)},
        )

    def _c_store(self, event: Any) -> int:
        try:
            self._sink.instance_stored(self._receive(event))
        except Exception as error:  # an exception must become a status: the sender waits for it
            status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), PROCESSING_FAILURE)
            level = logging.ERROR if status == PROCESSING_FAILURE else logging.WARNING
            log.log(
                level,
                "instance refused with status 0x%04X: %s",
                status,
                error,
                extra={"action": "refuse", "association": self._open.get(event.assoc)},
                exc_info=status == PROCESSING_FAILURE,
            )
            return status
        return SUCCESS

    def _receive(self, event: Any) -> ReceivedInstance:
        dataset = event.request.DataSet.getvalue()
        read: list[Instance] = []

        def accept(path: Path) -> None:
            instance = read_instance(path)
            wanted = (str(event.request.AffectedSOPClassUID), str(event.request.AffectedSOPInstanceUID))
            if (instance.sop_class_uid, instance.sop_instance_uid) != wanted:
                raise InstanceMismatch("the dataset's SOP class and instance are not the command's")
            read.append(instance)

        path = self._spool.store_instance([event.encoded_dataset()], accept)
        return ReceivedInstance(
            association_id=self._open[event.assoc],
            calling_ae=str(event.assoc.requestor.ae_title),
            series_instance_uid=read[0].series_instance_uid,
            sop_instance_uid=read[0].sop_instance_uid,
            path=path,
            sha256=hashlib.sha256(dataset).hexdigest(),
            patient=self._spool.pseudonym(read[0].patient_id),
        )
