"""The inference path: serve, ``contourd contour``, validation and evaluation all call it.

Each kind of bundle has a predictor of its own, and what it answers; ``contourd.model.kinds`` chooses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from contourd.imaging.contours import MaskInBox
from contourd.imaging.grid import Box
from contourd.imaging.volume import Volume
from contourd.model.agreement import LatticeAgreement
from contourd.model.bundle_config import ModelBundle
from contourd.model.network import Network
from contourd.model.runtime import Runtime
from contourd.model.runtime_description import RuntimeDescription

Progress = Callable[[str, float], None]
ChooseRuntime = Callable[[ModelBundle, Network, torch.device], Runtime]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Where a model is to run.

    Attributes
    ----------
    device
        On which.
    memory_bytes
        What the process may take of the machine's memory; 0: what there is.
    choose_runtime
        What runs a network of contourd's own kinds there; None: torch, in single precision.
    """

    device: torch.device
    memory_bytes: int = 0
    choose_runtime: ChooseRuntime | None = None


class Described(Protocol):
    """Says where a network runs and how."""

    @property
    def description(self) -> RuntimeDescription:
        """What decides the last bits of its answer."""


class Prediction(Protocol):
    """The organs of one volume."""

    @property
    def structures(self) -> tuple[str, ...]:
        """TG-263 names, in the model's order."""

    @property
    def beyond(self) -> float:
        """The part of the head that lies beside what the network saw."""

    @property
    def width_mm(self) -> float:
        """How much of the patient the network saw from side to side, around the middle."""

    def compared(self, name: str) -> tuple[Box, NDArray[np.float32], LatticeAgreement]:
        """Return the box of an organ on the CT's own grid, its probability inside it, and how sure the model is of it.

        The organ's voxels are those with a probability of at least 0.5.
        """

    def mask(self, name: str) -> MaskInBox:
        """Return the organ's voxels on the CT's own grid."""

    def midline_mm(self) -> float | None:
        """Return x (LPS, mm) of the middle of the patient's head and neck; None where it is not known."""

    def is_finite(self) -> bool:
        """Return whether the model answered with numbers."""


class Predictor(Protocol):
    """Volume -> Prediction with one bundle on one device; its network stays loaded."""

    @property
    def bundle(self) -> ModelBundle:
        """The model."""

    @property
    def device(self) -> torch.device:
        """Where its network runs."""

    @property
    def runtime(self) -> Described:
        """What runs it there."""

    @property
    def loaded_bytes(self) -> int:
        """What the model takes of the device's memory while it waits."""

    def predict(self, volume: Volume, progress: Progress | None = None) -> Prediction:
        """Contour one volume.

        Raises
        ------
        SeriesUnusable
            No patient is in the volume.
        DeviceError
            The device's memory does not suffice.
        """
