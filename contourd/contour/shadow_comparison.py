"""The contours of a shadow against the live ones of its job, organ by organ, as both were written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from contourd.dicom.rtstruct.reader import extent, rasterise, read_structure_set
from contourd.imaging.contours import MaskInBox
from contourd.imaging.grid import FloatArray, Grid, around
from contourd.imaging.metrics import agreement
from contourd.model.model_identity import ModelIdentity
from contourd.profiles import Profile
from contourd.store.shadows import OrganAgreement

# A shadow's structure set says so, should anybody ever open it elsewhere.
SHADOW = Profile("shadow", label="SHADOW NOT SENT")


def compare_with_live(
    live: Dataset,
    shadow: Dataset,
    profile: Profile,
    organs: Sequence[str],
    drawn_by: Callable[[str], ModelIdentity],
    grid: Grid,
) -> list[OrganAgreement]:
    """Compare what both drew of the organs that a shadow knows; an organ that neither drew is left out.

    Parameters
    ----------
    live, shadow
        Structure sets of one series.
    profile
        How the live one was written; the other one was written as SHADOW says.
    organs
        TG-263 names.
    drawn_by
        Names the model whose a live organ is.
    grid
        Of the series.
    """
    sent, own = _contours(live), _contours(shadow)
    found = []
    for organ in organs:
        ours = own.get(SHADOW.name_of(organ), ())
        theirs = sent.get(profile.name_of(organ), ())
        if ours or theirs:
            found.append(_compared(organ, drawn_by(organ), theirs, ours, grid))
    return found


def _contours(dataset: Dataset) -> Mapping[str, tuple[FloatArray, ...]]:
    return {roi.name: roi.contours for roi in read_structure_set(dataset)}


def _compared(
    organ: str, model: ModelIdentity, live: Sequence[FloatArray], shadow: Sequence[FloatArray], grid: Grid
) -> OrganAgreement:
    masks = [_mask(contours, grid) for contours in (live, shadow)]
    live_cc, shadow_cc = (_volume_cc(mask, grid) for mask in masks)
    if masks[0] is None or masks[1] is None:
        return OrganAgreement(organ, model, None, None, None, live_cc, shadow_cc)
    box = around(masks[0].box, masks[1].box)
    a, b = (rasterise(contours, grid, box) for contours in (live, shadow))
    whole: list[NDArray[np.bool_]] = []
    for part in (a, b):
        mask = np.zeros(grid.shape, dtype=bool)
        mask[box] = part
        whole.append(mask)
    measured = agreement(whole[0], whole[1], grid)
    return OrganAgreement(
        organ, model, measured.dice, measured.surface_dice, measured.hausdorff_95_mm, live_cc, shadow_cc
    )


def _mask(contours: Sequence[FloatArray], grid: Grid) -> MaskInBox | None:
    """Return the voxels inside contours, None where there are none."""
    if not contours:
        return None
    box = extent(contours, grid)
    mask = MaskInBox(box, rasterise(contours, grid, box))
    return mask if mask.mask.any() else None


def _volume_cc(mask: MaskInBox | None, grid: Grid) -> float | None:
    return None if mask is None else grid.volume_mm3(mask.mask, mask.box[0].start) / 1000
