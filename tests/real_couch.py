"""Lay the couch of a real CT under patients, and compare the contours with those without it.

    python -m tests.real_couch CT_FOLDER CASE.npz [CASE.npz ...] [--into NECK_MM]

The couch is what lies behind the patient of the CT in its folder, slice by slice, at 1 mm. Each patient is brought to
511 x 511 pixels of 1 mm and slices of 3 mm, and laid on it: with the back, or NECK_MM deeper.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from scipy import ndimage

from contourd.imaging.metrics import dice
from contourd.imaging.volume import AIR_HU, Volume
from contourd.model.bundle import load_bundle
from contourd.model.kinds import predictor_for
from tests.bodies import at_resolution
from trainer.case import read_case

TISSUE_HU, COUCH_HU = -300, -600
TOUCHING_MM = 2


def couch_of(folder: Path) -> NDArray[np.float32]:
    """Return what is behind the patient of a CT, (slices, rows, columns) of 1 mm in the plane."""
    images = [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]
    slices = sorted((i for i in images if i.Modality == "CT"), key=lambda i: float(i.ImagePositionPatient[2]))
    hu = np.stack([i.pixel_array * float(i.RescaleSlope) + float(i.RescaleIntercept) for i in slices])
    labels, _ = ndimage.label(ndimage.binary_opening(np.median(hu, axis=0) > TISSUE_HU, iterations=4))
    patient = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    behind = int(np.flatnonzero(patient.any(axis=1))[-1]) - 1
    pixel_mm = float(slices[0].PixelSpacing[0])
    return ndimage.zoom(hu[:, behind:].astype(np.float32), (1, pixel_mm, pixel_mm), order=1)


def laid_on(volume: Volume, couch: NDArray[np.float32], deeper_mm: float) -> Volume:
    """Put a couch behind a patient; where the two overlap there is the patient."""
    hu = volume.hu.astype(np.float32)
    body = ndimage.binary_opening(hu > TISSUE_HU, iterations=2)
    top = int(np.flatnonzero(body.any(axis=(0, 2)))[-1] - TOUCHING_MM - deeper_mm)
    rows, columns = min(couch.shape[1], hu.shape[1] - top), min(couch.shape[2], hu.shape[2])
    left = (hu.shape[2] - columns) // 2
    for number, plane in enumerate(hu):
        place = plane[top : top + rows, left : left + columns]
        laid = couch[number % len(couch), :rows, :columns]
        place[:] = np.where(place < COUCH_HU, np.maximum(place, laid), place)
    return Volume(volume.grid, hu.astype(np.int16))


def main() -> None:
    """Print the Dice of each organ with and without the couch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("couch", type=Path)
    parser.add_argument("cases", type=Path, nargs="+")
    parser.add_argument("--into", type=float, default=0.0)
    asked = parser.parse_args()
    couch, predictor = couch_of(asked.couch), predictor_for(load_bundle("hn7"), "cpu")
    for path in asked.cases:
        clean = at_resolution(read_case(path).volume, 1.0, 3.0)
        clean = Volume(clean.grid, np.maximum(clean.hu, AIR_HU).astype(np.int16))
        both = [predictor.predict(volume) for volume in (clean, laid_on(clean, couch, asked.into))]
        shape = clean.grid.shape
        shared = {n: dice(*(one.mask(n).on(shape) for one in both)) for n in both[0].structures}
        print(path.stem, ", ".join(f"{name} {value:.4f}" for name, value in shared.items()), flush=True)


if __name__ == "__main__":
    main()
