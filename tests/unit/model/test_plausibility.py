"""Organs against the training set: every expected number is worked out here."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np
import pytest
from pydantic import ValidationError

from contourd.imaging.contours import MaskInBox
from contourd.imaging.grid import Grid
from contourd.model.commissioning import unjudged_text
from contourd.model.plausibility import (
    FEWEST_CASES,
    SMALLEST_SD_LOG,
    SMALLEST_SD_MM,
    OrganGeometry,
    OrganSpread,
    RobustSpread,
    assess,
    distribution_of,
    organ,
    recognised,
)
from contourd.model.remarks import RemarkCheck
from contourd.model.sides import Sides

CENTRES = {
    "Brainstem": (0.0, 0.0, 100.0),
    "SpinalCord": (0.0, 20.0, -30.0),
    "Parotid_L": (60.0, -20.0, 60.0),
    "Parotid_R": (-60.0, -20.0, 60.0),
}


def patient(shift: float = 0.0, size: float = 1.0, **changed: OrganGeometry) -> list[OrganGeometry]:
    """Four organs of 20 cc times ``size``, moved as a whole."""
    organs = {n: OrganGeometry(n, 20.0 * size, (x + shift, y, z), cut=False) for n, (x, y, z) in CENTRES.items()}
    return list((organs | changed).values())


@pytest.fixture(scope="module")
def distribution():
    sizes = np.exp(np.linspace(-0.4, 0.4, 21))
    return distribution_of([patient(shift=50 * i, size=float(s)) for i, s in enumerate(sizes)])


def findings(organs, distribution):
    return [(f.structure, f.check) for f in assess(organs, distribution, 4.5)]


def test_the_spread_by_hand(distribution):
    volume = distribution["Brainstem"].log_volume_cc
    assert volume.median == pytest.approx(log(20), abs=1e-3)
    # 21 values from -0.4 to 0.4: the median distance from the middle is 0.2.
    assert volume.sd == pytest.approx(1.4826 * 0.2, abs=1e-3)
    x, y, z = distribution["Brainstem"].offsets_mm["SpinalCord"]
    assert (x.median, y.median, z.median) == (0, -20, 130)
    assert x.sd == y.sd == z.sd == SMALLEST_SD_MM  # whole patients were moved, not organs
    assert distribution["Parotid_L"].log_asymmetry.sd == SMALLEST_SD_LOG
    assert distribution["Parotid_R"].log_asymmetry is None


def test_few_cases_judge_nothing():
    assert distribution_of([patient() for _ in range(FEWEST_CASES - 1)]) == {}
    assert set(distribution_of([patient() for _ in range(FEWEST_CASES)])) == set(CENTRES)


def test_cut_organs_say_nothing_of_the_volume():
    cut = [replace(o, volume_cc=1.0, cut=True) for o in patient()]
    spread = distribution_of([patient() for _ in range(10)] + [cut for _ in range(90)])
    assert spread["Brainstem"].log_volume_cc.median == pytest.approx(log(20), abs=1e-3)


def test_a_usual_patient_is_plausible_anywhere(distribution):
    assert findings(patient(), distribution) == []
    assert findings(patient(shift=400), distribution) == []


def test_volume(distribution):
    # 4.5 x 0.297 = 1.3365 (kept to three decimals): 20 cc x exp(1.3365) = 76.1 cc, and 5.26 cc.
    for volume_cc, implausible in ((75.5, False), (76.5, True), (5.4, False), (5.1, True)):
        o = OrganGeometry("Brainstem", volume_cc, CENTRES["Brainstem"], cut=False)
        assert findings(patient(Brainstem=o), distribution) == [("Brainstem", RemarkCheck.VOLUME)] * implausible
    told = assess(patient(Brainstem=o), distribution, 4.5)[0].reason
    assert told == "volume 5.1 cc, expected 5.3 to 76.1 cc"


def test_a_cut_organ_may_be_small_but_not_large(distribution):
    small, large = (OrganGeometry("Brainstem", v, CENTRES["Brainstem"], cut=True) for v in (1.0, 200.0))
    assert findings(patient(Brainstem=small), distribution) == []
    assert findings(patient(Brainstem=large), distribution) == [("Brainstem", RemarkCheck.VOLUME)]


def test_one_misplaced_organ_accuses_itself_alone(distribution):
    # 2 mm x 4.5 = 9 mm.
    near, far = (OrganGeometry("Brainstem", 20.0, (0.0, 0.0, 100.0 + mm), cut=False) for mm in (8.9, 9.1))
    assert findings(patient(Brainstem=near), distribution) == []
    assert findings(patient(Brainstem=far), distribution) == [("Brainstem", RemarkCheck.POSITION)]


def test_sides(distribution):
    left, right = (o for o in patient() if o.name.startswith("Parotid"))
    swapped = patient(
        Parotid_L=replace(left, centroid_mm=right.centroid_mm), Parotid_R=replace(right, centroid_mm=left.centroid_mm)
    )
    assert {f for f in findings(swapped, distribution) if f[1] is RemarkCheck.LATERALITY} == {
        ("Parotid_L", RemarkCheck.LATERALITY),
        ("Parotid_R", RemarkCheck.LATERALITY),
    }
    alone = [o for o in swapped if o.name != "Parotid_R"]  # no partner: the midline organs tell
    assert ("Parotid_L", RemarkCheck.LATERALITY) in findings(alone, {})
    assert findings([o for o in swapped if o.name == "Parotid_L"], {}) == []  # nothing to compare with


def sides(midline_mm=None, pairs=(("Parotid_L", "Parotid_R"),)):
    return Sides(pairs, midline_mm)


def wrong_sides(organs, known):
    return [f.structure for f in assess(organs, {}, 4.5, known) if f.check is RemarkCheck.LATERALITY]


def test_sides_by_the_patient_s_own_midline():
    """Parotids at 60 mm; the middle of the body may be 10 mm beside that of the head."""
    left, right = (o for o in patient() if o.name.startswith("Parotid"))
    assert wrong_sides([left], sides()) == []  # nothing to compare with
    assert wrong_sides([left], sides(69.0)) == []
    assert wrong_sides([left], sides(71.0)) == ["Parotid_L"]
    assert wrong_sides([right], sides(0.0)) == []
    assert wrong_sides([right], sides(-71.0)) == ["Parotid_R"]
    # Both on the right of the patient, and in their order: the partner sees nothing.
    both = [replace(left, centroid_mm=(-20.0, 0.0, 0.0)), right]
    assert wrong_sides(both, sides()) == []
    assert wrong_sides(both, sides(0.0)) == ["Parotid_L"]


def test_sides_that_the_model_says():
    """Names that say no side, or that no catalogue knows, have the sides of the model's pairs."""
    left, right = (replace(o, name=name) for o, name in zip(patient()[2:], ("Plexus_G", "Plexus_D"), strict=True))
    exchanged = [replace(left, name="Plexus_D"), replace(right, name="Plexus_G")]
    known = sides(pairs=(("Plexus_G", "Plexus_D"),))
    assert wrong_sides([left, right], known) == []
    assert wrong_sides(exchanged, known) == ["Plexus_D", "Plexus_G"]
    assert wrong_sides(exchanged, sides(0.0)) == []  # of these nobody knows a side
    plexus = [replace(left, name="Rib03_R")]
    assert wrong_sides(plexus, sides(0.0, ())) == ["Rib03_R"]  # no pair, and its name says the side


def test_an_exchange_is_found_without_a_training_set():
    left, right = (o for o in patient() if o.name.startswith("Parotid"))
    exchanged = patient(Parotid_L=replace(right, name="Parotid_L"), Parotid_R=replace(left, name="Parotid_R"))
    for known in (sides(), sides(0.0)):
        assert wrong_sides(exchanged, known) == ["Parotid_L", "Parotid_R"]


def test_pairs_of_the_model_have_their_asymmetry():
    cases = [[replace(o, name=o.name.replace("Parotid", "Rib03")) for o in patient()] for _ in range(10)]
    known = distribution_of(cases, (("Rib03_L", "Rib03_R"),))
    assert known["Rib03_L"].log_asymmetry.median == 0
    larger = [replace(o, volume_cc=40.0) if o.name == "Rib03_L" else o for o in cases[0]]
    found = [f.structure for f in assess(larger, known, 4.5, sides(pairs=(("Rib03_L", "Rib03_R"),)))
             if f.check is RemarkCheck.SYMMETRY]  # fmt: skip
    assert found == ["Rib03_L", "Rib03_R"]


NOTHING = float("nan")


@pytest.mark.parametrize(("median", "sd"), [(NOTHING, 1), (1, 0), (1, NOTHING), (1, float("inf")), (1, 1e6)])
def test_a_spread_that_would_let_everything_pass_is_none(median, sd):
    with pytest.raises(ValidationError):
        RobustSpread(median=median, sd=sd)


def test_the_spread_of_a_logarithm_is_no_millimetres():
    log_spread = RobustSpread(median=3, sd=3.5)
    with pytest.raises(ValidationError, match="judges nothing"):
        OrganSpread(log_volume_cc=log_spread, offsets_mm={})


def test_what_cannot_be_compared_is_told():
    assert unjudged_text(("Larynx", "Brainstem"), ("Brainstem", "Larynx", "Brain")) == ""
    whole = "not commissioned: the model does not know the usual size and place of any organ, only sides are checked"
    assert unjudged_text(("Larynx", "Brainstem"), ()) == whole
    assert "size and place of Larynx, only" in unjudged_text(("Larynx", "Brainstem"), ("Brainstem", "larynx"))


def test_symmetry(distribution):
    # SMALLEST_SD_LOG x 4.5 = 0.45: a ratio of 1.57 is the limit.
    for ratio, implausible in ((1.55, 0), (1.6, 2)):
        o = OrganGeometry("Parotid_L", 20.0 * ratio, CENTRES["Parotid_L"], cut=False)
        assert (
            findings(patient(Parotid_L=o), distribution).count(("Parotid_L", RemarkCheck.SYMMETRY)) == implausible / 2
        )
        assert (
            findings(patient(Parotid_L=o), distribution).count(("Parotid_R", RemarkCheck.SYMMETRY)) == implausible / 2
        )


def test_what_is_recognised(distribution):
    far = OrganGeometry("Brainstem", 20.0, (0.0, 0.0, 300.0), cut=False)
    organs = patient(Brainstem=far)
    assert recognised(organs, assess(organs, distribution, 4.5), distribution) == (
        "SpinalCord",
        "Parotid_L",
        "Parotid_R",
    )
    assert recognised([], (), distribution) == ()
    unknown = [*patient(), OrganGeometry("Larynx", 20.0, (0.0, -50.0, 0.0), cut=False)]  # nobody compared it
    assert recognised(unknown, assess(unknown, distribution, 4.5), distribution) == tuple(CENTRES)


@pytest.mark.parametrize("edge", [0, 9])
def test_an_organ_is_measured_on_the_ct_s_grid(edge):
    grid = Grid.regular((10, 20, 30), (3.0, 2.0, 1.0), (-5.0, -7.0, 100.0))
    mask = np.zeros((2, 2, 3), dtype=bool)
    mask[1] = True
    inner = organ("Larynx", MaskInBox((slice(3, 5), slice(5, 7), slice(10, 13)), mask), grid)
    # Six voxels of 6 mm3 on slice 4, rows 5 and 6, columns 10 to 12.
    assert inner == OrganGeometry("Larynx", 0.036, (-5 + 11.0, -7 + 5.5 * 2, 100 + 4 * 3.0), cut=False)
    outer = organ("Larynx", MaskInBox((slice(edge, edge + 1), slice(0, 2), slice(0, 3)), mask[1:]), grid)
    assert outer.cut
    assert organ("Larynx", MaskInBox((slice(0, 2), slice(0, 2), slice(0, 3)), np.zeros_like(mask)), grid) is None
