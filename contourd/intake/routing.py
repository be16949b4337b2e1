"""Rules: which series goes to which model, and where its structure set goes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from contourd.dicom.reading.series import Instance
from contourd.settings import Route
from contourd.store.route_choice import MatchedCondition, RouteChoice


def choose_route(routes: Sequence[Route], instance: Instance, calling_ae: str) -> Route | None:
    """Return the first route whose every condition fits, None where none does."""
    return next((route for route in routes if not unmet_conditions(route, instance, calling_ae)), None)


def sender_decides(routes: Sequence[Route], instance: Instance) -> bool:
    """Return whether the route that a series takes depends on who sent it."""
    fit = (route for route in routes if not unmet_conditions(route, instance, route.calling_ae or ""))
    first = next(fit, None)
    return first is not None and first.calling_ae is not None


def unmet_conditions(route: Route, instance: Instance, calling_ae: str) -> tuple[str, ...]:
    """Return for each condition of a route that does not fit what it asks for and what is there; empty: it fits.

    ``series_description`` and ``protocol`` are searched as regular expressions without regard to case, ``body_part``
    and ``station`` compared so, ``calling_ae`` exactly. What is returned quotes the image: for its owner's eyes alone.
    """
    return tuple(
        f"{key} is {found!r}, not {wanted!r}"
        for key, wanted, found, fits in _conditions(route, instance, calling_ae)
        if wanted is not None and not fits
    )


def explain_route(
    routes: Sequence[Route], taken: Route, instance: Instance, calling_ae: str, settings_sha256: str
) -> RouteChoice:
    """Return why a series takes a route of the settings; it quotes the image, as ``unmet_conditions`` does.

    Parameters
    ----------
    taken
        One of ``routes``.
    settings_sha256
        Of the settings that are in force.
    """
    number = next(n for n, route in enumerate(routes, 1) if route is taken)
    conditions = _conditions(taken, instance, calling_ae)
    return RouteChoice(
        number,
        tuple(MatchedCondition(key, wanted, found) for key, wanted, found, _ in conditions if wanted is not None),
        settings_sha256,
    )


def _conditions(route: Route, instance: Instance, calling_ae: str) -> tuple[tuple[str, str | None, str, bool], ...]:
    """Return key, what is asked for (None: nothing), what is there, and whether that fits."""
    return (
        ("calling_ae", route.calling_ae, calling_ae, route.calling_ae == calling_ae),
        ("series_description", *_searched(route.series_description, instance.series_description)),
        ("body_part", *_compared(route.body_part, instance.body_part)),
        ("protocol", *_searched(route.protocol, instance.protocol)),
        ("station", *_compared(route.station, instance.station)),
    )


def _searched(pattern: str | None, text: str) -> tuple[str | None, str, bool]:
    return pattern, text, pattern is not None and re.search(pattern, text, re.IGNORECASE) is not None


def _compared(wanted: str | None, text: str) -> tuple[str | None, str, bool]:
    return wanted, text, wanted is not None and wanted.casefold() == text.casefold()
