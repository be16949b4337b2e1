"""Contours with a network of contourd's own kinds, on one lattice or two that lie half a voxel beside each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contourd.imaging.contours import MaskInBox
from contourd.imaging.grid import Box, around, within
from contourd.imaging.volume import Volume
from contourd.model.agreement import LatticeAgreement, agreement
from contourd.model.lattice_bundle import LatticeBundle
from contourd.model.predictor import Progress, RunOptions
from contourd.model.runtime import Runtime
from contourd.model.sides import midline_mm
from contourd.model.slabs import AIR
from contourd.model.structures import mirrored_order
from contourd.model.torch_runtime import TorchRuntime
from contourd.model.transforms import Prepared, Preprocess

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
class LatticePrediction:
    """Probabilities of the organs of one volume (see Prediction).

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
        box, probability, _ = self.compared(name)
        return box, probability

    def compared(self, name: str) -> tuple[Box, NDArray[np.float32], LatticeAgreement]:
        """Return what ``restored`` does, and how the lattices agree on it."""
        i = self.structures.index(name)
        parts = [self.preprocess.restore(on.probabilities[i], on.prepared) for on in self.lattices]
        box = parts[0][0]
        for other, _ in parts[1:]:
            box = around(box, other)
        mean = np.zeros([part.stop - part.start for part in box], dtype=np.float32)
        for inner, probability in parts:
            if probability.size:
                mean[within(inner, box)] += probability / len(parts)
        mean = largest_component(mean, touching=TOUCHING)
        return box, mean, agreement(parts, box, mean)

    @property
    def beyond(self) -> float:
        """The part of the head that lies beside what the network saw (see Prepared)."""
        return max(on.prepared.beyond for on in self.lattices)

    @property
    def width_mm(self) -> float:
        """The width of the lattice across the patient."""
        return 2 * self.preprocess.config.half_width_mm

    def midline_mm(self) -> float | None:
        """Return x (LPS, mm) of the middle of the patient's head and neck."""
        return midline_mm(self.lattices[0].prepared)

    def mask(self, name: str) -> MaskInBox:
        """Return the organ's voxels on the CT's own grid: probability at least 0.5."""
        box, probability = self.restored(name)
        return MaskInBox(box, probability >= 0.5)

    def is_finite(self) -> bool:
        """Return whether the network answered with numbers."""
        return all(bool(np.isfinite(on.probabilities).all()) for on in self.lattices)


class LatticePredictor:
    """Volume -> LatticePrediction with one bundle on one device (see Predictor)."""

    def __init__(self, bundle: LatticeBundle, options: RunOptions) -> None:
        self.bundle = bundle
        self.device = options.device
        self.preprocess = Preprocess(bundle.config.preprocess)
        network, choose = bundle.network(), options.choose_runtime
        self.runtime: Runtime = choose(bundle, network, self.device) if choose else TorchRuntime(network, self.device)
        self.loaded_bytes = sum(value.numel() * value.element_size() for value in network.state_dict().values())
        self._mirrored = list(mirrored_order(bundle.config.model.structures, bundle.config.known_pairs))

    def predict(self, volume: Volume, progress: Progress | None = None) -> LatticePrediction:
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
        prepared = self.preprocess.lattices(volume, moved)
        report("prepare", 1.0)
        lattices = []
        for i, on in enumerate(prepared):
            report("contour", i / len(prepared))
            probabilities = self.probabilities(on.image)
            lattices.append(OnLattice(np.stack([largest_component(p) for p in probabilities]), on))
        report("contour", 1.0)
        return LatticePrediction(tuple(lattices), self.bundle.config.model.structures, self.preprocess)

    def probabilities(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return each organ's probability (organs, d, h, w)."""
        d, h, w = image.shape
        padding = [(0, max(0, SMALLEST_SIDE - side)) for side in (d, h, w)]
        padded = np.pad(image, padding, constant_values=AIR) if np.any(padding) else image
        found = self.runtime.probabilities(padded)
        if self.bundle.config.mirror:
            mirrored = self.runtime.probabilities(np.ascontiguousarray(padded[..., ::-1]))
            found += mirrored[self._mirrored, ..., ::-1]
            found /= 2
        return found[:, :d, :h, :w]


def largest_component(
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
