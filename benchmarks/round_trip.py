"""Masks -> contourd's structure set -> other programs' readers -> masks again: what is left of each organ.

    python benchmarks/round_trip.py [LABELS ARCHIVE] [--platipy PYTHON] [--dcmrtstruct2nii PYTHON]

LABELS holds .npz with the masks, ARCHIVE a CT series for each; without them it is the reference patient. Readers:
"exact", the even-odd rule at pixel centres; plastimatch and rt-utils where they are installed; platipy and
dcmrtstruct2nii each by the interpreter of its own environment (dcmrtstruct2nii needs pydicom before 3). Prints for each
organ and reader the mean Dice over the cases and the worst, the area of the contours over that of the mask, and the
errors that dciodvfy finds.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import subprocess
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from cases import Case, boxed, cases, read_headers, write_masks
from numpy.typing import NDArray

from contourd.dicom.rtstruct.reader import ReadROI, extent, rasterise, read_structure_set
from contourd.imaging.contours import MaskInBox

Reader = Callable[[Case, Path, Path], Mapping[str, MaskInBox]]
EMPTY = MaskInBox((slice(0, 0),) * 3, np.zeros((0, 0, 0), dtype=bool))
# Run by the other interpreter: CT folder, RTSTRUCT, folder for what it writes. Leaves <ROI>.npy, bool (z, y, x).
PLATIPY = """
import sys, numpy, SimpleITK, platipy.dicom.io.rtstruct_to_nifti as reader
ct, rtstruct, out = sys.argv[1:]
image, dataset = reader.read_dicom_image(ct), reader.read_dicom_struct_file(rtstruct)
for mask, name in zip(*reader.transform_point_set_from_dicom_struct(image, dataset)):
    numpy.save(f"{out}/{name}.npy", SimpleITK.GetArrayFromImage(mask) > 0)
"""
DCMRTSTRUCT2NII = """
import sys, pathlib, numpy, SimpleITK
from dcmrtstruct2nii import dcmrtstruct2nii
ct, rtstruct, out = sys.argv[1:]
dcmrtstruct2nii(rtstruct, ct, out, gzip=False, convert_original_dicom=False)
for path in pathlib.Path(out).glob("mask_*.nii"):
    numpy.save(f"{out}/{path.stem[5:]}.npy", SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))) > 0)
    path.unlink()
"""


def exact(case: Case, rtstruct: Path, _: Path) -> Mapping[str, MaskInBox]:
    """Fill by the even-odd rule at pixel centres."""
    grid = read_headers(case.ct_folder).grid
    found = {}
    for roi in read_structure_set(pydicom.dcmread(rtstruct)):
        box = extent(roi.contours, grid)
        found[roi.name] = MaskInBox(box, rasterise(roi.contours, grid, box))
    return found


def plastimatch(case: Case, rtstruct: Path, work: Path) -> Mapping[str, MaskInBox]:
    """Convert with plastimatch."""
    command = ["plastimatch", "convert", "--input", rtstruct, "--referenced-ct", case.ct_folder]
    subprocess.run([*command, "--output-prefix", work, "--prefix-format", "mha"], check=True, stdout=subprocess.DEVNULL)
    return {path.stem: cut(mha(path)) for path in work.glob("*.mha")}


def mha(path: Path) -> NDArray[np.bool_]:
    """Read an 8-bit MetaImage with its voxels in the same file."""
    head, _, voxels = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    fields = dict(line.split(" = ", 1) for line in head.decode().splitlines())
    raw = zlib.decompress(voxels) if fields.get("CompressedData") == "True" else voxels
    x, y, z = (int(n) for n in fields["DimSize"].split())
    return np.frombuffer(raw, np.uint8).reshape(z, y, x) > 0


def rt_utils(case: Case, rtstruct: Path, _: Path) -> Mapping[str, MaskInBox]:
    """Read with rt-utils."""
    loaded = importlib.import_module("rt_utils").RTStructBuilder.create_from(str(case.ct_folder), str(rtstruct))
    return {n: cut(loaded.get_roi_mask_by_name(n).transpose(2, 0, 1)) for n in loaded.get_roi_names()}


def elsewhere(interpreter: Path, code: str, case: Case, rtstruct: Path, work: Path) -> Mapping[str, MaskInBox]:
    """Read with a program in an environment of its own."""
    command = [interpreter, "-c", code, case.ct_folder, rtstruct, work]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return {path.stem: cut(np.load(path, mmap_mode="r")) for path in work.glob("*.npy")}


def cut(mask: NDArray[np.bool_]) -> MaskInBox:
    """Cut out what a reader filled; it may be nothing."""
    return boxed(np.ascontiguousarray(mask)) if mask.any() else EMPTY


def readers(platipy: Path | None, dcmrtstruct2nii: Path | None) -> Iterator[tuple[str, Reader]]:
    """Give the readers that are here, and say which are not."""
    yield "exact", exact
    if shutil.which("plastimatch"):
        yield "plastimatch", plastimatch
    else:
        print("plastimatch is not installed: left out")
    try:
        importlib.import_module("rt_utils")
        yield "rt-utils", rt_utils
    except ImportError as error:
        print(f"rt-utils does not load ({error}): left out")
    for name, interpreter, code in (
        ("platipy", platipy, PLATIPY),
        ("dcmrtstruct2nii", dcmrtstruct2nii, DCMRTSTRUCT2NII),
    ):
        if interpreter is None:
            print(f"{name}: no --{name} given, left out")
        else:
            yield name, partial(elsewhere, interpreter, code)


def dice(a: MaskInBox, b: MaskInBox) -> float:
    """Dice of two masks in boxes of the same array."""
    low = [max(p.start, q.start) for p, q in zip(a.box, b.box, strict=True)]
    high = [max(n, min(p.stop, q.stop)) for n, p, q in zip(low, a.box, b.box, strict=True)]
    in_a, in_b = (
        m.mask[tuple(slice(n - p.start, o - p.start) for n, o, p in zip(low, high, m.box, strict=True))] for m in (a, b)
    )
    both = np.count_nonzero(in_a & in_b) if in_a.size and in_b.size else 0
    return 2 * both / (np.count_nonzero(a.mask) + np.count_nonzero(b.mask))


def area_pixels(roi: ReadROI, pixel_mm2: float) -> float:
    """Sum of the contours' areas by the shoelace formula, for which a keyhole is a hole."""
    doubled = 0.0
    for points in roi.contours:
        x, y = points[:, :2].T
        doubled += abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
    return doubled / 2 / pixel_mm2


def dciodvfy_errors(rtstruct: Path) -> int | None:
    """Count the errors that David Clunie's validator finds; None where it is not installed."""
    if shutil.which("dciodvfy") is None:
        return None
    ran = subprocess.run(["dciodvfy", rtstruct], capture_output=True, text=True, check=False)
    return sum(line.startswith("Error") for line in (ran.stdout + ran.stderr).splitlines())


def main() -> None:
    """Run every reader on every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path, nargs="?")
    parser.add_argument("archive", type=Path, nargs="?")
    parser.add_argument("--platipy", type=Path, metavar="PYTHON")
    parser.add_argument("--dcmrtstruct2nii", type=Path, metavar="PYTHON")
    options = parser.parse_args()
    chosen = dict(readers(options.platipy, options.dcmrtstruct2nii))
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    ratios: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        for case in cases(options.labels, options.archive, Path(temporary)):
            rtstruct = Path(temporary) / f"{case.name}.dcm"
            write_masks(read_headers(case.ct_folder), case.masks, rtstruct)
            spacing_mm = read_headers(case.ct_folder).grid.pixel_spacing_mm
            for roi in read_structure_set(pydicom.dcmread(rtstruct)):
                voxels = np.count_nonzero(case.masks[roi.name].mask)
                ratios[roi.name].append(area_pixels(roi, spacing_mm[0] * spacing_mm[1]) / voxels)
            print(f"{case.name}: {len(case.masks)} organs, dciodvfy errors {dciodvfy_errors(rtstruct)}", flush=True)
            for name, read in chosen.items():
                with tempfile.TemporaryDirectory() as work:
                    found = read(case, rtstruct, Path(work))
                for organ, mask in case.masks.items():
                    scores[organ][name].append(dice(mask, found.get(organ, EMPTY)))
    print(f"\n| organ (cases) | area | {' | '.join(chosen)} |")
    print(f"|---|---|{'---|' * len(chosen)}")
    for organ in sorted(scores):
        cells = [f"{np.mean(scores[organ][name]):.4f} ({min(scores[organ][name]):.4f})" for name in chosen]
        print(f"| {organ} ({len(ratios[organ])}) | {np.mean(ratios[organ]):.4f} | {' | '.join(cells)} |")
    everything = {name: [score for of_organ in scores.values() for score in of_organ[name]] for name in chosen}
    cells = [f"{np.mean(values):.4f} ({min(values):.4f})" for values in everything.values()]
    print(f"| all | {np.mean([r for of_organ in ratios.values() for r in of_organ]):.4f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
