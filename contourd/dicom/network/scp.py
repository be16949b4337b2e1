"""The Storage and Verification SCP (DICOM PS3.4 annexes A and B): Success only after the instance is durable.

Enforcement of AE titles is pynetdicom's own at association; notification handlers here only take note.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from functools import partial
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.pdu import A_RELEASE_RQ, P_DATA_TF
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from contourd.dicom.network.commitment_scp import CommitmentSCP
from contourd.dicom.network.events import (
    AssociationCounter,
    AssociationLimits,
    InstanceSink,
    OpenAssociation,
    ReceivedInstance,
    Witness,
)
from contourd.dicom.network.file_meta import file_meta
from contourd.dicom.network.guard import LEAST_PDU_BYTES, AssociationBounds, BoundsBreach
from contourd.dicom.network.image_identifiers import read_naming
from contourd.dicom.network.incoming import DatasetBytes
from contourd.dicom.network.listener import (
    BREACHES,
    AdmissionPolicy,
    AssociationListener,
    HandedConnections,
    SelfConnections,
)
from contourd.dicom.network.malformed import answer_flawed
from contourd.dicom.network.own_echo import SelfEchoRegistry, echo_self, own_title_refusal
from contourd.dicom.network.pynetdicom_internals import know_server, largest_pdu, reject, wake_serving
from contourd.dicom.network.refusal_status import OUT_OF_RESOURCES, SUCCESS, answer
from contourd.dicom.network.refused_image import RefusalResponder
from contourd.dicom.network.review_scp import ReviewSCP
from contourd.dicom.network.served import refuse_unserved
from contourd.dicom.network.tls import listening_context, without_certificate
from contourd.dicom.reading.decoders import UNCOMPRESSED, readable_syntaxes
from contourd.dicom.uids import IMPLEMENTATION, IMPLEMENTATION_NAME
from contourd.errors import InstanceMismatch, QueueUnavailable, RequestMalformed, SpoolError
from contourd.settings import NodeSettings
from contourd.spool.folder import Spool
from contourd.system.logs import one_line

log = logging.getLogger(__name__)

STOP_GRACE_S = 10.0
# PS3.8 9.3.4: result transient, source presentation; reason local limit exceeded, temporary congestion. Or permanent,
# by the service user: no title; no reason given.
LOCAL_LIMIT = (2, 3, 2)
CONGESTION = (2, 3, 1)
NO_CALLER = (1, 1, 3)
NEVER = (1, 1, 1)
ENDED = "the association has ended"


class StorageSCP:
    """Listens for CT images, verification requests, and what ``commitment`` and ``reviews`` take."""

    def __init__(
        self,
        node: NodeSettings,
        spool: Spool,
        sink: InstanceSink,
        witness: Witness = lambda *deed: None,
        commitment: CommitmentSCP | None = None,
        connections: AssociationCounter | None = None,
        reviews: ReviewSCP | None = None,
    ) -> None:
        self._node = node
        self._spool = spool
        self._sink = sink
        self._witness = witness
        self._connections = connections or AssociationLimits(node.max_associations, node.associations_per_peer)
        self._refuser = RefusalResponder(sink, witness)
        self._open: dict[Any, OpenAssociation] = {}
        self._by_number: dict[int, OpenAssociation] = {}
        self._stores = threading.Condition()
        self._under_way = 0
        self._stopping = False
        self._own = SelfEchoRegistry()
        self._ae = AE(ae_title=node.ae_title)
        self._ae.implementation_class_uid = IMPLEMENTATION
        self._ae.implementation_version_name = IMPLEMENTATION_NAME
        self._ae.maximum_pdu_size = node.max_pdu_kb * 1024
        self._ae.maximum_associations = sys.maxsize  # counted below: a connection is no association yet
        self._ae.acse_timeout = node.request_timeout_s
        self._ae.network_timeout = node.network_timeout_s
        self._ae.require_called_aet = True
        # This machine's own commands call the node by its own title: see own_echo.
        self._ae.require_calling_aet = [*node.allowed_callers, node.ae_title] if node.allowed_callers else []
        self._ae.add_supported_context(CTImageStorage, readable_syntaxes())
        self._ae.add_supported_context(Verification, list(UNCOMPRESSED))
        self._reviews = reviews
        if reviews is not None:
            reviews.add_to(self._ae)
        self._more_handlers = commitment.add_to(self._ae) if commitment is not None else ()
        self._server: Any = None
        self._listening: threading.Thread | None = None

    def start(self) -> None:
        """Listen in the background.

        Raises
        ------
        OSError
            The address cannot be used.
        """
        self._make_server(AssociationListener)
        self._listener = threading.Thread(target=self._server.serve_forever, name="listener", daemon=True)
        self._listener.start()

    def begin(self) -> None:
        """Wait for connections to be handed over, in the place of listening."""
        self._make_server(HandedConnections)

    def take(self, connection: socket.socket, address: tuple[Any, ...], number: int, own: bool = False) -> None:
        """Serve a connection that another process accepted from an address, which may be the node's own."""
        if own:
            self._own.expect(address[:2])
        self._server.take(connection, address, number)
        self._own.forget(address[:2])

    def try_echo(self) -> None:
        """Answer one C-ECHO to the own port; raises NodeError where none is answered."""
        echo_self(self._node, self._server.socket, self._own)

    def _make_server(self, kind: type[AssociationListener]) -> None:
        node, handlers = self._node, list[Any]()
        handlers += [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_C_STORE, self._c_store),
            (evt.EVT_PDU_RECV, self._note_pdu),
            (evt.EVT_RELEASED, self._ended),
            (evt.EVT_ABORTED, self._ended),
            (evt.EVT_CONN_CLOSE, self._ended),
            (evt.EVT_CONN_CLOSE, self._disconnected),
            (evt.EVT_REJECTED, self._rejected),
            *self._more_handlers,
        ]
        bounds = AssociationBounds(node.max_pdu_kb * 1024, node.network_timeout_s, node.max_instance_mb * 1_000_000)
        entrance = AdmissionPolicy(node.allowed_peers, node.request_timeout_s, bounds)
        context = listening_context(node.tls) if node.tls is not None else None
        own = SelfConnections(
            self._own, listening_context(without_certificate(node.tls)) if node.tls is not None else None
        )
        listener: Any = partial(kind, entrance, own, self._turned_away, self._breached, self._gone)
        self._server = self._ae.make_server(
            (node.host, node.port), ssl_context=context, evt_handlers=handlers, server_class=listener
        )
        know_server(self._ae, self._server)

    @property
    def listening(self) -> bool:
        """Whether the thread that accepts connections is there."""
        return self._listener.is_alive()

    @property
    def open_associations(self) -> int:
        """How many associations are open."""
        return len(self._open)

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

    def _turned_away(self, address: str, reason: str) -> None:
        log.warning("connection refused: %s", reason, extra={"action": "refuse", "peer": address})
        self._witness("connection refused", address, "", reason)

    def _requested(self, event: Any) -> None:
        """Reject an association for the moment where there is no room for it or for what it would bring."""
        association, node = event.assoc, self._node
        self._closed(event)
        if self._server.is_own(association):
            return
        reason, rejection = getattr(association, "untitled", "") or own_title_refusal(association, node), NO_CALLER
        if not reason:
            reason, rejection = self._refusal_of(association)
        if reason:
            self._tell_rejection(association, reason)
            reject(association, *rejection)
        elif self._reviews is not None:
            self._reviews.requested(association, self._witness)

    def _refusal_of(self, association: Any) -> tuple[str, tuple[int, int, int]]:
        """Return why an association cannot be had, and how it is rejected; give it a place where it can."""
        reason = self._connections.admit(self._server.number_of(association), str(association.requestor.address))
        if reason:
            return reason, LOCAL_LIMIT
        if 0 < largest_pdu(association) < LEAST_PDU_BYTES:
            return f"it takes PDUs of less than {LEAST_PDU_BYTES} bytes alone", NEVER
        return "" if self._spool.has_room() else "the disk is nearly full", CONGESTION

    def _accepted(self, event: Any) -> None:
        if self._server.is_own(event.assoc):
            return
        requestor = event.assoc.requestor
        opened = OpenAssociation(self._server.number_of(event.assoc), one_line(requestor.ae_title))
        self._sink.association_opened(opened.number, opened.calling_ae, str(requestor.address))
        self._open[event.assoc] = self._by_number[opened.number] = opened
        address = str(requestor.address)
        refused = partial(self._witness, "request refused", address, opened.calling_ae)
        opened.told_flaw = answer_flawed(event.assoc, refused)
        refuse_unserved(event.assoc, self._server.guard_of(event.assoc), refused)
        log.info(
            "association accepted",
            extra={"action": "accept", "association": opened.number, "calling_ae": opened.calling_ae},
        )
        self._witness("association accepted", str(requestor.address), opened.calling_ae, "")

    def _note_pdu(self, event: Any) -> None:
        """Remember a release request, for the peer may close the connection before pynetdicom tells of the release.

        An association that lasts too long is cut off.
        """
        opened = self._open.get(event.assoc)
        if opened is None or opened.cut_off:
            return
        if isinstance(event.pdu, A_RELEASE_RQ):
            opened.releasing = True
        elif isinstance(event.pdu, P_DATA_TF) and time.monotonic() - opened.began > self._node.association_limit_s:
            self._cut_off(event.assoc, opened, "it lasts longer than node.association_limit_s")
            self._server.cut(event.assoc, BoundsBreach.LATE)

    def _breached(self, association: Any, breach: BoundsBreach, details: str, address: str) -> None:
        """Report a peer whose connection was cut for what it did."""
        opened = self._open.get(association)
        if breach is BoundsBreach.BROKE:
            self._turned_away(address, f"{breach.value}: {details}")
        elif opened is not None:
            if not opened.cut_off:
                self._cut_off(association, opened, BREACHES.get(breach, breach.value))
        else:
            late = "it did not ask for an association within node.request_timeout_s"
            self._turned_away(address, late if breach is BoundsBreach.LATE else BREACHES.get(breach, breach.value))

    def _cut_off(self, association: Any, opened: OpenAssociation, reason: str) -> None:
        opened.cut_off = True
        self._refuser.cut_off(association, opened, reason)
        log.warning(
            "association cut off: %s",
            reason,
            extra={"action": "cut off", "association": opened.number, "calling_ae": opened.calling_ae},
        )
        self._witness("association cut off", str(association.requestor.address), opened.calling_ae, reason)

    def _ended(self, event: Any) -> None:
        opened = self._open.pop(event.assoc, None)
        if opened is None:
            return
        broken = event.event is not evt.EVT_RELEASED and not opened.releasing
        aborted = broken and not self._stopping
        with opened.lock:
            opened.ended = True
            self._refuser.ended(opened)
            log.info(
                "association %s",
                "aborted" if broken else "released",
                extra={"action": "close", "association": opened.number},
            )
            if aborted and not opened.cut_off:
                self._witness("association aborted", str(event.assoc.requestor.address), opened.calling_ae, "")
            try:
                if aborted or not broken:  # what this node ends is left as it is: the next start finds it open
                    self._sink.association_closed(opened.number, aborted)
            except QueueUnavailable as error:  # the sink does so later
                extra = {"action": "close", "association": opened.number}
                log.warning("the end of an association is not recorded yet: %s", error, extra=extra)
        opened.end_reported.set()

    def _gone(self, number: int) -> None:
        """Release a connection, once the end of its association is told: another thread may be about to do that."""
        opened = self._by_number.pop(number, None)
        if opened is not None:
            opened.end_reported.wait(STOP_GRACE_S)
        self._connections.gone(number)

    def _closed(self, event: Any) -> None:
        server = self._server
        if server is not None:
            server.requested(event.assoc)

    def _disconnected(self, event: Any) -> None:
        """Wake the association of a peer that left before it asked for one; its thread would wait out its time."""
        self._closed(event)
        unreadable = getattr(event.assoc, "unreadable", "")
        event.assoc.unreadable = ""
        if unreadable:
            address = event.assoc.requestor.address_info
            self._turned_away(str(address.address) if address else "", unreadable)
        if event.assoc.requestor.primitive is None:
            wake_serving(event.assoc)

    def _rejected(self, event: Any) -> None:
        self._tell_rejection(event.assoc, "a wrong calling or called AE title")

    def _tell_rejection(self, association: Any, reason: str) -> None:
        requestor = association.requestor
        title = one_line(requestor.ae_title or requestor.primitive.calling_ae_title)
        extra = {"action": "reject", "calling_ae": title, "peer": str(requestor.address_info.address)}
        log.warning("association rejected: %s", reason, extra=extra)
        self._witness("association rejected", extra["peer"], title, reason)

    def _c_store(self, event: Any) -> Dataset | int:
        opened = self._open.get(event.assoc)
        if opened is None:
            return answer(OUT_OF_RESOURCES, ENDED)
        with self._stores:
            stopping = self._stopping
            self._under_way += 1
        try:
            with opened.lock:
                # Nobody is there to hear the answer; it must not be Success all the same.
                if stopping or opened.ended or opened.cut_off:
                    raise SpoolError("the node is stopping; send it again later" if stopping else ENDED)
                if self._reviews is not None and self._reviews.is_for(event):
                    self._reviews.take(event, opened)
                else:
                    self._sink.instance_stored(self._receive(event, opened))
        except Exception as error:  # an exception must become a status: the sender waits for it
            return self._refuser.refuse(error, event, opened)
        finally:
            with self._stores:
                self._under_way -= 1
                self._stores.notify_all()
        return SUCCESS

    def _receive(self, event: Any, opened: OpenAssociation) -> ReceivedInstance:
        request, transfer_syntax = event.request, event.context.transfer_syntax
        if (flaw := getattr(request, "flaw", None)) is not None:
            opened.told_flaw(flaw)
            raise RequestMalformed(flaw.status, flaw.text)
        dataset: DatasetBytes = request.DataSet or DatasetBytes()
        instance = read_naming(dataset, transfer_syntax)
        wanted = (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
        if (instance.sop_class_uid, instance.sop_instance_uid) != wanted:
            raise InstanceMismatch("the dataset's SOP class and instance are not the command's; correct the sender")
        content, patient = dataset.getbuffer(), self._spool.pseudonym(instance.patient_id)
        file: list[bytes | memoryview] = [file_meta(*wanted, transfer_syntax, opened.calling_ae), content]
        path = self._spool.store_instance(file)
        stored = self._spool.secure(path, file)
        return ReceivedInstance(
            association_id=opened.number,
            calling_ae=opened.calling_ae,
            series_instance_uid=instance.series_instance_uid,
            sop_instance_uid=instance.sop_instance_uid,
            path=path,
            sha256=dataset.sha256,
            patient=patient,
            stored=stored,
        )
