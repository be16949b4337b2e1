"""Segmentations: what highdicom writes is what pydicom, highdicom and dcmqi read, in every position of the patient."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import nrrd
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import Collection
from pydicom.uid import generate_uid

from contourd.dicom.reading.series import Series
from contourd.dicom.segmentation import writer
from contourd.dicom.segmentation.read_back import check_segmentation
from contourd.dicom.segmentation.writer import segmentation_dataset
from contourd.errors import OrgansRejected, StructureSetRejected
from contourd.imaging.contours import ROI, MaskInBox, StructureSet
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.remarks import NO_REMARKS, Finding, Remark, RemarkCheck, Remarks, RemarkVerdict
from contourd.model.structures import catalogue
from contourd.profiles import STRICT, Profile
from contourd.reasons.catalogue import HoldReason
from tests.orientations import TURNED, write_turned
from tests.peers import dciodvfy_errors
from tests.phantom import BALLS, PROVENANCE, phantom, read_series, traced, write_series


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Series:
    return read_series(write_series(tmp_path_factory.mktemp("seg") / "ct"))


@pytest.fixture(scope="module")
def encoded(series) -> bytes:
    return as_bytes(made(series))


@pytest.fixture
def dataset(encoded) -> pydicom.Dataset:
    return pydicom.dcmread(BytesIO(encoded))


def made(series: Series, remarks: Remarks = NO_REMARKS, profile: Profile = STRICT) -> pydicom.Dataset:
    structures, masks = traced(series.grid)
    return segmentation_dataset(structures, masks, series, PROVENANCE, catalogue(), profile, remarks)


def as_bytes(dataset: pydicom.Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def balls(series: Series) -> dict[str, MaskInBox]:
    return traced(series.grid)[1]


def read_by_dcmqi(path: Path, folder: Path) -> dict[int, np.ndarray]:
    """Segment number -> the patient's places of its voxels, rounded (n, 3): by dcmqi, which is ITK and DCMTK."""
    program = Path(sys.executable).with_name("segimage2itkimage")
    command = [program, "--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nrrd"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    found = {}
    for file in folder.glob("*.nrrd"):
        voxels, header = nrrd.read(str(file))
        assert header["space"] == "left-posterior-superior"
        places = np.argwhere(voxels) @ np.array(header["space directions"]) + np.array(header["space origin"])
        found[int(file.stem.rpartition("-")[2] if "-" in file.stem else file.stem)] = sorted_places(places)
    return found


def sorted_places(points) -> np.ndarray:
    rounded = np.round(points, 2) + 0.0
    return rounded[np.lexsort(rounded.T)]


def places(mask: MaskInBox, grid: Grid) -> np.ndarray:
    index = np.argwhere(mask.mask) + [part.start for part in mask.box]
    return sorted_places(grid.to_patient(index.astype(float)))


@pytest.mark.peers
@pytest.mark.parametrize("orientation", TURNED)
def test_three_readers_find_the_organs_where_they_lie_in_the_patient(tmp_path, orientation):
    """By dcmqi here; by pydicom and by highdicom in the check itself."""
    series = read_series(write_turned(phantom(), orientation, tmp_path / "ct"))
    structures, masks = traced(series.grid)
    written = segmentation_dataset(structures, masks, series, PROVENANCE, catalogue())
    check_segmentation(written, series, masks)
    (tmp_path / "seg.dcm").write_bytes(as_bytes(written))
    found = read_by_dcmqi(tmp_path / "seg.dcm", tmp_path)
    assert len(found) == len(BALLS)
    for number, name in enumerate(BALLS, 1):
        np.testing.assert_allclose(found[number], places(masks[name], series.grid), atol=0.011)
        np.testing.assert_allclose(found[number].mean(axis=0), BALLS[name][0], atol=1.0)


@pytest.mark.peers
def test_dciodvfy_finds_no_error(tmp_path, encoded):
    (tmp_path / "seg.dcm").write_bytes(encoded)
    assert dciodvfy_errors(tmp_path / "seg.dcm") == []


def test_slices_at_unequal_steps_keep_their_places(tmp_path):
    grid = phantom().grid
    origins = grid.slice_origins_mm.copy()
    origins[12:, 2] += 0.9 * np.arange(1, 13)  # 2.5 mm below, 3.4 mm above
    uneven = replace(grid, slice_origins_mm=origins)
    series = read_series(write_series(tmp_path / "ct", Volume(uneven, phantom().hu)))
    structures, masks = traced(series.grid)
    dataset = segmentation_dataset(structures, masks, series, PROVENANCE, catalogue())
    check_segmentation(dataset, series, masks)
    z = {float(f.PlanePositionSequence[0].ImagePositionPatient[2]) for f in dataset.PerFrameFunctionalGroupsSequence}
    assert z == {round(float(origins[k, 2]), 3) for m in masks.values() for k in np.flatnonzero(m.mask.any((1, 2)))}


@pytest.mark.peers
def test_slices_that_are_turned_and_tilted_as_far_as_is_taken_keep_their_places(tmp_path):
    turn, tilt = np.radians(4.0), np.radians(0.05)
    row = (float(np.cos(turn)), float(np.sin(turn)), 0.0)
    column = tuple(float(v) for v in np.cross((0, np.sin(tilt), np.cos(tilt)), row))
    oblique = replace(phantom().grid, row_direction=row, column_direction=column)
    series = read_series(write_series(tmp_path / "ct", Volume(oblique, phantom().hu)))
    structures, masks = traced(series.grid)
    dataset = segmentation_dataset(structures, masks, series, PROVENANCE, catalogue())
    check_segmentation(dataset, series, masks)
    (tmp_path / "seg.dcm").write_bytes(as_bytes(dataset))
    found = read_by_dcmqi(tmp_path / "seg.dcm", tmp_path)
    for number, name in enumerate(BALLS, 1):
        np.testing.assert_allclose(found[number].mean(0), places(masks[name], series.grid).mean(0), atol=0.03)


def test_it_is_the_same_to_the_byte_each_time(series, encoded):
    assert as_bytes(made(series)) == encoded


def test_it_says_what_the_structure_set_says(series, dataset):
    assert (dataset.Modality, dataset.SegmentationType, dataset.BitsAllocated) == ("SEG", "BINARY", 1)
    assert dataset.PatientID == series.header.PatientID
    assert dataset.PatientName == series.header.PatientName
    assert dataset.StudyInstanceUID == series.header.StudyInstanceUID
    assert dataset.FrameOfReferenceUID == series.header.FrameOfReferenceUID
    assert dataset.SeriesDescription == "contourd AI generated, not reviewed"
    assert dataset.ImageComments == "AI generated, not reviewed. Model hn7 1.0; not found: Larynx"
    assert dataset.ContributingEquipmentSequence[0].ContributionDescription.startswith(f"model sha256 {'a' * 64}")
    assert "InstanceCreationDate" not in dataset
    assert dataset.ContentDate == series.header.ContentDate
    assert dataset.SeriesInstanceUID != series.uid


def test_each_segment_says_which_organ_which_side_and_what_drew_it(dataset):
    left, right, cord = dataset.SegmentSequence
    assert [s.SegmentLabel for s in (left, right, cord)] == list(BALLS)
    for segment, side in ((left, "Left"), (right, "Right")):
        (kind,) = segment.SegmentedPropertyTypeCodeSequence
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("45289007", "SCT")
        assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == side
    (kind,) = cord.SegmentedPropertyTypeCodeSequence
    assert kind.CodeMeaning == "Spinal cord"
    assert "SegmentedPropertyTypeModifierCodeSequence" not in kind
    (algorithm,) = cord.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("hn7", "1.0")
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
    assert (cord.SegmentAlgorithmType, cord.SegmentAlgorithmName) == ("AUTOMATIC", "hn7")
    assert len({s.TrackingUID for s in dataset.SegmentSequence}) == 3


def test_an_organ_to_look_at_says_so_and_a_withheld_one_is_left_out(series):
    flagged = Finding("Parotid_L", RemarkCheck.LATERALITY)
    withheld = Finding("SpinalCord", RemarkCheck.READ_BACK, words="reads back otherwise")
    remarks = Remarks((Remark(flagged, RemarkVerdict.FLAG), Remark(withheld, RemarkVerdict.WITHHOLD)))
    dataset = made(series, remarks, Profile("other", names={"Parotid_R": "PAROTIS_RE"}))
    left, right = dataset.SegmentSequence
    assert left.SegmentDescription == "CHECK: it lies on the other side of the patient"
    assert right.SegmentLabel == "PAROTIS_RE"
    assert "withheld: SpinalCord (reads back otherwise)" in dataset.ImageComments


def test_organs_that_overlap_are_both_whole(series):
    structures, masks = traced(series.grid)
    several = {**masks, "SpinalCord": MaskInBox(masks["Parotid_L"].box, masks["Parotid_L"].mask.copy())}
    dataset = segmentation_dataset(structures, several, series, PROVENANCE, catalogue())
    assert dataset.SegmentsOverlap == "YES"
    check_segmentation(dataset, series, several)


def test_an_organ_that_no_context_group_has_is_an_organ_by_its_label(series):
    structures, masks = traced(series.grid)
    named = StructureSet(
        tuple(ROI("GTVp" if r.name == "SpinalCord" else r.name, r.contours, 0) for r in structures.rois)
    )
    dataset = segmentation_dataset(named, {**masks, "GTVp": masks["SpinalCord"]}, series, PROVENANCE, catalogue())
    segment = dataset.SegmentSequence[2]
    assert segment.SegmentLabel == "GTVp"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Organ"


@pytest.mark.peers
@pytest.mark.parametrize("slices", [9, 1])
def test_a_segmentation_of_one_organ_and_of_one_frame_reads_back(tmp_path, series, slices):
    """What is alike in all frames is written once for all of them then."""
    structures, masks = traced(series.grid)
    one = masks["SpinalCord"].mask.copy()
    one[np.flatnonzero(one.any(axis=(1, 2)))[slices:]] = False
    alone = StructureSet(tuple(roi for roi in structures.rois if roi.name == "SpinalCord"))
    organs = {"SpinalCord": MaskInBox(masks["SpinalCord"].box, one)}
    dataset = segmentation_dataset(alone, organs, series, PROVENANCE, catalogue())
    check_segmentation(dataset, series, organs)
    (tmp_path / "seg.dcm").write_bytes(as_bytes(dataset))
    assert dciodvfy_errors(tmp_path / "seg.dcm") == []
    np.testing.assert_allclose(
        read_by_dcmqi(tmp_path / "seg.dcm", tmp_path)[1], places(organs["SpinalCord"], series.grid), atol=0.011
    )


def test_no_frame_is_empty(series, dataset):
    wanted = sum(int(np.any(m.mask, axis=(1, 2)).sum()) for m in balls(series).values())
    assert dataset.NumberOfFrames == wanted < series.grid.shape[0] * 3


def test_the_codes_are_those_of_dicoms_context_groups():
    """Segmented anatomy (CID 7151), the eye's (4209), cranial nerves (7706), head and neck (7601), the rest (8134)."""
    groups = (7151, 4209, 7706, 7601)
    listed = {(c.value, c.meaning) for group in groups for c in Collection(f"CID{group}").concepts.values()}
    listed.add((Collection("CID8134").BrachialPlexus.value, Collection("CID8134").BrachialPlexus.meaning))
    for structure in catalogue().values():
        assert not structure.code or (structure.code, structure.meaning) in listed, structure.name
        if structure.pair:
            assert catalogue()[structure.pair].code == structure.code
    assert [name for name, s in catalogue().items() if not s.code] == ["SpinalCanal", "Cochlea_L", "Cochlea_R"]
    assert writer.ANATOMICAL_STRUCTURE in Collection("CID7150").concepts.values()
    assert writer.ORGAN in Collection("CID7166").concepts.values()
    assert writer.ARTIFICIAL_INTELLIGENCE in Collection("CID7162").concepts.values()
    for code in writer.SIDES.values():
        assert code in Collection("CID244").concepts.values()


def other_bit(ds):
    ds.PixelData = bytes([ds.PixelData[0] ^ 4]) + ds.PixelData[1:]


def frames_exchanged(ds):
    half = len(ds.PixelData) // 2
    ds.PixelData = ds.PixelData[half:] + ds.PixelData[:half]


def off_its_slice(ds):
    ds.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence[0].ImagePositionPatient[2] += 1.0


def of_another_image(ds):
    first, other = ds.PerFrameFunctionalGroupsSequence[0], ds.PerFrameFunctionalGroupsSequence[1]
    first.DerivationImageSequence = other.DerivationImageSequence


def turned(ds):
    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]


def sides_exchanged(ds):
    left, right = ds.SegmentSequence[:2]
    left.SegmentLabel, right.SegmentLabel = right.SegmentLabel, left.SegmentLabel


def segment_lost(ds):
    del ds.SegmentSequence[2]


def frame_lost(ds):
    del ds.PerFrameFunctionalGroupsSequence[0]


def foreign_image(ds):
    ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = generate_uid()


DAMAGED: dict[str, tuple[Callable[[pydicom.Dataset], None], HoldReason]] = {
    "one bit": (other_bit, HoldReason.ORGANS_DIFFER),
    "frames of others": (frames_exchanged, HoldReason.ORGANS_DIFFER),
    "left for right": (sides_exchanged, HoldReason.ORGANS_DIFFER),
    "off its slice": (off_its_slice, HoldReason.FRAME_OFF_ITS_SLICE),
    "of another image": (of_another_image, HoldReason.FRAME_OFF_ITS_SLICE),
    "turned": (turned, HoldReason.SEGMENTATION_UNREADABLE),
    "a segment lost": (segment_lost, HoldReason.SEGMENTATION_UNREADABLE),
    "a frame lost": (frame_lost, HoldReason.SEGMENTATION_UNREADABLE),
    "an image of another series": (foreign_image, HoldReason.OTHER_IMAGES),
    "other study": (lambda ds: setattr(ds, "StudyInstanceUID", generate_uid()), HoldReason.OTHER_STUDY),
    "other frame of reference": (
        lambda ds: setattr(ds, "FrameOfReferenceUID", generate_uid()),
        HoldReason.OTHER_FRAME_OF_REFERENCE,
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_the_check_says_what_is_wrong(series, dataset, name):
    damage, code = DAMAGED[name]
    check_segmentation(dataset, series, balls(series))
    damage(dataset)
    with pytest.raises(StructureSetRejected) as caught:
        check_segmentation(dataset, series, balls(series))
    assert caught.value.reason.code is code


def test_one_organ_that_differs_is_named_alone(series, dataset):
    other_bit(dataset)
    with pytest.raises(OrgansRejected) as caught:
        check_segmentation(dataset, series, balls(series))
    assert dict(caught.value.organs) == {"Parotid_L": "reads back by pydicom with 1 voxels that differ"}


def test_an_organ_that_was_found_and_is_not_there_is_named(series, dataset):
    masks = balls(series)
    with pytest.raises(OrgansRejected) as caught:
        check_segmentation(dataset, series, {**masks, "Larynx": masks["Parotid_L"]})
    assert dict(caught.value.organs) == {"Larynx": "was found but has no segment"}


def test_without_highdicom_the_job_is_held_with_what_to_install(series, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom.seg", None)
    with pytest.raises(StructureSetRejected, match=r"install contourd\[seg\]"):
        made(series)


def test_nobody_imports_highdicom_who_did_not_ask_for_a_segmentation():
    program = (
        "import sys, contourd.cli, contourd.node.daemon, contourd.node.worker, contourd.contour.contouring, "
        "contourd.dicom.segmentation.writer, contourd.dicom.segmentation.read_back; "
        "sys.exit('highdicom' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0


def test_an_empty_contour_list_holds(series):
    nothing = StructureSet((ROI("Parotid_L", (), 0.0),))
    with pytest.raises(StructureSetRejected) as caught:
        segmentation_dataset(nothing, {}, series, PROVENANCE, catalogue())
    assert caught.value.reason.code is HoldReason.NO_ORGAN
