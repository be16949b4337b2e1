"""Case -> Sample through the model's own transforms, kept compact in memory, on disk, and on the device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor

from contourd.errors import DatasetError, SeriesUnusable
from contourd.imaging.contours import MaskInBox
from contourd.imaging.resample import resample
from contourd.model.plausibility import OrganGeometry, OrganSpread, distribution_of, organ
from contourd.model.structures import Pairs
from contourd.model.transforms import Preprocess, grid_axes_mm
from trainer.atomic import replacing
from trainer.case import Annotation, Case, find_cases, read_case
from trainer.progress import tracked

FULL = 255
DEVICE_SHARE = 0.5
ORGANS = TypeAdapter(list[OrganGeometry])


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One case on the network's lattice.

    Attributes
    ----------
    image
        float16 (d, h, w), -1 to 1.
    organs
        uint8 (organs, d, h, w): the part of each voxel that the organ fills, 0 to 255. Zero for UNKNOWN and ABSENT.
    annotated
        bool (organs,): PRESENT or ABSENT.
    """

    identifier: str
    image: NDArray[np.float16]
    organs: NDArray[np.uint8]
    annotated: NDArray[np.bool_]


def make_sample(case: Case, structures: Sequence[str], preprocess: Preprocess) -> Sample:
    """Bring a case onto the network's lattice.

    Raises
    ------
    SeriesUnusable
        No patient is in the volume.
    """
    prepared = preprocess.prepare(case.volume)
    source = grid_axes_mm(prepared.canonical)
    organs = np.zeros((len(structures), *prepared.image.shape), dtype=np.uint8)
    for i, name in enumerate(structures):
        if case.annotation(name) is Annotation.PRESENT:
            part = resample(prepared.turn.apply(case.masks[name]), source, prepared.axes_mm)
            organs[i] = np.rint(part * FULL)
    annotated = np.array([case.annotation(name) is not Annotation.UNKNOWN for name in structures])
    return Sample(case.identifier, prepared.image.astype(np.float16), organs, annotated)


def measure_organs(case: Case) -> list[OrganGeometry]:
    """Measure volume, centroid and cut of each PRESENT organ, on the CT's own grid."""
    grid = case.volume.grid
    whole = (slice(0, grid.shape[0]), slice(0, grid.shape[1]), slice(0, grid.shape[2]))
    measured = (organ(name, MaskInBox(whole, mask), grid) for name, mask in case.masks.items())
    return [o for o in measured if o is not None]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The samples of a split in the order of its cases.

    Attributes
    ----------
    refused
        Case -> why it cannot be brought onto the network's lattice; such a case is left out.
    distribution
        Organ -> its size and place, for the model's plausibility check.
    """

    samples: tuple[Sample, ...]
    refused: Mapping[str, str]
    distribution: Mapping[str, OrganSpread]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which organs are annotated: bool (samples, organs)."""
        return np.stack([sample.annotated for sample in self.samples])


def load_split(
    folder: Path, structures: Sequence[str], preprocess: Preprocess, cache: Path, pairs: Pairs | None = None
) -> Split:
    """Make the samples of a split once, and keep them in ``cache``; a file that changed is made again.

    Parameters
    ----------
    pairs
        (left, right) organs, whose volumes are compared; None: those that the catalogue knows.

    Raises
    ------
    DatasetError
        A case cannot be read, or none can be used.
    """
    fixed = json.dumps([preprocess.config.model_dump(mode="json"), list(structures)])
    cache = cache / hashlib.sha256(fixed.encode()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    samples = []
    refused = {}
    organs = []
    paths = find_cases(folder)
    for path in tracked(paths, len(paths), f"prepare {folder.name}"):
        kept = _kept(path, cache)
        if kept is None:
            kept = _make(path, structures, preprocess, cache)
        if isinstance(kept, str):
            refused[path.stem] = kept
        else:
            samples.append(kept[0])
            organs.append(kept[1])
    if not samples:
        raise DatasetError(
            f"{folder}: none of {len(refused)} cases can be used; the first: {next(iter(refused.items()))}"
        )
    return Split(tuple(samples), refused, distribution_of(organs, pairs))


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _kept(path: Path, cache: Path) -> tuple[Sample, list[OrganGeometry]] | str | None:
    """Return what the cache holds of a case: the sample and its organs, why it was refused, or None."""
    try:
        with np.load(cache / f"{path.stem}.npz") as arrays:
            if str(arrays["stamp"]) != _stamp(path):
                return None
            if "refused" in arrays:
                return str(arrays["refused"])
            sample = Sample(path.stem, arrays["image"], arrays["organs"], arrays["annotated"])
            return sample, ORGANS.validate_json(str(arrays["measured"]))
    except (OSError, KeyError, ValueError):
        return None


def _make(
    path: Path, structures: Sequence[str], preprocess: Preprocess, cache: Path
) -> tuple[Sample, list[OrganGeometry]] | str:
    case = read_case(path)
    measured = measure_organs(case)
    content: dict[str, NDArray[np.generic]] = {"stamp": np.array(_stamp(path))}
    made: tuple[Sample, list[OrganGeometry]] | str
    try:
        sample = make_sample(case, structures, preprocess)
    except SeriesUnusable as error:
        made = str(error)
        content["refused"] = np.array(made)
    else:
        made = sample, measured
        content |= {"image": sample.image, "organs": sample.organs, "annotated": sample.annotated}
        content["measured"] = np.array(ORGANS.dump_json(measured).decode())
    with replacing(cache / f"{path.stem}.npz") as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **content)
    return made


@dataclass(frozen=True, slots=True, eq=False)
class StoredSamples:
    """A sample as tensors of its own compact types, on the device where they all fit, else on the CPU.

    Attributes
    ----------
    image
        float16 (d, h, w).
    organs
        uint8 (organs, d, h, w).
    """

    image: Tensor
    organs: Tensor
    annotated: tuple[bool, ...]


def store(samples: Sequence[Sample], device: torch.device) -> list[StoredSamples]:
    """Keep all samples on a CUDA device if DEVICE_SHARE of its free memory holds them, else on the CPU, pinned."""
    tensors = [(torch.from_numpy(s.image), torch.from_numpy(s.organs), tuple(map(bool, s.annotated))) for s in samples]
    if device.type == "cuda":
        size = sum(image.nbytes + organs.nbytes for image, organs, _ in tensors)
        if size <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
            return [StoredSamples(image.to(device), organs.to(device), known) for image, organs, known in tensors]
        return [StoredSamples(image.pin_memory(), organs.pin_memory(), known) for image, organs, known in tensors]
    return [StoredSamples(image, organs, known) for image, organs, known in tensors]
