"""What comes back is paired with its job, never guessed, and compared organ by organ."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from pydicom.dataset import Dataset

from contourd.imaging.metrics import dice
from contourd.reasons.catalogue import HoldReason
from contourd.store.states import OrganFate, ReviewState
from contourd.store.tables import InstanceRow, SeriesRow
from tests.reviewing import (
    DELIVERED_AFTER,
    Clinic,
    approved,
    content_of,
    contours_of,
    copied,
    edited,
    emptied,
    moved,
    points_of,
    renamed,
)

pytestmark = pytest.mark.both_databases


@pytest.fixture
def clinic(tmp_path, database, series, clock):
    return Clinic(tmp_path, database, series, clock)


def test_one_that_comes_back_unchanged_is_recognised(clinic):
    job = clinic.contour(clinic.receive_ct())
    row, organs = clinic.compared(clinic.draft)
    assert (row.state, row.job_id, row.unchanged, row.approval) == (ReviewState.COMPARED, job, True, "UNAPPROVED")
    assert {o.fate for o in organs.values()} == {OrganFate.UNTOUCHED}
    assert (row.model_name, row.model_version, row.destination, row.tps) == ("hn7", "1", "pacs", "Eclipse 18")
    assert organs["Parotid_L"].dice == 1.0


def test_one_that_another_system_writes_anew_is_recognised_too(clinic):
    """Two decimals, another first point, the other way round, a closing point, contours in another order."""

    def rewrite(dataset: Dataset) -> None:
        drawn = contours_of(dataset, "Parotid_L")
        for contour in drawn.ContourSequence:
            points = np.roll(points_of(contour), 3, axis=0)[::-1]
            points = np.concatenate([points, points[:1]])
            contour.ContourData = [f"{value:.2f}" for value in points.ravel()]
            contour.NumberOfContourPoints = len(points)
        drawn.ContourSequence = list(reversed(drawn.ContourSequence))

    clinic.contour(clinic.receive_ct())
    row, organs = clinic.compared(edited(clinic.draft, rewrite))
    assert organs["Parotid_L"].fate == OrganFate.UNTOUCHED
    assert row.unchanged


def test_each_fate_is_told_and_measured(clinic):
    clinic.contour(clinic.receive_ct())
    changes = (moved("Parotid_L", (4.0, 0.0, 0.0)), moved("Parotid_R", (0.0, 13.0, 0.0)), emptied("SpinalCord"))
    at = clinic.clock() + DELIVERED_AFTER + timedelta(hours=3)
    came = edited(clinic.draft, *changes, copied("Parotid_R", "Mandible"), copied("Parotid_R", "Klumpen 3"))
    approved(came, at)
    row, organs = clinic.compared(came)
    fates = {name: organ.fate for name, organ in organs.items()}
    assert fates == {
        "Parotid_L": OrganFate.TOUCHED,
        "Parotid_R": OrganFate.REDRAWN,
        "SpinalCord": OrganFate.DELETED,
        "Bone_Mandible": OrganFate.ADDED,
        "Klumpen 3": OrganFate.UNSURE,
    }
    assert (row.approval, row.unchanged) == ("APPROVED", False)
    assert row.reviewed_at - row.delivered_at == timedelta(hours=3)
    left = organs["Parotid_L"]
    # Two balls of radius 9 whose centres are 4 mm apart share 1 - 3/4 x + x^3/16 of each, x = 4 / 9.
    assert left.dice == pytest.approx(1 - 0.75 * (4 / 9) + (4 / 9) ** 3 / 16, abs=0.04)
    assert 3.0 < left.hausdorff_95_mm < 4.5
    assert 0 < left.surface_dice < 1
    assert left.added_path_mm > 0
    assert left.draft_cc == pytest.approx(4 / 3 * np.pi * 0.9**3, rel=0.06)
    assert left.reviewed_cc == pytest.approx(left.draft_cc, rel=0.08)
    assert organs["Parotid_R"].dice < 0.5
    assert organs["SpinalCord"].dice is None
    assert organs["Klumpen 3"].dice is None


def test_a_reviewer_is_a_pseudonym_and_the_same_one_each_time(clinic):
    clinic.contour(clinic.receive_ct())
    for name in ("Curie^Marie", "CURIE^MARIE^^", "Meitner^Lise"):
        came = edited(clinic.draft)
        approved(came, clinic.clock(), name)
        clinic.come_back(came)
    clinic.runner.run()
    first, second, third = (row.reviewer for row in clinic.reviews())
    assert first == second != third
    assert len({first, third, ""}) == 3
    assert "curie" not in first


def test_names_are_read_by_the_destinations_map_and_the_catalogue(clinic):
    clinic.contour(clinic.receive_ct())
    came = edited(clinic.draft, renamed("Parotid_L", "OHR_LI"), renamed("Parotid_R", "Parotis re"))
    row, organs = clinic.compared(came)
    assert row.unchanged
    assert {name: organ.roi for name, organ in organs.items()} == {
        "Parotid_L": "OHR_LI",
        "Parotid_R": "Parotis re",
        "SpinalCord": "SpinalCord",
    }


def test_two_rois_that_may_be_one_organ_are_not_compared(clinic):
    clinic.contour(clinic.receive_ct())
    _, organs = clinic.compared(edited(clinic.draft, copied("Parotid_L", "Parotis links")))
    assert organs["Parotid_L"].fate in (OrganFate.UNUSABLE, OrganFate.UNSURE)
    assert organs["Parotis links"].fate == OrganFate.UNSURE
    assert organs["Parotid_L"].dice is None


def test_a_name_that_tells_who_the_patient_is_is_not_kept(clinic):
    clinic.contour(clinic.receive_ct())
    patient = str(clinic.draft.PatientName).partition("^")[0]
    clinic.compared(edited(clinic.draft, copied("Parotid_L", f"lump {patient}")))
    assert [organ.roi for organ in clinic.organs().values() if organ.fate == OrganFate.UNSURE] == [""]


def test_the_very_same_one_is_kept_once_and_a_later_version_beside_it(clinic):
    clinic.contour(clinic.receive_ct())
    paths = [clinic.come_back(clinic.draft) for _ in range(2)]
    later = edited(clinic.draft, moved("Parotid_L", (1.0, 0.0, 0.0)), uid=str(clinic.draft.SOPInstanceUID))
    approved(later, clinic.clock())
    clinic.come_back(later)
    clinic.runner.run()
    assert [(clinic.spool.root / path).exists() for path in paths] == [True, False]
    assert [(r.approval, r.unchanged) for r in clinic.reviews()] == [("UNAPPROVED", True), ("APPROVED", False)]


def test_one_that_comes_before_its_job_is_paired_when_that_is_contoured(clinic):
    clinic.come_back(clinic.draft)
    clinic.runner.run()
    (row,) = clinic.reviews()
    assert (row.state, row.reason.code) == (ReviewState.UNPAIRED, HoldReason.REVIEW_OF_NO_SERIES)
    series = clinic.receive_ct()
    clinic.runner.run()  # nothing was contoured meanwhile: it is not even looked at
    assert clinic.reviews()[0].reason.code == HoldReason.REVIEW_OF_NO_SERIES
    clinic.contour(series)
    clinic.runner.run()
    (row,) = clinic.reviews()
    assert (row.state, row.reason, row.unchanged) == (ReviewState.COMPARED, None, True)


@pytest.mark.parametrize(
    ("keyword", "value", "code"),
    [
        ("PatientID", "ANOTHER", HoldReason.REVIEW_OTHER_PATIENT),
        ("StudyInstanceUID", "1.2.3.4", HoldReason.REVIEW_OTHER_STUDY),
        ("FrameOfReferenceUID", "1.2.3.4", HoldReason.REVIEW_OTHER_FRAME),
    ],
)
def test_one_of_another_patient_study_or_frame_is_kept_and_told(clinic, keyword, value, code):
    def change(dataset: Dataset) -> None:
        setattr(dataset, keyword, value)
        frame = dataset.ReferencedFrameOfReferenceSequence[0]
        if keyword == "StudyInstanceUID":
            frame.RTReferencedStudySequence[0].ReferencedSOPInstanceUID = value
        if keyword == "FrameOfReferenceUID":
            frame.FrameOfReferenceUID = value
            for roi in dataset.StructureSetROISequence:
                roi.ReferencedFrameOfReferenceUID = value

    job = clinic.contour(clinic.receive_ct())
    path = clinic.come_back(edited(clinic.draft, change))
    clinic.runner.run()
    (row,) = clinic.reviews()
    assert (row.state, row.reason.code, row.job_id) == (ReviewState.UNPAIRED, code, None)
    assert row.reason.detail == {"job": job}
    assert (clinic.spool.root / path).exists()


def test_one_that_fits_two_jobs_is_not_guessed(clinic):
    series = clinic.receive_ct()
    jobs = [clinic.contour(series), clinic.contour(series, model="other")]
    clinic.come_back(edited(clinic.draft))
    clinic.runner.run()
    (row,) = clinic.reviews()
    assert (row.state, row.reason.code) == (ReviewState.UNPAIRED, HoldReason.REVIEW_FITS_SEVERAL)
    assert row.reason.detail == {"jobs": jobs}


def test_one_without_references_is_paired_by_its_frame_of_reference(clinic):
    def bare(dataset: Dataset) -> None:
        frame = dataset.ReferencedFrameOfReferenceSequence[0]
        del frame.RTReferencedStudySequence
        for roi in dataset.ROIContourSequence:
            for contour in roi.ContourSequence:
                del contour.ContourImageSequence

    job = clinic.contour(clinic.receive_ct())
    row, _ = clinic.compared(edited(clinic.draft, bare))
    assert (row.state, row.job_id, row.unchanged) == (ReviewState.COMPARED, job, True)


def test_without_the_images_the_grid_that_was_kept_is_enough(clinic):
    series = clinic.receive_ct()
    clinic.contour(series)
    with clinic.database.transaction() as session:
        session.query(InstanceRow).delete()
        session.get_one(SeriesRow, series).purged_at = clinic.clock()
    row, organs = clinic.compared(edited(clinic.draft, moved("Parotid_L", (2.0, 0.0, 0.0))))
    assert row.state == ReviewState.COMPARED
    assert organs["Parotid_L"].fate == OrganFate.TOUCHED


def test_without_grid_and_images_it_is_told_that_it_cannot_be_compared(clinic):
    clinic.contour(clinic.receive_ct(), grid=False)
    row, organs = clinic.compared(edited(clinic.draft))
    assert (row.state, row.reason.code) == (ReviewState.REFUSED, HoldReason.REVIEW_WITHOUT_GRID)
    assert not organs


def test_without_the_draft_it_is_told_too(clinic):
    job = clinic.contour(clinic.receive_ct())
    for path in clinic.spool.outputs(job):
        clinic.spool.remove(path)
    row, _ = clinic.compared(edited(clinic.draft))
    assert (row.state, row.reason.code) == (ReviewState.UNPAIRED, HoldReason.REVIEW_DRAFT_GONE)


def drawn_on_every_second_slice(dataset: Dataset) -> None:
    drawn = contours_of(dataset, "Parotid_L")
    drawn.ContourSequence = [c for k, c in enumerate(drawn.ContourSequence) if k % 2 == 0]


def drawn_between_slices(dataset: Dataset) -> None:
    moved("Parotid_L", (0.0, 0.0, 0.4))(dataset)
    for contour in contours_of(dataset, "Parotid_L").ContourSequence:
        contour.ContourImageSequence[0].ReferencedSOPInstanceUID = "1.2.3.4.5"  # of a resampled CT


@pytest.mark.parametrize("change", [drawn_on_every_second_slice, drawn_between_slices])
def test_contours_of_other_slices_are_laid_on_the_cts(clinic, change):
    clinic.contour(clinic.receive_ct())
    _, organs = clinic.compared(edited(clinic.draft, change))
    assert organs["Parotid_L"].fate == OrganFate.TOUCHED
    assert organs["Parotid_L"].dice > 0.85


def test_an_organ_in_another_frame_of_reference_is_not_compared(clinic):
    def other_frame(dataset: Dataset) -> None:
        roi = next(item for item in dataset.StructureSetROISequence if item.ROIName == "Parotid_L")
        roi.ReferencedFrameOfReferenceUID = "1.2.3.4"

    clinic.contour(clinic.receive_ct())
    _, organs = clinic.compared(edited(clinic.draft, other_frame, moved("Parotid_L", (1, 0, 0))))
    assert organs["Parotid_L"].fate == OrganFate.UNUSABLE
    assert "frame of reference" in organs["Parotid_L"].remark


def test_one_without_an_organ_is_refused(clinic):
    def targets(dataset: Dataset) -> None:
        for n, roi in enumerate(dataset.StructureSetROISequence):
            roi.ROIName = f"PTV_{n}"

    clinic.contour(clinic.receive_ct())
    row, _ = clinic.compared(edited(clinic.draft, targets))
    assert (row.state, row.reason.code) == (ReviewState.REFUSED, HoldReason.REVIEW_WITHOUT_ORGANS)


@pytest.mark.parametrize("undefined", [False, True], ids=["lengths", "delimiters"])
def test_one_that_is_cut_off_is_refused_in_words(clinic, undefined):
    def delimited(dataset: Dataset) -> None:
        for item in dataset:
            item.is_undefined_length = undefined

    content = content_of(edited(clinic.draft, delimited))
    path = clinic.come_back(content[: len(content) // 2], uid="1.2.3")
    clinic.runner.run()
    clinic.spool.remove(path)  # the suite reads every structure set that is left
    (row,) = clinic.reviews()
    assert (row.state, row.reason.code) == (ReviewState.REFUSED, HoldReason.REVIEW_UNREADABLE)


def test_what_a_kill_left_without_a_row_is_recorded_at_the_start(clinic):
    path = clinic.come_back(clinic.draft)
    with clinic.database.transaction() as session:
        session.delete(session.merge(clinic.reviews()[0]))
    assert clinic.reception.record_unrecorded() == 1
    assert clinic.reception.record_unrecorded() == 0
    (row,) = clinic.reviews()
    assert (row.path, row.sop_instance_uid) == (path, str(clinic.draft.SOPInstanceUID))
    assert row.patient == clinic.spool.pseudonym(str(clinic.draft.PatientID))


def test_dice_is_that_of_the_metrics():
    """The share of both: what the numbers above are worth."""
    one = np.zeros((1, 1, 4), dtype=bool)
    other = one.copy()
    one[..., :2], other[..., 1:3] = True, True
    assert dice(one, other) == 0.5
