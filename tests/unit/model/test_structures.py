"""The organ catalogue."""

from __future__ import annotations

import pytest

from contourd.model.structures import (
    Laterality,
    catalogue,
    catalogue_pairs,
    mirrored_order,
    side_of,
    unpaired,
    without_side,
)


def test_names_fit_planning_systems():
    names = list(catalogue())
    assert all(len(name) <= 16 and name.replace("_", "").isalnum() for name in names)
    assert len({name.casefold() for name in names}) == len(names)
    assert len({s.colour for s in catalogue().values()}) == len(names)


def test_pairs():
    assert catalogue()["Parotid_L"].laterality is Laterality.LEFT
    assert catalogue()["Parotid_L"].pair == "Parotid_R"
    assert catalogue()["Larynx"].laterality is Laterality.MIDLINE
    names = ("Brainstem", "Parotid_L", "Larynx", "Parotid_R")
    assert catalogue_pairs(names) == (("Parotid_L", "Parotid_R"),)
    assert mirrored_order(names, catalogue_pairs(names)) == (0, 3, 2, 1)
    assert mirrored_order(("Plexus_D", "Plexus_G"), (("Plexus_G", "Plexus_D"),)) == (1, 0)
    assert mirrored_order(("Parotid_L",), catalogue_pairs(("Parotid_L",))) == (0,)


def test_every_sided_organ_of_the_catalogue_has_its_pair():
    names = tuple(catalogue())
    assert unpaired(names, catalogue_pairs(names)) == ()
    assert unpaired(("Brainstem", "Parotid_L", "Rib03_L", "Rib03_R"), ()) == (
        "Parotid_L",
        "Rib03_L",
        "Rib03_R",
    )


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Rib03_L", "Rib03_R"),
        ("OpticNrv_PRV05_L", "OpticNrv_PRV05_R"),
        ("OpticNrv_L_PRV05", "OpticNrv_R_PRV05"),
        ("LN_Neck_IIA_L", "LN_Neck_IIA_R"),
        ("Lens_L^Anat", "Lens_R^Anat"),
        ("~Lung_L", "~Lung_R"),
        ("Left_Parotid", "Right_Parotid"),
        ("parotid lt", "parotid rt"),
        ("Parotid-L", "Parotid-R"),
        ("ParotidL", "ParotidR"),
    ],
)
def test_the_side_that_a_name_says(left, right):
    assert (side_of(left), side_of(right)) == (Laterality.LEFT, Laterality.RIGHT)
    assert without_side(left) == without_side(right) != ""


@pytest.mark.parametrize("name", ["Larynx", "VB_L1", "Lungs", "CTVR", "Lips", "Eyes_L_R", "Musc_Constrict_S"])
def test_a_name_that_says_no_side(name):
    assert side_of(name) is Laterality.MIDLINE


def test_lobes_of_a_lung_have_a_side_and_no_pair():
    assert unpaired(("Lung_LUL", "Lung_RML"), ()) == ("Lung_LUL", "Lung_RML")
