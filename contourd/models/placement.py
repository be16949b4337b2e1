"""A model contours the reference patient: organs that both know must lie where they are, and all on their side.

For this no training set is needed, so that it finds a model with exchanged organs before its first patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from contourd.acceptance.reference_patient import ReferencePatient, load_reference, mean_organs
from contourd.imaging.contours import MaskInBox
from contourd.imaging.grid import Box
from contourd.model.bundle_config import ModelBundle
from contourd.model.plausibility import OrganGeometry, assess, organ
from contourd.model.predictor import Predictor
from contourd.model.remarks import RemarkCheck
from contourd.model.sides import Sides

# Of the shipped model's organs no centroid is 5 mm apart; that of a cord which is drawn 80 mm further would be 40 mm.
FARTHEST_MM = 50.0


ELSEWHERE = (
    "compare the order of its organs and its pairs in model.json with its training; do not use it before this is right"
)


def misplaced_text(bundle: ModelBundle, wrong: Sequence[str]) -> str:
    """Return what a model does wrong on the reference patient."""
    return f"{bundle.identity.text()} contours the reference patient wrongly: {'; '.join(wrong)}"


def find_misplaced(predictor: Predictor) -> tuple[str, ...]:
    """Return which organs of the reference patient a model finds on the wrong side or in the wrong place, and how.

    Organs that it does not find are not judged, nor is the place of those that the reference does not know.

    Raises
    ------
    SeriesUnusable
        The model's preprocessing finds no patient.
    DeviceError
        The device's memory does not suffice.
    """
    reference = load_reference()
    prediction = predictor.predict(reference.volume)
    grid = reference.volume.grid
    masks = {name: prediction.mask(name) for name in prediction.structures}
    found = [one for name, mask in masks.items() if (one := organ(name, mask, grid)) is not None]
    sides = Sides(predictor.bundle.config.known_pairs, prediction.midline_mm())
    wrong = [f"{f.structure}: {f.reason}" for f in assess(found, {}, inf, sides) if f.check is RemarkCheck.LATERALITY]
    return (*wrong, *_elsewhere(found, masks, reference))


def _elsewhere(found: list[OrganGeometry], masks: dict[str, MaskInBox], reference: ReferencePatient) -> list[str]:
    """Compare places: an organ is to share most with its own like, and to lie near to it where it shares nothing."""
    grid = reference.volume.grid
    whole: Box = (slice(0, grid.shape[0]), slice(0, grid.shape[1]), slice(0, grid.shape[2]))
    known = mean_organs(reference)
    lines = []
    for one in found:
        if one.name not in known:
            continue
        box, mask = masks[one.name].box, masks[one.name].mask
        shared = {name: int(np.count_nonzero(mean[box] & mask)) for name, mean in known.items()}
        most = max(shared, key=lambda name: shared[name])
        own = organ(one.name, MaskInBox(whole, known[one.name]), grid)
        assert own is not None
        apart_mm = float(np.linalg.norm(np.subtract(one.centroid_mm, own.centroid_mm)))
        if shared[most] > shared[one.name]:
            lines.append(f"{one.name}: it lies where {most} is")
        elif apart_mm > FARTHEST_MM:
            lines.append(f"{one.name}: it lies {apart_mm:.0f} mm from its place")
    return lines
