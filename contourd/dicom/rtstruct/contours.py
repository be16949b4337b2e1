"""An organ's contours -> its item of the ROI Contour Sequence, encoded (DICOM PS3.3 C.8.8.6).

Bytes, not pydicom's objects: an object for each element of some thousand items takes most of a writer's time.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cache

import numpy as np
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage
from shapely import LineString

from contourd.dicom.reading.series import Instance, Series
from contourd.errors import OrgansRejected
from contourd.imaging.contours import ROI, Contour
from contourd.imaging.grid import FloatArray
from contourd.model.structures import Structure
from contourd.profiles import Profile
from contourd.reasons.catalogue import HoldReason

ITEM = Tag(0xFFFE, 0xE000)
MOST_POINTS = 2000
MOST_BYTES = 60_000
LONGEST_DS = 16
TOLERANCES_MM = (0.0, 0.02, 0.05, 0.1, 0.2)
UNKNOWN_COLOUR = (255, 255, 255)


def roi_contour_item(
    number: int, roi: ROI, series: Series, catalogue: Mapping[str, Structure], profile: Profile
) -> bytes:
    """Encode an organ's item of the ROI Contour Sequence, Implicit VR Little Endian.

    Parameters
    ----------
    number
        ROI number.

    Raises
    ------
    StructureSetRejected
        A contour is too long for its attribute.
    """
    colour = catalogue[roi.name].colour if roi.name in catalogue else UNKNOWN_COLOUR
    holed = {contour.slice_index for contour in roi.contours if contour.hole}
    contours = []
    for contour in roi.contours:
        geometry = b"CLOSEDPLANAR_XOR" if contour.slice_index in holed else b"CLOSED_PLANAR"
        contours.append(_contour(roi.name, contour, series, geometry, profile.decimals))
    return _item(
        _element("ROIDisplayColor", "\\".join(map(str, colour)).encode()),
        _element("ContourSequence", b"".join(contours)),
        _element("ReferencedROINumber", str(number).encode()),
    )


def _contour(name: str, contour: Contour, series: Series, geometry: bytes, decimals: int) -> bytes:
    """Encode an item of the Contour Sequence."""
    instance = series.instances[contour.slice_index]
    count, text = _contour_text(name, contour.points_mm, _z_text(instance), decimals)
    image = _item(
        _element("ReferencedSOPClassUID", CTImageStorage.encode(), b"\0"),
        _element("ReferencedSOPInstanceUID", instance.sop_instance_uid.encode(), b"\0"),
    )
    return _item(
        _element("ContourImageSequence", image),
        _element("ContourGeometricType", geometry),
        _element("NumberOfContourPoints", str(count).encode()),
        _element("ContourData", text),
    )


def _element(keyword: str, value: bytes, padding: bytes = b" ") -> bytes:
    """Encode a data element, Implicit VR Little Endian (PS3.5 7.1.3); an odd length is padded (PS3.5 6.2)."""
    if len(value) % 2:
        value += padding
    return _head(keyword) + struct.pack("<L", len(value)) + value


def _item(*elements: bytes) -> bytes:
    """Encode an item of a sequence (PS3.5 7.5.1), its elements in ascending order."""
    content = b"".join(elements)
    return struct.pack("<HHL", ITEM.group, ITEM.element, len(content)) + content


@cache
def _head(keyword: str) -> bytes:
    tag = Tag(keyword)
    return struct.pack("<HH", tag.group, tag.element)


def _z_text(instance: Instance) -> str:
    """Return the slice's own text, for readers that match planes by z; shortened only where it is longer than a DS."""
    assert instance.position_text is not None
    text = instance.position_text[2]
    return text if len(text) <= LONGEST_DS else f"{float(text):.6f}"[:LONGEST_DS]


def _contour_text(name: str, points_mm: FloatArray, z_text: str, decimals: int) -> tuple[int, bytes]:
    """Write x and y with fixed decimals and z as the slice has it; a loop that is too long is simplified.

    Returns
    -------
    The number of points, and the value of ContourData.
    """
    one = f"%.{decimals}f\\%.{decimals}f\\{z_text}"
    for tolerance_mm in TOLERANCES_MM:
        xy = np.round(_simplified(points_mm[:, :2], tolerance_mm), decimals) + 0.0  # + 0.0: no negative zero
        xy = xy[np.any(xy != np.roll(xy, 1, axis=0), axis=1)]
        text = "\\".join([one] * len(xy)) % tuple(xy.ravel().tolist())
        if len(xy) <= MOST_POINTS and len(text) <= MOST_BYTES:
            return len(xy), text.encode("ascii")
    reason = f"a contour of {len(xy)} points ({len(text)} bytes) is too long at z = {z_text}"
    raise OrgansRejected(
        HoldReason.CONTOUR_TOO_LONG, organs={name: reason}, roi=name, points=len(xy), bytes=len(text), z=z_text
    )


def _simplified(loop: FloatArray, tolerance_mm: float) -> FloatArray:
    """Drop points (n, 2) of a closed loop by Douglas and Peucker; a keyhole's slit keeps its ends."""
    if not tolerance_mm:
        return loop
    closed = np.concatenate([loop, loop[:1]])
    return np.asarray(LineString(closed).simplify(tolerance_mm, preserve_topology=False).coords)[:-1]
