from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import generate_uid

from contourd.dicom.reading.series import Series
from contourd.dicom.rtstruct.read_back import check_structure_set
from contourd.dicom.rtstruct.writer import structure_set_dataset
from contourd.errors import StructureSetRejected
from contourd.imaging.contours import ROI, Contour, MaskInBox, StructureSet, trace
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.structures import catalogue
from tests.phantom import (
    PROVENANCE,
    read_series,
    traced,
    write_series,
)


def test_the_check_passes_what_was_written(dataset: pydicom.Dataset, series: Series) -> None:
    check_structure_set(dataset, series, traced(series.grid)[1])


def moved(ds: pydicom.Dataset, axis: int, by_mm: float) -> None:
    for contour in ds.ROIContourSequence[1].ContourSequence:
        values = np.array(contour.ContourData, dtype=float)
        values[axis::3] += by_mm
        contour.ContourData = [f"{v:.3f}" for v in values]


def without_contours(ds: pydicom.Dataset) -> None:
    ds.ROIContourSequence[1].ContourSequence = ds.ROIContourSequence[1].ContourSequence[:1]


def foreign_image(ds: pydicom.Dataset) -> None:
    image = ds.ROIContourSequence[1].ContourSequence[0].ContourImageSequence[0]
    image.ReferencedSOPInstanceUID = generate_uid()


def one_image_less(ds: pydicom.Dataset) -> None:
    frame = ds.ReferencedFrameOfReferenceSequence[0]
    del frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].ContourImageSequence[5]


def foreign_frame(ds: pydicom.Dataset) -> None:
    ds.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = generate_uid()


def renamed(ds: pydicom.Dataset) -> None:
    ds.StructureSetROISequence[1].ROIName = "Brainstem"


def observation_missing(ds: pydicom.Dataset) -> None:
    del ds.RTROIObservationsSequence[1]


def foreign_frame_of_one(ds: pydicom.Dataset) -> None:
    ds.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = generate_uid()


def foreign_study(ds: pydicom.Dataset) -> None:
    ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].ReferencedSOPInstanceUID = generate_uid()


def put(item: pydicom.Dataset, keyword: str, value: bytes) -> None:
    """Put a value into a dataset that pydicom would refuse to."""
    tag = Tag(keyword)
    value += b" " * (len(value) % 2)
    item[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, True, True)


def long_label(ds: pydicom.Dataset) -> None:
    put(ds, "StructureSetLabel", b"A label too long!!")


def long_number(ds: pydicom.Dataset) -> None:
    put(ds.ROIContourSequence[0].ContourSequence[0], "ContourData", b"-12.34567890123456\\1\\2\\3\\4\\5\\6\\7\\8")


def long_contour(ds: pydicom.Dataset) -> None:
    put(ds.ROIContourSequence[0].ContourSequence[0], "ContourData", b"\\".join([b"1.000\\2.000\\-18.75"] * 4000))


DAMAGED: dict[str, tuple[Callable[[pydicom.Dataset], None], str]] = {
    "moved by a pixel": (lambda ds: moved(ds, 0, 1.75), r"Parotid_R reads back with Dice 0\.\d{4}"),
    "off its slice": (lambda ds: moved(ds, 2, 0.1), r"Parotid_R: a contour at z = .* is not on its slice"),
    "contours lost": (without_contours, r"Parotid_R reads back with Dice 0\.\d{4}"),
    "foreign image": (foreign_image, "Parotid_R: a contour refers to an image that is not of the series"),
    "an image less": (one_image_less, "the referenced images are not the CT's"),
    "foreign frame": (foreign_frame, "the frame of reference is not the CT's"),
    "foreign frame of an ROI": (foreign_frame_of_one, "the frame of reference is not the CT's"),
    "foreign study": (foreign_study, "the study is not the CT's"),
    "long label": (long_label, "StructureSetLabel: 18 characters, SH takes 16"),
    "long number": (long_number, "ContourData: 18 characters, DS takes 16"),
    "long contour": (long_contour, "ContourData: 76000 bytes, a 16-bit length takes 65534"),
    "renamed": (renamed, "Parotid_R was found but has no contour"),
    "an observation less": (observation_missing, "three ROI sequences do not name the same ROIs"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_the_check_names_what_is_wrong(dataset: pydicom.Dataset, series: Series, name: str) -> None:
    damage, reason = DAMAGED[name]
    damage(dataset)
    with pytest.raises(StructureSetRejected, match=reason):
        check_structure_set(dataset, series, traced(series.grid)[1])


def test_the_check_finds_a_shift_that_dice_forgives(tmp_path: Path) -> None:
    """30 voxels of 5 x 5 x 1 mm in a row, 0.75 cc, read back a column on: Dice is 2 x 29 / 60 = 0.967, over 0.95."""
    flat = Grid.regular((16, 8, 40), (1.0, 5.0, 5.0), (-100.0, -20.0, 0.0))
    series = read_series(write_series(tmp_path / "ct", Volume(flat, np.zeros(flat.shape, dtype=np.int16))))
    mask = MaskInBox((slice(7, 8), slice(3, 4), slice(4, 34)), np.ones((1, 1, 30), dtype=bool))
    # Column c lies at -100 + 5 c, so columns 5 to 34 from -77.5 to 72.5; row 3 at -5; slice 7 at 7 mm.
    corners = np.array([(x, y, 7.0) for x, y in ((-77.5, -7.5), (72.5, -7.5), (72.5, -2.5), (-77.5, -2.5))])
    roi = ROI("Brainstem", (Contour(7, corners),), 0.75)
    ds = structure_set_dataset(StructureSet((roi,)), series, PROVENANCE, catalogue())
    with pytest.raises(StructureSetRejected, match=r"Brainstem reads back moved by 0\.00 x 0\.00 x 5\.00 mm"):
        check_structure_set(ds, series, {"Brainstem": mask})


@pytest.mark.parametrize(("pixels", "accepted"), [(3, True), (9, False)])
def test_of_few_voxels_a_speck_may_be_left_out(tmp_path: Path, pixels: int, accepted: bool) -> None:
    """A cord of 12 x 12 x 120 mm, of whose last slices 1/9 is not drawn: the centroid moves by 0.48 mm along it."""
    pixel_mm = 12 / pixels
    side = pixels + 8
    grid = Grid.regular((44, side, side), (3.0, pixel_mm, pixel_mm), (0.0, 0.0, 0.0))
    series = read_series(write_series(tmp_path / "ct", Volume(grid, np.zeros(grid.shape, dtype=np.int16))))
    box = (slice(2, 42), slice(4, 4 + pixels), slice(4, 4 + pixels))
    mask = np.ones((40, pixels, pixels), dtype=bool)
    drawn = mask.copy()
    drawn[-3:, : pixels // 3, : pixels // 3] = False
    roi = ROI("SpinalCord", trace(drawn, box, series.grid), 17.28)
    ds = structure_set_dataset(StructureSet((roi,)), series, PROVENANCE, catalogue())
    if accepted:
        check_structure_set(ds, series, {"SpinalCord": MaskInBox(box, mask)})
        return
    with pytest.raises(StructureSetRejected, match=r"SpinalCord reads back moved by 0\.4\d x"):
        check_structure_set(ds, series, {"SpinalCord": MaskInBox(box, mask)})
