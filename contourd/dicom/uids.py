"""The UIDs that contourd makes, and those by which it names itself (DICOM PS3.5 9 and B.2, PS3.7 D.3.3.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType

from pydicom.uid import UID, RTStructureSetStorage, SegmentationStorage

from contourd import __version__

IMPLEMENTATION = UID("2.25.127382910475690278431592360129835521437")
IMPLEMENTATION_NAME = f"CONTOURD_{__version__}"[:16]
# The SOP class of each product.
PRODUCTS: Mapping[str, UID] = MappingProxyType({"rtstruct": RTStructureSetStorage, "seg": SegmentationStorage})


def derived_uid(*parts: object) -> UID:
    """Return a UID under 2.25 that depends on the parts alone (PS3.5 B.2)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")
