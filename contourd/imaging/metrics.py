"""Agreement of two masks on the CT's own grid: for evaluation, commissioning and shadows.

Surfaces are those of Nikolov et al. (arXiv 1809.04430, "surface-distance"): every corner between 2 x 2 x 2 voxels that
are not all alike is a surface element, with the area that marching cubes gives it; a percentile or a mean is taken over
area. Added path length is that of Vaassen et al., Phys Imaging Radiat Oncol 13, 2020.

======================  ==========  ============  ===================
what                    both empty  one is empty  unit
======================  ==========  ============  ===================
Dice, surface Dice      NaN         0             1
Hausdorff 95, mean      NaN         infinite      mm
added path length       NaN         whole truth   mm
volume ratio            NaN         0, infinite   predicted over true
======================  ==========  ============  ===================
"""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from contourd.imaging.grid import FloatArray, Grid

TOLERANCE_MM = 2.0
PERCENTILE = 95.0
Mask = NDArray[np.bool_]
# In eighths, int8 (256, triangles, 3), compressed: scikit-image's, which a test compares with it, so that no node needs
# scikit-image.
MOST_TRIANGLES = 4
AREA_VECTORS = (
    "c-n1N0g}WZ2vfWNe{l;31R=K9ads?=G{%68(a)Td=34W$e5765C(NttwZvv?tzX)e<JapNVxzvbmcW0BkBYgZ<19&^Ukp4-m>H<f"
    "Hy*4BnDem5A7-p2u-g;9jT!Or3jF!?wXW;2|9m5XzwOUuix3?6ZMi)nawpE_2N3qRnh5X%{1Hl-|9lO9Y|VgO*X6GPzWifpej;Oz"
    "yXMRN3%|l2{Kr8I+v5;HM3Dvj5=0c|(mbnd%zR+*-#FKEIX^g*S^|CoTKOw9fcQ@48jo`>y79mt__4}j*ua_Y`K)<jCOro?ljh2@"
    "N>AD_^qG4LJC+1jSG)$_TR(_@=qF;@FZ2%<*4_)|HheNnOOMBl12v+O|Jd=tf8c>V_r4rYyw2q6b1-$RW=Z}7M8?_t*C#f?$+wL@"
    "Q`5Zort&~DPWXWTm=`ClPo13t5t#Wgq`sZtne}O4{L`O<M-GDj^xt#v0R2xS<Sq+JN09EBUoHYw#L+4{AmpaG4gYtUwjYV~MC}?o"
    "VNCNP(0tfa=n}~_$0<-~{vLy|ckbu8Ox2fG6X$Ghm9$MY=bW?8NB^I15eCMFIC%wdve6!oy)Q9sN1c3eC0;*6TCm$F5#AeTUjckZ"
    "bapmD{YN?Mv)(veLbKJunqe&^5!=#RI5atX3#W!l+pKxc1<sLI?pW>hGH6E1HOz4eW`Vyiq@3kkw#b+VMR$@Pc&aAY%IAr?s>(Iw"
    "TU+W*p;{zQ+&elm_r>S$npR6*HLz+U*G%&;JVB#!js4c%Z>{DU{;KVz`Hwu0J0f$fkA3i6W3Q&qpn6WahWO6nyDa&?!#G^?{s~X;"
    "z7y$Kjysg^*5l4S?_#UHkph#i>ElihqYd~}4{-Db)H8_JbH8_-|D(s~-h+D*?p3&l;oj!xd8iix=zJCN`Y9;#)Ki(=Id|E-da&xv"
    "xMxE^d$cl;dOYaopPumd?jc{jW#OmeI(k&@U5}oYd)=c4Zp^QqnR;pJNzUH;|6YCSzr8&_f7Hr~E&"
)


@dataclass(frozen=True, slots=True)
class OrganMetrics:
    """All that is measured of one organ in one case; see the module for empty masks.

    Attributes
    ----------
    hausdorff_95_mm
        The larger of the two directions' 95th percentiles.
    mean_surface_mm
        The mean of the two directions' mean distances.
    surface_dice
        Share of both surfaces that lies within TOLERANCE_MM of the other.
    added_path_mm
        Length of the true contour, slice by slice, that a person would have to draw anew.
    islands
        Parts of the prediction beside its largest, touching corners counted as one part.
    """

    dice: float
    hausdorff_95_mm: float
    mean_surface_mm: float
    surface_dice: float
    added_path_mm: float
    volume_ratio: float
    islands: int


METRICS = tuple(field.name for field in fields(OrganMetrics))


def dice(truth: Mask, predicted: Mask) -> float:
    """2 |A and B| / (|A| + |B|) of two masks of one shape; NaN where both are empty, 0 where one is."""
    total = int(truth.sum()) + int(predicted.sum())
    return 2 * int((truth & predicted).sum()) / total if total else math.nan


def agreement(truth: Mask, predicted: Mask, grid: Grid) -> OrganMetrics:
    """Measure one organ.

    Parameters
    ----------
    truth, predicted
        bool (z, y, x) on ``grid``, whose slices may be unequally spaced.
    """
    parts = ndimage.find_objects((truth | predicted).astype(np.uint8))
    if not parts:
        nan = math.nan
        return OrganMetrics(nan, nan, nan, nan, nan, nan, 0)
    box = parts[0]
    a, b = truth[box], predicted[box]
    axes = corner_axes_mm(grid, box)
    there, back = distances_mm(surface(a, axes), surface(b, axes))
    volumes = [grid.volume_mm3(mask, box[0].start) for mask in (a, b)]
    return OrganMetrics(
        dice(a, b),
        max(there.percentile(PERCENTILE), back.percentile(PERCENTILE)),
        (there.mean() + back.mean()) / 2,
        surface_dice(there, back, TOLERANCE_MM),
        added_path_mm(a, b, grid.pixel_spacing_mm),
        volumes[1] / volumes[0] if volumes[0] else math.inf,
        max(0, int(ndimage.label(b, np.ones((3, 3, 3)))[1]) - 1),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """Elements of a closed surface: where each lies, (n, 3) mm (z, y, x), and its area in mm^2, (n,)."""

    places_mm: FloatArray
    areas_mm2: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Distances:
    """From each element of one surface to the other surface, increasing, with the areas in the same order."""

    mm: FloatArray
    areas_mm2: FloatArray

    def percentile(self, percent: float) -> float:
        """Return the distance that ``percent`` of the area does not exceed; infinite without a surface."""
        if not len(self.mm):
            return math.inf
        share = np.cumsum(self.areas_mm2) / self.areas_mm2.sum()
        return float(self.mm[min(int(np.searchsorted(share, percent / 100)), len(self.mm) - 1)])

    def mean(self) -> float:
        """Return the mean over area; infinite without a surface."""
        return float(self.mm @ self.areas_mm2 / self.areas_mm2.sum()) if len(self.mm) else math.inf


def corner_axes_mm(grid: Grid, box: tuple[slice, ...]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Positions of the centres of a box's voxels with one more voxel at either end, along (z, y, x)."""
    axes = (
        grid.slice_positions_mm,
        np.arange(grid.shape[1], dtype=np.float64) * grid.pixel_spacing_mm[0],
        np.arange(grid.shape[2], dtype=np.float64) * grid.pixel_spacing_mm[1],
    )
    z, y, x = (_extended(axis, part, step) for axis, part, step in zip(axes, box, grid.spacing_mm, strict=True))
    return z, y, x


def _extended(axis: FloatArray, part: slice, step: float) -> FloatArray:
    """Cut a part out of an axis, with a neighbour before and after it, invented where the axis ends."""
    before = axis[part.start - 1] if part.start else axis[0] - (axis[1] - axis[0] if len(axis) > 1 else step)
    after = axis[part.stop] if part.stop < len(axis) else axis[-1] + (axis[-1] - axis[-2] if len(axis) > 1 else step)
    return np.concatenate([[before], axis[part], [after]])


def surface(mask: Mask, axes_mm: tuple[FloatArray, FloatArray, FloatArray]) -> Surface:
    """Find the surface elements of a mask (z, y, x), whose outside is empty.

    Parameters
    ----------
    axes_mm
        Of the voxel centres, with one more at either end (see corner_axes_mm).
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    code = np.zeros([n - 1 for n in padded.shape], dtype=np.uint8)
    for corner in range(8):
        dz = corner >> 2 & 1
        dy = corner >> 1 & 1
        dx = corner & 1
        part = padded[dz : dz + code.shape[0], dy : dy + code.shape[1], dx : dx + code.shape[2]]
        code |= part << np.uint8(7 - corner)
    where = np.nonzero((code > 0) & (code < 255))
    codes = code[where]
    steps = [np.diff(axis)[k] for axis, k in zip(axes_mm, where, strict=True)]
    places = [(axis[:-1] + np.diff(axis) / 2)[k] for axis, k in zip(axes_mm, where, strict=True)]
    # An area vector's component along an axis grows with the steps along the two others.
    stretch = np.stack([steps[1] * steps[2], steps[0] * steps[2], steps[0] * steps[1]], axis=1)
    vectors = triangles()[codes] * stretch[:, None]  # (n, triangles, 3)
    return Surface(np.stack(places, axis=1), np.linalg.norm(vectors, axis=2).sum(axis=1))


@cache
def triangles() -> FloatArray:
    """Area vectors (256, triangles, 3) of marching cubes for each pattern of 2 x 2 x 2 voxels, of unit steps.

    The tables of Lorensen and Cline; a pattern of more than four voxels has the surface of its complement.
    """
    eighths = np.frombuffer(zlib.decompress(base64.b85decode(AREA_VECTORS)), dtype=np.int8)
    return eighths.reshape(256, MOST_TRIANGLES, 3) / 8.0


def distances_mm(truth: Surface, predicted: Surface) -> tuple[Distances, Distances]:
    """Measure from each surface to the other: truth to prediction, prediction to truth."""
    return _to(truth, predicted), _to(predicted, truth)


def _to(own: Surface, other: Surface) -> Distances:
    if not len(other.places_mm):
        return Distances(np.full(len(own.places_mm), math.inf), own.areas_mm2)
    if not len(own.places_mm):
        return Distances(np.zeros(0), np.zeros(0))
    mm, _ = KDTree(other.places_mm).query(own.places_mm)
    order = np.argsort(mm, kind="stable")
    return Distances(mm[order], own.areas_mm2[order])


def surface_dice(there: Distances, back: Distances, tolerance_mm: float) -> float:
    """Return the share of both surfaces' area that lies within ``tolerance_mm`` of the other surface."""
    near = sum(float(d.areas_mm2[d.mm <= tolerance_mm].sum()) for d in (there, back))
    area = float(there.areas_mm2.sum() + back.areas_mm2.sum())
    return near / area if area else math.nan


def added_path_mm(truth: Mask, predicted: Mask, pixel_spacing_mm: tuple[float, float]) -> float:
    """Measure how much of the true contour is not in the prediction's, without tolerance.

    On each slice the contour is the set of pixels of the mask with a neighbour (of four) outside; a pixel counts with
    the geometric mean of its sides.
    """
    missed = _outline(truth) & ~_outline(predicted)
    return float(missed.sum()) * math.sqrt(pixel_spacing_mm[0] * pixel_spacing_mm[1])


def _outline(mask: Mask) -> Mask:
    in_plane = ndimage.generate_binary_structure(3, 1)
    in_plane[0] = in_plane[2] = False
    return np.asarray(mask & ~ndimage.binary_erosion(mask, in_plane))
