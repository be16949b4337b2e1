"""Which CT a structure set is of: its own words decide, and not the order in which anything is met."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from contourd.dicom.reading.series import Instance, read_instance
from contourd.dicom.rtstruct.references import StructureSetFile, read_references
from tests.archives import add_roi, contour, found, loops, write_dicom
from tests.archives import head as a_head
from tests.phantom import rewrite, setting, write_series
from trainer.curation.archive import Stage
from trainer.curation.dicom import read_patient
from trainer.curation.matching import Unmatched, newest, series_of

SET = StructureSetFile(
    path=Path("rt.dcm"),
    uid="7.1",
    images={},
    series_uids=(),
    frame_uids=("1.9",),
    patient="ID1",
    studies=("1.2",),
    drawn="20200101",
    rejected=False,
    spellings=(),
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Instance:
    return read_instance(sorted(write_series(tmp_path_factory.mktemp("ct")).iterdir())[0])


@pytest.fixture
def ct(image: Instance):
    """Make the images of a series; those of series ``n`` are called n.0 to n.3."""

    def make(number: int, patient: str = "ID1", study: str = "1.2", frame: str = "1.9") -> list[Instance]:
        return [
            replace(
                image,
                series_instance_uid=f"5.{number}",
                sop_instance_uid=f"{number}.{k}",
                patient_id=patient,
                study_instance_uid=study,
                frame_of_reference_uid=frame,
            )
            for k in range(4)
        ]

    return make


def chosen(one: StructureSetFile, *series: list[Instance]) -> set[str]:
    """What is chosen, in every order of the series and of what the structure set names."""
    results = set()
    for order in permutations(series):
        for named in permutations(one.series_uids):
            try:
                results.add(series_of(replace(one, series_uids=named), {s[0].series_instance_uid: s for s in order}))
            except Unmatched as error:
                results.add(f"{error.stage.name}: {error}")
    return results


def test_the_images_of_the_contours_decide_between_series_that_are_both_named(ct):
    one = replace(SET, series_uids=("5.1", "5.2"), images={"2.0": 5, "2.1": 7})
    assert chosen(one, ct(1), ct(2)) == {"5.2"}


def test_most_contours_decide_where_images_of_two_series_are_named(ct):
    assert chosen(replace(SET, images={"1.0": 2, "2.1": 7, "2.2": 1}), ct(1), ct(2)) == {"5.2"}
    (told,) = chosen(replace(SET, images={"1.0": 3, "2.1": 3}), ct(1), ct(2))
    assert told == (
        "MISMATCHED: it may belong to any of 2 CT series that are here: its contours name images of each of them"
    )


def test_two_series_that_are_named_and_no_images_are_no_match(ct):
    one = replace(SET, series_uids=("5.1", "5.2"))
    (told,) = chosen(one, ct(1), ct(2), ct(3))
    assert told.startswith("MISMATCHED: it may belong to any of 2 CT series that are here: it names them all")
    assert chosen(one, ct(1), ct(2, frame="1.8")) == {"5.1"}
    assert chosen(one, ct(1), ct(2, patient="ID2")) == {"5.1"}
    assert chosen(one, ct(2), ct(3)) == {"5.2"}


def test_the_frame_of_reference_decides_where_nothing_is_named(ct):
    assert chosen(SET, ct(1), ct(2, frame="1.8")) == {"5.1"}
    assert chosen(replace(SET, frame_uids=("1.7", "1.8")), ct(1), ct(2, frame="1.8")) == {"5.2"}
    (told,) = chosen(SET, ct(1), ct(2))
    assert "they share its frame of reference, and it names neither series nor images" in told


def test_a_frame_of_reference_that_all_patients_share(ct):
    """A de-identification that gives every UID the same: only the patient's own CT is taken."""
    assert chosen(SET, ct(1, patient="ID0"), ct(2), ct(3, patient="ID3")) == {"5.2"}
    (told,) = chosen(SET, ct(1, patient="ID0"), ct(3, patient="ID3"))
    assert told == "MISMATCHED: it is of another patient than its CT: their Patient IDs differ"


def test_what_is_named_and_absent_is_no_other_series(ct):
    for one in (replace(SET, images={"9.0": 3}, series_uids=("5.1",)), replace(SET, series_uids=("5.9",))):
        assert chosen(one, ct(1)) == {"ABSENT: the CT that this structure set belongs to is absent"}


def test_another_patient_or_study_is_refused_whatever_else_agrees(ct):
    one = replace(SET, images={"1.0": 3}, series_uids=("5.1",))
    another = "MISMATCHED: it is of another patient than its CT: their Patient IDs differ"
    assert chosen(replace(one, patient="ID2"), ct(1)) == {another}
    assert chosen(replace(one, patient=""), ct(1)) == {another}
    assert chosen(one, [*ct(1)[:3], ct(1, patient="ID2")[3]]) == {another}
    assert chosen(replace(one, patient=""), ct(1, patient=" ")) == {"5.1"}
    (told,) = chosen(replace(one, studies=("1.3",)), ct(1))
    assert told.startswith("MISMATCHED: it is of another study than its CT")
    assert chosen(replace(one, studies=("1.3", "1.2")), ct(1)) == {"5.1"}


def test_what_a_structure_set_says_of_itself(tmp_path):
    """In the order in which it stands, each once."""
    path = write_dicom(tmp_path, "ID1", change=setting(ApprovalStatus="REJECTED"))
    dataset = pydicom.dcmread(path)
    frame = dataset.ReferencedFrameOfReferenceSequence[0]
    for uid in ("1.2.9", "1.2.3", "1.2.9"):
        another = Dataset()
        another.SeriesInstanceUID = uid
        frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence.append(another)
    dataset.StructureSetROISequence[0].ROIName = "Brain\nstem"
    own = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID
    said = read_references(path, dataset)
    assert said.series_uids == (own, "1.2.9", "1.2.3")
    assert said.studies == (dataset.StudyInstanceUID,)
    assert said.frame_uids == (frame.FrameOfReferenceUID,)
    assert (said.patient, said.rejected, said.images) == ("ID1", True, {})
    assert said.spellings[0] == "Brain\\nstem"


def test_the_newest_structure_set_is_known_by_its_date_alone():
    old, new = replace(SET, uid="7.0", path=Path("z")), replace(SET, drawn="20200102", path=Path("b"))
    copy = replace(new, path=Path("a"))
    assert all(newest(order) is new for order in permutations((old, new)))
    assert all(newest(order) is copy for order in permutations((old, new, copy)))
    for other in (replace(new, uid="7.3"), replace(new, uid="7.3", drawn="")):
        for order in permutations((old, new, other)):
            with pytest.raises(Unmatched, match="it has 3 structure sets, and their dates do not say which"):
                newest(order)


@pytest.mark.parametrize(
    ("said", "drawn"),
    [
        ({"StructureSetDate": "2020.01.02", "StructureSetTime": "10:11:12.5"}, "202001021011125"),
        ({"StructureSetDate": "", "InstanceCreationDate": "20200103", "InstanceCreationTime": "1011"}, "202001031011"),
        ({"StructureSetDate": "", "StructureSetTime": "1011"}, ""),
    ],
)
def test_when_it_was_drawn(said, drawn):
    dataset = Dataset()
    for keyword, value in said.items():
        setattr(dataset, keyword, value)
    assert read_references(Path("rt.dcm"), dataset).drawn == drawn


def test_structure_sets_of_one_date_leave_the_ct_out_and_a_copy_does_not(tmp_path):
    path = write_dicom(tmp_path, "ID1")
    shutil.copy(path, tmp_path / "Z.dcm")
    items, refused = found(tmp_path)
    assert [item.structures[0].name for item in items] == ["RTSTRUCT.dcm"]
    assert [(r.name, r.reason, r.stage) for r in refused] == [("Z.dcm", "another copy is taken", Stage.ASIDE)]
    rewrite(tmp_path / "Z.dcm", setting(SOPInstanceUID="1.2.3"))
    items, (refusal,) = found(tmp_path)
    assert (items, refusal.name, refusal.stage) == ([], ".", Stage.MISMATCHED)


def test_a_rejected_structure_set_is_no_label(tmp_path):
    write_dicom(tmp_path, "ID1", change=setting(ApprovalStatus="REJECTED"))
    items, refused = found(tmp_path)
    assert items == []
    assert {(r.stage, r.reason) for r in refused} == {
        (Stage.MISMATCHED, "somebody looked at this structure set and rejected it"),
        (Stage.ALONE, "this CT series has no structure set"),
    }


def test_an_roi_of_another_series_is_unknown_and_told(tmp_path):
    """A structure set over two series of one frame of reference, as of a planning CT and one with contrast."""
    write_dicom(tmp_path / "b", "ID1")
    images = [pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID for p in sorted((tmp_path / "b").glob("CT*"))]
    mask = a_head()[1]["Parotid_L"]

    def two(dataset: Dataset) -> None:
        for of_roi in dataset.ROIContourSequence[:3]:
            for item in of_roi.ContourSequence:
                item.ContourImageSequence = contour([[0, 0, 0]], image=images[0]).ContourImageSequence
        add_roi(dataset, "Larynx", [contour(points, image="1.2.3.4") for _, points in loops(mask)])

    dataset = pydicom.dcmread(tmp_path / "b" / "RTSTRUCT.dcm")
    two(dataset)
    dataset.save_as(tmp_path / "b" / "RTSTRUCT.dcm")
    items, refused = found(tmp_path)
    assert refused == []
    raw = read_patient(items[0])
    assert "Larynx" not in raw.masks
    count = len(loops(mask))
    assert raw.remarks == {"Larynx": [f"{count} of its contours refer to images of another series than the CT's"]}


def test_another_patient_s_newer_structure_set_does_not_displace_the_own_one(tmp_path):
    write_dicom(tmp_path / "a", "ID1")
    shutil.copy(tmp_path / "a" / "RTSTRUCT.dcm", tmp_path / "foreign.dcm")
    rewrite(tmp_path / "foreign.dcm", setting(PatientID="ID2", StructureSetDate="20991231"))
    items, refused = found(tmp_path)
    assert [item.structures[0].name for item in items] == ["RTSTRUCT.dcm"]
    assert [(r.name, r.reason) for r in refused] == [
        ("foreign.dcm", "it is of another patient than its CT: their Patient IDs differ")
    ]
