"""DICOM archives as they really are: what a clinic's structure sets hold is read, or said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from contourd.dicom.rtstruct.reader import ReadROI
from contourd.dicom.rtstruct.roi_masks import fill_skipped_slices, roi_mask
from contourd.errors import DatasetError, SeriesUnusable
from tests.archives import (
    BALLS,
    GRID,
    add_roi,
    ball,
    contour,
    found,
    head,
    loops,
    write_dicom,
)
from tests.orientations import TURNED, write_turned
from trainer.curation.archive import RawCase
from trainer.curation.dicom import read_patient

FRAME = "1.2.3"


def read(root: Path) -> RawCase:
    items, refused = found(root)
    assert (len(items), refused) == (1, [])
    return read_patient(items[0])


def roi(contours, frame: str = FRAME) -> ReadROI:
    contours = tuple(np.asarray(c, dtype=float) for c in contours)
    return ReadROI(1, "organ", contours, ("",) * len(contours), frame)


def square(k: float, low: float, high: float) -> np.ndarray:
    corners = [(k, low, low), (k, low, high), (k, high, high), (k, high, low)]
    return GRID.to_patient(np.array(corners, dtype=float))


def test_masks_of_a_plain_patient_are_exact(tmp_path):
    write_dicom(tmp_path / "a" / "b", "ID1")
    raw = read(tmp_path)
    volume, masks = head()
    assert np.array_equal(raw.volume.hu, volume.hu)
    assert raw.masks.keys() == masks.keys()
    assert all(np.array_equal(raw.masks[name], mask) for name, mask in masks.items())
    assert not raw.remarks


def test_rois_are_joined_by_number_whatever_their_order(tmp_path):
    def reverse(dataset: Dataset) -> None:
        dataset.ROIContourSequence = list(dataset.ROIContourSequence)[::-1]

    write_dicom(tmp_path, "ID1", change=reverse)
    assert all(np.array_equal(mask, head()[1][name]) for name, mask in read(tmp_path).masks.items())


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_a_ring_within_a_ring_is_a_hole(tmp_path, kind):
    rings = [contour(square(12, 9.5, 19.5), kind), contour(square(12, 12.5, 16.5), kind)]
    write_dicom(tmp_path, "ID1", change=lambda ds: add_roi(ds, "ring", rings))
    mask = read(tmp_path).masks["ring"]
    assert mask.sum() == 10 * 10 - 4 * 4
    assert not mask[12, 13:17, 13:17].any()


def test_a_keyhole_is_a_hole_and_its_slit_takes_nothing(tmp_path):
    # In along row 14 from the outer to the inner ring, around it, and back along the same row.
    path = [(9.5, 9.5), (9.5, 19.5), (19.5, 19.5), (19.5, 9.5), (14, 9.5), (14, 12.5)]
    path += [(16.5, 12.5), (16.5, 16.5), (12.5, 16.5), (12.5, 12.5), (14, 12.5), (14, 9.5)]
    points = GRID.to_patient(np.array([(12, *p) for p in path], dtype=float))
    write_dicom(tmp_path, "ID1", change=lambda ds: add_roi(ds, "keyhole", [contour(points)]))
    mask = read(tmp_path).masks["keyhole"]
    assert mask.sum() == 10 * 10 - 4 * 4
    assert mask[12, 14, 10:13].all()


def test_points_and_open_lines_are_no_area(tmp_path):
    def add(dataset: Dataset) -> None:
        add_roi(dataset, "isocentre", [contour([[0, 0, 30]], "POINT")])
        add_roi(dataset, "line", [contour(square(12, 5, 9), "OPEN_PLANAR")])

    write_dicom(tmp_path, "ID1", change=add)
    raw = read(tmp_path)
    assert not {"isocentre", "line"} & raw.masks.keys()
    nothing, passed = "nothing is drawn that encloses an area", "which encloses nothing, passed over"
    assert raw.remarks == {
        "isocentre": [nothing, f"1 contour of type POINT, {passed}"],
        "line": [nothing, f"1 contour of type OPEN_PLANAR, {passed}"],
    }


def test_an_roi_without_contours_is_not_an_absent_organ(tmp_path):
    def add(dataset: Dataset) -> None:
        add_roi(dataset, "no ContourSequence", None)
        add_roi(dataset, "no item", None)
        del dataset.ROIContourSequence[-1]

    write_dicom(tmp_path, "ID1", change=add)
    raw = read(tmp_path)
    assert raw.masks.keys() == BALLS.keys()
    assert raw.remarks.keys() == {"no ContourSequence", "no item"}


def test_references_may_be_missing(tmp_path):
    def strip(dataset: Dataset) -> None:
        del dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence

    write_dicom(tmp_path, "ID1", change=strip)
    assert all(np.array_equal(mask, head()[1][name]) for name, mask in read(tmp_path).masks.items())


def test_a_ct_is_found_by_the_images_that_contours_name(tmp_path):
    """Two series share the frame of reference, and nothing but ContourImageSequence tells them apart."""
    write_dicom(tmp_path / "one", "ID1")
    frame = pydicom.dcmread(tmp_path / "one" / "RTSTRUCT.dcm").ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID

    def strip(dataset: Dataset) -> None:
        for frames in dataset.ReferencedFrameOfReferenceSequence:
            del frames.RTReferencedStudySequence
            frames.FrameOfReferenceUID = frame
        image = pydicom.dcmread(sorted((tmp_path / "two").glob("CT*"))[0]).SOPInstanceUID
        for roi_contours in dataset.ROIContourSequence:
            for item in roi_contours.ContourSequence:
                item.ContourImageSequence = contour([[0, 0, 0]], image=image).ContourImageSequence
        for one in dataset.StructureSetROISequence:
            one.ReferencedFrameOfReferenceUID = frame

    write_dicom(tmp_path / "two", "ID2", seed=1, change=strip)
    for path in (tmp_path / "two").glob("CT*"):
        dataset = pydicom.dcmread(path)
        dataset.FrameOfReferenceUID = frame
        dataset.save_as(path)
    items, refused = found(tmp_path)
    assert refused == []
    assert {i.patient: i.structures[0].parent.name for i in items} == {"ID1": "one", "ID2": "two"}
    assert all(len(read_patient(i).masks) == len(BALLS) for i in items)


def test_the_newest_structure_set_is_taken(tmp_path):
    write_dicom(tmp_path, "ID1")
    older = pydicom.dcmread(tmp_path / "RTSTRUCT.dcm")
    older.StructureSetDate, older.StructureSetROISequence = "19990101", older.StructureSetROISequence[:1]
    older.save_as(tmp_path / "A.dcm")
    items, refused = found(tmp_path)
    assert len(items[0].spellings) == len(BALLS)
    assert [(r.name, r.reason) for r in refused] == [("A.dcm", "a newer structure set of the same CT is taken")]


@pytest.mark.parametrize("orientation", TURNED)
def test_orientation(tmp_path, orientation):
    volume, masks = head()
    write_turned(volume, orientation, tmp_path)
    raw_lps = [contour(points) for _, points in loops(masks["Parotid_L"])]
    from tests.phantom import read_series, structure_set

    dataset = structure_set(read_series(tmp_path))
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    add_roi(dataset, "Parotid_L", raw_lps)
    dataset.save_as(tmp_path / "RTSTRUCT.dcm", enforce_file_format=True)
    raw = read(tmp_path)
    index = np.argwhere(raw.masks["Parotid_L"]).astype(float)
    middle, _ = BALLS["Parotid_L"]
    assert len(index) == masks["Parotid_L"].sum()
    assert np.allclose(
        raw.volume.grid.to_patient(index).mean(axis=0), GRID.to_patient(np.array([middle], dtype=float))[0]
    )


def test_contours_beyond_the_slices_are_left_out_and_told():
    mask, told = roi_mask(roi([square(0, 9.5, 19.5), square(-3, 9.5, 19.5)]), GRID, FRAME)
    assert mask is not None
    assert mask.sum() == 100
    assert told == ["1 contours lie outside of the scanned range"]


def test_an_organ_wholly_beyond_the_slices_is_absent():
    mask, told = roi_mask(roi([square(-3, 9.5, 19.5), square(45, 9.5, 19.5)]), GRID, FRAME)
    assert mask is not None
    assert not mask.any()
    assert told == ["drawn only outside of the scanned range"]


def test_contours_beside_the_image_are_refused():
    mask, told = roi_mask(roi([square(3, 109.5, 119.5)]), GRID, FRAME)
    assert mask is None
    assert "lies outside of the image" in told[0]


def test_another_frame_of_reference_is_refused():
    for contours in ([square(3, 9.5, 19.5)], [square(-30, 9.5, 19.5)]):
        mask, told = roi_mask(roi(contours, "9.9"), GRID, FRAME)
        assert mask is None
        assert "another frame of reference" in told[0]


def test_a_contour_between_slices_goes_to_the_nearest():
    mask, _ = roi_mask(roi([square(7.4, 9.5, 19.5)]), GRID, FRAME)
    assert mask is not None
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [7]


def test_a_contour_smaller_than_a_voxel_takes_nothing_from_its_slice():
    tiny = square(12, 14.0, 14.03)  # 0.12 mm
    mask, _ = roi_mask(roi([square(12, 9.5, 19.5), tiny]), GRID, FRAME)
    assert mask is not None
    assert mask.sum() == 100
    alone, told = roi_mask(roi([square(12, 14.2, 14.23)]), GRID, FRAME)
    assert alone is None
    assert told == ["its contours hold no voxel centre"]


def test_every_second_slice_is_told_and_interpolated():
    whole = ball((20, 22, 22), 9)
    drawn = whole.copy()
    drawn[1::2] = False
    filled = fill_skipped_slices(drawn)
    assert filled is not None
    both = whole[12:29] & filled[12:29]
    assert 2 * both.sum() / (whole[12:29].sum() + filled[12:29].sum()) > 0.97
    assert np.array_equal(filled[0::2], drawn[0::2])
    mask, told = roi_mask(roi([points for k, points in loops(whole) if k % 2]), GRID, FRAME)
    assert mask is not None
    assert not [k for k in range(13, 28) if not mask[k].any()]
    assert "every second or third slice" in told[0]


def test_one_gap_is_not_filled():
    drawn = ball((20, 22, 22), 9)
    drawn[18] = False
    assert fill_skipped_slices(drawn) is None


def test_what_is_no_case_is_said_or_passed_over(tmp_path):
    write_dicom(tmp_path / "good", "ID1")
    (tmp_path / "good" / "notes.txt").write_text("hello")
    write_dicom(tmp_path / "lonely", "ID2", seed=1).unlink()
    lost = write_dicom(tmp_path / "lost", "ID3", seed=2)
    for path in lost.parent.glob("CT*"):
        path.unlink()
    whole = (tmp_path / "good" / "RTSTRUCT.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:200])
    items, refused = found(tmp_path)
    assert [i.patient for i in items] == ["ID1"]
    assert {r.name: r.reason.split(":")[0] for r in refused} == {
        "lonely": "this CT series has no structure set",
        "lost/RTSTRUCT.dcm": "the CT that this structure set belongs to is absent",
        "cut.dcm": "cannot be read",
    }


def test_a_missing_slice_and_a_cut_file_refuse_the_case(tmp_path):
    write_dicom(tmp_path, "ID1")
    slices = sorted(tmp_path.glob("CT*"))
    items, _ = found(tmp_path)
    slices[20].write_bytes(slices[20].read_bytes()[:3000])
    with pytest.raises(SeriesUnusable):
        read_patient(items[0])
    slices[20].unlink()
    with pytest.raises(SeriesUnusable, match="missing"):
        read_patient(found(tmp_path)[0][0])


def test_numbers_that_are_none_refuse_the_structure_set(tmp_path):
    path = write_dicom(tmp_path, "ID1")
    content = path.read_bytes()
    at = content.index(b"CLOSED_PLANAR")
    start = content.index(b"\\", at)
    path.write_bytes(content[: start + 1] + b"#" * 3 + content[start + 4 :])
    items, _ = found(tmp_path)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_patient(items[0])
