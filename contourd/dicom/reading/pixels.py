"""The pixels of one image -> Hounsfield units (DICOM PS3.3 C.7.6.3, C.7.5.1.1.2, C.11.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from contourd.dicom.reading.completeness import LARGEST_SEQUENCE_BYTES
from contourd.dicom.reading.files import read_dicom
from contourd.dicom.reading.instance import Instance
from contourd.dicom.reading.isolation import UNDECODABLE, PixelDecoder, decoder_says, pixel_decoder
from contourd.errors import SeriesUnusable
from contourd.imaging.volume import AIR_HU
from contourd.reasons.catalogue import HoldReason

ALLOCATED_BITS = 16
WRITTEN_BY_ENCODERS = ("PixelData", "DerivationDescription", "LossyImageCompression")


def hounsfield(instance: Instance, decoder: PixelDecoder) -> NDArray[np.int16]:
    """Return the Hounsfield units (rows, columns) of one image, which are not to be changed; padding is air.

    Raises
    ------
    SeriesUnusable
        The pixels cannot be decoded, or go beyond the bits that the header allows; names the z.
    """
    if instance.decoded is not None and instance.decoded.hu is not None:
        return instance.decoded.hu
    try:
        return decoded(instance, read_dicom(instance.path), decoder)
    except UNDECODABLE as error:
        raise _undecodable(instance, error) from error


def decoded(instance: Instance, dataset: Dataset, decoder: PixelDecoder) -> NDArray[np.int16]:
    """Return the same of a dataset that was read from the instance's path.

    Raises
    ------
    SeriesUnusable
        As ``hounsfield`` does.
    """
    z_mm = instance.z_mm or 0.0
    try:
        stored = decoder.decode(dataset, instance.path)
        padding = _padding(dataset, stored)
        slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
        overlaid = _has_embedded_overlay(dataset)
    except UNDECODABLE as error:
        _refuse_cut_off(instance, dataset)
        raise _undecodable(instance, error) from error
    if stored.shape != (instance.rows, instance.columns):
        raise SeriesUnusable(HoldReason.PIXEL_MATRIX, z_mm=z_mm, shape=str(stored.shape))
    values = _within_bits(stored, instance.bits_stored)
    if not overlaid and values is not stored and not np.array_equal(values, stored):
        counted = True if padding is None else ~padding
        if np.any((values != stored) & counted & (stored >> instance.bits_stored != 0)):
            raise SeriesUnusable(HoldReason.PIXELS_BEYOND_BITS, z_mm=z_mm, bits_stored=instance.bits_stored)
    hu = rescaled(values, slope, intercept)
    if padding is not None:
        hu[padding] = AIR_HU
    return hu


def rescaled(values: NDArray[Any], slope: float, intercept: float) -> NDArray[np.int16]:
    """Return slope times value plus intercept (PS3.3 C.11.1.1), rounded and clipped to int16; always a new array.

    The usual CT counts in Hounsfield units from a whole number: then it is one addition, whose result is the same.
    """
    if slope == 1 and intercept.is_integer() and abs(intercept) < 2**15:
        shift = int(intercept)
        if int(values.min()) + shift >= -32768 and int(values.max()) + shift <= 32767:
            return np.asarray(values.view(np.int16) + np.int16(shift))  # what overflows on the way comes back
    hu = values.astype(np.float32) * slope + intercept
    return np.asarray(np.clip(np.rint(hu), -32768, 32767).astype(np.int16))


def _refuse_cut_off(instance: Instance, dataset: Dataset) -> None:
    """Name the cause where an uncompressed image has fewer bytes than its matrix: sent uncompressed it is already."""
    bytes_here, expected = len(dataset.get("PixelData") or b""), instance.rows * instance.columns * ALLOCATED_BITS // 8
    if not UID(instance.transfer_syntax).is_encapsulated and bytes_here < expected:
        raise SeriesUnusable(HoldReason.PIXELS_CUT_OFF, z_mm=instance.z_mm or 0.0, here=bytes_here, expected=expected)


def _undecodable(instance: Instance, error: Exception) -> SeriesUnusable:
    return SeriesUnusable(HoldReason.NOT_DECODED, z_mm=instance.z_mm or 0.0, said=decoder_says(error))


def same_image(one: Path, other: Path) -> bool:
    """Return whether two files hold the same image: in another transfer syntax it is no other image."""
    try:
        old, new = read_dicom(one), read_dicom(other)
        if not _without_equal_private(old, new):
            return False
        if old == new:
            return True
        with pixel_decoder() as decoder:
            alike = np.array_equal(decoder.decode(old, one), decoder.decode(new, other))
        for ds in (old, new):
            for keyword in WRITTEN_BY_ENCODERS:
                ds.pop(keyword, None)
        return bool(alike and old == new)
    except UNDECODABLE:
        return False


def _without_equal_private(old: Dataset, new: Dataset) -> bool:
    """Leave out private elements that are equal byte for byte; False where a large one differs: it is not converted."""
    for tag in [tag for tag in old.keys() if tag.is_private and tag in new]:  # noqa: SIM118 (a dataset yields elements)
        one, other = old.get_item(tag), new.get_item(tag)
        if isinstance(one, RawDataElement) and isinstance(other, RawDataElement):
            if one.value == other.value:
                del old[tag], new[tag]
            elif max(one.length, other.length) > LARGEST_SEQUENCE_BYTES:
                return False
    return True


def _padding(ds: Dataset, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Find what is no part of the image; the value may lie outside of the bits stored, and in another VR's sign."""
    value = ds.get("PixelPaddingValue")
    if value is None:
        return None
    limit = ds.get("PixelPaddingRangeLimit")
    ends = [int(v) % 2**ALLOCATED_BITS for v in (value, value if limit is None else limit)]
    if stored.dtype.kind == "i":
        ends = [end - 2**ALLOCATED_BITS if end >= 2 ** (ALLOCATED_BITS - 1) else end for end in ends]
    return np.asarray((stored >= min(ends)) & (stored <= max(ends)))


def _within_bits(stored: NDArray[Any], bits_stored: int) -> NDArray[Any]:
    """Take the bits that count, and extend their sign; the very array where there is nothing to take away."""
    signed = stored.dtype.kind == "i"
    low, high = (-(1 << bits_stored - 1), (1 << bits_stored - 1) - 1) if signed else (0, (1 << bits_stored) - 1)
    if low <= int(stored.min()) and int(stored.max()) <= high:
        return stored
    unused = ALLOCATED_BITS - bits_stored
    return np.asarray((stored << unused) >> unused)


def _has_embedded_overlay(ds: Dataset) -> bool:
    """Return whether unused bits of the pixels hold an overlay (retired; PS3.3 C.9.2, Overlay Bit Position over 0)."""
    groups = (group for group in range(0x6000, 0x6020, 2) if (group, 0x0102) in ds)
    return any(int(ds[group, 0x0102].value or 0) for group in groups)
