"""The transfer syntaxes that can be read here (PS3.5 A): the one table, and whether each one's decoder is installed.

One decoder per syntax: which one reads an image must not depend on what else is installed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from contourd.errors import SeriesUnusable
from contourd.reasons.catalogue import HoldReason

# In the order in which they are preferred where a sender proposes several: what needs no decoder comes first.
UNCOMPRESSED = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
# Without losses only, each with pydicom's name of the plugin that decodes it.
DECODERS: Mapping[UID, str] = MappingProxyType(
    {
        RLELossless: "pydicom",
        JPEGLosslessSV1: "gdcm",
        JPEGLossless: "gdcm",
        JPEGLSLossless: "gdcm",
        JPEG2000Lossless: "gdcm",
    }
)
# These allow losses, whatever an image in them says of itself.
LOSSY = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K})
# A megapixel image of 16 bits is 2 MiB; zlib packs a thousand times that many zeros into as many bytes.
LARGEST_INFLATED_BYTES = 64 * 2**20
LARGEST_IMAGE_BYTES = 64 * 2**20
# Noise may take more bytes packed than not; RLE unpacks 64 times what it is given.
MOST_PACKED, PACKED_BYTES = 2, 2**16


def readable_syntaxes() -> list[UID]:
    """List the transfer syntaxes that can be read here, the preferred first."""
    return [*UNCOMPRESSED, *(syntax for syntax in DECODERS if has_decoder(syntax))]


def has_decoder(transfer_syntax: str) -> bool:
    """Return whether images in a transfer syntax can be read here."""
    syntax = UID(transfer_syntax)
    if syntax in UNCOMPRESSED:
        return True
    return syntax in DECODERS and DECODERS[syntax] in get_decoder(syntax).available_plugins


def decode_pixels(dataset: Dataset) -> NDArray[Any]:
    """Return the stored values (rows, columns) of an image, 16 bits, with the decoder of its transfer syntax.

    Bits that the header calls unused are as they came: padding may lie in them.
    What pydicom and its plugins raise on pixels that they cannot decode is passed on.

    Raises
    ------
    ValueError
        The header claims more pixels than any image has, or there are more packed bytes than they could need.
    """
    _refuse_bomb(dataset)
    plugin = DECODERS.get(dataset.file_meta.TransferSyntaxUID, "")
    dataset.pixel_array_options(decoding_plugin=plugin, correct_unused_bits=False)
    stored = dataset.pixel_array
    return stored.astype(np.int16 if stored.dtype.kind == "i" else np.uint16, copy=False)


def _refuse_bomb(dataset: Dataset) -> None:
    claimed = math.prod(int(dataset.get(keyword) or 1) for keyword in ("Rows", "Columns", "NumberOfFrames"))
    claimed *= int(dataset.get("SamplesPerPixel") or 1) * -(-int(dataset.get("BitsAllocated") or 16) // 8)
    if not 0 < claimed <= LARGEST_IMAGE_BYTES:
        raise ValueError(
            f"the header claims {claimed >> 20} MiB of pixels; at most {LARGEST_IMAGE_BYTES >> 20} are read"
        )
    packed = len(dataset.get("PixelData") or b"")
    if dataset.file_meta.TransferSyntaxUID in DECODERS and packed > MOST_PACKED * claimed + PACKED_BYTES:
        raise ValueError(f"{packed} packed bytes are more than an image of {claimed} bytes needs")


def inflate(deflated: bytes | memoryview, what: str) -> bytes:
    """Inflate a deflated dataset (PS3.5 A.5), up to LARGEST_INFLATED_BYTES.

    Raises
    ------
    SeriesUnusable
        It is damaged, cut off, or larger than any image; ``what`` names it.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = stream.decompress(deflated, LARGEST_INFLATED_BYTES + 1)
    except zlib.error as error:
        raise SeriesUnusable(HoldReason.NOT_INFLATED, what=what) from error
    if len(content) > LARGEST_INFLATED_BYTES:
        raise SeriesUnusable(HoldReason.INFLATES_TOO_LARGE, what=what, mib=LARGEST_INFLATED_BYTES >> 20)
    if not stream.eof:
        raise SeriesUnusable(HoldReason.INFLATED_CUT_OFF, what=what)
    return content
