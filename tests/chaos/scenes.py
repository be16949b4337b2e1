"""What senders, destinations and operators do to a node that is killed; each scene returns the series it is about."""

from __future__ import annotations

from collections.abc import Callable

from tests.chaos.peers import MISMATCH, OUT_OF_RESOURCES
from tests.chaos.site import CONFIRMED_SCANNER, ELSEWHERE, Site

# What a person may do to a job.
RETRY, CONFIRM = ("retry",), ("confirm",)
HOLD, CANCEL = ("hold", "--reason", "chaos"), ("cancel", "--reason", "chaos")
SEND_AGAIN, SEND_REWRITTEN = ("resend", "--to", "steady"), ("resend", "--to", ELSEWHERE)


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


def busy(site: Site) -> str:
    """A destination is out of resources the first time."""
    uid = site.write()
    site.strict.answers_once[uid] = OUT_OF_RESOURCES
    site.send(uid)
    return uid


def refused(site: Site) -> str:
    uid = site.write()
    site.strict.answers_once[uid] = MISMATCH
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
        if "FAILED" in job_states:
            site.operated.extend(site.images)  # whatever else was left to contour broke too
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


def contouring(site: Site) -> str:
    uid = site.arrive()
    site.wait_job(uid, "CONTOURING")
    site.operated.append(uid)
    return uid


def to_be_confirmed(site: Site) -> str:
    return site.arrive_to_be_confirmed()


def waits_and_is_stopped(site: Site) -> str:
    """A person cancels what waits for a confirmation; later it is contoured again, and confirmed."""
    uid = waits_for_confirmation(site)
    site.operated.append(uid)
    return uid


def late_slice_before_confirmation(site: Site) -> str:
    uid = site.write()
    site.to_confirm.append(uid)
    site.send(uid, slice(0, -1), CONFIRMED_SCANNER)
    site.wait_job(uid, "CONFIRMING")
    site.send(uid, slice(-1, None), CONFIRMED_SCANNER)
    return uid


def waits_for_confirmation(site: Site) -> str:
    uid = site.arrive_to_be_confirmed()
    site.wait_job(uid, "CONFIRMING")
    return uid
