"""Rules: which series goes to which model, and where its structure set goes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from contourd.dicom.series import Instance
from contourd.settings import Route


def choose_route(routes: Sequence[Route], instance: Instance, calling_ae: str) -> Route | None:
    """Return the first route whose every condition fits, None where none does.

    ``series_description`` is searched as a regular expression without regard to case, ``body_part`` compared so.
    """
    for route in routes:
        if route.calling_ae is not None and route.calling_ae != calling_ae:
            continue
        if route.series_description is not None and not re.search(
            route.series_description, instance.series_description, re.IGNORECASE
        ):
            continue
        if route.body_part is not None and route.body_part.casefold() != instance.body_part.casefold():
            continue
        return route
    return None
