"""Draw the bodies and boxes that are found over couches of every kind, as contact sheets.

    python -m tests.bodies FOLDER [--patient CASE.npz] [--pixel MM]

Without ``--patient`` it is the reference patient. Each row is an object of tests/couches.py: planes through the head,
the neck and the shoulders, then from the side and from the front. Red is the body, green the box that the network sees.
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contourd.acceptance.reference_patient import COUCH_GAP_MM, reference_volume
from contourd.imaging.grid import Grid
from contourd.imaging.resample import resample
from contourd.imaging.volume import AIR_HU, Volume
from contourd.model.body import find_patient
from contourd.model.bundle import load_bundle
from contourd.model.transforms import Preprocess, grid_axes_mm
from tests.couches import OBJECTS, with_object
from trainer.case import read_case

mpl.use("Agg")
from matplotlib import pyplot as plt

ROWS = 5
LEVELS_MM = (60, 190, 280)


def clean_reference() -> Volume:
    """Return the reference patient at clinical resolution without its couch."""
    volume = reference_volume()
    rows = np.flatnonzero((volume.hu > 250).any(axis=(0, 2)))  # bone: the couch has none
    hu = volume.hu.copy()
    body = np.flatnonzero((hu[:, : rows[-1] + 60] > -300).mean(axis=(0, 2)) > 1e-4)
    couch = body[np.flatnonzero(np.diff(body) > 2)]
    back = int(couch[-1]) if len(couch) else int(body[-1])
    hu[:, back + round(COUCH_GAP_MM / 2 / volume.grid.pixel_spacing_mm[0]) :] = AIR_HU
    return Volume(volume.grid, hu)


def at_resolution(volume: Volume, pixel_mm: float, slice_mm: float, pixels: int = 511) -> Volume:
    """Resample a canonical volume to a finer field of view around its middle; beyond its edge is air."""
    z, y, x = grid_axes_mm(volume.grid)
    side = np.arange(pixels) * pixel_mm
    own_y, own_x = (side + (a[-1] - side[-1]) / 2 for a in (y, x))
    levels = np.arange(z[0], z[-1] + 0.1, slice_mm)
    hu = resample(volume.hu, (z, y, x), (levels, own_y, own_x))
    hu[:, (own_y < y[0]) | (own_y > y[-1])] = AIR_HU
    hu[:, :, (own_x < x[0]) | (own_x > x[-1])] = AIR_HU
    origin = volume.grid.slice_origins_mm[0] + (own_x[0], own_y[0], 0)
    return Volume(
        Grid.regular(hu.shape, (slice_mm, pixel_mm, pixel_mm), origin), np.rint(hu).clip(-1024, 3071).astype(np.int16)
    )


def _edges(axis: NDArray[np.float64], part: NDArray[np.float64]) -> tuple[float, float]:
    step = float(axis[1] - axis[0]) if len(axis) > 1 else 1.0
    return float(part[0] / step), float(part[-1] / step)


def draw(rows: list[tuple[str, Volume]], path: Path, preprocess: Preprocess) -> None:
    """Draw one contact sheet."""
    figure, axes = plt.subplots(len(rows), 5, figsize=(15, 3.1 * len(rows)), squeeze=False)
    for line, (name, volume) in zip(axes, rows, strict=True):
        patient = find_patient(volume.hu, volume.grid)
        (on,) = preprocess.lattices(volume, (False,))
        mm = grid_axes_mm(volume.grid)
        top = float(on.axes_mm[0][-1])
        planes = [(0, top - down) for down in LEVELS_MM]
        planes += [(2, float(on.axes_mm[2].mean())), (1, float(on.axes_mm[1].mean()))]
        for panel, (axis, at) in zip(line, planes, strict=True):
            k, own = int(np.abs(mm[axis] - at).argmin()), int(np.abs(patient.axes_mm[axis] - at).argmin())
            up, across = (a for a in range(3) if a != axis)
            extent = [mm[across][0], mm[across][-1], mm[up][-1], mm[up][0]]
            picture, body = volume.hu.take(k, axis), patient.body.take(own, axis)
            panel.imshow(picture, cmap="gray", vmin=-1000, vmax=300, extent=extent, interpolation="antialiased")
            panel.contour(patient.axes_mm[across], patient.axes_mm[up], body, [0.5], colors="red", linewidths=0.9)
            box = [(float(a[0]), float(a[-1])) for a in (on.axes_mm[across], on.axes_mm[up])]
            corners = [(box[0][i], box[1][j]) for i, j in ((0, 0), (0, 1), (1, 1), (1, 0), (0, 0))]
            panel.plot(*zip(*corners, strict=True), color="lime", linewidth=1)
            if axis:
                panel.invert_yaxis()
            panel.set_axis_off()
        line[0].set_title(name, loc="left", fontsize=10)
    figure.tight_layout(pad=0.3)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=55)
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(64).save(path, optimize=True)


def main() -> None:
    """Draw all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--patient", type=Path)
    parser.add_argument("--pixel", type=float, help="resample to this pixel size in mm, slices of 3 mm")
    parser.add_argument("--only", nargs="*", help="these objects")
    arguments = parser.parse_args()
    clean = read_case(arguments.patient).volume if arguments.patient else clean_reference()
    if arguments.pixel:
        clean = at_resolution(clean, arguments.pixel, 3.0)
    preprocess = Preprocess(load_bundle("hn7").config.preprocess)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    stem = arguments.patient.stem if arguments.patient else "reference"
    scenes = [("no couch", None), *((name, name) for name in OBJECTS)]
    if arguments.only:
        scenes = [s for s in scenes if s[0] in arguments.only]
    for first in range(0, len(scenes), ROWS):
        rows = [(title, with_object(clean, name) if name else clean) for title, name in scenes[first : first + ROWS]]
        draw(rows, arguments.folder / f"{stem}_{first // ROWS + 1}.png", preprocess)


if __name__ == "__main__":
    main()
