"""Checks of the models and of the device that they run on."""

from __future__ import annotations

import time

import numpy as np

from contourd.checks.finding import Finding, failed, ok
from contourd.imaging.grid import Grid
from contourd.imaging.volume import AIR_HU, Volume
from contourd.model.bundle import load_bundle
from contourd.model.predictor import Predictor
from contourd.model.runtime import peak_bytes

# A whole-body planning CT of a large patient. Its body is wider and longer than what a model cuts out for the network
# (transforms.PreprocessConfig), so that no other CT costs the network more, apart from a body that is deeper than this.
SLICES, ROWS, COLUMNS = 250, 512, 512
SPACING_MM = (2.0, 1.0, 1.0)
BODY_HALF_AXES_MM = (240.0, 175.0)
TISSUE_HU = 40


def model(name: str) -> Finding:
    """See that a bundle is whole: its hashes fit, and its network takes its weights."""
    bundle = load_bundle(name)
    bundle.network()
    return ok(
        f"{bundle.name} {bundle.version}, sha256 {bundle.sha256[:12]}, {len(bundle.config.model.structures)} organs"
    )


def largest_volume() -> Volume:
    """Make an oval body in air that fills what a network is given."""
    y, x = np.ogrid[:ROWS, :COLUMNS]
    half_x, half_y = BODY_HALF_AXES_MM
    inside = ((x - COLUMNS / 2) / half_x) ** 2 + ((y - ROWS / 2) / half_y) ** 2 <= 1
    hu = np.where(inside, TISSUE_HU, AIR_HU).astype(np.int16)
    shape = (SLICES, ROWS, COLUMNS)
    return Volume(Grid.regular(shape, SPACING_MM), np.ascontiguousarray(np.broadcast_to(hu, shape)))


def device(name: str, wanted: str, time_limit_s: float) -> Finding:
    """Run a model on its device with the largest volume that is expected; a job must have twice the time of that."""
    predictor = Predictor(load_bundle(name), wanted)
    began = time.monotonic()
    predictor.predict(largest_volume())
    took_s = time.monotonic() - began
    peak_gib = peak_bytes(predictor.device) / 2**30
    size = f"{SLICES} slices of {ROWS} x {COLUMNS}"
    told = f"{name} on {predictor.device}: {size} in {took_s:.1f} s, peak memory {peak_gib:.1f} GiB"
    if took_s > time_limit_s / 2:
        return failed(
            f"{told}; over half of worker.time_limit_s ({time_limit_s:g} s)",
            "use a faster device or free this one, or raise worker.time_limit_s",
        )
    return ok(told)
