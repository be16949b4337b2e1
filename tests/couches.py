"""What lies beside a patient in a CT, laid around any volume: couches, head rests, masks, cushions, arms and the like.

Each object is drawn with the partial volumes of the grid's pixels, and only where there is no patient: the voxels of
the patient stay what they were, so that whatever differs afterwards is the object's doing. All lengths are in mm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contourd.imaging.grid import FloatArray
from contourd.imaging.volume import Volume
from contourd.model.transforms import grid_axes_mm

AIR, WATER, PLASTIC, ACRYLIC, CARBON, FOAM, STEEL, TISSUE, BONE = -1000, 0, 60, 120, -80, -940, 3000, 40, 700
PERFORATED = -300  # a third of a plastic sheet is holes
HEAD_MM = 180.0


@dataclass(slots=True, eq=False)
class Scan:
    """A canonical volume that is drawn into.

    Attributes
    ----------
    hu
        float32 (z, y, x), axes towards head, back and left.
    patient
        bool: what may not be drawn over.
    z, y, x
        Positions in mm, shaped to broadcast over (z, y, x).
    """

    hu: NDArray[np.float32]
    patient: NDArray[np.bool_]
    z: FloatArray
    y: FloatArray
    x: FloatArray
    pixel: float

    @classmethod
    def of(cls, volume: Volume) -> Scan:
        """Begin with a clean volume: one patient and air."""
        z, y, x = grid_axes_mm(volume.grid)
        hu = volume.hu.astype(np.float32)
        labels, _ = ndimage.label(hu > -350)
        largest = labels == int(np.argmax(np.bincount(labels.ravel())[1:])) + 1
        patient = np.stack([ndimage.binary_fill_holes(plane) for plane in ndimage.binary_dilation(largest)])
        return cls(hu, patient, z[:, None, None], y[None, :, None], x[None, None, :], max(volume.grid.pixel_spacing_mm))

    @property
    def top(self) -> float:
        """The crown."""
        return float(self.z[self.patient.any(axis=(1, 2))].max())

    @property
    def head(self) -> NDArray[np.bool_]:
        """The patient's voxels of the head."""
        return self.patient & (self.z > self.top - HEAD_MM)

    @property
    def middle(self) -> float:
        """Where the head's middle is, from right to left."""
        columns = np.flatnonzero(self.head.any(axis=(0, 1)))
        return float(self.x[0, 0, columns].mean())

    @property
    def back(self) -> float:
        """The rearmost of the patient."""
        return float(self.y[0, np.flatnonzero(self.patient.any(axis=(0, 2)))[-1], 0])

    @property
    def occiput(self) -> float:
        """The rearmost of the head."""
        return float(self.y[0, np.flatnonzero(self.head.any(axis=(0, 2)))[-1], 0])

    def draw(self, depth: NDArray[np.float64], hu: float) -> None:
        """Draw what has a positive depth in mm under its surface, with partial volumes, around the patient."""
        part = np.clip(0.5 + depth / self.pixel, 0, 1)
        drawn = AIR + part * (hu - AIR)
        np.copyto(self.hu, np.maximum(self.hu, drawn), where=~self.patient, casting="same_kind")

    def fill(self, depth: NDArray[np.float64], hu: float) -> None:
        """Draw over other objects too."""
        np.copyto(self.hu, np.float32(hu), where=np.broadcast_to(depth > 0, self.hu.shape) & ~self.patient)

    def volume(self, clean: Volume) -> Volume:
        """Return what was drawn on the grid of the clean volume."""
        return Volume(clean.grid, np.rint(self.hu).clip(-1024, 3071).astype(np.int16))


Depth = NDArray[np.float64]


def box(scan: Scan, centre: tuple[float, float], half: tuple[float, float]) -> Depth:
    """Depth in a bar along the patient: centre and half widths (x, y)."""
    return np.minimum(half[0] - np.abs(scan.x - centre[0]), half[1] - np.abs(scan.y - centre[1]))


def rod(scan: Scan, centre: tuple[float, float], radius: float) -> Depth:
    """Depth in a round bar along the patient."""
    return radius - np.hypot(scan.x - centre[0], scan.y - centre[1])


def between(scan: Scan, low: float, high: float) -> Depth:
    """Depth between two levels along the patient."""
    return np.minimum(scan.z - low, high - scan.z)


def shell(depth: Depth, thickness: float) -> Depth:
    """Depth in the outermost layer."""
    return np.minimum(depth, thickness - depth)


def _sandwich(scan: Scan, depth: Depth, skin: float, skin_hu: float, core_hu: float = FOAM) -> None:
    scan.draw(depth, core_hu)
    scan.draw(shell(depth, skin), skin_hu)


def flat_board(scan: Scan, gap: float = 0.0) -> None:
    """A carbon shell of 2.5 mm around foam, 530 x 45 mm: the back lies on it."""
    _sandwich(scan, box(scan, (scan.middle, scan.back + gap + 22.5), (265, 22.5)), 2.5, CARBON)


def solid_board(scan: Scan) -> None:
    """A massive board of plastic, 420 x 20 mm: the back lies on it."""
    scan.draw(box(scan, (scan.middle, scan.back + 10), (210, 10)), ACRYLIC)


def pressed_board(scan: Scan) -> None:
    """A massive board of 20 mm into which the back is pressed by 6 mm."""
    scan.draw(box(scan, (scan.middle, scan.back + 4), (210, 10)), ACRYLIC)


def curved_couch(scan: Scan) -> None:
    """A diagnostic couch: a trough of radius 450 mm on which the patient lies, a shell of 4 mm around 35 mm of foam."""
    x, y = scan.x[0, 0], scan.y[0, :, 0]
    rows, columns = np.nonzero(scan.patient.any(axis=0))
    across = x[columns] - scan.middle
    lowest = float((y[rows] + 450 - np.sqrt(np.maximum(450**2 - across**2, 0))).max())  # of the trough's middle
    centre = (scan.middle, lowest - 450)
    trough = np.minimum(np.minimum(rod(scan, centre, 489), -rod(scan, centre, 450)), 230 - np.abs(scan.x - scan.middle))
    _sandwich(scan, trough, 4, PLASTIC)


def tilted_board(scan: Scan) -> None:
    """A carbon board that sags by 4 mm along the patient."""
    sag = 4 * (scan.z - scan.z.min()) / (scan.z.max() - scan.z.min())
    depth = np.minimum(265 - np.abs(scan.x - scan.middle), 20 - np.abs(scan.y - scan.back - 20 - sag))
    _sandwich(scan, depth, 2.5, CARBON)


def head_rest(scan: Scan) -> None:
    """A cup of plastic of 4 mm under head and neck, which touches the occiput, on two feet on the board."""
    flat_board(scan)
    level = between(scan, scan.top - HEAD_MM - 60, scan.top - 30)
    cup = np.minimum(shell(rod(scan, (scan.middle, scan.occiput - 90), 94), 4), scan.y - scan.occiput + 50)
    scan.draw(np.minimum(cup, level), PLASTIC)
    for side in (-1, 1):
        foot = (scan.middle + side * 60, (scan.occiput + scan.back) / 2)
        scan.draw(np.minimum(box(scan, foot, (2, (scan.back - scan.occiput) / 2 + 25)), level), PLASTIC)


def solid_head_rest(scan: Scan) -> None:
    """A massive block of dense foam under the head, 200 mm wide, hollowed to the head, on a massive board."""
    solid_board(scan)
    hollow = rod(scan, (scan.middle, scan.occiput - 95), 95)
    block = np.minimum(100 - np.abs(scan.x - scan.middle), np.minimum(scan.y - scan.occiput + 25, scan.back - scan.y))
    level = between(scan, scan.top - HEAD_MM, scan.top - 20)
    scan.draw(np.minimum(np.minimum(block, -hollow), level), -250)


def _near_patient(scan: Scan, distance: float) -> Depth:
    """Depth in what is within a distance of the patient on each plane, concave parts bridged."""
    reach, depths = 25 / scan.pixel, np.full(scan.hu.shape, -np.inf)
    for k, plane in enumerate(scan.patient):
        if plane.any():
            padded = np.pad(plane, round(reach) + 2)
            bridged = ndimage.distance_transform_edt(ndimage.distance_transform_edt(~padded) <= reach) > reach
            inner = slice(round(reach) + 2, -round(reach) - 2)
            depths[k] = distance - scan.pixel * ndimage.distance_transform_edt(~(bridged | padded)[inner, inner])
    return depths


def mask_with_frame(scan: Scan) -> None:
    """A perforated thermoplastic sheet of 1.6 mm over face and shoulders, and its frame of 10 mm on a base plate."""
    sheet = shell(_near_patient(scan, 2.4), 1.6)
    front = scan.occiput - 40 - scan.y
    level = scan.z - (scan.top - HEAD_MM - 120)
    scan.draw(np.minimum(np.minimum(sheet, front), level), PERFORATED)
    for side in (-1, 1):
        bar = box(scan, (scan.middle + side * 150, scan.occiput - 30), (12, 5))
        scan.draw(np.minimum(bar, scan.z - (scan.top - HEAD_MM - 20)), ACRYLIC)
        wing = box(scan, (scan.middle + side * 115, scan.occiput - 36), (35, 1.5))
        scan.draw(np.minimum(wing, scan.z - (scan.top - HEAD_MM - 20)), WATER)
    scan.draw(np.minimum(box(scan, (scan.middle, scan.back + 6), (190, 6)), level + 60), CARBON)
    flat_board(scan, 12)


def shoulder_pulls(scan: Scan) -> None:
    """Straps of 40 x 3 mm along either side, and handles of 25 mm."""
    flat_board(scan)
    wide = np.flatnonzero(scan.patient.any(axis=(0, 1)))
    for side, edge in ((-1, wide[0]), (1, wide[-1])):
        at = float(np.clip(scan.x[0, 0, edge] + side * 3, scan.x.min() + 20, scan.x.max() - 20))
        scan.draw(box(scan, (at, scan.back - 60), (1.5, 20)), WATER)
        handle = np.minimum(rod(scan, (at, scan.back - 25), 12), between(scan, scan.top - 120, scan.top - 40))
        scan.draw(handle, PLASTIC)


def vacuum_bag(scan: Scan) -> None:
    """A bag of beads around head and shoulders to half their height, with a wavy skin of 1.5 mm."""
    flat_board(scan, 8)
    waves = 4 * np.sin(scan.x / 11) + 3 * np.sin(scan.z / 17)
    bag = np.minimum(_near_patient(scan, 45) + waves, np.minimum(scan.back + 8 - scan.y, scan.y - scan.occiput + 70))
    _sandwich(scan, bag, 1.5, WATER, -930)


def gel_cushion(scan: Scan) -> None:
    """A ring of gel under the head."""
    flat_board(scan)
    ring = 18 - np.hypot(np.hypot(scan.x - scan.middle, scan.z - scan.top + 90) - 55, scan.y - scan.occiput - 14)
    scan.draw(ring, WATER)


def arm_beside(scan: Scan, gap: float = 8.0) -> None:
    """A raised arm with its bone, beside the head from the shoulder to above the crown."""
    flat_board(scan)
    columns = np.flatnonzero(scan.head.any(axis=(0, 1)))
    at = (float(scan.x[0, 0, columns[-1]]) + gap + 38, scan.occiput - 60)
    level = scan.z - (scan.top - HEAD_MM - 110)
    scan.draw(np.minimum(rod(scan, at, 38), level), TISSUE)
    scan.fill(np.minimum(rod(scan, at, 11), level), BONE)


def arm_against(scan: Scan) -> None:
    """The same arm against the head."""
    arm_beside(scan, 0.0)


def phantom_beside(scan: Scan) -> None:
    """A water phantom of 110 mm, left in the field of view."""
    flat_board(scan)
    scan.draw(rod(scan, (scan.middle - 165, scan.back - 57), 55), WATER)


def bottle_beside(scan: Scan) -> None:
    """An oxygen bottle of steel, 100 mm, 4 mm thick, on the couch beside the head."""
    flat_board(scan)
    bottle = rod(scan, (scan.middle + 170, scan.back - 52), 50)
    scan.draw(np.minimum(shell(bottle, 4), scan.z - (scan.top - HEAD_MM - 40)), STEEL)


def tubes(scan: Scan) -> None:
    """Two breathing tubes of 22 mm over the chest and beside the head, and a cable."""
    flat_board(scan)
    front = float(scan.y[0, np.flatnonzero(scan.patient.any(axis=(0, 2)))[0], 0])
    scan.draw(shell(rod(scan, (scan.middle + 40, front - 12), 11), 2), PLASTIC)
    scan.draw(shell(rod(scan, (scan.middle - 105, scan.occiput - 50), 11), 2), PLASTIC)
    scan.draw(rod(scan, (scan.middle - 120, scan.occiput - 20), 3), PLASTIC)


def streaks(scan: Scan) -> None:
    """Bright rays of metal through the air around the teeth, over 12 mm; the patient's voxels stay as they are."""
    flat_board(scan)
    front = np.flatnonzero(scan.head.any(axis=(0, 2)))[0]
    angle = np.arctan2(scan.y - float(scan.y[0, front, 0]) - 25, scan.x - scan.middle)
    away = np.hypot(scan.y - float(scan.y[0, front, 0]) - 25, scan.x - scan.middle)
    rays = np.cos(11 * angle) * 900 * np.exp(-away / 90)
    level = np.abs(scan.z - (scan.top - HEAD_MM + 10)) < 6
    air = ~scan.patient & level
    scan.hu[air] = np.maximum(-1024, scan.hu + np.maximum(rays, 0))[air]


def round_field(scan: Scan) -> None:
    """A round field of view that is padded with 0 HU, as some exports are."""
    flat_board(scan)
    rows, columns = float(scan.y.mean()), float(scan.x.mean())
    radius = min(float(scan.y.max() - rows), float(scan.x.max() - columns))
    outside = np.hypot(scan.y - rows, scan.x - columns) > radius
    scan.hu[np.broadcast_to(outside, scan.hu.shape) & ~scan.patient] = WATER


OBJECTS: Mapping[str, Callable[[Scan], None]] = {
    made.__name__.replace("_", " "): made
    for made in (
        *(flat_board, solid_board, pressed_board, curved_couch, tilted_board, head_rest, solid_head_rest),
        *(mask_with_frame, shoulder_pulls, vacuum_bag, gel_cushion, arm_beside, arm_against),
        *(phantom_beside, bottle_beside, tubes, streaks, round_field),
    )
}


def with_object(clean: Volume, name: str) -> Volume:
    """Lay one of the objects around a clean volume, whose axes are canonical."""
    scan = Scan.of(clean)
    OBJECTS[name](scan)
    return scan.volume(clean)
