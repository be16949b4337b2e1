"""A node that sends a structure set and a segmentation by C-STORE and by STOW-RS; Orthanc takes the latter."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from tests.bright import phantom
from tests.interop.node import CONTOURD, Node, contourd, write_configuration
from tests.peers import LOOPBACK, dciodvfy_errors, free_port, orthanc, running, storescp, storescu
from tests.phantom import write_series

pytestmark = pytest.mark.peers

WEB = """products = ["seg", "rtstruct"]
[[destination]]
name = "web"
kind = "stow"
url = "http://{host}:{port}/dicom-web"
verify = true
products = ["rtstruct", "seg"]
"""
SENT = {("pacs", "rtstruct"), ("pacs", "seg"), ("web", "rtstruct"), ("web", "seg")}


def test_both_products_reach_both_kinds_of_destination(tmp_path: Path, bright_bundle: Path) -> None:
    port = free_port()
    ct = write_series(tmp_path / "ct", phantom())
    with storescp(tmp_path / "pacs", "PACS") as pacs, orthanc(tmp_path / "orthanc", web={}) as web:
        more = WEB.format(host=LOOPBACK, port=web.rest_port)
        configuration = write_configuration(
            tmp_path / "node", port, bright_bundle, {"pacs": (pacs.ae_title, pacs.port)}, more
        )
        text = configuration.read_text().replace('destinations = ["pacs"]', 'destinations = ["pacs", "web"]')
        configuration.write_text(text)
        log = configuration.with_name("contourd.log")
        with running([*CONTOURD, "serve", "--config", str(configuration)], port, log) as server:
            node = Node(tmp_path / "node", port, server)
            assert storescu(port, ct).status == 0
            ended = node.wait_until(lambda status: [j["state"] for j in status["jobs"]] == ["DELIVERED"], 240)
            echoed = contourd("echo", "--config", configuration)
        assert {(d["destination"], d["product"]) for d in ended["jobs"][0]["deliveries"]} == SENT
        assert "web (http://" in echoed.output
        by_class = {ds.SOPClassUID: ds for ds in pacs.datasets()}
        by_web = {ds.SOPClassUID: ds for ds in (*web.instances("RTSTRUCT"), *web.instances("SEG"))}
    assert len(by_class) == 2
    assert by_web.keys() == by_class.keys()
    for sop_class, dataset in by_class.items():
        assert by_web[sop_class].to_json_dict() == dataset.to_json_dict()
        pydicom.dcmwrite(tmp_path / "one.dcm", by_web[sop_class], enforce_file_format=True)
        assert dciodvfy_errors(tmp_path / "one.dcm") == []
