"""Small archives for the trainer, in every layout that it reads; what is in them is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import nrrd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from tests.phantom import read_series, structure_set
from trainer.curation.archive import Item, SkippedItem
from trainer.curation.discovery import Source, find_items

GRID = Grid.regular((40, 44, 44), (3.0, 4.0, 4.0), (-86.0, -86.0, 0.0))
# Name -> middle (slice, row, column) and radius, in voxels; the patient's left is at high columns.
BALLS = {
    "Brainstem": ((26, 22, 22), 6),
    "Parotid_R": ((20, 24, 11), 5),
    "Parotid_L": ((20, 24, 33), 4),
    "SpinalCord": ((10, 28, 22), 3),
}


def ball(middle: tuple[int, int, int], radius: float) -> NDArray[np.bool_]:
    index = np.indices(GRID.shape)
    return np.asarray(sum((index[a] - middle[a]) ** 2 for a in range(3)) <= radius**2)


def head(seed: int = 0) -> tuple[Volume, dict[str, NDArray[np.bool_]]]:
    """A head with its organs, at the same place in every seed, and bones that every seed has its own of."""
    _, y, x = np.indices(GRID.shape)
    hu = np.where(((x - 21.5) / 17) ** 2 + ((y - 21.5) / 20) ** 2 <= 1, 30, -1000)
    rng = np.random.default_rng(seed)
    for middle in rng.uniform((0, 8, 10), (40, 36, 34), (30, 3)):
        hu[ball((int(middle[0]), int(middle[1]), int(middle[2])), 2)] = 500
    masks = {name: ball(middle, radius) for name, (middle, radius) in BALLS.items()}
    for mask in masks.values():
        hu[mask] = 150
    hu[20, 20:24, 20:24] += seed + 1
    return Volume(GRID, hu.astype(np.int16)), masks


def loops(mask: NDArray[np.bool_], grid: Grid = GRID) -> list[tuple[int, NDArray[np.float64]]]:
    """Outline every slice along the voxels' edges, as (slice, (n, 3) mm); one loop per run of a row is enough here."""
    found = []
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        rows = np.flatnonzero(mask[k].any(axis=1))
        left = [int(np.flatnonzero(mask[k, r])[0]) for r in rows]
        right = [int(np.flatnonzero(mask[k, r])[-1]) for r in rows]
        corners = [c for r, x in zip(rows, left, strict=True) for c in ((r - 0.5, x - 0.5), (r + 0.5, x - 0.5))]
        corners += [
            c for r, x in zip(rows[::-1], right[::-1], strict=True) for c in ((r + 0.5, x + 0.5), (r - 0.5, x + 0.5))
        ]
        index = np.array([(k, *corner) for corner in corners], dtype=float)
        found.append((int(k), grid.to_patient(index)))
    return found


def contour(points: Iterable[Iterable[float]], kind: str = "CLOSED_PLANAR", image: str = "") -> Dataset:
    item, values = Dataset(), np.asarray(list(points), dtype=float)
    item.ContourGeometricType = kind
    item.NumberOfContourPoints = len(values)
    item.ContourData = [f"{v:.3f}" for v in values.ravel()]
    if image:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = pydicom.uid.CTImageStorage, image
        item.ContourImageSequence = [reference]
    return item


def add_roi(dataset: Dataset, name: str, contours: list[Dataset] | None) -> None:
    """Add an ROI as a planning system would; without contours it has no ContourSequence."""
    number = 1 + max((int(r.ROINumber) for r in dataset.StructureSetROISequence), default=0)
    roi, drawn = Dataset(), Dataset()
    roi.ROINumber, roi.ROIName = number, name
    roi.ReferencedFrameOfReferenceUID = dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID
    roi.ROIGenerationAlgorithm = "MANUAL"
    drawn.ReferencedROINumber = number
    if contours is not None:
        drawn.ContourSequence = contours
    dataset.StructureSetROISequence.append(roi)
    dataset.ROIContourSequence.append(drawn)


def write_dicom(
    folder: Path,
    patient: str,
    seed: int = 0,
    spell: Callable[[str], str] = str,
    change: Callable[[Dataset], None] | None = None,
) -> Path:
    """Write one patient's CT and structure set into a folder; returns the structure set."""
    volume, masks = head(seed)
    write_ct_series(volume, folder, SeriesIdentity(patient, f"{patient}^Test"))
    dataset = structure_set(read_series(folder))
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    dataset.RTROIObservationsSequence = []
    dataset.Manufacturer = "Planning Ltd"
    for name, mask in masks.items():
        add_roi(dataset, spell(name), [contour(points) for _, points in loops(mask)])
    if change:
        change(dataset)
    path = folder / "RTSTRUCT.dcm"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[patient])
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_pddca(
    folder: Path, seed: int = 0, space: str = "left-posterior-superior", flip: tuple[int, ...] = ()
) -> None:
    """Write one patient as img.nrrd and structures/*.nrrd; ``flip`` names axes (x, y, z) that run backwards."""
    volume, masks = head(seed)
    names = {"Brainstem": "BrainStem", "SpinalCord": "Chiasm"}
    (folder / "structures").mkdir(parents=True)
    write_nrrd(folder / "img.nrrd", volume.hu, space, flip)
    for name, mask in masks.items():
        write_nrrd(folder / "structures" / f"{names.get(name, name)}.nrrd", mask.astype(np.uint8), space, flip)


def write_nrrd(path: Path, array: NDArray[np.generic], space: str, flip: tuple[int, ...] = ()) -> None:
    signs = np.array([-1.0, -1.0, 1.0] if space.startswith("right-anterior") else [1.0, 1.0, 1.0])
    directions, origin = np.diag([4.0, 4.0, 3.0]), np.array([-86.0, -86.0, 0.0])
    turned = array.transpose(2, 1, 0)
    for axis in flip:
        origin = origin + directions[axis] * (turned.shape[axis] - 1)
        directions[axis] *= -1
        turned = np.flip(turned, axis)
    header = {"space": space, "space directions": directions * signs, "space origin": origin * signs}
    nrrd.write(str(path), np.ascontiguousarray(turned), header)


def write_csv(folder: Path, seed: int = 0) -> None:
    """Write one patient as the open-kbp repository does; its arrays have 128 voxels along each axis."""
    volume, masks = head(seed)
    folder.mkdir(parents=True)
    low = (128 - np.array(GRID.shape)) // 2
    box = tuple(slice(int(start), int(start) + n) for start, n in zip(low, GRID.shape, strict=True))

    def flat(array: NDArray[np.generic]) -> NDArray[np.generic]:
        large = np.zeros((128, 128, 128), dtype=array.dtype)
        large[box] = array
        return np.ascontiguousarray(large[::-1].transpose(1, 2, 0)).ravel()

    ct = flat(volume.hu + np.int16(1024))
    (folder / "ct.csv").write_text(",data\n" + "".join(f"{i},{float(ct[i])}\n" for i in np.flatnonzero(ct)))
    for name, spelling in (("Brainstem", "Brainstem"), ("Parotid_L", "LeftParotid"), ("Parotid_R", "RightParotid")):
        index = np.flatnonzero(flat(masks[name]))
        (folder / f"{spelling}.csv").write_text(",data\n" + "".join(f"{i},\n" for i in index))
    (folder / "voxel_dimensions.csv").write_text("4.0\n4.0\n3.0\n")


def found(root: Path) -> tuple[list[Item], list[SkippedItem]]:
    everything = list(find_items(Source("clinic", root)))
    return [f for f in everything if isinstance(f, Item)], [f for f in everything if isinstance(f, SkippedItem)]
