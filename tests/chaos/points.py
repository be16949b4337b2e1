"""Every point at which contourd is killed by name, and what is done to a node so that it comes there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from contourd.store.states import DELIVERY_TRANSITIONS, JOB_TRANSITIONS, SERIES_TRANSITIONS
from tests.chaos.faults import Fault
from tests.chaos.scenes import (
    CANCEL,
    CONFIRM,
    HOLD,
    RETRY,
    SEND_AGAIN,
    SEND_REWRITTEN,
    arrival,
    broken,
    broken_and_failed,
    busy,
    commitment_denied,
    commitment_not_asked,
    contouring,
    delivered,
    delivering,
    delivering_and_held,
    empty,
    empty_and_held,
    gap,
    gap_mended,
    late_slice,
    late_slice_before_confirmation,
    late_slice_while_sending,
    nothing,
    queued,
    queued_and_cancelled,
    refused,
    refused_and_failed,
    stop_while_receiving,
    to_be_confirmed,
    waits_and_is_stopped,
    waits_for_confirmation,
)
from tests.chaos.site import Site

# Public seams, as the launcher resolves them.
CONTOUR = "contourd.contour.contouring:contour_series"
CLAIM_DELIVERY = "contourd.delivery.deliveries:Deliveries.fetch_delivery"
DELIVER = "contourd.dicom.network.scu:StorageSCU.deliver"
COMMITMENTS = "contourd.delivery.commitments:Commitments"
ASK = "contourd.dicom.network.commitment_scu:CommitmentSCU.ask"
STORE = "contourd.intake.intake:Intake.instance_stored"
COMMIT = "contourd.store.database:_commit"
CLOSED = "contourd.intake.intake:Intake.association_closed"
WRITE, FSYNC, RENAME = "contourd.spool.files:write_durably", "os:fsync", "os:replace"
SPOOL, DATABASE = "contourd.spool.folder:Spool", "contourd.store.database:Database"
RECORDED = "contourd.node.receivers.receiver:ConnectionChannels.instance_stored"
RECEPTION, READ = (
    "contourd.node.receivers.dispatcher:ReceiverPool",
    "contourd.dicom.network.guard:AssociationGuard._receive",
)

IDLE = Fault(
    "stall", "enter", "contourd.node.worker_supervisor:run_worker"
)  # the worker never begins: what needs none is killed sooner
STALLED_CONTOURING = Fault("stall", "enter", CONTOUR)
STALLED_SENDING = Fault("stall", "leave", DELIVER)
STALLED_DELIVERY = Fault("stall", "enter", CLAIM_DELIVERY)
BROKEN = Fault("raise", "enter", CONTOUR)


@dataclass(frozen=True)
class Point:
    """One kill.

    Attributes
    ----------
    faults
        The last one kills; those before it bring the node into the state that it kills in.
    scene
        What senders, destinations and operators do, with the faults armed.
    operator
        The command about the scene's job in which the kill strikes; empty: the daemon, or its worker.
    worker_only
        The daemon outlives it: of a worker, or of a receiver.
    """

    name: str
    faults: tuple[Fault, ...]
    scene: Callable[[Site], str]
    operator: tuple[str, ...] = ()
    worker_only: bool = False


# Transition -> what stalls or breaks the node until it comes to pass, what is done, and by which command.
TRANSITIONS: Mapping[str, tuple[tuple[Fault, ...], Callable[[Site], str], tuple[str, ...]]] = MappingProxyType(
    {
        "series - RECEIVING": ((IDLE,), arrival, ()),
        "instances - STORED": ((IDLE,), arrival, ()),
        "series RECEIVING COMPLETE": ((IDLE,), arrival, ()),
        "series RECEIVING HELD": ((IDLE,), gap, ()),
        "series HELD RECEIVING": ((IDLE,), gap_mended, ()),
        "series COMPLETE RECEIVING": ((IDLE,), late_slice("QUEUED"), ()),
        "jobs - QUEUED": ((IDLE,), arrival, ()),
        "jobs QUEUED CONTOURING": ((), arrival, ()),
        "jobs CONTOURING QUEUED": ((BROKEN,), broken, ()),
        "jobs CONTOURING DELIVERING": ((), arrival, ()),
        "jobs CONTOURING HELD": ((), empty, ()),
        "jobs CONTOURING FAILED": ((BROKEN,), broken, ()),
        "jobs DELIVERING DELIVERED": ((), arrival, ()),
        "jobs DELIVERING FAILED": ((), refused, ()),
        "jobs QUEUED SUPERSEDED": ((IDLE,), late_slice("QUEUED"), ()),
        "jobs CONTOURING SUPERSEDED": ((STALLED_CONTOURING,), late_slice("CONTOURING"), ()),
        "jobs DELIVERING SUPERSEDED": ((STALLED_DELIVERY,), late_slice("DELIVERING"), ()),
        "jobs HELD SUPERSEDED": ((), late_slice("HELD", empty=True), ()),
        "jobs FAILED SUPERSEDED": ((BROKEN,), late_slice("FAILED"), ()),
        "jobs CONFIRMING SUPERSEDED": ((), late_slice_before_confirmation, ()),
        "jobs QUEUED HELD": ((IDLE,), queued, HOLD),
        "jobs QUEUED CANCELLED": ((IDLE,), queued, CANCEL),
        "jobs CONTOURING CANCELLED": ((STALLED_CONTOURING,), contouring, CANCEL),
        "jobs DELIVERING CANCELLED": ((STALLED_DELIVERY,), delivering, CANCEL),
        "jobs CONFIRMING CANCELLED": ((), waits_and_is_stopped, CANCEL),
        "jobs HELD CANCELLED": ((STALLED_DELIVERY,), delivering_and_held, CANCEL),
        "jobs FAILED CANCELLED": ((BROKEN,), broken_and_failed, CANCEL),
        "jobs DELIVERING CONFIRMING": ((), to_be_confirmed, ()),
        "jobs CONFIRMING DELIVERING": ((), waits_for_confirmation, CONFIRM),
        "jobs DELIVERING HELD": ((STALLED_DELIVERY,), delivering, HOLD),
        "jobs HELD DELIVERING": ((STALLED_DELIVERY,), delivering_and_held, RETRY),
        "jobs CANCELLED QUEUED": ((IDLE,), queued_and_cancelled, RETRY),
        "jobs DELIVERED DELIVERING": ((), delivered, SEND_AGAIN),
        "jobs DELIVERED QUEUED": ((), delivered, SEND_REWRITTEN),
        "jobs DELIVERING QUEUED": ((STALLED_DELIVERY,), delivering, SEND_REWRITTEN),
        "jobs HELD QUEUED": ((), empty_and_held, RETRY),
        "jobs FAILED QUEUED": ((BROKEN,), broken_and_failed, RETRY),
        "jobs FAILED DELIVERING": ((), refused_and_failed, RETRY),
        "deliveries - PENDING": ((), arrival, ()),
        "deliveries PENDING SENDING": ((), arrival, ()),
        "deliveries SENDING PENDING": ((), busy, ()),
        "deliveries SENDING DELIVERED": ((), arrival, ()),
        "deliveries SENDING REFUSED": ((), refused, ()),
        "deliveries SENDING SENT": ((), arrival, ()),
        "deliveries SENT DELIVERED": ((), arrival, ()),
        "deliveries SENT PENDING": ((), commitment_denied, ()),
        "deliveries SENT REFUSED": ((), commitment_not_asked, ()),
        "deliveries PENDING REFUSED": ((STALLED_DELIVERY,), late_slice("DELIVERING"), ()),
        "deliveries DELIVERED PENDING": ((), delivered, SEND_AGAIN),
        "deliveries REFUSED PENDING": ((), refused_and_failed, RETRY),
    }
)
OF_THE_WORKER = frozenset(
    {
        "jobs QUEUED CONTOURING",
        "jobs CONTOURING QUEUED",
        "jobs CONTOURING DELIVERING",
        "jobs DELIVERING CONFIRMING",
        "jobs CONTOURING HELD",
        "jobs CONTOURING FAILED",
        "deliveries - PENDING",
    }
)


def in_the_tables() -> set[str]:
    """Name every transition that the tables of states allow."""
    tables: Mapping[str, Mapping[tuple[str, str], str]] = {
        "series": SERIES_TRANSITIONS,
        "jobs": JOB_TRANSITIONS,
        "deliveries": DELIVERY_TRANSITIONS,
    }
    return {f"{table} {old} {new}" for table, pairs in tables.items() for (old, _), new in pairs.items() if old != new}


def of_transitions() -> list[Point]:
    """Name a kill before and one after the commit of every transition; of the worker's, with its daemon and alone."""
    return [
        Point(
            f"{when} the commit of {name}{': the worker alone' if action == 'kill worker' else ''}",
            (*setting, Fault(action, when, name)),
            scene,
            operator,
            worker_only=action == "kill worker",
        )
        for name, (setting, scene, operator) in TRANSITIONS.items()
        for when in ("before", "after")
        for action in (("kill node", "kill worker") if name in OF_THE_WORKER else ("kill node",))
    ]


def kill(when: str, what: str, nth: int = 1, inside: str = "") -> tuple[Fault, ...]:
    return (Fault("kill", when, what, nth, inside),)


def receiver(when: str, what: str, nth: int = 1, inside: str = "") -> tuple[Fault, ...]:
    """Kill a receiver and the daemon with it."""
    return (IDLE, Fault("kill node", when, what, nth, inside))


def idle(when: str, what: str, nth: int = 1, inside: str = "") -> tuple[Fault, ...]:
    return (IDLE, *kill(when, what, nth, inside))


NAMED = (
    # These two come first: the database is empty only once.
    Point("at the first start, before the tables are made", idle("enter", f"{DATABASE}.upgrade"), nothing),
    Point("at the first start, after the tables are made", idle("leave", f"{DATABASE}.upgrade"), nothing),
    Point(
        "before the commit of a cancellation", (IDLE, Fault("kill", "before", "jobs QUEUED CANCELLED")), queued, CANCEL
    ),
    Point(
        "after the commit of a cancellation", (IDLE, Fault("kill", "after", "jobs QUEUED CANCELLED")), queued, CANCEL
    ),
    Point(
        "before the commit of a confirmation",
        (Fault("kill", "before", "jobs CONFIRMING DELIVERING"),),
        waits_for_confirmation,
        CONFIRM,
    ),
    Point(
        "after the commit of a confirmation",
        (Fault("kill", "after", "jobs CONFIRMING DELIVERING"),),
        waits_for_confirmation,
        CONFIRM,
    ),
    Point("the image is written, not yet fsynced", receiver("enter", FSYNC, 9, WRITE), arrival),
    Point("the image is fsynced, not yet renamed", receiver("enter", RENAME, 5, WRITE), arrival),
    Point("after rename, before the folder's fsync", receiver("leave", RENAME, 5, WRITE), arrival),
    Point("after rename, before the commit", receiver("leave", f"{SPOOL}.store_instance", 5), arrival),
    Point("before the commit of a further image", idle("enter", COMMIT, 5), arrival),
    Point("after the commit of a further image", idle("leave", COMMIT, 5), arrival),
    Point("after the commit, before the response", idle("leave", STORE, 5), arrival),
    Point("in the middle of a PDU", receiver("enter", READ, 30), arrival),
    Point("a receiver in the middle of a PDU", kill("enter", READ, 30), arrival, worker_only=True),
    Point("a receiver, before the commit", kill("leave", f"{SPOOL}.store_instance", 5), arrival, worker_only=True),
    Point("a receiver, after the commit", kill("leave", RECORDED, 5), arrival, worker_only=True),
    Point("before the end of an association is recorded", idle("enter", CLOSED), arrival),
    Point("after the end of an association is recorded", idle("leave", CLOSED), arrival),
    Point("the worker as it contours", (Fault("kill worker", "enter", CONTOUR),), arrival, worker_only=True),
    Point("the worker with its daemon as it contours", (Fault("kill node", "enter", CONTOUR),), arrival),
    Point(
        "after the RTSTRUCT, before the state: the worker",
        (Fault("kill worker", "leave", f"{SPOOL}.store_output"),),
        arrival,
        worker_only=True,
    ),
    Point(
        "after the RTSTRUCT, before the state: the worker with its daemon",
        (Fault("kill node", "leave", f"{SPOOL}.store_output"),),
        arrival,
    ),
    Point("before the structure set is sent", kill("enter", DELIVER), arrival),
    Point("the destination's C-STORE-RSP is lost", kill("leave", DELIVER), arrival),
    Point("the second destination's C-STORE-RSP is lost", kill("leave", DELIVER, 2), arrival),
    Point("storage commitment is to be asked for", kill("leave", f"{COMMITMENTS}.record_request"), arrival),
    Point("the request for storage commitment is sent", kill("leave", ASK), arrival),
    Point("storage commitment is recorded, not answered", kill("leave", f"{COMMITMENTS}.reported"), arrival),
    Point(
        "a superseded structure set is under way",
        (STALLED_SENDING, Fault("kill", "after", "series COMPLETE RECEIVING")),
        late_slice_while_sending,
    ),
    Point("in shutdown, before reception ends", idle("enter", f"{RECEPTION}.stop"), stop_while_receiving),
    Point("in shutdown, after reception ends", idle("leave", f"{RECEPTION}.stop"), stop_while_receiving),
    Point("in shutdown, before the database is closed", idle("enter", f"{DATABASE}.close"), stop_while_receiving),
    Point("at the start, after the sweep", idle("leave", f"{SPOOL}.sweep"), nothing),
    Point("at the start, before the schema is looked at", idle("enter", f"{DATABASE}.prepare"), nothing),
    Point("at the start, after the queue's recovery", idle("leave", "contourd.store.queue:Queue.recover"), nothing),
    Point("at the start, after the intake's recovery", idle("leave", "contourd.intake.intake:Intake.recover"), nothing),
    Point("at the start, as it listens", idle("leave", f"{RECEPTION}.start"), nothing),
    Point(
        "at the start, as the worker starts", kill("leave", "contourd.node.worker_supervisor:Supervisor.start"), nothing
    ),
    Point(
        "the worker at its start",
        (Fault("kill worker", "enter", "contourd.node.worker:Worker.warm_up"),),
        nothing,
        worker_only=True,
    ),
)
