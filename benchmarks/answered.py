"""What the last slice's benchmark is about: a series, a network's answers to it, and the masks that come of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from contourd.acceptance.reference_patient import IDENTITY, reference_volume
from contourd.dicom.ct_write import write_ct_series
from contourd.imaging.grid import Grid
from contourd.imaging.resample import resample
from contourd.imaging.volume import Volume
from contourd.model.bundle import load_bundle
from contourd.model.kinds import predictor_for
from contourd.model.predictor import RunOptions
from contourd.model.runtime import Runtime
from contourd.model.runtime_description import RuntimeDescription
from contourd.model.torch_runtime import TorchRuntime
from contourd.model.transforms import grid_axes_mm

MODEL = "hn7"
Answers = list[NDArray[np.float32]]


class LookedUp:
    """A runtime that looks up what another answered to the same images, in their order."""

    description = RuntimeDescription("torch", "", "fp32", "cpu", "", words="looked up")

    def __init__(self, answers: Answers) -> None:
        self._answers, self._asked = answers, 0

    def probabilities(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the next answer."""
        answer = self._answers[self._asked % len(self._answers)]
        assert answer.shape[1:] == image.shape
        self._asked += 1
        return answer.copy()  # the caller writes into it


class Noted:
    """A runtime that notes what another answers."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self.description = runtime, runtime.description
        self.answers: Answers = []

    def probabilities(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Ask, and note."""
        answer = self._runtime.probabilities(image)
        self.answers.append(answer.copy())
        return answer


def series_volume(slices: int) -> Volume:
    """Resample the reference patient along its slices."""
    volume = reference_volume()
    source = grid_axes_mm(volume.grid)
    z = np.linspace(0.0, source[0][-1], slices)
    hu = resample(volume.hu, source, (z, source[1], source[2]))
    spacing = (float(z[1]), *volume.grid.pixel_spacing_mm)
    grid = Grid.regular((slices, *volume.grid.shape[1:]), spacing, volume.grid.slice_origins_mm[0])
    return Volume(grid, np.rint(hu).astype(np.int16))


def prepare(folder: Path, slices: int) -> None:
    """Write the series, the network's answers to it, and the masks for the peer."""
    volume = series_volume(slices)
    write_ct_series(volume, folder / "ct", IDENTITY)
    bundle = load_bundle(MODEL)
    noted = Noted(TorchRuntime(bundle.network(), torch.device("cpu")))
    prediction = predictor_for(
        bundle, options=RunOptions(torch.device("cpu"), choose_runtime=lambda *_: noted)
    ).predict(volume)
    np.savez(folder / "answers.npz", *noted.answers)
    np.savez(folder / "masks.npz", **{n: prediction.mask(n).on(volume.grid.shape) for n in prediction.structures})
    print(f"series of {volume.grid.shape}, {len(noted.answers)} images of {noted.answers[0].shape[1:]}", flush=True)


def prepared(folder: Path) -> tuple[Answers, dict[str, NDArray[np.bool_]]]:
    """Load what was prepared."""
    with np.load(folder / "answers.npz") as arrays:
        answers = [arrays[name] for name in arrays.files]
    with np.load(folder / "masks.npz") as arrays:
        return answers, {name: arrays[name] for name in arrays.files}
