"""What a destination's profile and a person's remarks change in the structure set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from contourd.dicom.reading.series import Series
from contourd.dicom.rtstruct.writer import structure_set_dataset
from contourd.errors import StructureSetRejected
from contourd.imaging.contours import ROI, Contour, StructureSet
from contourd.model.remarks import Finding, Measure, Remark, RemarkCheck, Remarks, RemarkVerdict
from contourd.model.structures import catalogue
from contourd.profiles import PROFILES, STRICT, Profile
from tests.peers import dciodvfy_errors
from tests.phantom import NOT_FOUND, PROVENANCE, traced


def square(series: Series, k: int, half_mm: float) -> Contour:
    x, y, z = series.grid.to_patient(np.array([[float(k), 20.0, 24.0]]))[0]
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    return Contour(k, np.array([[x + half_mm * i, y + half_mm * j, z] for i, j in corners]))


def rings(series: Series) -> StructureSet:
    """A ring on slice 3, as two loops, and one loop on slice 4."""
    loops = (square(series, 3, 10.0), replace(square(series, 3, 4.0), hole=True), square(series, 4, 10.0))
    return StructureSet((ROI("Larynx", loops, 1.0),))


def written(
    structures: StructureSet, series: Series, profile: Profile = STRICT, remarks: Remarks | None = None
) -> pydicom.Dataset:
    return structure_set_dataset(structures, series, PROVENANCE, catalogue(), profile, remarks or Remarks())


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_profile_writes_what_dciodvfy_takes(series: Series, tmp_path: Path, name: str) -> None:
    dataset = written(traced(series.grid)[0], series, PROFILES[name])
    dataset.save_as(tmp_path / "rt.dcm", enforce_file_format=True)
    assert dciodvfy_errors(tmp_path / "rt.dcm") == []
    assert {o.RTROIInterpretedType for o in dataset.RTROIObservationsSequence} == {"ORGAN"}


def test_xor_is_said_of_slices_with_holes(series: Series) -> None:
    (roi,) = written(rings(series), series).ROIContourSequence
    types = [contour.ContourGeometricType for contour in roi.ContourSequence]
    assert types == ["CLOSEDPLANAR_XOR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR"]


def test_names_and_decimals(series: Series) -> None:
    profile = replace(
        STRICT, names={"Parotid_L": "Parotis_li"}, decimals=2, label="ENTWURF", interpreted_type="AVOIDANCE"
    )
    dataset = written(traced(series.grid)[0], series, profile)
    assert [r.ROIName for r in dataset.StructureSetROISequence] == ["Parotis_li", "Parotid_R", "SpinalCord"]
    assert dataset.RTROIObservationsSequence[0].ROIObservationLabel == "Parotis_li"
    assert {o.RTROIInterpretedType for o in dataset.RTROIObservationsSequence} == {"AVOIDANCE"}
    assert dataset.StructureSetLabel == "ENTWURF"
    texts = [v.original_string for v in dataset.ROIContourSequence[0].ContourSequence[0].ContourData]
    assert {len(text.split(".")[1]) for text in texts[0::3] + texts[1::3]} == {2}
    plain = written(traced(series.grid)[0], series)
    assert list(dataset.ROIContourSequence[0].ROIDisplayColor) == list(plain.ROIContourSequence[0].ROIDisplayColor)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"Parotid_L": "parotid_r"}, "two ROIs are called 'parotid_r', apart from case"),
        ({"Parotid_L": "a name of twenty two c"}, "not fit for planning systems"),
        ({"Parotid_L": ""}, "not fit for planning systems"),
    ],
)
def test_names_that_clash_are_refused(series: Series, names: dict[str, str], told: str) -> None:
    with pytest.raises(StructureSetRejected, match=told):
        written(traced(series.grid)[0], series, replace(STRICT, names=names))


VOLUME = "volume 1.0 cc, expected 5.0 to 9.0 cc"


def test_remarks_stand_where_a_person_sees_them(series: Series) -> None:
    small = Finding("Parotid_R", RemarkCheck.VOLUME, Measure.VOLUME_CC, 1.0, (5.0, 9.0))
    exchanged = Finding("SpinalCord", RemarkCheck.LATERALITY)
    remarks = Remarks.noted(RemarkCheck.LIMITS, ["adult (mp)"])
    remarks += Remarks((Remark(small, RemarkVerdict.FLAG), Remark(exchanged, RemarkVerdict.WITHHOLD)))
    dataset = written(traced(series.grid)[0], series, remarks=remarks)
    assert [r.ROIName for r in dataset.StructureSetROISequence] == ["Parotid_L", "Parotid_R"]
    left, right = dataset.RTROIObservationsSequence
    assert (left.ROIObservationLabel, "ROIObservationDescription" in left) == ("Parotid_L", False)
    assert (right.ROIObservationLabel, right.ROIObservationDescription) == ("CHECK", VOLUME)
    told = remarks.text()
    assert told == (
        "outside the model's limits, released: adult (mp); "
        "withheld: SpinalCord (it lies on the other side of the patient); "
        f"check: Parotid_R ({VOLUME})"
    )
    assert told in dataset.StructureSetDescription
    assert f"not found: {NOT_FOUND}" in dataset.StructureSetDescription
    assert Remarks().text() == ""
