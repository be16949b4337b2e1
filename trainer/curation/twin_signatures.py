"""A small picture of a CT's bones by which the same scan is known again, however it was cropped, resampled or placed.

Phase correlation (Kuglin and Hines, Proc IEEE Cybern Soc, 1975) of maps in which every spatial frequency weighs the
same: the same bones give a peak where one map has to be shifted to, other bones none. Its peaks are judged by the
correlation where both maps hold something (Padfield, IEEE Trans Image Process 21, 2012), so that a crop costs little.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from contourd.imaging.resample import resample
from contourd.imaging.volume import Volume
from contourd.model.transforms import grid_axes_mm
from trainer.atomic import replacing

FloatArray = NDArray[np.float64]
Map = NDArray[np.float32]
Shift = tuple[int, int, int]
# Bones are sampled at SPACING_MM in a cube of SAMPLES, and kept in one of SIDE over the same 384 mm.
SPACING_MM = 6.0
SAMPLES = 64
SIDE = 48
STEP_MM = SPACING_MM * SAMPLES / SIDE
LOWEST_BONE_HU, HIGHEST_BONE_HU = 100.0, 700.0
# In cycles per SPACING_MM: below the first all heads are alike, above the second scanners differ.
LOWEST_FREQUENCY, HIGHEST_FREQUENCY = 0.05, 0.33
LEAST_BONE_CM3 = 10.0
PEAKS = 6
LEAST_OVERLAP = (9, 5, 5)
LEAST_ENERGY = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """The bones of one CT.

    Attributes
    ----------
    bones
        float32 (SIDE, SIDE, SIDE) towards head, back and left, STEP_MM apart, of equal spectral magnitude; periodic.
    spectrum
        complex64, its Fourier transform over the half space.
    box
        First and end index along each axis between which there is bone.
    origin_mm
        Of the map, from the CT's first voxel along its canonical axes.
    """

    bones: Map
    spectrum: NDArray[np.complex64]
    box: NDArray[np.int64]
    origin_mm: FloatArray


@dataclass(frozen=True, slots=True)
class Match:
    """How well the bones of two CTs lie on each other at best.

    Attributes
    ----------
    likeness
        Correlation of both maps where they overlap, -1 to 1.
    offset_mm
        Position in the first CT less that in the second, along the canonical axes (z, y, x).
    """

    likeness: float
    offset_mm: tuple[float, float, float]


def on_lattice(volume: Volume, step_mm: float) -> Map:
    """Sample a CT at equal steps along its canonical axes, from its first voxel; HU (z, y, x)."""
    canonical, turn = volume.grid.canonical()
    source = grid_axes_mm(canonical)
    z, y, x = (np.arange(int((axis[-1] - axis[0]) // step_mm) + 1) * step_mm + axis[0] for axis in source)
    return resample(turn.apply(volume.hu), source, (z, y, x))


def make_signature(volume: Volume) -> Signature | None:
    """Make the signature of a CT, of its uppermost 384 mm; None where there are hardly any bones."""
    hu = on_lattice(volume, SPACING_MM)
    bone = (np.clip(hu, LOWEST_BONE_HU, HIGHEST_BONE_HU) - LOWEST_BONE_HU) / (HIGHEST_BONE_HU - LOWEST_BONE_HU)
    below = max(len(bone) - SAMPLES, 0)
    bone = bone[below:]
    if np.count_nonzero(bone) * SPACING_MM**3 < LEAST_BONE_CM3 * 1000:
        return None
    middle = [_middle(bone.sum(axis=tuple({0, 1, 2} - {axis}))) for axis in (1, 2)]
    first = np.array([len(bone) - SAMPLES, *(m - SAMPLES // 2 for m in middle)])  # of the cube, in the lattice
    low, high = np.maximum(first, 0), np.minimum(first + SAMPLES, bone.shape)
    cube = np.zeros((SAMPLES,) * 3, dtype=np.float32)
    cube[_box(low - first, high - first)] = bone[_box(low, high)]
    inside = [np.flatnonzero(cube.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    ends = np.array([(i[0], i[-1] + 1) for i in inside]) * SIDE / SAMPLES
    box = np.stack([np.floor(ends[:, 0]), np.ceil(ends[:, 1])], axis=1).astype(np.int64)
    origin_mm = (first + np.array([below, 0, 0])) * SPACING_MM
    return _signature(_whitened(cube), box, origin_mm)


def _middle(profile: Map) -> int:
    return int(np.rint((profile * np.arange(len(profile))).sum() / profile.sum()))


def _box(low: NDArray[np.int64], high: NDArray[np.int64]) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _whitened(cube: Map) -> Map:
    """Give every spatial frequency of the band the same magnitude, on the coarser cube that holds the band."""
    kept = np.r_[0 : SIDE // 2, SAMPLES - SIDE // 2 : SAMPLES]
    spectrum = fft.rfftn(cube)[np.ix_(kept, kept, np.arange(SIDE // 2 + 1))]
    full, half = np.fft.fftfreq(SAMPLES)[kept], np.fft.rfftfreq(SAMPLES)[: SIDE // 2 + 1]
    radius = np.sqrt(full[:, None, None] ** 2 + full[:, None] ** 2 + half**2)
    band = (radius > LOWEST_FREQUENCY) & (radius < HIGHEST_FREQUENCY)
    flat = np.where(band, spectrum / np.maximum(np.abs(spectrum), 1e-6), 0)
    bones = fft.irfftn(flat, s=(SIDE,) * 3)
    return np.asarray(bones / np.sqrt((bones**2).sum()), dtype=np.float32)


def _signature(bones: Map, box: NDArray[np.int64], origin_mm: FloatArray) -> Signature:
    return Signature(bones, fft.rfftn(bones), box, origin_mm)


def write_signature(signature: Signature | None, path: Path) -> None:
    """Keep a signature, or that there is none."""
    content: dict[str, NDArray[np.generic]] = {"there": np.array(signature is not None)}
    if signature is not None:
        content |= {"bones": signature.bones, "box": signature.box, "origin_mm": signature.origin_mm}
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **content)


def read_signature(path: Path) -> Signature | None:
    """Read what write_signature kept.

    Raises
    ------
    OSError
        It is not there, or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            if not content["there"]:
                return None
            return _signature(content["bones"], content["box"], content["origin_mm"])
    except (BadZipFile, KeyError, ValueError, EOFError) as error:
        raise OSError(f"{path} is damaged: {error}") from error


def match(a: Signature, b: Signature) -> Match | None:
    """Lay the bones of two CTs on each other by shifts alone; None where they never overlap enough."""
    peaks = fft.irfftn(a.spectrum * np.conj(b.spectrum), s=(SIDE,) * 3, overwrite_x=True)
    best: tuple[float, Shift] | None = None
    for _ in range(PEAKS):
        at = np.unravel_index(int(peaks.argmax()), peaks.shape)
        for shift in _shifts(at):
            likeness = _likeness(a, b, shift)
            if likeness is not None and (best is None or likeness > best[0]):
                best = likeness, shift
        peaks[np.ix_(*((np.arange(i - 1, i + 2)) % SIDE for i in at))] = -1
    if best is None:
        return None
    z, y, x = (float(v) for v in np.array(best[1]) * STEP_MM + a.origin_mm - b.origin_mm)
    return Match(best[0], (z, y, x))


def _shifts(at: tuple[np.intp, ...]) -> Iterator[Shift]:
    """Read a place in a periodic map as shifts: the shorter one along y and x, either one along z."""
    z, y, x = (int(i) if i < SIDE // 2 else int(i) - SIDE for i in at)
    yield z, y, x
    yield z - SIDE if z > 0 else z + SIDE, y, x


def _likeness(a: Signature, b: Signature, shift: Shift) -> float | None:
    step = np.array(shift)
    low, high = np.maximum(a.box[:, 0], b.box[:, 0] + step), np.minimum(a.box[:, 1], b.box[:, 1] + step)
    if (high - low < LEAST_OVERLAP).any():
        return None
    one, other = a.bones[_box(low, high)], b.bones[_box(low - step, high - step)]
    energies = float((one * one).sum()), float((other * other).sum())
    if min(energies) < LEAST_ENERGY:
        return None
    return float((one * other).sum()) / float(np.sqrt(energies[0] * energies[1]))
