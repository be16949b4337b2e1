"""A decoder that breaks down or hangs takes nothing with it."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from contourd.dicom.reading import isolation
from contourd.dicom.reading.instance import read_instance
from contourd.dicom.reading.isolation import pixel_decoder
from contourd.dicom.reading.pixels import hounsfield
from contourd.errors import SeriesUnusable
from tests.phantom import rewrite, write_series


@pytest.fixture
def image(tmp_path: Path) -> Path:
    def compress(ds: pydicom.Dataset) -> None:
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
        ds.PixelData = encapsulate([bytes(10)])
        ds["PixelData"].VR = "OB"

    path = write_series(tmp_path / "ct") / "CT_0000.dcm"
    rewrite(path, compress)
    return path


SCRIPTS = {
    "ends at once": "exit 3",
    "aborts": "kill -ABRT $$",
    "crashes on the image": "read path; kill -SEGV $$",
    "hangs": "exec sleep 30",
    "refuses": 'read path; echo \'{"error": "no"}\'',
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_decoder_that_fails_is_a_slice_that_does_not_decode(
    tmp_path: Path, image: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter = tmp_path / "interpreter"
    interpreter.write_text(f"#!/bin/sh\n{script}\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(isolation.sys, "executable", str(interpreter))
    monkeypatch.setattr(isolation, "LONGEST_S", 0.5)
    with pixel_decoder() as decoder, pytest.raises(SeriesUnusable) as caught:
        hounsfield(read_instance(image), decoder)
    assert str(caught.value).startswith("slice z = -28.75 mm cannot be decoded (")
    assert str(caught.value).endswith("); send it uncompressed, or reconstruct it anew")


def test_noise_is_refused_by_the_true_decoder(image: Path) -> None:
    with pixel_decoder() as decoder:
        for _ in range(2):  # the child lives on
            with pytest.raises(SeriesUnusable, match=r"slice z = -28\.75 mm cannot be decoded"):
                hounsfield(read_instance(image), decoder)
