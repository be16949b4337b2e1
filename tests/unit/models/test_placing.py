"""Models on the reference patient: where its organs must lie, told by models whose answers are its own organs."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import pytest

from contourd.acceptance.reference_patient import load_reference, mean_organs
from contourd.imaging.contours import MaskInBox
from contourd.models.placement import FARTHEST_MM, find_misplaced

MEAN = mean_organs(load_reference())
WHOLE = tuple(slice(0, n) for n in MEAN["Larynx"].shape)
PAROTIDS = (("Parotid_L", "Parotid_R"),)


class Answers:
    """A model that answers with given organs of the reference patient."""

    def __init__(self, answers: Mapping[str, np.ndarray], pairs: tuple[tuple[str, str], ...] = PAROTIDS) -> None:
        self.answers, self.structures = answers, tuple(answers)
        self.bundle = SimpleNamespace(config=SimpleNamespace(known_pairs=pairs))

    def predict(self, _volume: object) -> Answers:
        return self

    def mask(self, name: str) -> MaskInBox:
        return MaskInBox(WHOLE, self.answers[name])

    def midline_mm(self) -> float:
        return 0.0


def exchanged(one: str, other: str) -> dict[str, np.ndarray]:
    return {**MEAN, one: MEAN[other], other: MEAN[one]}


def test_its_own_organs_lie_where_they_are() -> None:
    assert find_misplaced(Answers(MEAN)) == ()


def test_what_is_not_found_is_not_judged() -> None:
    assert find_misplaced(Answers({**MEAN, "Larynx": np.zeros_like(MEAN["Larynx"])})) == ()


def test_exchanged_parotids() -> None:
    wrong = find_misplaced(Answers(exchanged("Parotid_L", "Parotid_R")))
    assert wrong == (
        "Parotid_L: it lies on the other side of the patient",
        "Parotid_R: it lies on the other side of the patient",
        "Parotid_L: it lies where Parotid_R is",
        "Parotid_R: it lies where Parotid_L is",
    )


@pytest.mark.parametrize(("one", "other"), [("Brainstem", "SpinalCord"), ("Larynx", "Esophagus")])
def test_exchanged_organs_of_the_middle(one: str, other: str) -> None:
    wrong = find_misplaced(Answers(exchanged(one, other)))
    assert set(wrong) == {f"{one}: it lies where {other} is", f"{other}: it lies where {one} is"}


def test_of_organs_that_the_reference_does_not_know_the_side_is_judged() -> None:
    unknown = {"Rib03_L": MEAN["Parotid_R"], "Rib03_R": MEAN["Parotid_L"], "Tongue": MEAN["Larynx"]}
    told = "it lies on the other side of the patient"
    for pairs in ((("Rib03_L", "Rib03_R"),), ()):
        assert find_misplaced(Answers(unknown, pairs)) == (f"Rib03_L: {told}", f"Rib03_R: {told}")
    assert find_misplaced(Answers({"Eye_R": MEAN["Parotid_L"]})) == (f"Eye_R: {told}",)


def test_an_organ_in_a_place_of_none() -> None:
    """2.5 mm voxels: the larynx 24 slices down lies 60 mm from its place, and 16 down 40 mm."""
    low, near = np.zeros_like(MEAN["Larynx"]), np.zeros_like(MEAN["Larynx"])
    top = int(np.flatnonzero(MEAN["Larynx"].any(axis=(1, 2)))[0])
    assert top > 24
    assert 40 < FARTHEST_MM < 60
    low[:-24], near[:-16] = MEAN["Larynx"][24:], MEAN["Larynx"][16:]
    low &= ~np.any([MEAN[n] for n in MEAN if n != "Larynx"], axis=0)
    near &= ~np.any([MEAN[n] for n in MEAN if n != "Larynx"], axis=0)
    (told,) = find_misplaced(Answers({"Larynx": low}))
    assert told.startswith("Larynx: it lies ")
    assert told.endswith(" mm from its place")
    assert find_misplaced(Answers({"Larynx": near})) == ()
