"""Two models contour one CT through the real node into one structure set; one of them fails; the same bytes again."""

from __future__ import annotations

import pytest

from contourd.acceptance.reference_patient import reference_volume
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from tests.bundles import damage, make_bright_bundle
from tests.integration.quick_node import watched
from tests.interop.node import contourd, serve
from tests.peers import dciodvfy_errors, free_port, storescp, storescu

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]


def delivered(status, number: int) -> bool:
    states = {job["id"]: job["state"] for job in status["jobs"]}
    assert states.get(number) not in ("HELD", "FAILED"), status["jobs"]
    return states.get(number) == "DELIVERED"


def made_by(dataset) -> dict[str, str]:
    return {roi.ROIName: roi.ROIGenerationDescription.split()[1] for roi in dataset.StructureSetROISequence}


def test_two_models_one_structure_set(tmp_path):
    """The second one draws the bones, and lists an organ of hn7, which hn7 draws."""
    bones = make_bright_bundle(tmp_path / "bones", ("Bones", "Brainstem"), "bones")
    volume, port = reference_volume(), free_port()
    ct, again = (write_ct_series(volume, tmp_path / name, SeriesIdentity(name, f"{name}^A")) for name in ("p1", "p2"))
    with storescp(tmp_path / "pacs", "PACS") as pacs:
        models, names = ["hn7", bones], {"pacs": (pacs.ae_title, pacs.port)}
        with serve(tmp_path / "node", models, names, port, route='partial = "send"') as served:
            node = watched(served)
            assert storescu(port, ct).status == 0
            status = node.wait_until(lambda status: delivered(status, 1), timeout_s=600)
            assert [model["name"] for model in status["jobs"][0]["models"]] == ["hn7", "bones"]
            assert "the same bytes" in contourd("replay", "1", "--config", node.configuration).output
            damage(bones / "weights.safetensors")
            assert storescu(port, again).status == 0
            node.wait_until(lambda status: delivered(status, 2), timeout_s=600)
        sets = {dataset.PatientID: dataset for dataset in pacs.datasets()}
        assert [dciodvfy_errors(path) for path in pacs.folder.iterdir()] == [[], []]
    whole, without = sets["p1"], sets["p2"]
    organs = made_by(whole)
    assert organs.pop("Bones") == "bones"
    assert len(organs) == 7
    assert set(organs.values()) == {"hn7"}
    assert [item.ManufacturerModelName for item in whole.ContributingEquipmentSequence] == ["hn7", "bones"]
    assert made_by(without) == organs
    assert ". Models hn7 " in without.StructureSetDescription
    assert "; incomplete: Bones missing, for bones 1 did not draw (" in without.StructureSetDescription
    assert without.SeriesDescription.endswith(", incomplete")
