"""Installed, checked and accepted against real peers: the phantom in Orthanc and DCMTK is the phantom on the sheet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian

from contourd.acceptance.phantom import POSITIONS, SOLIDS, write_phantom
from contourd.dicom.rtstruct.reader import rasterise, read_structure_set
from contourd.model.bundle import load_bundle, save_bundle
from contourd.profiles import STRICT
from tests.interop.node import contourd, serve, write_configuration
from tests.peers import LOOPBACK, free_port, orthanc, storescp
from tests.phantom import read_series

pytestmark = pytest.mark.peers


def geometry_holds(images: list[pydicom.Dataset], drawn: pydicom.Dataset, folder: Path) -> None:
    """Read CT and structure set as the peer has them; volumes and centroids are those of the formulas."""
    folder.mkdir()
    for image in images:
        image.save_as(folder / f"{image.SOPInstanceUID}.dcm", enforce_file_format=True)
    series = read_series(folder)
    assert drawn.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    rois = {roi.name: roi for roi in read_structure_set(drawn)}
    assert set(rois) == {solid.name for solid in SOLIDS}
    for solid in SOLIDS:
        mask = rasterise(rois[solid.name].contours, series.grid)
        assert series.grid.volume_mm3(mask) / 1000 == pytest.approx(solid.volume_cc, rel=0.02)
        found_mm = series.grid.to_patient(np.argwhere(mask).astype(float)).mean(axis=0)
        assert found_mm == pytest.approx(solid.centroid_mm, abs=0.2)


def by_patient(datasets: list[pydicom.Dataset]) -> dict[str, list[pydicom.Dataset]]:
    found: dict[str, list[pydicom.Dataset]] = {}
    for dataset in datasets:
        found.setdefault(str(dataset.PatientID), []).append(dataset)
    return found


def test_orthanc_is_accepted_by_its_name_in_the_settings(tmp_path: Path, bright_bundle: Path) -> None:
    with orthanc(tmp_path / "orthanc") as peer:
        names = {"pacs": (peer.ae_title, peer.port)}
        configuration = write_configuration(tmp_path / "node", free_port(), bright_bundle, names)
        ran = contourd("accept", "pacs", "--config", configuration, "--output", tmp_path / "out")
        assert ran.status == 0, ran.output
        images, drawn = by_patient(peer.instances("CT")), by_patient(peer.instances("RTSTRUCT"))
        # Again: the same objects, which the peer has already.
        assert contourd("accept", "pacs", "--config", configuration, "--output", tmp_path / "out").status == 0
        assert len(peer.instances("RTSTRUCT")) == len(POSITIONS)
    assert len(images) == len(drawn) == len(POSITIONS)
    for patient, (structure_set,) in drawn.items():
        geometry_holds(images[patient], structure_set, tmp_path / patient)
    assert "FFS: CT: 64 of 64 files taken (0x0000: 64); structure set taken" in ran.output
    assert (tmp_path / "out" / "sheet.html").is_file()


def test_dcmtk_is_accepted_by_its_address(tmp_path: Path) -> None:
    with storescp(tmp_path / "tps", "TPS") as tps:
        to = f"TPS@{LOOPBACK}:{tps.port}"
        assert contourd("echo", to).status == 0
        ran = contourd("accept", to, "--profile", "eclipse", "--output", tmp_path / "out")
        assert ran.status == 0, ran.output
        received = by_patient(tps.datasets())
    assert len(received) == len(POSITIONS)
    for patient, datasets in received.items():
        (drawn,) = (ds for ds in datasets if ds.Modality == "RTSTRUCT")
        images = [ds for ds in datasets if ds.Modality == "CT"]
        assert drawn.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        geometry_holds(images, drawn, tmp_path / patient)


def test_everything_is_green_with_a_node_that_serves(tmp_path: Path, fit_bundle: Path) -> None:
    """The first hour: serve, check, send a series to the node by its own test sender."""
    bright = load_bundle(fit_bundle)
    coarse = {**bright.config.model_dump(mode="json"), "preprocess": {"spacing_mm": [12.0, 12.0, 12.0]}}
    model = save_bundle(tmp_path / "coarse", coarse, bright.network()).folder
    with storescp(tmp_path / "tps", "TPS") as tps:
        names = {"tps": ("TPS", tps.port)}
        with serve(tmp_path / "node", model, names, free_port()) as node:
            assert contourd("echo", "self", "--config", node.configuration).status == 0
            ran = contourd("check", "--json", "--config", node.configuration)
            states = {check["name"]: check["state"] for check in json.loads(ran.output)["checks"]}
            # Whether this machine's clock is kept is nothing that contourd can see to.
            assert {name for name, state in states.items() if state == "failed"} <= {"ntp"}
            assert ran.status == ("failed" in states.values())
            for name in ("port", "database", "spool.write", "spool.modes", "echo:tps", f"device:{model}"):
                assert states[name] == "ok", name
            to = f"CONTOURD@{LOOPBACK}:{node.port}"
            phantom = write_phantom(tmp_path / "phantom", "HFS", STRICT)
            sent = contourd("send", phantom.images[0].parent, "--to", to)
            assert (sent.status, "64 of 64 files taken (0x0000: 64)" in sent.output) == (0, True)
            node.wait_until(lambda status: bool(status["jobs"]))
