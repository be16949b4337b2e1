"""What one model alone makes is, byte for byte, what versions made that knew of no second one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import torch

from contourd.contour.contouring import ContouringOptions, contour_series
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.reading.series import find_series
from contourd.dicom.rtstruct import writer
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.agreement import LatticeAgreement
from contourd.model.bundle import ModelBundle, load_bundle
from contourd.model.runtime_description import RuntimeDescription

# As it was made before a job could have several models.
SOP_INSTANCE_UID = "2.25.265527311148101515711530509800570185880"
SERIES_INSTANCE_UID = "2.25.268249896552422721205975276619793806920"
SHA256 = "6dcff92a6ed19e0bc8e47667e0e66abdc35c5f47004031dd52fdd019e427dc85"


@dataclass(frozen=True)
class TwoBars:
    """What a network would answer, whatever computes: two bars beside each other."""

    bundle: ModelBundle
    device = torch.device("cpu")
    structures = ("Brainstem", "SpinalCord")
    beyond = 0.0
    width_mm = 400.0

    @property
    def runtime(self):
        return self

    @property
    def description(self):
        return RuntimeDescription("torch", "2", "fp32", "cpu", "x86_64, AVX2", 2)

    def predict(self, _volume, _progress=None):
        return self

    def midline_mm(self):
        return None

    def compared(self, name):
        start = 2 if name == "Brainstem" else 9
        box = (slice(2, 12), slice(start, start + 4), slice(4, 8))
        return box, np.full((10, 4, 4), 0.9, dtype=np.float32), LatticeAgreement(1.0, 1, 1, 0.0)


def test_the_bytes_are_those_of_the_versions_before(tmp_path, bright_bundle, monkeypatch):
    monkeypatch.setattr(writer, "__version__", "0")
    monkeypatch.setattr(writer, "IMPLEMENTATION_NAME", "CONTOURD_0")
    on = Grid.regular((18, 16, 16), (3.0, 4.7, 4.7), (-35.0, -35.0, 0.0))
    volume = Volume(on, np.full(on.shape, 40, dtype=np.int16))
    (instances,) = find_series(write_ct_series(volume, tmp_path / "ct", SeriesIdentity("p1", "A^B"))).values()
    bundle = replace(load_bundle(bright_bundle), sha256="ab" * 32)
    dataset = contour_series(instances, TwoBars(bundle), ContouringOptions(revision=3)).dataset
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    assert (dataset.SOPInstanceUID, dataset.SeriesInstanceUID) == (SOP_INSTANCE_UID, SERIES_INSTANCE_UID)
    assert hashlib.sha256(buffer.getvalue()).hexdigest() == SHA256
