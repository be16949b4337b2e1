"""contourd's augmentation beside the same one by MONAI, on one sample and one device: median times and their ratio.

MONAI is installed for this alone: ``pip install monai==1.6.1``. Both get the same tensors and do the same: one affine
and elastic resampling of image and organs, a mirror image with the paired organs exchanged, contrast, brightness,
blur, noise. MONAI's part is written as its users write it, by dictionary transforms. ::

    python benchmarks/augment.py [CASE.npz] [--device cuda]
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contourd.model.structures import catalogue_pairs, mirrored_order
from contourd.model.transforms import Preprocess
from trainer.case import read_case
from trainer.training.augment import Augment
from trainer.training.config import AugmentConfig, find_recipe, load_recipe
from trainer.training.dataset import FULL, make_sample

ROUNDS = 15
Pipeline = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def ours(config: AugmentConfig, spacing_mm: tuple[float, float, float], mirrored: tuple[int, ...]) -> Pipeline:
    """Return what trainer.training.fit uses."""
    augment, rng = Augment(config, spacing_mm, mirrored), np.random.default_rng(0)

    def pipeline(image: Tensor, organs: Tensor) -> tuple[Tensor, Tensor]:
        return augment(image, organs, rng)

    return pipeline


def monais(
    config: AugmentConfig, spacing_mm: tuple[float, float, float], mirrored: tuple[int, ...], device: str
) -> Pipeline:
    """Return the same by MONAI."""
    from monai import transforms

    radians, scale = np.deg2rad(config.rotation_deg), config.scale
    resample = transforms.Rand3DElasticd(
        ["image", "organs"],
        sigma_range=(5, 7),
        magnitude_range=(0, 100),
        prob=1,
        rotate_range=(radians,) * 3,
        translate_range=[config.shift_mm / s for s in spacing_mm],
        scale_range=(scale,) * 3,
        mode="bilinear",
        padding_mode="zeros",
        device=torch.device(device),
    )
    intensity = transforms.Compose(
        [
            transforms.RandScaleIntensityd("image", factors=config.contrast, prob=1),
            transforms.RandShiftIntensityd("image", offsets=config.brightness, prob=1),
            transforms.RandGaussianSmoothd("image", *(((0.2, config.blur),) * 3), prob=0.3),
            transforms.RandGaussianNoised("image", std=config.noise, prob=0.5),
        ]
    )
    resample.set_random_state(0)
    intensity.set_random_state(0)
    rng = np.random.default_rng(0)

    def pipeline(image: Tensor, organs: Tensor) -> tuple[Tensor, Tensor]:
        sample = resample({"image": image[None] + 1, "organs": organs})
        sample = intensity({"image": sample["image"] - 1, "organs": sample["organs"]})
        image, organs = sample["image"][0].as_tensor(), sample["organs"].as_tensor()
        if rng.random() < config.mirror:
            image, organs = image.flip(-1), organs.flip(-1)[list(mirrored)]
        return image.clamp(-1, 1), organs

    return pipeline


def seconds(pipeline: Pipeline, image: Tensor, organs: Tensor) -> float:
    """Time one sample."""
    began = time.perf_counter()
    pipeline(image, organs)
    if image.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Run both in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", type=Path, nargs="?", help="a training case; without it noise of a usual size")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--recipe", default="hn7")
    arguments = parser.parse_args()
    if importlib.util.find_spec("monai") is None:
        print("MONAI is not installed: pip install monai==1.6.1")
        return
    recipe = load_recipe(find_recipe(arguments.recipe))
    structures, spacing_mm = recipe.model.structures, recipe.preprocess.spacing_mm
    if arguments.case is None:
        shape = tuple(round(mm / s) for mm, s in zip((260, 240, 240), spacing_mm, strict=True))
        image, organs = torch.rand(shape) * 2 - 1, torch.rand(len(structures), *shape)
    else:
        sample = make_sample(read_case(arguments.case), structures, Preprocess(recipe.preprocess))
        image, organs = torch.from_numpy(sample.image).float(), torch.from_numpy(sample.organs).float() / FULL
    image, organs = image.to(arguments.device), organs.to(arguments.device)
    mirrored = mirrored_order(structures, catalogue_pairs(structures))
    uncut = recipe.augment.model_copy(update={"cut": 0.0})  # MONAI has no counterpart, and a shorter sample is quicker
    pipelines = {
        "contourd": ours(uncut, spacing_mm, mirrored),
        "MONAI": monais(uncut, spacing_mm, mirrored, arguments.device),
    }
    times: dict[str, list[float]] = {name: [] for name in pipelines}
    for number in range(ROUNDS + 1):
        for name, pipeline in pipelines.items():
            took = seconds(pipeline, image, organs)
            if number:  # the first warms up
                times[name].append(took)
    print(f"{tuple(image.shape)} voxels, {len(organs)} organs, {arguments.device}, {torch.get_num_threads()} threads")
    for name, found in times.items():
        print(f"{name:10} {1000 * np.median(found):8.0f} ms   {1000 * min(found):8.0f} ms at best")
    print(f"MONAI / contourd: {np.median(times['MONAI']) / np.median(times['contourd']):.1f}")


if __name__ == "__main__":
    main()
