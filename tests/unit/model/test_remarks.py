"""Remarks are records: kept as JSON, and told in the sentences that people and structure sets have."""

from __future__ import annotations

import json

import pytest

from contourd.model.remarks import NO_REMARKS, Finding, Measure, Remark, RemarkCheck, Remarks, RemarkVerdict

FINDINGS = (
    (
        Finding("Larynx", RemarkCheck.VOLUME, Measure.VOLUME_CC, 71.23, (8.91, 60.06)),
        "volume 71.2 cc, expected 8.9 to 60.1 cc",
    ),
    (
        Finding("Larynx", RemarkCheck.POSITION, Measure.STANDARD_DEVIATIONS, 5.25, (0.0, 4.5)),
        "its place among the other organs is 5.2 standard deviations from the usual one",
    ),
    (Finding("Larynx", RemarkCheck.LATERALITY), "it lies on the other side of the patient"),
    (
        Finding(
            "Parotid_R", RemarkCheck.SYMMETRY, Measure.VOLUME_RATIO, 2.0, (0.6, 1.6),
            {"Parotid_L": 30.0, "Parotid_R": 15.0},
        ),
        "Parotid_L has 30.0 cc and Parotid_R 15.0 cc",
    ),
    (
        Finding("Larynx", RemarkCheck.AGREEMENT, Measure.LATTICES, 1.0, (2.0, 2.0)),
        "its lattices disagree: 1 of 2 found it",
    ),
    (
        Finding("Larynx", RemarkCheck.AGREEMENT, Measure.DICE, 0.254, (0.5, 1.0)),
        "its lattices disagree: Dice 0.25, at least 0.5 expected",
    ),
    (
        Finding("Larynx", RemarkCheck.AGREEMENT, Measure.UNDECIDED_PART, 0.6, (0.0, 0.5)),
        "its probability is a plateau at 0.5: 60% of its voxels between 0.45 and 0.55, at most 50% expected",
    ),
    (Finding("Larynx", RemarkCheck.READ_BACK, words="rt-utils finds nothing of it"), "rt-utils finds nothing of it"),
)  # fmt: skip


@pytest.mark.parametrize(("finding", "reason"), FINDINGS)
@pytest.mark.parametrize("verdict", RemarkVerdict)
def test_each_finding_is_told_in_a_sentence_and_comes_back_from_its_json(finding, reason, verdict):
    remarks = Remarks((Remark(finding, verdict),))
    assert finding.reason == reason
    assert Remarks.from_json(remarks.to_json()) == remarks


def test_a_record_has_the_figures_and_leaves_out_what_is_empty():
    (record,) = json.loads(Remarks((Remark(FINDINGS[0][0], RemarkVerdict.FLAG),)).to_json())
    assert record == {
        "organ": "Larynx", "check": "volume", "verdict": "flag", "measure": "volume_cc", "value": 71.23,
        "expected": [8.91, 60.06],
    }  # fmt: skip
    assert (NO_REMARKS.to_json(), NO_REMARKS.text()) == ("[]", "")


def test_an_organ_s_findings_are_told_together_and_one_that_does_not_read_back_is_withheld_alone():
    volume, place = (Remark(finding, RemarkVerdict.FLAG) for finding, _ in FINDINGS[:2])
    remarks = Remarks((volume, place)) + Remarks.noted(RemarkCheck.HEADER, ["the Study ID is left out"])
    assert remarks.lines() == [
        "check: Larynx (volume 71.2 cc, expected 8.9 to 60.1 cc; "
        "its place among the other organs is 5.2 standard deviations from the usual one)",
        "header: the Study ID is left out",
    ]
    assert remarks.lines(but=RemarkVerdict.FLAG) == ["header: the Study ID is left out"]
    rejected = remarks.without({"Larynx": "rt-utils finds nothing of it"})
    assert (rejected.flagged, rejected.withheld) == ({}, {"Larynx": "rt-utils finds nothing of it"})
    assert rejected.formal == ("the Study ID is left out",)
