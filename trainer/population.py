"""Make the reference patient: the median of many registered training CTs, with the mean of their organs.

``python -m trainer.population DATASET --output FILE`` needs SimpleITK (``pip install contourd[reference]``). No single
patient's image is in the result: every voxel is a median over all cases.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import SimpleITK as sitk  # noqa: N813  its own name for itself
import typer
from numpy.typing import NDArray

from contourd.imaging.volume import AIR_HU
from trainer.case import Case, find_cases, read_case

SPACING_MM = 2.5
WINDOW_HU = (-300.0, 700.0)
CASES = 18
ROUNDS = 2
LEVELS = (4, 2)
DEMONS_STEPS = (60, 40)
FIELD_SIGMA_VOXELS = 2.0
LEAST_HU, STEP_HU = -1024, 10


@dataclass(frozen=True, slots=True, eq=False)
class Registered:
    """One case on the template's grid: HU (z, y, x), and organ -> part of each voxel."""

    identifier: str
    hu: NDArray[np.float32]
    organs: dict[str, NDArray[np.float32]]


def fullness(case: Case) -> float:
    """Rate how much of a head and neck a case shows: organs, length, and a head that is not cut off."""
    body = case.volume.hu > WINDOW_HU[0]
    area_cm2 = body.sum(axis=(1, 2)) * case.volume.grid.pixel_spacing_mm[0] * case.volume.grid.pixel_spacing_mm[1] / 100
    slices = np.flatnonzero(area_cm2 > 20)
    if len(slices) < 20:
        return 0.0
    length_mm = len(slices) * case.volume.grid.spacing_mm[0]
    top = slices[-1]
    head = area_cm2[max(0, top - int(120 / case.volume.grid.spacing_mm[0])) : top + 1]
    width_mm = np.median([np.ptp(np.flatnonzero(body[k].any(axis=0))) for k in slices[-30:]])
    width_mm = float(width_mm) * case.volume.grid.pixel_spacing_mm[1]
    closed = 1.0 if area_cm2[top] < 0.6 * head.max() else 0.0
    whole = 1.0 if width_mm > 135 and head.max() > 200 else 0.0
    return len(case.masks) / 7 + min(length_mm, 300) / 300 + closed + 2 * whole


def to_image(array: NDArray[np.generic], case: Case) -> sitk.Image:
    """Wrap a case's array (z, y, x) with its geometry."""
    image = sitk.GetImageFromArray(np.asarray(array, dtype=np.float32))
    dz, dy, dx = case.volume.grid.spacing_mm
    image.SetSpacing((dx, dy, dz))
    image.SetOrigin(tuple(float(v) for v in case.volume.grid.slice_origins_mm[0]))
    return image


def windowed(image: sitk.Image) -> sitk.Image:
    """Clip to the window, 0 to 1: what the registration looks at."""
    return sitk.IntensityWindowing(image, *WINDOW_HU, 0.0, 1.0)


def affine(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """Register by an affine transform, from the centres of mass, coarse to fine."""
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMeanSquares()
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.1, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 120, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([2, 1])
    method.SetInitialTransform(start, inPlace=False)
    return method.Execute(fixed, moving)


def deform(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """Register two images of one grid by symmetric-force demons, coarse to fine."""
    field: sitk.Image | None = None
    for shrink, steps in zip(LEVELS, DEMONS_STEPS, strict=True):
        small, other = (sitk.Shrink(sitk.DiscreteGaussian(i, 0.5 * shrink**2), [shrink] * 3) for i in (fixed, moving))
        demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(steps)
        demons.SetStandardDeviations(FIELD_SIGMA_VOXELS)
        demons.SetSmoothDisplacementField(True)
        if field is None:
            field = demons.Execute(small, other)
        else:
            field = demons.Execute(small, other, sitk.Resample(field, small))
    assert field is not None
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def register(case: Case, template: sitk.Image) -> Registered:
    """Bring a case onto the template's grid, affine then deformable."""
    hu = to_image(case.volume.hu, case)
    fixed, moving = windowed(template), windowed(hu)
    coarse = affine(fixed, moving)
    near = sitk.Resample(moving, fixed, coarse, sitk.sitkLinear, 0.0)
    fine = deform(fixed, near)
    transform = sitk.CompositeTransform([coarse, fine])
    warped = sitk.Resample(hu, template, transform, sitk.sitkLinear, float(AIR_HU))
    organs = {
        name: sitk.GetArrayFromImage(sitk.Resample(to_image(mask, case), template, transform, sitk.sitkLinear, 0.0))
        for name, mask in case.masks.items()
    }
    return Registered(case.identifier, sitk.GetArrayFromImage(warped), organs)


def median_image(cases: Sequence[Registered], template: sitk.Image) -> sitk.Image:
    """Take the median HU of every voxel."""
    image = sitk.GetImageFromArray(np.median(np.stack([c.hu for c in cases]), axis=0).astype(np.float32))
    image.CopyInformation(template)
    return image


def first_template(case: Case) -> sitk.Image:
    """Resample the fullest case to the template's spacing."""
    image = to_image(case.volume.hu, case)
    size = [int(n * s / SPACING_MM) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing([SPACING_MM] * 3)
    grid.SetOrigin(image.GetOrigin())
    return sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, float(AIR_HU))


def sharpened(hu: NDArray[np.float32], amount: float = 0.6) -> NDArray[np.float32]:
    """Undo some of the blur of a median by an unsharp mask."""
    blurred = sitk.GetArrayFromImage(sitk.DiscreteGaussian(sitk.GetImageFromArray(hu), 1.5))
    return np.asarray(np.clip(hu + amount * (hu - blurred), AIR_HU, 1600), dtype=np.float32)


def main(
    dataset: Annotated[Path, typer.Argument(help="Data set; its train/ is used.")],
    output: Annotated[Path, typer.Option(help="The .npz to write.")],
    threads: Annotated[int, typer.Option(help="Of SimpleITK.")] = 1,
) -> None:
    """Make the reference patient out of the fullest training cases."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    cases = sorted((read_case(p) for p in find_cases(dataset / "train")), key=fullness, reverse=True)[:CASES]
    template = first_template(cases[0])
    for _ in range(ROUNDS):
        registered = []
        for case in cases:
            registered.append(register(case, template))
            error = float(
                np.abs(
                    np.clip(registered[-1].hu, *WINDOW_HU) - np.clip(sitk.GetArrayFromImage(template), *WINDOW_HU)
                ).mean()
            )
            print(f"{case.identifier}: mean difference {error:.0f} HU", flush=True)
        template = median_image(registered, template)
    write(registered, template, output)


def write(cases: Sequence[Registered], template: sitk.Image, output: Path) -> None:
    """Store the median CT in steps of 10 HU and each organ's mean in 0 to 255, cropped to the body, with provenance."""
    hu = sharpened(sitk.GetArrayFromImage(template))
    body = hu > WINDOW_HU[0]
    parts = [np.flatnonzero(body.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    box = tuple(slice(max(int(p[0]) - 3, 0), int(p[-1]) + 4) for p in parts)
    names = sorted({name for c in cases for name in c.organs})
    means = {n: np.mean([c.organs[n] for c in cases if n in c.organs], axis=0)[box] for n in names}
    provenance = {
        "made_by": "python -m trainer.population",
        "data": "OpenKBP train split (Babier et al., Med Phys 48, 2021; MIT licence)",
        "method": "affine, then symmetric-force demons, to a template that is the median of the round before; "
        "median HU and mean organ masks of all cases; unsharp mask",
        "cases": [c.identifier for c in cases],
        "annotated": {n: sum(n in c.organs for c in cases) for n in names},
        "rounds": ROUNDS,
        "spacing_mm": SPACING_MM,
        "simpleitk": sitk.Version_VersionString(),
    }
    np.savez_compressed(
        output,
        hu=np.rint((hu[box] - LEAST_HU) / STEP_HU).clip(0, 255).astype(np.uint8),
        names=np.array(names),
        organs=np.stack([np.rint(means[n] * 255).clip(0, 255).astype(np.uint8) for n in names]),
        spacing_mm=np.array([SPACING_MM] * 3),
        provenance=np.array(json.dumps(provenance)),
    )
    print(f"{output}: {hu[box].shape} voxels, {output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    typer.run(main)
