"""The Storage and Verification SCP (DICOM PS3.4 annexes A and B): Success only after the instance is durable.

Enforcement of AE titles is pynetdicom's own at association; notification handlers here only take note.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from types import MappingProxyType
from typing import Any, Protocol

from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage
from pynetdicom import AE, _config, evt
from pynetdicom.pdu import A_RELEASE_RQ
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from contourd.dicom.decoders import UNCOMPRESSED, readable_syntaxes
from contourd.dicom.instance import read_encoded
from contourd.dicom.rtstruct_write import IMPLEMENTATION, IMPLEMENTATION_NAME
from contourd.dicom.spool import Spool
from contourd.errors import InstanceMismatch, QueueUnavailable, SeriesUnusable, SpoolError
from contourd.settings import NodeSettings

log = logging.getLogger(__name__)

# Its own handlers format every message for a log that nobody reads, with what the messages carry.
_config.LOG_HANDLER_LEVEL = "none"

STOP_GRACE_S = 10.0
LONGEST_COMMENT = 64

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
    """Who is told of what the SCP receives; of one association never two things at a time."""

    def association_opened(self, association_id: int, calling_ae: str, peer: str) -> None:
        """Take note of an accepted association."""

    def instance_stored(self, received: ReceivedInstance) -> None:
        """Record a durable instance; an exception refuses it."""

    def association_closed(self, association_id: int, aborted: bool) -> None:
        """Take note that an association ended, once; nothing of it comes afterwards."""


@dataclass(slots=True, eq=False)
class _Open:
    """An open association; the lock keeps its end from overtaking a store that is under way."""

    number: int
    calling_ae: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    releasing: bool = False
    ended: bool = False


class StorageSCP:
    """Listens for CT images and verification requests."""

    def __init__(self, node: NodeSettings, spool: Spool, sink: InstanceSink) -> None:
        self._node = node
        self._spool = spool
        self._sink = sink
        self._numbers = itertools.count(1)
        self._open: dict[Any, _Open] = {}
        self._stores = threading.Condition()
        self._under_way = 0
        self._stopping = False
        self._ae = AE(ae_title=node.ae_title)
        self._ae.implementation_class_uid = IMPLEMENTATION
        self._ae.implementation_version_name = IMPLEMENTATION_NAME
        self._ae.maximum_pdu_size = 0
        self._ae.maximum_associations = node.max_associations
        self._ae.network_timeout = node.network_timeout_s
        self._ae.require_called_aet = True
        self._ae.require_calling_aet = list(node.allowed_callers)
        self._ae.add_supported_context(CTImageStorage, readable_syntaxes())
        self._ae.add_supported_context(Verification, list(UNCOMPRESSED))
        self._server: Any = None

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
            (evt.EVT_PDU_RECV, self._note_release),
            (evt.EVT_RELEASED, self._ended),
            (evt.EVT_ABORTED, self._ended),
            (evt.EVT_CONN_CLOSE, self._ended),
            (evt.EVT_REJECTED, self._rejected),
        ]
        self._server = self._ae.start_server((self._node.host, self._node.port), block=False, evt_handlers=handlers)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.socket.getsockname()[1])

    def stop(self) -> None:
        """Take nothing new, let the stores under way end, and abort what associations are open."""
        if self._server is None:
            return
        with self._stores:
            self._stopping = True
        self._server.shutdown()
        with self._stores:
            self._stores.wait_for(lambda: self._under_way == 0, STOP_GRACE_S)
        self._ae.shutdown()
        self._server = None

    def _accepted(self, event: Any) -> None:
        requestor = event.assoc.requestor
        opened = _Open(next(self._numbers), str(requestor.ae_title))
        self._sink.association_opened(opened.number, opened.calling_ae, str(requestor.address))
        self._open[event.assoc] = opened
        log.info(
            "association accepted",
            extra={"action": "accept", "association": opened.number, "calling_ae": opened.calling_ae},
        )

    def _note_release(self, event: Any) -> None:
        """Remember a release request: the peer may close the connection before pynetdicom tells of the release."""
        opened = self._open.get(event.assoc)
        if opened is not None and isinstance(event.pdu, A_RELEASE_RQ):
            opened.releasing = True

    def _ended(self, event: Any) -> None:
        opened = self._open.pop(event.assoc, None)
        if opened is None:
            return
        aborted = event.event is not evt.EVT_RELEASED and not opened.releasing
        with opened.lock:
            opened.ended = True
            log.info(
                "association %s",
                "aborted" if aborted else "released",
                extra={"action": "close", "association": opened.number},
            )
            try:
                self._sink.association_closed(opened.number, aborted)
            except QueueUnavailable:
                log.exception("the end of an association could not be recorded", extra={"association": opened.number})

    def _rejected(self, event: Any) -> None:
        requestor = event.assoc.requestor
        log.warning(
            "association rejected: wrong AE title, or too many associations",
            extra={"action": "reject", "calling_ae": str(requestor.ae_title), "peer": str(requestor.address)},
        )

    def _c_store(self, event: Any) -> Dataset:
        opened = self._open.get(event.assoc)
        with self._stores:
            if self._stopping or opened is None:
                return _answer(OUT_OF_RESOURCES, "the node is stopping; send it again later")
            self._under_way += 1
        try:
            with opened.lock:
                if opened.ended:  # nobody is there to hear the answer; it must not be Success all the same
                    return _answer(OUT_OF_RESOURCES, "the association has ended")
                self._sink.instance_stored(self._receive(event, opened))
        except Exception as error:  # an exception must become a status: the sender waits for it
            return self._refuse(error, opened)
        finally:
            with self._stores:
                self._under_way -= 1
                self._stores.notify_all()
        return _answer(SUCCESS)

    def _refuse(self, error: Exception, opened: _Open) -> Dataset:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), PROCESSING_FAILURE)
        unexpected = status == PROCESSING_FAILURE
        log.log(
            logging.ERROR if unexpected else logging.WARNING,
            "instance refused with status 0x%04X: %s",
            status,
            error,
            extra={"action": "refuse", "association": opened.number, "calling_ae": opened.calling_ae},
            exc_info=error if unexpected else None,
        )
        return _answer(status, "internal error; see the log of contourd" if unexpected else str(error))

    def _receive(self, event: Any, opened: _Open) -> ReceivedInstance:
        request, transfer_syntax = event.request, event.context.transfer_syntax
        dataset = request.DataSet or BytesIO()
        instance = read_encoded(dataset, transfer_syntax)
        wanted = (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
        if (instance.sop_class_uid, instance.sop_instance_uid) != wanted:
            raise InstanceMismatch("the dataset's SOP class and instance are not the command's")
        content = dataset.getbuffer()
        path = self._spool.store_instance([file_meta(*wanted, transfer_syntax), content])
        return ReceivedInstance(
            association_id=opened.number,
            calling_ae=opened.calling_ae,
            series_instance_uid=instance.series_instance_uid,
            sop_instance_uid=instance.sop_instance_uid,
            path=path,
            sha256=hashlib.sha256(content).hexdigest(),
            patient=self._spool.pseudonym(instance.patient_id),
        )


def _answer(status: int, comment: str = "") -> Dataset:
    answer = Dataset()
    answer.Status = status
    if comment:
        answer.ErrorComment = comment.encode("ascii", "replace").decode()[:LONGEST_COMMENT]
    return answer


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax: UID) -> bytes:
    """Pack preamble and file meta information (PS3.10 7.1) by hand; pydicom takes a fifth of the receiving time."""
    elements = b"".join(
        (
            struct.pack("<HH2sHI", 2, 0x0001, b"OB", 0, 2) + b"\0\1",
            _short(0x0002, b"UI", sop_class_uid),
            _short(0x0003, b"UI", sop_instance_uid),
            _short(0x0010, b"UI", transfer_syntax),
            _short(0x0012, b"UI", IMPLEMENTATION),
            _short(0x0013, b"SH", IMPLEMENTATION_NAME),
        )
    )
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0x0000, b"UL", 4, len(elements)) + elements


def _short(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii")
    value += (b" " if vr == b"SH" else b"\0") * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value
