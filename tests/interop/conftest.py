"""What the interoperability tests share: a small model with a known answer, small series, a node with a receiver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.anatomynet import AnatomyNet, ModelConfig
from contourd.model.bundle import save_bundle
from tests.interop.node import Node, Status, serve
from tests.peers import StoreSCP, free_port, storescp

SHAPE = (24, 64, 64)
SPACING_MM = (3.0, 4.0, 4.0)
BALL_RADIUS_MM = 22.0
BALL_CC = 4 / 3 * np.pi * BALL_RADIUS_MM**3 / 1000
SeriesMaker = Callable[..., Path]


def make_bright_bundle(folder: Path, structures: tuple[str, str] = ("Brainstem", "SpinalCord")) -> Path:
    """Make a bundle whose answer is known: its first organ is what is brighter than 250 HU, the second is never found.

    Only the last two layers count: the image passes the first of them, and the second has one weight. The window maps
    -250 to 500 HU to -1 to 1, so 250 HU is 1/3 and the logit 30 x - 10 is zero there, as is the background's.
    """
    config = ModelConfig(structures=structures, channels=(4, 4, 4, 4))
    network = AnatomyNet(config)
    with torch.no_grad():
        for layer in (network.output, network.classify):
            layer.weight.zero_()
            layer.bias.zero_()
        network.output.weight[0, -1, 1, 1, 1] = 1.0
        network.classify.weight[1, 0, 1, 1, 1] = 30.0
        network.classify.bias[1] = -10.0
        network.classify.bias[2] = -50.0
    fields = {"name": "bright", "version": "1", "model": config.model_dump(mode="json"), "preprocess": {}}
    return save_bundle(folder, fields, network).folder


@pytest.fixture(scope="session")
def bright_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bright_bundle(tmp_path_factory.mktemp("bundles") / "bright")


@pytest.fixture(scope="session")
def fit_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the bright bundle with names that an activation takes: the reference patient knows no such organs."""
    return make_bright_bundle(tmp_path_factory.mktemp("bundles") / "fit", ("Brain", "SpinalCanal"))


def phantom() -> Volume:
    """Make an oval trunk of soft tissue with a ball of 400 HU to the left of its middle."""
    grid = Grid.regular(SHAPE, SPACING_MM, (-126.0, -126.0, -36.0))
    z, y, x = (axis * step for axis, step in zip(np.indices(SHAPE), SPACING_MM, strict=True))
    trunk = ((x - 126) / 80) ** 2 + ((y - 126) / 95) ** 2 <= 1
    ball = (x - 146) ** 2 + (y - 126) ** 2 + (z - 36) ** 2 <= BALL_RADIUS_MM**2
    return Volume(grid, np.select([ball, trunk], [400, 40], -1000).astype(np.int16))


@pytest.fixture
def make_series(tmp_path: Path) -> SeriesMaker:
    """Return a function that writes the phantom as the CT of a patient, changed as wished, and gives its folder."""

    def make(patient: str, change: Callable[[pydicom.Dataset], None] | None = None, keep: slice = slice(None)) -> Path:
        folder = write_ct_series(phantom(), tmp_path / patient, SeriesIdentity(patient, f"{patient}^Test"))
        paths = sorted(folder.iterdir())
        for path in set(paths) - set(paths[keep]):
            path.unlink()
        for path in sorted(folder.iterdir()) if change else ():
            dataset = pydicom.dcmread(path)
            change(dataset)
            dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.save_as(path, enforce_file_format=True)
        return folder

    return make


@dataclass(frozen=True)
class Site:
    """A contourd with one destination, DCMTK's storescp."""

    node: Node
    destination: StoreSCP

    def entries(self, status: Status, folder: Path) -> list[dict[str, Any]]:
        """Return what the status says of the series in a folder: as long as it is received or held, and its jobs."""
        return [e for e in (*status["series"], *status["jobs"]) if e["series"] == series_uid(folder)]

    def wait_delivered(self, folder: Path) -> None:
        """Wait until the destination has the newest revision of the series, and nothing else of it is under way."""

        def delivered(status: Status) -> bool:
            states = [entry["state"] for entry in self.entries(status, folder)]
            return "DELIVERED" in states and set(states) <= {"DELIVERED", "SUPERSEDED"}

        self.node.wait_until(delivered)

    def wait_held(self, folder: Path) -> str:
        """Wait until the series or its job is held, and return the reason that is shown."""

        def held(status: Status) -> list[str]:
            return [entry["reason"] for entry in self.entries(status, folder) if entry["state"] == "HELD"]

        return held(self.node.wait_until(lambda status: bool(held(status))))[0]

    def received(self, folder: Path) -> list[pydicom.Dataset]:
        """Return what the destination received for the series in a folder: one data set per C-STORE."""
        series = series_uid(folder)
        return [ds for ds in self.destination.datasets() if referenced_series(ds) == series]


def series_uid(folder: Path) -> str:
    first = min(folder.iterdir())
    return str(pydicom.dcmread(first, stop_before_pixels=True).SeriesInstanceUID)


def referenced_series(rtstruct: pydicom.Dataset) -> str:
    frame = rtstruct.ReferencedFrameOfReferenceSequence[0]
    return str(frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, bright_bundle: Path) -> Iterator[Site]:
    """Run one contourd and one storescp for all tests of a module; each test sends patients of its own."""
    with storescp(tmp_path_factory.mktemp("pacs"), "PACS") as destination:
        names = {"pacs": (destination.ae_title, destination.port)}
        with serve(tmp_path_factory.mktemp("node"), bright_bundle, names, free_port()) as node:
            yield Site(node, destination)
