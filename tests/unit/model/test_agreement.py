"""An organ of which the lattices say different things, or nothing clear, is named."""

from __future__ import annotations

import numpy as np
import pytest

from contourd.contour.contouring import ContouringOptions, judged
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.agreement import LEAST_DICE, LatticeAgreement, agreement, disagreement
from contourd.model.lattice_predictor import LatticePrediction, OnLattice
from contourd.model.remarks import RemarkCheck
from contourd.model.transforms import Preprocess, PreprocessConfig
from contourd.settings import PlausibilitySettings

BOX = (slice(0, 1), slice(0, 10), slice(0, 10))
NOWHERE = (slice(0, 0), slice(0, 0), slice(0, 0))


def cube(rows: slice, value: float = 0.9) -> tuple[tuple[slice, slice, slice], np.ndarray]:
    """Ten columns of some rows."""
    inside = np.full((1, rows.stop - rows.start, 10), value, dtype=np.float32)
    return (slice(0, 1), rows, slice(0, 10)), inside


def mean(*parts) -> np.ndarray:
    found = np.zeros((1, 10, 10), dtype=np.float32)
    for (_, rows, _), inside in parts:
        found[:, rows] += inside / len(parts)
    return found


def test_the_same_on_both():
    parts = [cube(slice(2, 6)), cube(slice(2, 6))]
    assert agreement(parts, BOX, mean(*parts)) == LatticeAgreement(1.0, 2, 2, 0.0)
    assert disagreement("Larynx", agreement(parts, BOX, mean(*parts))) == ()


def test_one_row_of_four_in_common():
    """Dice 2 * 10 / (40 + 40) = 0.25; of 70 voxels with a mean of at least 0.45, 60 are of one alone, at 0.45."""
    parts = [cube(slice(2, 6)), cube(slice(5, 9))]
    found = agreement(parts, BOX, mean(*parts))
    assert found == LatticeAgreement(0.25, 2, 2, pytest.approx(6 / 7))
    (finding,) = disagreement("Larynx", found)
    assert finding.check is RemarkCheck.AGREEMENT
    assert finding.reason == f"its lattices disagree: Dice 0.25, at least {LEAST_DICE} expected"


def test_found_on_one_alone():
    parts = [cube(slice(2, 6)), (NOWHERE, np.zeros((0, 0, 0), dtype=np.float32))]
    (finding,) = disagreement("Parotid_L", agreement(parts, BOX, mean(parts[0]) / 2))
    assert finding.reason == "its lattices disagree: 1 of 2 found it"


def test_a_plateau():
    parts = [cube(slice(2, 8), 0.505), cube(slice(2, 8), 0.505)]
    found = agreement(parts, BOX, mean(*parts))
    assert found == LatticeAgreement(1.0, 2, 2, 1.0)
    (finding,) = disagreement("Parotid_R", found)
    assert "plateau at 0.5: 100% of its voxels between 0.45 and 0.55" in finding.reason


def test_nothing_found_is_no_disagreement():
    nothing = (NOWHERE, np.zeros((0, 0, 0), dtype=np.float32))
    found = agreement([nothing, nothing], NOWHERE, nothing[1])
    assert found == LatticeAgreement(1.0, 0, 2, 0.0)
    assert disagreement("Larynx", found) == ()


def test_of_one_lattice_only_the_plateau_counts():
    assert agreement([cube(slice(2, 6))], BOX, mean(cube(slice(2, 6)))) == LatticeAgreement(1.0, 1, 1, 0.0)


def test_a_prediction_compares_its_lattices_on_the_ct():
    """One lattice has the organ and the other has not: the mean stays under 0.5, and the organ does not go unnamed."""
    grid = Grid.regular((40, 60, 60), (3.0, 4.0, 4.0))
    _, y, x = np.indices(grid.shape)
    body = np.where(((x - 29.5) / 20) ** 2 + ((y - 29.5) / 24) ** 2 <= 1, 40, -1000)
    preprocess = Preprocess(PreprocessConfig())
    lattices = []
    for value, prepared in zip((0.96, 0.0), preprocess.lattices(Volume(grid, body.astype(np.int16))), strict=True):
        organ = np.zeros((1, *prepared.image.shape), dtype=np.float32)
        organ[0, 10:14, 10:14, 10:14] = value
        lattices.append(OnLattice(organ, prepared))
    _, probability, found = LatticePrediction(tuple(lattices), ("Larynx",), preprocess).compared("Larynx")
    assert probability.max() < 0.5
    assert (found.found, found.lattices, found.dice) == (1, 2, 0.0)
    assert disagreement("Larynx", found)[0].reason == "its lattices disagree: 1 of 2 found it"


@pytest.mark.parametrize("verdict", ["withhold", "flag", "send"])
def test_the_setting_decides(verdict):
    findings = disagreement("Larynx", LatticeAgreement(0.2, 2, 2, 0.0))
    settings = PlausibilitySettings(agreement=verdict)
    told = judged(findings, settings)
    for other, organs in (("withhold", told.withheld), ("flag", told.flagged)):
        assert organs == ({"Larynx": findings[0].reason} if other == verdict else {})
    assert ContouringOptions().plausibility.agreement == "withhold"
