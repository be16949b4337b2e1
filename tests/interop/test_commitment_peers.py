"""Storage commitment with Orthanc, in both roles: it commits itself to structure sets, and asks after its images."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.bright import SeriesMaker
from tests.interop.node import serve
from tests.peers import Orthanc, free_port, orthanc, storescu

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]


def report_of(pacs: Orthanc, transaction: str) -> dict[str, Any]:
    """Wait for the report that contourd is to make to Orthanc."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        report: dict[str, Any] = json.loads(pacs.get(f"/storage-commitment/{transaction}"))
        if report["Status"] != "Pending":
            return report
        time.sleep(0.3)
    return pytest.fail(f"Orthanc got no report of {transaction}")


def ask(pacs: Orthanc, instances: list[tuple[str, str]]) -> str:
    """Have Orthanc ask contourd after instances: (SOP Class UID, SOP Instance UID)."""
    body = {"DicomInstances": [{"SOPClassUID": c, "SOPInstanceUID": i} for c, i in instances], "Timeout": 30}
    answer = json.loads(pacs.post("/modalities/contourd/storage-commitment", body))
    return str(answer["ID"])


def test_orthanc_commits_itself_and_asks(tmp_path: Path, bright_bundle: Path, make_series: SeriesMaker) -> None:
    folder, node_port = make_series("series"), free_port()
    with orthanc(tmp_path / "orthanc", {"contourd": ("CONTOURD", node_port)}) as pacs:
        more = f'commitment = true\n[[sender]]\nae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {pacs.port}\n'
        destinations = {"pacs": (pacs.ae_title, pacs.port)}
        assert storescu(pacs.port, folder, called=pacs.ae_title).status == 0
        with serve(tmp_path / "node", bright_bundle, destinations, node_port, more, node="commitment = true") as node:
            pacs.send("contourd")
            node.wait_until(lambda status: [j["state"] for j in status["jobs"]] == ["DELIVERED"])
            assert "sent, and not yet committed" in node.log
            images = [(str(d.SOPClassUID), str(d.SOPInstanceUID)) for d in pacs.instances("CT")]
            report = report_of(pacs, ask(pacs, images))
            assert report["Status"] == "Success"
            assert sorted(e["SOPInstanceUID"] for e in report["Success"]) == sorted(uid for _, uid in images)
            unknown = (images[0][0], "1.2.3.4")
            report = report_of(pacs, ask(pacs, [*images[:2], unknown]))
            assert report["Status"] == "Failure"
            assert [e["SOPInstanceUID"] for e in report["Failures"]] == ["1.2.3.4"]
            assert len(report["Success"]) == 2
        (structure_set,) = pacs.instances("RTSTRUCT")
        assert pacs.studies() == [structure_set.StudyInstanceUID]
