"""How a series is to be contoured, and what of it is part of the structure set's UIDs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from contourd.imaging import contours
from contourd.model.agreement import LEVEL as LEVEL
from contourd.profiles import STRICT, Profile
from contourd.settings import PlausibilitySettings

INTERPOLATION_ORDER = 3


@dataclass(frozen=True, slots=True)
class ContouringOptions:
    """How a series is to be contoured.

    Attributes
    ----------
    revision
        Of the series: a late slice makes a new one, and so a new structure set.
    profiles
        One product is written for each: a structure set, or a segmentation.
    override
        Why a person lets the model run outside of its limits, and who; empty: such a series is held.
    second_reader
        Whether rt-utils opens each structure set too.
    colours
        RGB, 0 to 255, of organs that the catalogue does not know.
    """

    revision: int = 1
    profiles: tuple[Profile, ...] = (STRICT,)
    plausibility: PlausibilitySettings = field(default_factory=PlausibilitySettings)
    override: str = ""
    second_reader: bool = False
    colours: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    def settings_hash(self, profile: Profile) -> str:
        """Hash what else than the input and the model decides the structure set's content; part of its UID."""
        content = {
            "level": LEVEL,
            "interpolation_order": INTERPOLATION_ORDER,
            "tolerance_pixels": contours.TOLERANCE_PIXELS,
            "smallest_area_mm2": contours.SMALLEST_AREA_MM2,
            "smallest_hole_mm2": contours.SMALLEST_HOLE_MM2,
            "plausibility": self.plausibility.model_dump(mode="json"),
            "override": self.override,
            "profile": profile.identity(),
            **({"colours": dict(self.colours)} if self.colours else {}),  # so that others keep their hash
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


ORDER = ContouringOptions()
