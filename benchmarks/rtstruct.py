"""Masks -> a structure set on disk: contourd's writer beside rt-utils, on the reference patient, in the same run.

    python benchmarks/rtstruct.py [--runs 3]

Prints the median seconds of both, interleaved, their ratio, and what each file is worth: the mean Dice of what is read
back by the even-odd rule at pixel centres with the masks that were written.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from rt_utils import RTStructBuilder

from contourd.dicom.rtstruct_read import rasterise, read_structure_set
from contourd.dicom.rtstruct_write import Provenance, save_structure_set, structure_set_dataset
from contourd.dicom.series import Series, find_series, gate
from contourd.imaging.contours import ROI, StructureSet, trace
from contourd.imaging.grid import Box
from contourd.model.structures import catalogue
from contourd.reference import reference_masks, reference_series

PROVENANCE = Provenance("benchmark", "1", "0" * 64, "0" * 64)
Masks = dict[str, NDArray[np.bool_]]


def box_of(mask: NDArray[np.bool_]) -> Box:
    """Return the bounding box of a mask."""
    parts = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    z, y, x = (slice(int(p[0]), int(p[-1]) + 1) for p in parts)
    return z, y, x


def write_ours(folder: Path, masks: Masks, path: Path) -> None:
    """Write with contourd, reading the CT's headers included."""
    (instances,) = find_series(folder).values()
    series: Series = gate(instances)
    rois = []
    for name, mask in masks.items():
        box = box_of(mask)
        rois.append(ROI(name, trace(mask[box].astype(np.float32), box, series.grid, 0.51), 0.0))
    save_structure_set(structure_set_dataset(StructureSet(tuple(rois)), series, PROVENANCE, catalogue()), path)


def write_rt_utils(folder: Path, masks: Masks, path: Path) -> None:
    """Write with rt-utils and its defaults."""
    builder = RTStructBuilder.create_new(str(folder))
    for name, mask in masks.items():
        builder.add_roi(np.ascontiguousarray(mask.transpose(1, 2, 0)), name=name)
    builder.save(str(path))


def dice_read_back(path: Path, folder: Path, masks: Masks) -> float:
    """Mean Dice of the masks with what the file holds."""
    (instances,) = find_series(folder).values()
    grid = gate(instances).grid
    scores = []
    for roi in read_structure_set(pydicom.dcmread(path)):
        read, wanted = rasterise(roi.contours, grid), masks[roi.name]
        scores.append(2 * (read & wanted).sum() / (read.sum() + wanted.sum()))
    return float(np.mean(scores))


def main() -> None:
    """Run both in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as temporary:
        folder = reference_series(Path(temporary) / "ct")
        (instances,) = find_series(folder).values()
        masks = reference_masks(gate(instances).grid)
        times: dict[str, list[float]] = {"contourd": [], "rt-utils": []}
        for _ in range(runs):
            for name, write in (("contourd", write_ours), ("rt-utils", write_rt_utils)):
                began = time.perf_counter()
                write(folder, masks, Path(temporary) / f"{name}.dcm")
                times[name].append(time.perf_counter() - began)
        print(f"{len(masks)} organs, {len(instances)} slices of 512 x 512, headers read and file written")
        for name, values in times.items():
            score = dice_read_back(Path(temporary) / f"{name}.dcm", folder, masks)
            print(f"{name:<9} {statistics.median(values):6.2f} s   Dice read back {score:.4f}")
        print(f"ratio {statistics.median(times['contourd']) / statistics.median(times['rt-utils']):.2f}")


if __name__ == "__main__":
    main()
