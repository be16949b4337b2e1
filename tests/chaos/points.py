"""Every point at which contourd is killed by name, and what is done to a node so that it comes there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from contourd.jobs.job import DELIVERY_TRANSITIONS, JOB_TRANSITIONS, SERIES_TRANSITIONS
from tests.chaos.faults import Fault
from tests.chaos.site import ELSEWHERE, Site

# Public seams, as the launcher resolves them.
CONTOUR = "contourd.contouring:contour_series"
CLAIM_DELIVERY = "contourd.jobs.deliveries:Deliveries.claim"
DELIVER = "contourd.dicom.scu:StorageSCU.deliver"
COMMITMENTS = "contourd.jobs.commitments:Commitments"
ASK = "contourd.dicom.commitment_scu:CommitmentSCU.ask"
STORE = "contourd.jobs.intake:Intake.instance_stored"
CLOSED = "contourd.jobs.intake:Intake.association_closed"
WRITE, FSYNC, RENAME = "contourd.dicom.spool:write_durably", "os:fsync", "os:replace"
SPOOL, DATABASE, SCP = "contourd.dicom.spool:Spool", "contourd.jobs.database:Database", "contourd.dicom.scp:StorageSCP"

IDLE = Fault(
    "stall", "enter", "contourd.supervision:run_worker"
)  # the worker never begins: what needs none is killed sooner
STALLED_CONTOURING = Fault("stall", "enter", CONTOUR)
STALLED_DELIVERY = Fault("stall", "enter", CLAIM_DELIVERY)
BROKEN = Fault("raise", "enter", CONTOUR)

# What a person may do to a job.
RETRY, CONFIRM = ("retry",), ("confirm",)
HOLD, CANCEL = ("hold", "--reason", "chaos"), ("cancel", "--reason", "chaos")
SEND_AGAIN, SEND_REWRITTEN = ("resend", "--to", "steady"), ("resend", "--to", ELSEWHERE)


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
        The daemon outlives it.
    """

    name: str
    faults: tuple[Fault, ...]
    scene: Callable[[Site], str]
    operator: tuple[str, ...] = ()
    worker_only: bool = False


def arrival(site: Site) -> str:
    return site.arrive()


def nothing(site: Site) -> str:  # noqa: ARG001
    return ""


def stop_while_receiving(site: Site) -> str:
    site.server.wait_listening()
    before = len(site.acknowledged.digests)
    uid = site.arrive()
    assert site.acknowledged.wait_for_more(before, 60)
    site.server.terminate()
    return uid


def refused(site: Site) -> str:
    uid = site.write()
    site.strict.refused_once.add(uid)
    site.send(uid)
    site.operated.append(uid)
    return uid


def refused_and_failed(site: Site) -> str:
    uid = refused(site)
    site.wait_job(uid, "FAILED")
    return uid


def commitment_denied(site: Site) -> str:
    """A destination took the structure set, and says later that it does not have it."""
    uid = site.write()
    site.strict.denied_once.add(uid)
    site.send(uid)
    return uid


def commitment_not_asked(site: Site) -> str:
    """A destination took the structure set and does not take the request for its commitment."""
    uid = site.write()
    site.strict.not_asked_once.add(uid)
    site.send(uid)
    site.operated.append(uid)
    return uid


def empty(site: Site) -> str:
    uid = site.write(empty=True)
    site.send(uid)
    return uid


def empty_and_held(site: Site) -> str:
    uid = empty(site)
    site.wait_job(uid, "HELD")
    return uid


def broken(site: Site) -> str:
    uid = site.arrive()
    site.operated.extend(site.images)  # whatever else is left to contour breaks too
    return uid


def broken_and_failed(site: Site) -> str:
    uid = broken(site)
    site.wait_job(uid, "FAILED")
    return uid


def gap(site: Site) -> str:
    uid = site.write()
    site.send_part(uid, slice(0, 10))
    site.send_part(uid, slice(12, None))
    return uid


def gap_held(site: Site) -> str:
    uid = gap(site)
    site.wait_series(uid, "HELD")
    return uid


def gap_mended(site: Site) -> str:
    uid = gap_held(site)
    site.send(uid, slice(10, 12))
    return uid


def late_slice(*job_states: str, empty: bool = False) -> Callable[[Site], str]:
    """Send all slices but the last, wait until the job is in a state, and send the last."""

    def scene(site: Site) -> str:
        uid = site.write(empty)
        site.send_part(uid, slice(0, -1))
        site.wait_job(uid, *job_states)
        site.send(uid, slice(-1, None))
        return uid

    return scene


def late_slice_while_sending(site: Site) -> str:
    """The first revision is on its way to each destination when the last slice comes."""
    uid = site.write()
    site.send_part(uid, slice(0, -1))
    site.wait_sending(uid)
    site.send(uid, slice(-1, None))
    return uid


def queued(site: Site) -> str:
    uid = site.arrive()
    site.wait_job(uid, "QUEUED")
    site.operated.append(uid)
    return uid


def queued_and_cancelled(site: Site) -> str:
    uid = queued(site)
    site.operate(CANCEL, uid)
    return uid


def delivering(site: Site) -> str:
    uid = site.arrive()
    site.wait_job(uid, "DELIVERING")
    site.operated.append(uid)
    return uid


def delivering_and_held(site: Site) -> str:
    uid = delivering(site)
    site.operate(HOLD, uid)
    return uid


def delivered(site: Site) -> str:
    uid = site.arrive()
    site.wait_job(uid, "DELIVERED")
    return uid


def waits_for_confirmation(site: Site) -> str:
    uid = site.arrive_to_be_confirmed()
    site.wait_job(uid, "HELD")
    return uid


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
        "jobs QUEUED HELD": ((IDLE,), queued, HOLD),
        "jobs DELIVERING HELD": ((STALLED_DELIVERY,), delivering, HOLD),
        "jobs HELD DELIVERING": ((STALLED_DELIVERY,), delivering_and_held, RETRY),
        "jobs SUPERSEDED QUEUED": ((IDLE,), queued_and_cancelled, RETRY),
        "jobs DELIVERED DELIVERING": ((), delivered, SEND_AGAIN),
        "jobs DELIVERED QUEUED": ((), delivered, SEND_REWRITTEN),
        "jobs DELIVERING QUEUED": ((STALLED_DELIVERY,), delivering, SEND_REWRITTEN),
        "jobs HELD QUEUED": ((), empty_and_held, RETRY),
        "jobs FAILED QUEUED": ((BROKEN,), broken_and_failed, RETRY),
        "jobs FAILED DELIVERING": ((), refused_and_failed, RETRY),
        "deliveries - PENDING": ((), arrival, ()),
        "deliveries PENDING SENDING": ((), arrival, ()),
        "deliveries SENDING PENDING": ((), arrival, ()),
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


def idle(when: str, what: str, nth: int = 1, inside: str = "") -> tuple[Fault, ...]:
    return (IDLE, *kill(when, what, nth, inside))


NAMED = (
    Point(
        "before the commit of a cancellation", (IDLE, Fault("kill", "before", "jobs QUEUED SUPERSEDED")), queued, CANCEL
    ),
    Point(
        "after the commit of a cancellation", (IDLE, Fault("kill", "after", "jobs QUEUED SUPERSEDED")), queued, CANCEL
    ),
    Point(
        "before the commit of a confirmation",
        (Fault("kill", "before", "jobs HELD DELIVERING"),),
        waits_for_confirmation,
        CONFIRM,
    ),
    Point(
        "after the commit of a confirmation",
        (Fault("kill", "after", "jobs HELD DELIVERING"),),
        waits_for_confirmation,
        CONFIRM,
    ),
    Point("the image is written, not yet fsynced", idle("enter", FSYNC, 9, WRITE), arrival),
    Point("the image is fsynced, not yet renamed", idle("enter", RENAME, 5, WRITE), arrival),
    Point("after rename, before the folder's fsync", idle("leave", RENAME, 5, WRITE), arrival),
    Point("after rename, before the commit", idle("leave", f"{SPOOL}.store_instance", 5), arrival),
    Point("after the commit, before the response", idle("leave", STORE, 5), arrival),
    Point("in the middle of a PDU", idle("enter", "contourd.dicom.listener:read_whole", 30), arrival),
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
    Point("storage commitment is to be asked for", kill("leave", f"{COMMITMENTS}.asked"), arrival),
    Point("the request for storage commitment is sent", kill("leave", ASK), arrival),
    Point("storage commitment is recorded, not answered", kill("leave", f"{COMMITMENTS}.reported"), arrival),
    Point(
        "a superseded structure set is under way",
        (Fault("stall", "leave", DELIVER), Fault("kill", "after", "series COMPLETE RECEIVING")),
        late_slice_while_sending,
    ),
    Point("in shutdown, before reception ends", idle("enter", f"{SCP}.stop"), stop_while_receiving),
    Point("in shutdown, after reception ends", idle("leave", f"{SCP}.stop"), stop_while_receiving),
    Point("in shutdown, before the database is closed", idle("enter", f"{DATABASE}.close"), stop_while_receiving),
    Point("at the start, after the sweep", idle("leave", f"{SPOOL}.sweep"), nothing),
    Point("at the start, before the schema is brought up to date", idle("enter", f"{DATABASE}.upgrade"), nothing),
    Point("at the start, after the queue's recovery", idle("leave", "contourd.jobs.queue:Queue.recover"), nothing),
    Point("at the start, after the intake's recovery", idle("leave", "contourd.jobs.intake:Intake.recover"), nothing),
    Point("at the start, as it listens", idle("leave", f"{SCP}.start"), nothing),
    Point("at the start, as the worker starts", kill("leave", "contourd.supervision:Supervisor.start"), nothing),
    Point(
        "the worker at its start",
        (Fault("kill worker", "enter", "contourd.worker:Worker.warm_up"),),
        nothing,
        worker_only=True,
    ),
)
