"""The output block of the network, slab by slab: exact, and without the memory and the time that air would cost.

Everything behind the decoder is local: of what it gives at a voxel, ``HALO`` voxels around decide alone. So it need not
run on the whole volume at once, and where there is no patient it need not run at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contourd.imaging.grid import Box, within

# Two convolutions of 3 x 3 x 3.
HALO = 2
SLICES = 32
# What the transforms set everything outside of the body to.
AIR = -1.0


@dataclass(frozen=True, slots=True)
class Slab:
    """A part of the volume.

    Attributes
    ----------
    read
        What the output block is given; begins at even voxels, where the decoder's coarse ones begin.
    kept
        What its answer holds for.
    """

    read: Box
    kept: Box

    @property
    def inner(self) -> Box:
        """Where what is kept lies within what is read."""
        return within(self.kept, self.read)

    def at_stride(self, stride: int) -> Box:
        """Return what is read of features, of which a voxel is so many (1 or 2) of the image wide."""
        z, y, x = (slice(s.start // stride, -(-s.stop // stride)) for s in self.read)
        return z, y, x


def slabs(image: NDArray[np.float32], slices: int = SLICES) -> Iterator[Slab]:
    """Part an image (d, h, w) into slabs of so many slices, each as wide as the body is in it; air is left out."""
    for first in range(0, image.shape[0], slices):
        body = np.any(image[first : first + slices] > AIR, axis=0)
        if not body.any():
            continue
        rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
        kept = (
            slice(first, min(first + slices, image.shape[0])),
            slice(int(rows[0]), int(rows[-1]) + 1),
            slice(int(columns[0]), int(columns[-1]) + 1),
        )
        z, y, x = (_widened(part, length) for part, length in zip(kept, image.shape, strict=True))
        yield Slab((z, y, x), kept)


def _widened(part: slice, length: int) -> slice:
    start = max(part.start - HALO, 0)
    return slice(start - start % 2, min(part.stop + HALO, length))
