"""A segmentation goes over the network as one: its SOP class is proposed, and what arrives is what was written."""

from __future__ import annotations

import pydicom
import pytest
from pydicom.uid import SegmentationStorage

from contourd.dicom.network.outcomes import OutcomeKind
from contourd.dicom.network.scu import StorageSCU
from contourd.dicom.segmentation.writer import segmentation_dataset
from contourd.model.structures import catalogue
from contourd.settings import Destination
from tests.peers import storescp
from tests.phantom import PROVENANCE, read_series, traced, write_series


@pytest.mark.peers
def test_dcmtk_takes_a_segmentation(tmp_path):
    series = read_series(write_series(tmp_path / "ct"))
    structures, masks = traced(series.grid)
    made = segmentation_dataset(structures, masks, series, PROVENANCE, catalogue())
    made.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    with storescp(tmp_path / "received") as peer:
        destination = Destination(name="pacs", ae_title=peer.ae_title, host="127.0.0.1", port=peer.port)
        assert StorageSCU("CONTOURD").deliver(tmp_path / "seg.dcm", destination).kind is OutcomeKind.ACCEPTED
        (received,) = peer.datasets()
    assert received.SOPClassUID == SegmentationStorage
    assert received.PixelData == pydicom.dcmread(tmp_path / "seg.dcm").PixelData
