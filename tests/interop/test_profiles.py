"""Two destinations with different profiles, and a series outside of a model's limits: by DCMTK, through the node."""

from __future__ import annotations

from pathlib import Path

from contourd.model.bundle import load_bundle, save_bundle
from tests.bright import SeriesMaker
from tests.interop.node import contourd, serve
from tests.peers import dciodvfy_errors, storescp, storescu

ECLIPSE = 'profile = "eclipse"\nlabel = "ENTWURF"\nnames = { Brainstem = "Hirnstamm" }\n'


def test_each_destination_has_its_own(tmp_path: Path, bright_bundle: Path, make_series: SeriesMaker) -> None:
    folder = make_series("p1")
    with storescp(tmp_path / "pacs", "PACS") as pacs, storescp(tmp_path / "tps", "TPS") as tps:
        names = {"pacs": ("PACS", pacs.port), "tps": ("TPS", tps.port)}
        with serve(tmp_path / "node", bright_bundle, names, more=ECLIPSE) as node:
            assert storescu(node.port, folder).status == 0
            node.wait_until(lambda status: [j["state"] for j in status["jobs"]] == ["DELIVERED"])
        (strict,), (eclipse,) = pacs.datasets(), tps.datasets()
    assert strict.SOPInstanceUID != eclipse.SOPInstanceUID
    assert (strict.StructureSetLabel, eclipse.StructureSetLabel) == ("AI-HN DRAFT", "ENTWURF")
    names = [[item.ROIName for item in ds.StructureSetROISequence] for ds in (strict, eclipse)]
    assert names == [["Brainstem"], ["Hirnstamm"]]
    for dataset in (strict, eclipse):
        path = tmp_path / f"{dataset.StructureSetLabel}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        assert dciodvfy_errors(path) == []


def test_a_series_outside_the_limits_waits_for_a_person(
    tmp_path: Path, bright_bundle: Path, make_series: SeriesMaker
) -> None:
    bundle = load_bundle(bright_bundle)
    limited = {**bundle.config.model_dump(mode="json"), "limits": {"age_years": [18, None]}}
    model = save_bundle(tmp_path / "adults", limited, bundle.network()).folder
    folder = make_series("child", lambda ds: setattr(ds, "PatientAge", "009Y"))
    with storescp(tmp_path / "pacs", "PACS") as pacs:
        with serve(tmp_path / "node", model, {"pacs": ("PACS", pacs.port)}) as node:
            assert storescu(node.port, folder).status == 0
            (job,) = node.wait_until(lambda status: [j["state"] for j in status["jobs"]] == ["HELD"])["jobs"]
            assert "the patient's age is 9 years, the model is for at least 18" in job["reason"]
            assert pacs.datasets() == []
            command = ("retry", str(job["id"]), "--override", "small adult", "--config", str(node.configuration))
            assert contourd(*command).status == 0
            (job,) = node.wait_until(lambda status: [j["state"] for j in status["jobs"]] == ["DELIVERED"])["jobs"]
        (dataset,) = pacs.datasets()
    assert "released: small adult (" in dataset.StructureSetDescription
    assert [(one["check"], one["verdict"]) for one in job["remarks"]][:1] == [("limits", "note")]
    assert job["remarks"][0]["reason"].startswith("small adult (")
