"""What becomes of a series that is quiet: the route that it takes, or why a person must look at it first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contourd.dicom.reading.series import gate
from contourd.errors import SeriesIncomplete, SeriesUnusable
from contourd.intake.headers import HeaderCache
from contourd.intake.refusals import reason_of_refusals
from contourd.intake.routing import choose_route, explain_route, sender_decides
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Route
from contourd.store.constancy_series import PATIENT_ID_PREFIX, RegisteredSeries, route_of_check
from contourd.store.route_choice import RouteChoice
from contourd.store.tables import RefusalRow, SeriesRow

# Of ``SeriesRow.interrupted``: an association is under way; the sender broke it off; the node ended in the middle of
# it; the node was started after it had ended.
OPEN = "open"
ABORTED = "aborted"
ENDED = "ended"
RESTART = "restart"
BROKEN_OFF = {ABORTED: HoldReason.TRANSFER_ABORTED, ENDED: HoldReason.NODE_ENDED}


@dataclass(frozen=True, slots=True)
class SeriesVerdict:
    """What an examination found: a route, or why there is none; ``incomplete``: more slices may mend it.

    ``choice`` is why the route was taken, where it is one of the settings.
    """

    route: Route | None
    reason: Reason | None = None
    incomplete: bool = False
    choice: RouteChoice | None = None


def examine(
    headers: HeaderCache,
    paths: Sequence[str],
    calling_ae: str,
    registration: RegisteredSeries | None,
    routes: Sequence[Route],
    settings_sha256: str = "",
) -> SeriesVerdict:
    """Ask the input gate and the routes.

    Parameters
    ----------
    calling_ae
        Of the sender; empty where nobody knows it any more.
    settings_sha256
        Of the settings that ``routes`` are of.
    """
    try:
        instances = headers.read(paths)
        series = gate(instances)
    except SeriesIncomplete as error:
        return SeriesVerdict(None, error.reason, incomplete=True)
    except SeriesUnusable as error:
        return SeriesVerdict(None, error.reason)
    if registration is not None or any(i.patient_id.startswith(PATIENT_ID_PREFIX) for i in instances):
        way = route_of_check(registration, [i.sop_instance_uid for i in instances])
        return SeriesVerdict(way) if isinstance(way, Route) else SeriesVerdict(None, way)
    first = series.instances[0]
    if not calling_ae and sender_decides(routes, first):
        return SeriesVerdict(None, Reason(HoldReason.SENDER_UNKNOWN))
    route = choose_route(routes, first, calling_ae)
    if route is None:
        body_part = first.body_part or "not given"
        return SeriesVerdict(None, Reason.of(HoldReason.NO_ROUTE, calling_ae=calling_ae, body_part=body_part))
    return SeriesVerdict(route, choice=explain_route(routes, route, first, calling_ae, settings_sha256))


def reason_to_hold(
    series: SeriesRow, verdict: SeriesVerdict, images: int, refused: Sequence[RefusalRow]
) -> Reason | None:
    """Return why a series must be held, None where it need not be."""
    found = verdict.reason if verdict.route is None else None
    if series.hold:
        return series.hold
    if refused:
        return reason_of_refusals(refused, found)
    if series.purged_at is not None and images < series.purged_images:
        return Reason.of(
            HoldReason.IMAGES_MISSING_SINCE_PURGE,
            here=images,
            removed=series.purged_images,
            on=f"{series.purged_at:%Y-%m-%d}",
            found=found,
        )
    if not found and series.interrupted in BROKEN_OFF:
        return Reason.of(BROKEN_OFF[series.interrupted], images=images)
    return found
