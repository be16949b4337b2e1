"""A destination that is asked for storage commitment, and reports by associations of its own."""

from __future__ import annotations

import threading
import time
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt

from contourd.dicom.network.commitment_messages import NO_SUCH_INSTANCE, NOT_AUTHORISED, PUSH_MODEL, PUSH_MODEL_INSTANCE
from tests.chaos.peers import SUCCESS, Destination, without_delay
from tests.integration.committing import event_report
from tests.peers import LOOPBACK

REPORT_AGAIN_S, REPORTING_S = 0.3, 20.0


class CommittingDestination(Destination):
    """Answers for what it stored, and tells the node so until it listens.

    Parameters
    ----------
    reports_to
        The port of the node.
    """

    def __init__(self, name: str, reports_to: int) -> None:
        self.not_asked_once: set[str] = set()  # series for whose structure set the first request is refused
        self.denied_once: set[str] = set()  # series whose structure set it says at first not to have
        self._port = reports_to
        self._stopping = threading.Event()
        self._reporting: list[threading.Thread] = []
        super().__init__(name)

    def support(self, ae: AE) -> list[Any]:
        ae.add_supported_context(PUSH_MODEL)
        return [(evt.EVT_N_ACTION, self._requested)]

    def _requested(self, event: Any) -> tuple[int, None]:
        request = event.action_information
        (uid,) = (str(item.ReferencedSOPInstanceUID) for item in request.ReferencedSOPSequence)
        series = next((series for series, uids in self.order.items() if uid in uids), "")
        if series in self.not_asked_once:
            self.not_asked_once.remove(series)
            return NOT_AUTHORISED, None
        failure = None if series else NO_SUCH_INSTANCE
        if series in self.denied_once:
            self.denied_once.remove(series)
            failure = NO_SUCH_INSTANCE
        reporter = threading.Thread(target=self._report, args=event_report(request, failure), daemon=True)
        self._reporting.append(reporter)
        reporter.start()
        return SUCCESS, None

    def _report(self, report: Dataset, kind: int) -> None:
        deadline = time.monotonic() + REPORTING_S  # it is asked again
        while not self._told(report, kind) and time.monotonic() < deadline:
            if self._stopping.wait(REPORT_AGAIN_S):
                return

    def _told(self, report: Dataset, kind: int) -> bool:
        ae = AE(self.ae_title)
        ae.add_requested_context(PUSH_MODEL)
        role = build_role(PUSH_MODEL, scp_role=True)
        association = ae.associate(
            LOOPBACK, self._port, ae_title="CONTOURD", ext_neg=[role], evt_handlers=without_delay(self._connections)
        )
        if not association.is_established:
            return False
        try:
            status, _ = association.send_n_event_report(report, kind, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        except RuntimeError:  # the connection broke
            return False
        finally:
            if association.is_established:
                association.release()
        return bool(status.get("Status", None) == SUCCESS)

    def stop(self) -> None:
        self._stopping.set()
        for reporter in self._reporting:
            reporter.join()
        super().stop()
