"""Things that are not there for a while, or not at all: the destination, the model. And Orthanc as the sender."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.bright import SeriesMaker
from tests.interop.node import contourd, serve, write_configuration
from tests.interop.site import Site
from tests.peers import free_port, orthanc, storescp, storescu

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]


def test_a_destination_that_is_down_gets_it_later(
    tmp_path: Path, bright_bundle: Path, make_series: SeriesMaker
) -> None:
    folder, port = make_series("outage"), free_port()
    with serve(tmp_path / "node", bright_bundle, {"pacs": ("PACS", port)}) as node:
        assert storescu(node.port, folder).status == 0
        waiting = node.wait_until(lambda s: s["destinations"][0]["state"] == "DOWN")
        (job,) = waiting["jobs"]
        assert job["state"] == "DELIVERING"
        assert [d["attempts"] for d in job["deliveries"]] == [1]
        assert waiting["destinations"][0]["tries"] == {"unreachable": 1}
        with storescp(tmp_path / "pacs", "PACS", port) as destination:
            site = Site(node, destination)
            site.wait_delivered(folder)
            assert len(site.received(folder)) == 1
        (line,) = node.status()["destinations"]
        assert (line["state"], line["waiting"]) == ("UP", 0)
        assert line["tries"] == {"accepted 0x0000": 1, "unreachable": 1}


def test_a_dead_destination_does_not_delay_the_other(
    tmp_path: Path, bright_bundle: Path, make_series: SeriesMaker
) -> None:
    folder = make_series("half-dead")
    with storescp(tmp_path / "pacs", "PACS") as destination:
        names = {"dead": ("DEAD", free_port()), "pacs": ("PACS", destination.port)}
        with serve(tmp_path / "node", bright_bundle, names) as node:
            assert storescu(node.port, folder).status == 0

            def arrived(status: dict) -> bool:
                states = {d["destination"]: d["state"] for j in status["jobs"] for d in j["deliveries"]}
                return states.get("pacs") == "DELIVERED" and states["dead"] == "PENDING"

            node.wait_until(arrived)
            assert len(Site(node, destination).received(folder)) == 1


def test_serve_without_its_model_does_not_start(tmp_path: Path) -> None:
    configuration = write_configuration(tmp_path, free_port(), "no-such-model", {"pacs": ("PACS", free_port())})
    ran = contourd("serve", "--config", configuration, timeout_s=60)
    assert ran.status != 0
    assert "no-such-model" in ran.output
    assert "Traceback" not in ran.output


def test_contour_without_its_model_says_so(tmp_path: Path, make_series: SeriesMaker) -> None:
    output = tmp_path / "rt.dcm"
    ran = contourd("contour", make_series("modelless"), "--output", output, "--model", "no-such-model", timeout_s=60)
    assert ran.status != 0
    assert "no-such-model" in ran.output
    assert "Traceback" not in ran.output
    assert not output.exists()


def test_contour_names_a_truncated_file(tmp_path: Path, make_series: SeriesMaker, bright_bundle: Path) -> None:
    folder = make_series("cut")
    path = folder / "CT_0005.dcm"
    path.write_bytes(path.read_bytes()[:-1000])
    ran = contourd("contour", folder, "--output", tmp_path / "rt.dcm", "--model", bright_bundle, timeout_s=60)
    assert ran.status != 0
    assert "CT_0005.dcm" in ran.output
    assert "Traceback" not in ran.output


def test_a_model_that_vanishes_later_holds_the_job(
    tmp_path: Path, bright_bundle: Path, make_series: SeriesMaker
) -> None:
    bundle = shutil.copytree(bright_bundle, tmp_path / "bundle")
    folder = make_series("vanished")
    with (
        storescp(tmp_path / "pacs", "PACS") as destination,
        serve(tmp_path / "node", bundle, {"pacs": ("PACS", destination.port)}) as node,
    ):
        shutil.rmtree(bundle)
        assert storescu(node.port, folder).status == 0
        assert "bundle" in Site(node, destination).wait_held(folder)


def test_orthanc_sends_and_gets_it_back(tmp_path: Path, bright_bundle: Path, make_series: SeriesMaker) -> None:
    folder, node_port = make_series("series"), free_port()
    with orthanc(tmp_path / "orthanc", {"contourd": ("CONTOURD", node_port)}) as pacs:
        assert storescu(pacs.port, folder, called=pacs.ae_title).status == 0
        with serve(tmp_path / "node", bright_bundle, {"pacs": (pacs.ae_title, pacs.port)}, node_port) as node:
            pacs.send("contourd")
            node.wait_until(lambda status: [j["state"] for j in status["jobs"]] == ["DELIVERED"])
        (structure_set,) = pacs.instances("RTSTRUCT")
        assert pacs.studies() == [structure_set.StudyInstanceUID]
