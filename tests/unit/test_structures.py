"""The organ catalogue."""

from __future__ import annotations

import pytest

from contourd.model.structures import Laterality, catalogue, match, mirrored_order


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("Brainstem", "Brainstem"),
        ("BRAIN_STEM", "Brainstem"),
        ("brain stem", "Brainstem"),
        ("SPINL_CRD", "SpinalCord"),
        ("cord", "SpinalCord"),
        ("Rt Parotid", "Parotid_R"),
        ("PAROTID_RT", "Parotid_R"),
        ("parotide dr.", "Parotid_R"),
        ("parotide gche", "Parotid_L"),
        ("OESOPHAGUS", "Esophagus"),
        ("Esoph.", "Esophagus"),
        ("larynx_opt", "Larynx"),
        ("MAND", "Bone_Mandible"),
    ],
)
def test_spellings(spelling, name):
    assert match(spelling) == name


@pytest.mark.parametrize("spelling", ["Brainstem_PRV03", "Cord + 5mm", "BODY", "PTV70", "Parotid", "couch", ""])
def test_what_is_no_organ_is_not_taken_for_one(spelling):
    assert match(spelling) is None


def test_names_fit_planning_systems():
    names = list(catalogue())
    assert all(len(name) <= 16 and name.replace("_", "").isalnum() for name in names)
    assert len({name.casefold() for name in names}) == len(names)
    assert len({s.colour for s in catalogue().values()}) == len(names)


def test_no_spelling_stands_for_two_organs():
    for structure in catalogue().values():
        assert {match(alias) for alias in structure.aliases} <= {structure.name}


def test_pairs():
    assert catalogue()["Parotid_L"].laterality is Laterality.LEFT
    assert catalogue()["Parotid_L"].pair == "Parotid_R"
    assert catalogue()["Larynx"].laterality is Laterality.MIDLINE
    assert mirrored_order(("Brainstem", "Parotid_L", "Larynx", "Parotid_R")) == (0, 3, 2, 1)
    assert mirrored_order(("Parotid_L",)) == (0,)
