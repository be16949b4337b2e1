"""The inference path: serve, ``contourd contour``, validation and evaluation all call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from contourd.errors import DeviceError
from contourd.imaging.contours import MaskInBox
from contourd.imaging.grid import Box, around, within
from contourd.imaging.volume import Volume
from contourd.model.bundle import ModelBundle
from contourd.model.runtime import check_memory, choose_device, place
from contourd.model.structures import mirrored_order
from contourd.model.transforms import Prepared, Preprocess

Progress = Callable[[str, float], None]
SMALLEST_SIDE = 16
# On the CT's grid an oblique organ of few pixels is one part also where only corners touch.
TOUCHING = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True, slots=True, eq=False)
class OnLattice:
    """What the network answered on one lattice.

    Attributes
    ----------
    probabilities
        float32 (organs, d, h, w), after the largest component of each organ was kept.
    """

    probabilities: NDArray[np.float32]
    prepared: Prepared


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Probabilities of the organs of one volume.

    Attributes
    ----------
    lattices
        One, or two that lie half a voxel beside each other.
    structures
        TG-263 names, in the order of the probabilities' first axis.
    """

    lattices: tuple[OnLattice, ...]
    structures: tuple[str, ...]
    preprocess: Preprocess

    def restored(self, name: str) -> tuple[Box, NDArray[np.float32]]:
        """Return the box of an organ on the CT's own grid and its probability inside it (see Preprocess.restore).

        It is the mean over the lattices, of which again the largest component is kept.
        """
        i = self.structures.index(name)
        parts = [self.preprocess.restore(on.probabilities[i], on.prepared) for on in self.lattices]
        box = parts[0][0]
        for other, _ in parts[1:]:
            box = around(box, other)
        mean = np.zeros([part.stop - part.start for part in box], dtype=np.float32)
        for inner, probability in parts:
            if probability.size:
                mean[within(inner, box)] += probability / len(parts)
        return box, _largest_component(mean, touching=TOUCHING)

    def mask(self, name: str) -> MaskInBox:
        """Return the organ's voxels on the CT's own grid: probability at least 0.5."""
        box, probability = self.restored(name)
        return MaskInBox(box, probability >= 0.5)


class Predictor:
    """Volume -> Prediction with one bundle on one device."""

    def __init__(self, bundle: ModelBundle, device: str = "auto") -> None:
        self.bundle = bundle
        self.device = choose_device(device)
        self.preprocess = Preprocess(bundle.config.preprocess)
        self._network = place(bundle.network(), self.device)
        self._mirrored = torch.tensor([0, *(i + 1 for i in mirrored_order(bundle.config.model.structures))])

    def predict(self, volume: Volume, progress: Progress | None = None) -> Prediction:
        """Contour one volume.

        Raises
        ------
        SeriesUnusable
            No patient is in the volume.
        DeviceError
            The device's memory does not suffice.
        """
        report = progress or (lambda stage, fraction: None)
        report("prepare", 0.0)
        moved = (False, True) if self.bundle.config.half_voxel else (False,)
        prepared = [self.preprocess.prepare(volume, half_voxel) for half_voxel in moved]
        report("prepare", 1.0)
        lattices = []
        for i, on in enumerate(prepared):
            report("contour", i / len(prepared))
            probabilities = self._probabilities(on.image)
            lattices.append(OnLattice(np.stack([_largest_component(p) for p in probabilities[1:]]), on))
        report("contour", 1.0)
        return Prediction(tuple(lattices), self.bundle.config.model.structures, self.preprocess)

    def _probabilities(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        check_memory(self.device, image.size)
        try:
            with torch.inference_mode():
                x = torch.from_numpy(image)[None, None].to(self.device, memory_format=torch.channels_last_3d)
                p = self._softmax(x)
                if self.bundle.config.mirror:
                    p = (p + self._softmax(x.flip(-1)).flip(-1)[self._mirrored]) / 2
                return np.asarray(p.cpu().numpy())  # (C, d, h, w)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{self.device} ran out of memory for a volume of {image.shape} voxels: {error}"
            ) from error

    def _softmax(self, x: Tensor) -> Tensor:
        d, h, w = x.shape[2:]
        after = [max(0, SMALLEST_SIDE - side) for side in (w, h, d)]
        padded = torch.nn.functional.pad(x, [v for pad in after for v in (0, pad)], value=-1.0)
        return torch.softmax(self._network(padded)[0, :, :d, :h, :w].float(), dim=0)


def _largest_component(
    probability: NDArray[np.float32], threshold: float = 0.5, touching: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Set to zero what does not touch the largest connected part of the organ.

    Paired organs are channels of their own, so each side keeps one part. Probabilities under the threshold stay
    around the part that is kept, so that its contour at 0.5 keeps its sub-voxel place. ``touching`` says which
    neighbours belong together: by default those that share a face.
    """
    labels, count = ndimage.label(probability >= threshold, touching)
    if count <= 1:
        return probability
    largest = int(np.argmax(np.bincount(labels.ravel())[1:])) + 1
    others = ndimage.binary_dilation((labels > 0) & (labels != largest), iterations=1)
    keep = ndimage.binary_dilation(labels == largest, iterations=1)
    return np.where(others & ~keep | ((labels > 0) & (labels != largest)), 0, probability).astype(np.float32)
