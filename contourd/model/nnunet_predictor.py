"""Contours with an nnU-Net: nnunetv2 normalises, resamples and runs it; contourd turns the CT and keeps what it needs.

The masks are those of nnUNetv2_predict: the label with the greatest logit, after the logits were resampled to the CT.
An organ's probability is the logistic function of its logit less the greatest of the others: 0.5 lies where the label
changes, and of two labels it is the soft-max.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from math import inf
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from contourd.errors import DeviceError
from contourd.imaging.contours import MaskInBox
from contourd.imaging.grid import Box, Grid, Reorientation
from contourd.imaging.resample import resample
from contourd.imaging.volume import Volume
from contourd.model.agreement import LatticeAgreement, agreement
from contourd.model.nnunet_bundle import NnunetBundle, build_nnunet, nnunetv2, quiet
from contourd.model.nnunet_memory import Memory, require_memory
from contourd.model.predictor import Progress, RunOptions
from contourd.model.runtime import processor
from contourd.model.runtime_description import RuntimeDescription
from contourd.model.sides import midline_mm
from contourd.model.torch_runtime import raise_unavailable
from contourd.model.transforms import Preprocess, PreprocessConfig, grid_axes_mm
from contourd.reasons.catalogue import HoldReason

# Around the voxels of an organ, what a contour is drawn through.
AROUND = 3
# Slices that lie closer to even than this need not be resampled.
EVEN_MM = 0.01
# The patient is sought as for contourd's own networks, on their usual lattice: where the middle is, and whether there
# is one at all.
PATIENT = PreprocessConfig()


@dataclass(frozen=True, slots=True)
class NnunetRuntime:
    """Where nnunetv2 runs the network (see Described)."""

    description: RuntimeDescription


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """The way from the CT's own grid to nnU-Net's array, and back.

    Attributes
    ----------
    source, canonical, turn
        The CT's grid; the same with columns to the left and rows to the back; the way between.
    flipped
        Axes of the canonical array, slices towards the head, that run the other way in nnU-Net's.
    even_mm
        Positions of evenly spaced slices, where the CT's are not; else None.
    """

    source: Grid
    canonical: Grid
    turn: Reorientation
    flipped: tuple[int, ...]
    even_mm: NDArray[np.float64] | None

    @classmethod
    def of(cls, grid: Grid, axes: str) -> Turn:
        """Choose it for a model whose arrays' axes run so (see NnunetModel)."""
        canonical, turn = grid.canonical()
        upwards = bool(canonical.slice_origins_mm[-1][2] >= canonical.slice_origins_mm[0][2])
        ours = ("S" if upwards else "I", "P", "L")
        flipped = tuple(i for i in range(3) if axes[i] != ours[i])
        z = canonical.slice_positions_mm
        even = np.linspace(0.0, z[-1], round(z[-1] / canonical.spacing_mm[0]) + 1) if len(z) > 1 else z
        is_even = len(even) == len(z) and bool(np.abs(even - z).max() <= EVEN_MM)
        return cls(grid, canonical, turn, flipped, None if is_even else even)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of nnU-Net's array, (z, y, x)."""
        dz, dy, dx = self.canonical.spacing_mm
        if self.even_mm is not None:
            dz = float(self.even_mm[1] - self.even_mm[0])
        return dz, dy, dx

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of nnU-Net's array."""
        slices, rows, columns = self.canonical.shape
        return (slices if self.even_mm is None else len(self.even_mm), rows, columns)

    def array(self, hu: NDArray[np.int16]) -> NDArray[np.float32]:
        """Return the CT as nnU-Net takes it."""
        turned = self.turn.apply(hu)
        if self.even_mm is not None:
            z, y, x = grid_axes_mm(self.canonical)
            turned = resample(turned, (z, y, x), (self.even_mm, y, x))
        return np.ascontiguousarray(np.flip(turned, self.flipped), dtype=np.float32)

    def back(self, box: Box, part: NDArray[np.float32]) -> tuple[Box, NDArray[np.float32]]:
        """Return a part of nnU-Net's array, given by its box, on the CT's own grid."""
        shape = self.shape
        z, y, x = (slice(shape[i] - b.stop, shape[i] - b.start) if i in self.flipped else b for i, b in enumerate(box))
        part = np.flip(part, self.flipped)
        if self.even_mm is not None:
            own = self.canonical.slice_positions_mm
            near = np.flatnonzero((own >= self.even_mm[z.start]) & (own <= self.even_mm[z.stop - 1]))
            if not len(near):
                return (slice(0, 0), slice(0, 0), slice(0, 0)), np.zeros((0, 0, 0), dtype=np.float32)
            _, ys, xs = grid_axes_mm(self.canonical)
            part = resample(part, (self.even_mm[z], ys[y], xs[x]), (own[near], ys[y], xs[x]))
            z = slice(int(near[0]), int(near[-1]) + 1)
        return self.turn.revert_box((z, y, x), self.canonical.shape), self.turn.revert(part)


@dataclass(frozen=True, slots=True, eq=False)
class Logits:
    """What the network answered, on nnU-Net's own lattice, and nnU-Net's way to its input array.

    Attributes
    ----------
    values
        (labels, d, h, w), half precision.
    properties
        nnU-Net's: what was cut away, and the shape and spacing before it was resampled.
    """

    values: torch.Tensor
    properties: dict[str, Any]
    configuration: Any
    plans: Any

    def of(self, label: int) -> NDArray[np.float32]:
        """Return one label's logits in the cropped array before resampling, axes as nnU-Net has transposed them."""
        spacing = [self.properties["spacing"][i] for i in self.plans.transpose_forward]
        shape = self.properties["shape_after_cropping_and_before_resampling"]
        current = self.configuration.spacing
        if len(current) < len(shape):
            current = [spacing[0], *current]
        found = self.configuration.resampling_fn_probabilities(self.values[label : label + 1], shape, current, spacing)
        return np.asarray(found[0], dtype=np.float32)

    def widened(self, array: NDArray[Any], outside: float) -> NDArray[Any]:
        """Put back around an array what nnU-Net cut away, and its axes as they were."""
        whole = np.full(self.properties["shape_before_cropping"], outside, dtype=array.dtype)
        whole[tuple(slice(first, last) for first, last in self.properties["bbox_used_for_cropping"])] = array
        return whole.transpose(self.plans.transpose_backward)


@dataclass(frozen=True, slots=True, eq=False)
class NnunetPrediction:
    """The organs of one volume (see Prediction).

    Attributes
    ----------
    label_map
        In nnU-Net's cropped array: the label with the greatest logit.
    greatest, second
        The two greatest logits there.
    """

    structures: tuple[str, ...]
    labels: tuple[int, ...]
    logits: Logits
    label_map: NDArray[np.uint16]
    greatest: NDArray[np.float32]
    second: NDArray[np.float32]
    turn: Turn
    middle_mm: float | None
    beyond: float = 0.0
    width_mm: float = inf

    def compared(self, name: str) -> tuple[Box, NDArray[np.float32], LatticeAgreement]:
        """Return the box of an organ on the CT's own grid, its probability inside it, and how clear it is."""
        label = self.labels[self.structures.index(name)]
        own = self.label_map == label
        whole = self.logits.widened(own, False)
        places = [np.flatnonzero(whole.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        if not len(places[0]):
            nothing: Box = (slice(0, 0), slice(0, 0), slice(0, 0))
            empty = np.zeros((0, 0, 0), dtype=np.float32)
            return nothing, empty, LatticeAgreement(1.0, 0, 1, 0.0)
        z, y, x = (
            slice(max(0, int(p[0]) - AROUND), min(side, int(p[-1]) + 1 + AROUND))
            for p, side in zip(places, whole.shape, strict=True)
        )
        margin = self.logits.of(label)
        margin -= np.where(own, self.second, self.greatest)
        # A tie belongs to the label that comes first, as in nnU-Net's argmax.
        probability = np.where(own, np.maximum(_logistic(margin), 0.5), np.minimum(_logistic(margin), _BELOW))
        box, found = self.turn.back((z, y, x), self.logits.widened(probability.astype(np.float32), 0.0)[z, y, x])
        found = np.ascontiguousarray(found)
        return box, found, agreement([(box, found)], box, found)

    def midline_mm(self) -> float | None:
        """Return x (LPS, mm) of the middle of the patient's head and neck."""
        return self.middle_mm

    def mask(self, name: str) -> MaskInBox:
        """Return the organ's voxels on the CT's own grid."""
        box, probability, _ = self.compared(name)
        return MaskInBox(box, probability >= 0.5)

    def is_finite(self) -> bool:
        """Return whether the network answered with numbers."""
        return bool(np.isfinite(self.greatest).all() and np.isfinite(self.second).all())


_BELOW = float(np.nextafter(np.float32(0.5), np.float32(0.0)))


def _logistic(margin: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-np.clip(margin, -30, 30))), dtype=np.float32)


class NnunetPredictor:
    """Volume -> NnunetPrediction with one bundle on one device (see Predictor)."""

    def __init__(self, bundle: NnunetBundle, options: RunOptions) -> None:
        self.bundle = bundle
        self.device = options.device
        self._limit_bytes = options.memory_bytes
        model = bundle.config.model
        parts = nnunetv2()
        network = build_nnunet(model)
        folds = bundle.fold_weights(network)
        self._one_fold_bytes = sum(value.numel() * value.element_size() for value in network.state_dict().values())
        self.loaded_bytes = self._one_fold_bytes * (1 + len(folds))
        network = network.to_empty(device="cpu")
        network.load_state_dict(dict(folds[0]))
        dataset, plans = dict(model.dataset), parts.Plans(dict(model.plans))
        with quiet():
            self._nnunet = parts.Predictor(
                device=self.device, perform_everything_on_device=self.device.type == "cuda", allow_tqdm=False
            )
            self._nnunet.manual_initialization(
                network.to(self.device),
                plans,
                plans.get_configuration(model.configuration),
                [dict(fold) for fold in folds],
                dataset,
                model.trainer,
                model.mirroring_axes or None,
            )
        self._parts = parts
        on_gpu = self.device.type == "cuda"
        self.runtime = NnunetRuntime(
            RuntimeDescription(
                name="nnunetv2",
                version=f"{version('nnunetv2')}, torch {version('torch')}",
                precision="fp16" if on_gpu else "fp32",
                device=str(self.device),
                hardware=torch.cuda.get_device_name(self.device) if on_gpu else processor(),
                threads=None if on_gpu else torch.get_num_threads(),
                cuda=str(torch.version.cuda) if on_gpu else "",
            )
        )

    def memory(self, volume: Volume) -> Memory:
        """Return what contouring a volume takes at most."""
        turn = Turn.of(volume.grid, self.bundle.config.model.axes)
        return Memory.of(self.bundle.config.model, turn.shape, turn.spacing_mm, self._one_fold_bytes)

    def predict(self, volume: Volume, progress: Progress | None = None) -> NnunetPrediction:
        """Contour one volume.

        Raises
        ------
        SeriesUnusable
            No patient is in the volume.
        DeviceError
            The memory does not suffice, and what would.
        DeviceUnavailable
            It does not suffice now, or the device fails.
        """
        report = progress or (lambda stage, fraction: None)
        report("prepare", 0.0)
        middle_mm = midline_mm(Preprocess(PATIENT).prepare(volume))
        model = self.bundle.config.model
        turn = Turn.of(volume.grid, model.axes)
        require_memory(self.memory(volume), self.device, self._limit_bytes)
        logits = self._logits(turn, volume, report)
        report("contour", 0.9)
        greatest, second, label_map = _two_greatest(logits)
        report("contour", 1.0)
        return NnunetPrediction(model.structures, model.labels, logits, label_map, greatest, second, turn, middle_mm)

    def _logits(self, turn: Turn, volume: Volume, report: Progress) -> Logits:
        nnunet = self._nnunet
        properties = {"spacing": list(turn.spacing_mm)}
        try:
            prepared = next(
                self._parts.Preprocessed(
                    [turn.array(volume.hu)[None]], [None], [properties], [None],
                    nnunet.plans_manager, nnunet.dataset_json, nnunet.configuration_manager,
                    num_threads_in_multithreaded=1, verbose=False,
                )
            )  # fmt: skip
            report("prepare", 1.0)
            values = nnunet.predict_logits_from_preprocessed_data(prepared["data"]).cpu()
        except RuntimeError as error:
            raise_unavailable(error, self.device)
            if "inf in predicted array" in str(error):
                raise DeviceError(HoldReason.NNUNET_ANSWERS_NO_NUMBERS, model=self.bundle.name) from error
            raise
        return Logits(values, prepared["data_properties"], nnunet.configuration_manager, nnunet.plans_manager)


def _two_greatest(logits: Logits) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint16]]:
    """Go through the labels one by one, so that only one at a time is held at the CT's resolution."""
    greatest = logits.of(0)
    second = np.full_like(greatest, -inf)
    label_map = np.zeros(greatest.shape, dtype=np.uint16)
    for label in range(1, len(logits.values)):
        values = logits.of(label)
        more = values > greatest
        np.maximum(second, np.where(more, greatest, values), out=second)
        np.copyto(greatest, values, where=more)
        label_map[more] = label
    return greatest, second, label_map
