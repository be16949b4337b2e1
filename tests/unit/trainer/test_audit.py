"""The audit finds what was planted, by the rule that it is for, and nothing in what is sound."""

from __future__ import annotations

import numpy as np
import pytest

from contourd.dicom.rtstruct.roi_masks import empty_slices
from contourd.imaging.grid import Grid
from tests.archives import GRID, ball, head
from trainer.curation.audit import EXCLUDING, Rule, audit, excluded, outside_share, shapes_of

SEEDS = 12


def shapes(rng: np.random.Generator, change=None):
    """Measure a patient whose organs are a little larger or smaller, and elsewhere, than the last one's."""
    volume, masks = head()
    masks = {name: np.roll(mask, rng.integers(-1, 2, 3), (0, 1, 2)) for name, mask in masks.items()}
    if change:
        change(masks)
    return shapes_of(masks, volume.hu, GRID)


def found(change) -> dict[str, set[Rule]]:
    rng = np.random.default_rng(0)
    cases = {f"sound {i}": shapes(rng) for i in range(SEEDS)}
    cases["odd"] = shapes(rng, change)
    findings = audit(cases)
    assert {f.case for f in findings} <= {"odd"}
    by_organ: dict[str, set[Rule]] = {}
    for finding in findings:
        by_organ.setdefault(finding.organ, set()).add(finding.rule)
    return by_organ


def test_nothing_is_found_in_sound_cases():
    assert found(None) == {}


def test_exchanged_sides():
    def exchange(masks):
        masks["Parotid_L"], masks["Parotid_R"] = masks["Parotid_R"], masks["Parotid_L"]

    rules = found(exchange)
    assert Rule.SIDES in rules["Parotid_L"] & rules["Parotid_R"]
    assert Rule.SIDES not in rules.get("Brainstem", set()) | rules.get("SpinalCord", set())


@pytest.mark.parametrize("radius", [2, 10])
def test_an_impossible_volume(radius):
    def resize(masks):
        masks["Brainstem"] = ball((26, 22, 22), radius)

    assert Rule.VOLUME in found(resize)["Brainstem"]


def test_an_organ_that_the_field_of_view_ends_in_may_be_small():
    def cut(masks):
        small = ball((0, 28, 22), 2)
        masks["SpinalCord"] = small

    rules = found(cut)["SpinalCord"]
    assert Rule.CUT in rules
    assert Rule.VOLUME not in rules


def test_a_hole_between_slices():
    def gap(masks):
        masks["Brainstem"] = masks["Brainstem"].copy()
        masks["Brainstem"][26] = False

    assert found(gap)["Brainstem"] == {Rule.HOLES}


def test_an_organ_beside_the_body():
    def move(masks):
        masks["Parotid_L"] = ball((20, 24, 42), 4)

    assert Rule.OUTSIDE in found(move)["Parotid_L"]


def test_outside_is_air_that_reaches_the_edge():
    hu = np.full((3, 20, 20), -1000, dtype=np.int16)
    hu[:, 4:16, 4:16] = 30
    hu[:, 8:12, 8:12] = -1000
    throat = np.zeros(hu.shape, dtype=bool)
    throat[:, 8:12, 8:12] = True
    beside = np.zeros(hu.shape, dtype=bool)
    beside[:, 4:8, 2:6] = True
    assert outside_share(throat, hu) == 0
    assert outside_share(beside, hu) == 0.5
    hu[1] = -1000
    assert outside_share(throat, hu) == pytest.approx(1 / 3)


def test_empty_slices():
    mask = np.zeros((9, 2, 2), dtype=bool)
    assert empty_slices(mask) == 0
    mask[[2, 3, 6, 8]] = True
    assert empty_slices(mask) == 3


def test_only_rules_that_exclude_exclude():
    def both(masks):
        masks["Parotid_L"] = ball((20, 24, 42), 4)
        masks["Brainstem"] = masks["Brainstem"].copy()
        masks["Brainstem"][26] = False

    rng = np.random.default_rng(0)
    cases = {f"sound {i}": shapes(rng) for i in range(SEEDS)} | {"odd": shapes(rng, both)}
    findings = audit(cases)
    assert excluded(findings) == {"odd": {"Parotid_L"}}
    assert excluded(findings, EXCLUDING | {Rule.HOLES}) == {"odd": {"Parotid_L", "Brainstem"}}
    assert excluded(findings, frozenset()) == {}


def test_volume_is_in_cc_on_any_grid():
    grid = Grid.regular((10, 10, 10), (5.0, 2.0, 2.0))
    mask = np.zeros(grid.shape, dtype=bool)
    mask[2:7, 2:7, 2:7] = True
    (shape,) = shapes_of({"Brainstem": mask}, np.zeros(grid.shape, dtype=np.int16), grid)
    assert shape.organ.volume_cc == pytest.approx(125 * 20 / 1000)
