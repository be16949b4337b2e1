"""What becomes of a series that is quiet: the route that it takes, or why a person must look at it first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contourd.dicom.series import gate
from contourd.errors import SeriesIncomplete, SeriesUnusable
from contourd.jobs.headers import Headers
from contourd.jobs.own_series import PATIENT_ID_PREFIX, Registration, route_of_check
from contourd.jobs.refusals import told
from contourd.jobs.routing import choose_route, sender_decides
from contourd.jobs.tables import RefusalRow, SeriesRow
from contourd.settings import Route

# Of ``SeriesRow.interrupted``: an association is under way; the sender broke it off; the node ended in the middle of
# it; the node was started after it had ended.
OPEN, ABORTED, ENDED, RESTART = "open", "aborted", "ended", "restart"
BROKEN_OFF = {ABORTED: "the sender aborted", ENDED: "contourd was ended"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an examination found: a route, or why there is none; ``incomplete``: more slices may mend it."""

    route: Route | None
    reason: str = ""
    incomplete: bool = False


def examine(
    headers: Headers,
    paths: Sequence[str],
    calling_ae: str,
    registration: Registration | None,
    routes: Sequence[Route],
) -> Verdict:
    """Ask the input gate and the routes.

    Parameters
    ----------
    calling_ae
        Of the sender; empty where nobody knows it any more.
    """
    try:
        instances = headers.read(paths)
        series = gate(instances)
    except SeriesIncomplete as error:
        return Verdict(None, str(error), incomplete=True)
    except SeriesUnusable as error:
        return Verdict(None, str(error))
    if registration is not None or any(i.patient_id.startswith(PATIENT_ID_PREFIX) for i in instances):
        way = route_of_check(registration, [i.sop_instance_uid for i in instances])
        return Verdict(None, way) if isinstance(way, str) else Verdict(way)
    first = series.instances[0]
    if not calling_ae and sender_decides(routes, first):
        return Verdict(
            None,
            "the sender of the series is not known (its images were taken in from the spool), and a route asks for it; "
            "send the series again from its sender",
        )
    route = choose_route(routes, first, calling_ae)
    if route is None:
        return Verdict(
            None,
            f"no route fits (from {calling_ae}, body part {first.body_part or 'not given'}); "
            "add a [[route]] to the configuration, restart, and release the series",
        )
    return Verdict(route)


def reason_to_hold(series: SeriesRow, verdict: Verdict, images: int, refused: Sequence[RefusalRow]) -> str:
    """Return why a series must be held, empty where it need not be."""
    found = verdict.reason if verdict.route is None else ""
    if series.hold:
        return series.hold
    if refused:
        return f"{told(refused)} ({found})" if found else told(refused)
    if series.purged_at is not None and images < series.purged_images:
        removed = (
            f"only {images} of the {series.purged_images} images came again that retention removed "
            f"on {series.purged_at:%Y-%m-%d}; send the whole series"
        )
        return f"{removed} ({found})" if found else f"{removed}, or release it if that is all"
    if not found and series.interrupted in BROKEN_OFF:
        return (
            f"{BROKEN_OFF[series.interrupted]} in mid-series; {images} contiguous slices are here; "
            "send it again, or release it if that is all"
        )
    return found
