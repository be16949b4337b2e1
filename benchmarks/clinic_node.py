"""``contourd`` with a network that sleeps: ``python benchmarks/clinic_node.py serve --config FILE``.

All else is the node's own: reception, queue, reading of the images, the network's lattice, contours of seven organs,
the structure set and its read-back, delivery. The organs are balls; the bundle knows no distribution of sizes and
places, so nothing holds them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contourd.node import worker_supervisor
from contourd.settings import Settings

# Seconds of the network per series, in this process' environment and its worker's.
NETWORK_S = "CONTOURD_BENCHMARK_NETWORK_S"
ORGANS = ("Brainstem", "SpinalCord", "Parotid_L", "Parotid_R", "Bone_Mandible", "Larynx", "Esophagus")
BALL_MM, EDGE_MM = 14.0, 4.0


def make_bundle(folder: Path) -> Path:
    """Make a bundle with the organs of hn7 and a network that is never asked."""
    from contourd.model.anatomynet import AnatomyNet, AnatomyNetConfig
    from contourd.model.bundle import save_bundle

    config = AnatomyNetConfig(structures=ORGANS, channels=(4, 4, 4, 4))
    fields = {"name": "asleep", "version": "1", "model": config.model_dump(mode="json"), "preprocess": {}}
    return save_bundle(folder, fields, AnatomyNet(config)).folder


def balls(shape: Sequence[int], spacing_mm: Sequence[float]) -> NDArray[np.float32]:
    """Make probabilities (organs, d, h, w): a ball each, in a ring around the middle."""
    z, y, x = np.ogrid[tuple(slice(0, n) for n in shape)]
    found = []
    for i in range(len(ORGANS)):
        turn = 2 * np.pi * i / len(ORGANS)
        middle = (shape[0] / 2, shape[1] * (0.5 + 0.25 * np.sin(turn)), shape[2] * (0.5 + 0.25 * np.cos(turn)))
        squares = (((axis - at) * mm) ** 2 for axis, at, mm in zip((z, y, x), middle, spacing_mm, strict=True))
        found.append(np.clip(0.5 + (BALL_MM - np.sqrt(sum(squares))) / EDGE_MM, 0, 1))
    return np.stack(found).astype(np.float32)


def run_worker(settings: Settings, name: str, parent: Connection) -> None:
    """Run a worker whose predictor sleeps."""
    from contourd.contour.contouring import ContouringOptions, ContouringResult, contour_series
    from contourd.dicom.reading.series import Instance
    from contourd.imaging.volume import Volume
    from contourd.model.lattice_predictor import LatticePrediction, LatticePredictor, OnLattice
    from contourd.model.predictor import Prediction, Predictor, Progress
    from contourd.node import worker

    seconds = float(os.environ[NETWORK_S])

    class Asleep:
        """A predictor as contouring sees it."""

        def __init__(self, predictor: LatticePredictor) -> None:
            self.bundle, self._preprocess = predictor.bundle, predictor.preprocess

        def predict(self, volume: Volume, progress: Progress | None = None) -> Prediction:  # noqa: ARG002
            prepared = self._preprocess.prepare(volume)
            time.sleep(seconds)
            probabilities = balls(prepared.image.shape, self._preprocess.config.spacing_mm)
            return LatticePrediction((OnLattice(probabilities, prepared),), ORGANS, self._preprocess)

    def contour(instances: list[Instance], predictor: Predictor, order: ContouringOptions) -> ContouringResult:
        assert isinstance(predictor, LatticePredictor)
        return contour_series(instances, Asleep(predictor), order)  # type: ignore[arg-type]

    worker.main(settings, name, parent, contour)


if __name__ == "__main__":
    worker_supervisor.run_worker = run_worker
    from contourd.cli import main

    main()
