"""Stored values -> Hounsfield units: signs, bits, padding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from contourd.dicom.reading.pixels import rescaled, same_image
from contourd.dicom.reading.series import read_volume
from contourd.errors import SeriesUnusable
from contourd.imaging.volume import AIR_HU
from tests.phantom import read_series, rewrite, setting, write_series

Change = Callable[[pydicom.Dataset], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_series(tmp_path / "ct")


def padding(vr: str, value: int, limit: int | None = None, **more: object) -> Change:
    """Set PixelPaddingValue and PixelPaddingRangeLimit; their VR is that of the pixels."""

    def change(ds: pydicom.Dataset) -> None:
        ds.PixelRepresentation = int(vr == "SS")
        ds.BitsStored, ds.HighBit = 16, 15
        setting(**more)(ds)
        ds.add_new("PixelPaddingValue", vr, value)
        if limit is not None:
            ds.add_new("PixelPaddingRangeLimit", vr, limit)

    return change


def signed(bits: int, intercept: int = 0) -> Change:
    return setting(PixelRepresentation=1, BitsStored=bits, HighBit=bits - 1, RescaleIntercept=str(intercept))


def overlaid(ds: pydicom.Dataset) -> None:
    """Declare an overlay in bit 12, as older scanners write it."""
    ds.add_new(0x60000100, "US", 16)
    ds.add_new(0x60000102, "US", 12)


def stored(folder: Path, change: Change, value: int) -> None:
    def store(ds: pydicom.Dataset) -> None:
        change(ds)
        ds.PixelData = np.full((ds.Rows, ds.Columns), value % 65536, dtype="<u2").tobytes()

    for path in folder.iterdir():
        rewrite(path, store)


@pytest.mark.parametrize(
    ("change", "value", "hu"),
    [
        (setting(RescaleSlope="1", RescaleIntercept="-1024"), 1064, 40),
        (setting(RescaleSlope="-2", RescaleIntercept="1000"), 300, 400),
        (setting(RescaleSlope="0.5", RescaleIntercept="-0.25"), 101, 50),  # 50.25 rounds to 50
        (setting(PixelRepresentation=1, BitsStored=16, HighBit=15, RescaleIntercept="0"), -200, -200),
        (setting(RescaleIntercept="0", BitsStored=16, HighBit=15), 60000, 32767),  # beyond 16 bits with a sign
        (padding("US", 0), 0, AIR_HU),
        (padding("US", 2000), 2000, AIR_HU),
        (padding("SS", -2000), -2000, AIR_HU),
        (padding("US", 10, 20), 15, AIR_HU),
        (padding("US", 20, 10), 15, AIR_HU),
        (padding("US", 10, 20), 21, 21 - 1024),
        (signed(12), -200, -200),
        (signed(12), 0x0F38, -200),  # 12 bits with a sign that nobody extended: 0xF38 - 0x1000
        (signed(16, -1024), -1000, -2024),
        (setting(RescaleSlope="-1", RescaleIntercept="-24"), 976, -1000),
        (padding("US", 63536, BitsStored=12, HighBit=11), 63536, AIR_HU),  # -2000, outside of the 12 bits
        (padding("SS", -2000, BitsStored=12, HighBit=11), -2000, AIR_HU),
        (padding("SS", -32768, -2000), -3000, AIR_HU),
        (padding("US", 63536, 63736), 63636, AIR_HU),
        (overlaid, 0x1000 + 1064, 40),
    ],
)
def test_pixels_become_hounsfield_units(folder: Path, change: Change, value: int, hu: int) -> None:
    stored(folder, change, value)
    assert np.unique(read_volume(read_series(folder)).hu).tolist() == [hu]


def test_a_padding_value_of_the_other_sign_is_understood(folder: Path) -> None:
    """Unsigned pixels of 63536, and a padding of -2000 that an explicit VR declares as signed."""
    stored(folder, setting(BitsStored=16, HighBit=15), 63536)
    for path in folder.iterdir():
        rewrite(path, lambda ds: ds.add_new("PixelPaddingValue", "SS", -2000))
    assert np.unique(read_volume(read_series(folder)).hu).tolist() == [AIR_HU]


def test_values_beyond_the_bits_stored_are_refused(folder: Path) -> None:
    stored(folder, setting(), 5000)
    with pytest.raises(SeriesUnusable) as caught:
        read_volume(read_series(folder))
    assert str(caught.value) == (
        "slice z = -28.75 mm has pixel values beyond its 12 bits stored; send the original reconstruction"
    )


def test_the_same_image_is_told_from_another(folder: Path) -> None:
    first, second = sorted(folder.iterdir())[:2]
    assert same_image(first, first)
    assert not same_image(first, second)
    damaged = folder / "damaged.dcm"
    damaged.write_bytes(first.read_bytes())
    rewrite(damaged, setting(PixelData=bytes(100)))
    assert not same_image(first, damaged)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
@pytest.mark.parametrize("span", [(0, 4096), (-32768, 32768), (0, 65536), (-1024, 3072), (32000, 32768)])
@pytest.mark.parametrize(
    ("slope", "intercept"), [(1, -1024.0), (1, 0.0), (1, 32767.0), (1, -32768.0), (1, -0.5), (0.5, -1024.0)]
)
def test_the_addition_of_whole_numbers_gives_what_the_formula_gives(
    dtype: type, span: tuple[int, int], slope: float, intercept: float
) -> None:
    limits = np.iinfo(dtype)
    low, high = max(span[0], limits.min), min(span[1], limits.max + 1)
    values = np.random.default_rng(0).integers(low, high, (64, 64)).astype(dtype)
    values[0, :2] = low, high - 1
    hu = np.rint(values.astype(np.float32) * slope + intercept)
    before = values.copy()
    assert np.array_equal(rescaled(values, slope, intercept), np.clip(hu, -32768, 32767).astype(np.int16))
    assert np.array_equal(values, before)


def test_uncompressed_pixels_that_are_cut_off_are_told_as_such(folder: Path) -> None:
    """The advice to send them uncompressed could not help."""

    def cut(ds: pydicom.Dataset) -> None:
        ds.PixelData = ds.PixelData[:-100]

    rewrite(next(folder.iterdir()), cut)
    with pytest.raises(
        SeriesUnusable, match=r"slice z = .* mm is cut off: its pixels have \d+ bytes of \d+; look at the"
    ):
        read_volume(read_series(folder))
