"""Training from the recipe beside the same network, loss and optimiser fed by a plain MONAI pipeline.

    python benchmarks/training.py [--recipe hn7] [--cases 6] [--steps 40] [--slices 48] [--device auto]

Seconds a sample, and the share of them that the device waits for data. Both take the trainer's own step on the same
cases, made of the reference patient with noise; only where a sample comes from differs. contourd makes each case once,
keeps it compact in memory or on the device, and augments it there. MONAI loads it each time, brings it to the lattice's
voxels, and bends it, in a DataLoader with two workers, as its tutorials do; its files are uncompressed. On a CPU the
workers and the network share the cores. MONAI is installed for this alone, with the extra ``bench``.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import Figure, tell
from torch import Tensor

from contourd.acceptance.reference_patient import load_reference
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.runtime import choose_device
from contourd.model.transforms import Preprocess
from trainer.case import Annotation, Case, write_case
from trainer.training.config import TrainConfig, find_recipe, load_recipe
from trainer.training.dataset import load_split, store
from trainer.training.fit import TrainingTask, to_target, train_step
from trainer.training.losses import class_weights
from trainer.training.parallel import Ranks
from trainer.training.state import TrainingState, set_up

WORKERS, PREFETCHED = 2, 4
# What the workers had ready when the first step began does not count, nor what the first steps compile.
WARM_UP = PREFETCHED + 1
# Both pipelines get no more than contourd's lattice holds, so that the network works on as many voxels.
HALF_WIDTH_MM, BODY_HU, NOISE_HU = 120.0, -300, 15.0


@dataclass(frozen=True, slots=True, eq=False)
class MonaiTask(TrainingTask):
    """A task whose samples come out of a DataLoader."""

    batches: Iterator[dict[str, Tensor]] = field(default_factory=lambda: iter(()))

    def sample(self, number: int) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        """Take the next one."""
        batch, device = next(self.batches), self.ranks.device
        image, labels = (torch.as_tensor(batch[key]).to(device, non_blocking=True) for key in ("image", "label"))
        classes = len(self.config.model.structures) + 1
        organs = torch.nn.functional.one_hot(labels[0, 0].long(), classes).movedim(-1, 0)[1:].float()
        target, annotated = to_target(organs, [True] * len(organs))
        return image.contiguous(memory_format=torch.channels_last_3d), target, annotated.to(device)


def make_cases(folder: Path, number: int, slices: int, structures: Sequence[str]) -> tuple[float, float, float]:
    """Write so many cases twice: as contourd's and as two arrays for MONAI; returns the voxels' mm (z, y, x)."""
    reference = load_reference()
    grid = reference.volume.grid
    spacing = (float(grid.slice_positions_mm[1] - grid.slice_positions_mm[0]), *grid.pixel_spacing_mm)
    above = grid.shape[0] // 2
    slab = slice(above - slices // 2, above + slices // 2)
    body = reference.volume.hu[slab] > BODY_HU
    around = [np.flatnonzero(body.any(axis=axes)) for axes in ((0, 2), (0, 1))]
    half = round(HALF_WIDTH_MM / spacing[2])
    middle = int(around[1].mean())
    columns = slice(max(middle - half, around[1][0]), min(middle + half, around[1][-1]) + 1)
    box = (slab, slice(around[0][0], around[0][-1] + 1), columns)
    hu = reference.volume.hu[box].astype(np.float32)
    masks = {name: reference.organs[name][box] >= 0.5 for name in structures}
    labels = np.zeros(hu.shape, dtype=np.uint8)
    for i, name in enumerate(structures, 1):
        labels[masks[name]] = i
    said = dict.fromkeys(structures, Annotation.PRESENT)
    for i in range(number):
        noisy = (hu + np.random.default_rng(i).normal(0, NOISE_HU, hu.shape)).clip(-1000, 3000).astype(np.int16)
        volume = Volume(Grid.regular(hu.shape, spacing, (0.0, 0.0, 0.0)), noisy)
        write_case(Case(f"case{i}", volume, masks, said), folder / f"case{i}.npz")
        np.save(folder / f"image{i}.npy", noisy)
        np.save(folder / f"label{i}.npy", labels)
    return spacing


def monai_batches(folder: Path, number: int, mm: Sequence[float], config: TrainConfig) -> Iterator[dict[str, Tensor]]:
    """Yield MONAI's batches, epoch after epoch."""
    from monai import transforms
    from monai.data import DataLoader, Dataset

    keys, augment, spacing = ["image", "label"], config.augment, config.preprocess.spacing_mm
    low, high = config.preprocess.window_hu
    radians = float(np.deg2rad(augment.rotation_deg))
    pipeline = transforms.Compose(
        [
            transforms.LoadImaged(keys, reader="NumpyReader"),
            transforms.EnsureChannelFirstd(keys, channel_dim="no_channel"),
            # The arrays bear no affine: a voxel of theirs is 1 long.
            transforms.Spacingd(
                keys, [to / of for to, of in zip(spacing, mm, strict=True)], mode=("bilinear", "nearest")
            ),
            transforms.ScaleIntensityRanged("image", low, high, -1, 1, clip=True),
            transforms.RandAffined(
                keys,
                prob=1,
                rotate_range=(radians,) * 3,
                scale_range=(augment.scale,) * 3,
                translate_range=[augment.shift_mm / s for s in spacing],
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            transforms.Rand3DElasticd(
                keys, (5, 7), (0, 100), prob=1, mode=("bilinear", "nearest"), padding_mode="border"
            ),
            transforms.RandScaleIntensityd("image", factors=augment.contrast, prob=1),
            transforms.RandShiftIntensityd("image", offsets=augment.brightness, prob=1),
            transforms.RandGaussianNoised("image", std=augment.noise, prob=0.5),
        ]
    )
    files = [{"image": str(folder / f"image{i}.npy"), "label": str(folder / f"label{i}.npy")} for i in range(number)]
    loader = DataLoader(
        Dataset(files, pipeline),
        batch_size=1,
        shuffle=True,
        num_workers=WORKERS,
        prefetch_factor=PREFETCHED // WORKERS,
        pin_memory=torch.cuda.is_available(),
    )
    while True:
        yield from loader


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians over the steps."""

    sample_s: float
    waited_share: float


def measure(state: TrainingState, task: TrainingTask, steps: int) -> Measured:
    """Train for some steps; each ends with its loss on the CPU, so that nothing of it is still under way."""
    taken = [train_step(state, task) for _ in range(WARM_UP + steps)][WARM_UP:]
    seconds = statistics.median(step.seconds for step in taken) / task.config.schedule.batch_size
    return Measured(seconds, sum(step.waited for step in taken) / sum(step.seconds for step in taken))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="hn7")
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--slices", type=int, default=48)
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    recipe = load_recipe(find_recipe(asked.recipe))
    # A shorter field of view has no counterpart in MONAI, and makes a quicker sample.
    augment = recipe.augment.model_copy(update={"cut": 0.0})
    schedule = recipe.schedule.model_copy(update={"batch_size": 1})
    config = recipe.model_copy(update={"augment": augment, "schedule": schedule}).in_steps(asked.cases)
    own, structures = Ranks(choose_device(asked.device)), config.model.structures
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        mm = make_cases(folder, asked.cases, asked.slices, structures)
        began = time.monotonic()
        split = load_split(folder, structures, Preprocess(config.preprocess), folder / "cache")
        print(f"contourd makes its {asked.cases} samples once, in {time.monotonic() - began:.1f} s")
        known = torch.ones(asked.cases, len(structures) + 1, dtype=torch.bool)
        weights = class_weights(known).to(own.device)
        state = set_up(config, own.device)
        ours_task = TrainingTask(config, store(split.samples, own.device), weights, own, state.supervised)
        shape = tuple(ours_task.sample(0)[0].shape[2:])
        ours = measure(state, ours_task, asked.steps)
        subject = f"Training {asked.recipe} on {own.device.type}"
        print(
            f"contourd: {1 / ours.sample_s:.2f} samples/s of {shape} voxels, {ours.waited_share:.1%} waiting for data"
        )
        peer: Measured | None = None
        if importlib.util.find_spec("monai") is None:
            print("MONAI is not installed: no figure beside it")
        else:
            state = set_up(config, own.device)
            batches = monai_batches(folder, asked.cases, mm, config)
            task = MonaiTask(config, ours_task.samples, weights, own, state.supervised, batches)
            shape = tuple(task.sample(0)[0].shape[2:])
            peer = measure(state, task, asked.steps)
            print(
                f"MONAI: {1 / peer.sample_s:.2f} samples/s of {shape} voxels, {peer.waited_share:.1%} waiting for data"
            )
        beside: list[dict[str, Any]] = [{}, {}]
        if peer is not None:
            beside = [
                {"peer": "MONAI", "theirs": peer.sample_s, "goal": 1.0},
                {"peer": "MONAI", "theirs": 100 * peer.waited_share, "goal": 1.0},
            ]
        tell(Figure(f"{subject}: a sample", "s", ours.sample_s, **beside[0]))
        tell(Figure(f"{subject}: waiting for data", "% of the time", 100 * ours.waited_share, **beside[1]))


if __name__ == "__main__":
    main()
