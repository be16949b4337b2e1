"""A contourd without its worker, and its peers in storage commitment: a destination, a sender."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from contourd.delivery.commitment_reporter import CommitmentReporter, CommitmentServices
from contourd.delivery.commitment_requests import CommitmentRequests
from contourd.delivery.commitments import Commitments
from contourd.delivery.deliverer import Deliverer, DeliveryServices
from contourd.delivery.deliveries import Deliveries
from contourd.dicom.network.commitment_messages import PUSH_MODEL, PUSH_MODEL_INSTANCE
from contourd.dicom.network.commitment_scp import CommitmentSCP
from contourd.dicom.network.commitment_scu import CommitmentSCU
from contourd.dicom.network.scp import StorageSCP
from contourd.dicom.network.scu import StorageSCU
from contourd.intake.intake import Intake
from contourd.observe.report import read_report
from contourd.settings import Destination, NodeSettings, Route, SenderNode, SeriesSettings
from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.store.queue import Queue
from contourd.store.states import RetryPolicy
from tests.peers import LOOPBACK, free_port
from tests.phantom import read_series, structure_set, write_series
from tests.queueing import add_job, in_force

POLICY = RetryPolicy(0.1, 0.1, 3600)
ROUTE = Route(model="hn7", destinations=("pacs",))


class Node:
    """A contourd without its worker: everything that receives, delivers and commits."""

    def __init__(
        self, folder: Path, answers_senders: bool = True, same_association_s: float = 2.0, **more: Any
    ) -> None:
        self.database = Database(f"sqlite:///{folder / 'queue.sqlite'}")
        self.database.upgrade()
        self.spool = Spool(folder / "spool")
        self.queue = Queue(self.database)
        self.deliveries = Deliveries(self.database, POLICY, commitment_wait_s=3600)
        self.commitments = Commitments(self.database, POLICY, {"pacs": "PACS"})
        self.requests = CommitmentRequests(self.database, POLICY, ["CT1"])
        self.committer = CommitmentSCU("CONTOURD", self.commitments, same_association_s)
        intake = Intake(self.database, self.spool.root, SeriesSettings(), [ROUTE])
        commitment = CommitmentSCP(self.commitments, self.requests if answers_senders else None)
        settings = NodeSettings(host=LOOPBACK, port=free_port(), **more)
        self.scp = StorageSCP(settings, self.spool, intake, commitment=commitment)
        self.scp.start()

    @property
    def port(self) -> int:
        return self.scp.port

    def contour(self, folder: Path) -> str:
        """Queue a structure set for the destination; returns its UID."""
        dataset = structure_set(read_series(write_series(folder / "ct")))
        dataset.save_as(self.spool.root / "rt.dcm", enforce_file_format=True)
        job = add_job(self.database)
        self.queue.fetch_job("a", 60)
        self.queue.finish_job(in_force(self.queue, job), {"pacs": "rt.dcm"})
        return str(dataset.SOPInstanceUID)

    def deliver(self, port: int, **more: Any) -> None:
        pacs = Destination(
            name="pacs", ae_title="PACS", host=LOOPBACK, port=port, commitment=True, response_timeout_s=10, **more
        )
        post = DeliveryServices(
            self.spool.root, self.deliveries, self.commitments, StorageSCU("CONTOURD"), self.committer
        )
        Deliverer(pacs, post, threading.Event()).deliver_due()

    def report(self, port: int, **more: Any) -> None:
        ct1 = SenderNode(ae_title="CT1", host=LOOPBACK, port=port, response_timeout_s=10, **more)
        custody = CommitmentServices(self.spool.root, self.requests, self.committer, late_s=0)
        CommitmentReporter(ct1, custody, threading.Event()).report_due()

    @property
    def delivery(self) -> Any:
        return read_report(self.database).jobs[0].deliveries[0]


class Pacs:
    """A destination that takes structure sets and answers requests for commitment by ``answer``."""

    def __init__(self, answer: Callable[[Any, Dataset], int], tls: Any = None) -> None:
        self.answer = answer
        self.stored: list[bytes] = []
        self.requested = threading.Event()
        self.request = Dataset()
        ae = AE("PACS")
        ae.add_supported_context(RTStructureSetStorage, ImplicitVRLittleEndian)
        ae.add_supported_context(Verification)
        ae.add_supported_context(PUSH_MODEL)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)]
        self.server: Any = ae.start_server((LOOPBACK, 0), block=False, evt_handlers=handlers, ssl_context=tls)
        self.port = self.server.socket.getsockname()[1]

    def _store(self, event: Any) -> int:
        self.stored.append(event.request.DataSet.getvalue())
        return 0x0000

    def _action(self, event: Any) -> tuple[int, None]:
        self.request = event.action_information
        status = self.answer(event, self.request)
        self.requested.set()
        return status, None


def event_report(request: Dataset, failure: int | None = None) -> tuple[Dataset, int]:
    """Answer a request: everything is stored, or everything failed."""
    report = Dataset()
    report.TransactionUID = request.TransactionUID
    if failure is None:
        report.ReferencedSOPSequence = request.ReferencedSOPSequence
        return report, 1
    report.FailedSOPSequence = request.ReferencedSOPSequence
    for item in report.FailedSOPSequence:
        item.FailureReason = failure
    return report, 2


def call_back(
    port: int, report: Dataset, kind: int, calling: str = "PACS", with_role: bool = True, tls: Any = None
) -> int | None:
    """Report by an association of our own; returns the status of the answer."""
    ae = AE(calling)
    ae.add_requested_context(PUSH_MODEL)
    roles = [build_role(PUSH_MODEL, scp_role=True)] if with_role else []
    association = ae.associate(LOOPBACK, port, ae_title="CONTOURD", ext_neg=roles, tls_args=tls)
    assert association.is_established
    status, _ = association.send_n_event_report(report, kind, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    association.release()
    return int(status.Status) if "Status" in status else None


def n_action(port: int, information: Dataset | None, calling: str = "CT1", instance: str = "", action: int = 1) -> int:
    ae = AE(calling)
    ae.add_requested_context(PUSH_MODEL)
    association = ae.associate(LOOPBACK, port, ae_title="CONTOURD")
    assert association.is_established
    status, _ = association.send_n_action(information, action, PUSH_MODEL, instance or PUSH_MODEL_INSTANCE)
    association.release()
    return int(status.Status)


class Scanner:
    """A sender that is called back."""

    def __init__(self, tls: Any = None, takes: bool = True) -> None:
        self.told: list[tuple[int, Dataset]] = []
        ae = AE("CT1")
        ae.add_supported_context(PUSH_MODEL if takes else Verification, scu_role=takes or None, scp_role=takes or None)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._report)]
        self.server: Any = ae.start_server((LOOPBACK, 0), block=False, evt_handlers=handlers, ssl_context=tls)
        self.port = self.server.socket.getsockname()[1]

    def _report(self, event: Any) -> tuple[int, None]:
        self.told.append((event.request.EventTypeID, event.event_information))
        assert event.assoc.requestor.role_selection[PUSH_MODEL].scp_role
        return 0x0000, None
