"""Masks -> a structure set on disk: contourd beside rt-utils, on the same masks, in the same run.

    python benchmarks/rtstruct.py [LABELS ARCHIVE] [--runs 3]

LABELS holds .npz with the masks, ARCHIVE a CT series for each (the first case is taken); without them it is the
reference patient. From arrays in memory to the saved file: rt-utils reads the CT's headers as it must, contourd has
read them when it contours; "CT read" counts that too. Probabilities are the masks, blurred. Prints the medians,
interleaved, as seconds on the clock and of processor time, their ratios, and what each file is worth: the mean Dice of
the masks with what is read back by the even-odd rule at pixel centres. Then the check that contourd makes before it
sends.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from cases import PROVENANCE, Case, Masks, cases, read_headers, write_masks
from figures import Figure, tell
from rt_utils import RTStructBuilder
from scipy import ndimage

from contourd.dicom.reading.series import Series
from contourd.dicom.rtstruct.read_back import check_structure_set
from contourd.dicom.rtstruct.reader import rasterise, read_structure_set
from contourd.dicom.rtstruct.writer import save_structure_set, structure_set_dataset
from contourd.imaging.contours import ROI, MaskInBox, StructureSet, trace
from contourd.imaging.grid import Box
from contourd.model.structures import catalogue

BLUR_PIXELS = (0.5, 1.5, 1.5)
MARGIN = 4
Probabilities = dict[str, tuple[Box, np.ndarray]]


def write_rt_utils(case: Case, path: Path) -> None:
    """Write with rt-utils and its defaults."""
    builder = RTStructBuilder.create_new(str(case.ct_folder))
    shape = (*builder.series_data[0].pixel_array.shape, len(builder.series_data))
    for name, mask in case.masks.items():
        whole = np.zeros(shape, dtype=bool)
        whole[mask.box[1], mask.box[2], mask.box[0]] = mask.mask.transpose(1, 2, 0)
        builder.add_roi(whole, name=name)
    builder.save(str(path))


def blurred(masks: Masks) -> Probabilities:
    """Make something like a network's probability of each mask, in a box with a margin."""
    made: Probabilities = {}
    for name, mask in masks.items():
        after = np.pad(mask.mask.astype(np.float32), ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
        z, y, x = mask.box
        box = (z, slice(y.start - MARGIN, y.stop + MARGIN), slice(x.start - MARGIN, x.stop + MARGIN))
        made[name] = (box, ndimage.gaussian_filter(after, BLUR_PIXELS))
    return made


def write_probabilities(series: Series, probabilities: Probabilities, path: Path) -> None:
    """Write the 0.5 level of probabilities."""
    rois = [ROI(name, trace(p, box, series.grid), 0.0) for name, (box, p) in probabilities.items()]
    save_structure_set(structure_set_dataset(StructureSet(tuple(rois)), series, PROVENANCE, catalogue()), path)


def dice_read_back(path: Path, case: Case, masks: Masks) -> float:
    """Mean Dice of masks with what the file holds."""
    grid = read_headers(case.ct_folder).grid
    rois = {roi.name: roi for roi in read_structure_set(pydicom.dcmread(path))}
    scores = []
    for name, mask in masks.items():
        read = rasterise(rois[name].contours, grid) if name in rois else np.zeros(grid.shape, dtype=bool)
        total = np.count_nonzero(read) + np.count_nonzero(mask.mask)
        scores.append(2 * np.count_nonzero(read[mask.box] & mask.mask) / total if total else 1.0)
    return float(np.mean(scores))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Run it; seconds on the clock and of processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    """Run both in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path, nargs="?")
    parser.add_argument("archive", type=Path, nargs="?")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        case = next(iter(cases(options.labels, options.archive, work)))
        series = read_headers(case.ct_folder)
        probabilities = blurred(case.masks)
        over = {name: MaskInBox(box, p >= 0.5) for name, (box, p) in probabilities.items()}
        jobs: dict[str, tuple[Masks, Callable[[Path], None]]] = {
            "rt-utils": (case.masks, lambda path: write_rt_utils(case, path)),
            "contourd, masks": (case.masks, lambda path: write_masks(series, case.masks, path)),
            "contourd, probabilities": (over, lambda path: write_probabilities(series, probabilities, path)),
            "contourd, probabilities, CT read": (
                over,
                lambda path: write_probabilities(read_headers(case.ct_folder), probabilities, path),
            ),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
        for _ in range(options.runs):
            for name, (_, job) in jobs.items():
                times[name].append(timed(partial(job, work / f"{name}.dcm")))
        median = {name: [statistics.median(t[i] for t in of_job) for i in (0, 1)] for name, of_job in times.items()}
        print(f"{case.name}: {len(case.masks)} organs, {series.grid.shape}")
        for name, (clock, processor) in median.items():
            score = dice_read_back(work / f"{name}.dcm", case, jobs[name][0])
            size = (work / f"{name}.dcm").stat().st_size / 1e6
            faster = [median["rt-utils"][i] / (clock, processor)[i] for i in (0, 1)]
            print(
                f"{name:<33} {clock:6.2f} s ({processor:6.2f} s of processor), rt-utils takes {faster[0]:.1f} "
                f"({faster[1]:.1f}) times that; Dice read back {score:.4f}, {size:.1f} MB"
            )
        subject, organs = "Structure set of {organs} organs from {what}", len(case.masks)
        for what in ("masks", "probabilities", "probabilities, CT read"):
            _, ours = median[f"contourd, {what}"]
            _, theirs = median["rt-utils"]
            tell(Figure(subject.format(organs=organs, what=what), "s of processor", ours, "rt-utils", theirs, goal=0.2))
        dataset = pydicom.dcmread(work / "contourd, masks.dcm")
        checks = [timed(lambda: check_structure_set(dataset, series, case.masks)) for _ in range(options.runs)]
        clock, processor = (statistics.median(t[i] for t in checks) for i in (0, 1))
        print(f"check before sending              {clock:6.2f} s ({processor:6.2f} s of processor)")
        tell(Figure("Reading the structure set back and comparing it", "s", clock, limit=1.0))


if __name__ == "__main__":
    main()
