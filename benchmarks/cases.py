"""What the structure-set benchmarks write: organs as masks on a CT series, and the file that contourd makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contourd.acceptance.reference_patient import reference_masks, reference_series
from contourd.dicom.reading.series import Series, find_series, gate
from contourd.dicom.rtstruct.writer import Provenance, save_structure_set, structure_set_dataset
from contourd.imaging.contours import ROI, MaskInBox, StructureSet, trace
from contourd.model.structures import catalogue

PROVENANCE = Provenance.of_one("benchmark", "1", "0" * 64, "0" * 64)
Masks = dict[str, MaskInBox]


@dataclass(frozen=True)
class Case:
    """One patient: a folder with nothing but its CT, and its organs."""

    name: str
    ct_folder: Path
    masks: Masks


def cases(labels: Path | None, archive: Path | None, temporary: Path) -> Iterator[Case]:
    """Give each case of a folder of labels, or the reference patient where there is none.

    Parameters
    ----------
    labels
        Folder of .npz with ``label_bits`` uint32 (z, y, x) and ``names``.
    archive
        Folder with a CT series for each case, in a folder of the case's name; structure sets in it are passed over.
    """
    if labels is None or archive is None:
        folder = reference_series(temporary / "ct")
        found = reference_masks(read_headers(folder).grid)
        yield Case("reference", folder, {name: boxed(mask) for name, mask in found.items()})
        return
    for path in sorted(labels.glob("*.npz")):
        folder = temporary / path.stem / "ct"
        folder.mkdir(parents=True)
        for image in (archive / path.stem).glob("CT*.dcm"):
            (folder / image.name).symlink_to(image.resolve())
        with np.load(path) as arrays:
            bits = arrays["label_bits"]
            organs = {str(name): (bits >> i) & 1 == 1 for i, name in enumerate(arrays["names"])}
        yield Case(path.stem, folder, {name: boxed(mask) for name, mask in organs.items() if mask.any()})


def boxed(mask: NDArray[np.bool_]) -> MaskInBox:
    """Cut a mask out at its bounding box."""
    (box,) = ndimage.find_objects(mask.view(np.uint8))
    return MaskInBox(box, mask[box].copy())


def read_headers(folder: Path) -> Series:
    """Read the only series of a folder."""
    (instances,) = find_series(folder).values()
    return gate(instances)


def write_masks(series: Series, masks: Masks, path: Path) -> None:
    """Write the outlines of masks as contourd does."""
    rois = [ROI(name, trace(m.mask, m.box, series.grid), 0.0) for name, m in masks.items()]
    save_structure_set(structure_set_dataset(StructureSet(tuple(rois)), series, PROVENANCE, catalogue()), path)
