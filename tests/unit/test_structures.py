"""The organ catalogue."""

from __future__ import annotations

from contourd.model.structures import Laterality, catalogue, mirrored_order


def test_names_fit_planning_systems():
    names = list(catalogue())
    assert all(len(name) <= 16 and name.replace("_", "").isalnum() for name in names)
    assert len({name.casefold() for name in names}) == len(names)
    assert len({s.colour for s in catalogue().values()}) == len(names)


def test_pairs():
    assert catalogue()["Parotid_L"].laterality is Laterality.LEFT
    assert catalogue()["Parotid_L"].pair == "Parotid_R"
    assert catalogue()["Larynx"].laterality is Laterality.MIDLINE
    assert mirrored_order(("Brainstem", "Parotid_L", "Larynx", "Parotid_R")) == (0, 3, 2, 1)
    assert mirrored_order(("Parotid_L",)) == (0,)
