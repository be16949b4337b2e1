"""Small training cases and recipes, whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.bright import phantom
from trainer.case import Annotation, Case
from trainer.training.config import AugmentConfig, TrainConfig

ORGANS = ("Brainstem", "Parotid_L", "Parotid_R")
STILL = AugmentConfig(
    rotation_deg=0, scale=0, shift_mm=0, elastic_mm=0, contrast=0, brightness=0, noise=0, blur=0, mirror=0, cut=0
)
TRUTH = {"Brainstem": Annotation.PRESENT, "SpinalCord": Annotation.PRESENT, "Larynx": Annotation.PRESENT}
# What makes a recipe tiny, by the keys that the table of an ablation sets.
BASE = {
    "model.structures": ORGANS,
    "model.channels": (4, 4, 4, 4),
    "model.output_channels": 4,
    "preprocess.spacing_mm": (6.0, 6.0, 6.0),
    "schedule.length": 3,
    "schedule.checkpoint_every": 2,
}


def write_case(path: Path, seed: int = 0, present=("Brainstem", "RightParotid", "LeftParotid")) -> None:
    """A head with a bright ball in the middle, one on the right and a smaller one on the left, in OpenKBP's axes."""
    up = np.zeros((40, 44, 44), dtype=np.int16)
    z, y, x = np.indices(up.shape)
    up[((x - 21.5) / 17) ** 2 + ((y - 21.5) / 20) ** 2 <= 1] = 1024 + 30
    bits = np.zeros(up.shape, dtype=np.uint8)
    shift = seed % 3
    for bit, (cy, cx, radius) in {0: (22, 22, 6), 2: (24, 11, 5), 3: (24, 33, 4)}.items():
        ball = (z - 20 - shift) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 <= radius**2
        up[ball] = 1024 + 150
        bits[ball] |= 1 << bit
    np.savez(
        path,
        ct=up[::-1].transpose(1, 2, 0),
        lab=bits[::-1].transpose(1, 2, 0),
        present=np.array(present),
        spacing=np.array([4.0, 4.0, 3.0]),
    )


def write_dataset(folder: Path, train: int = 3, validation: int = 1) -> Path:
    for split, count in (("train", train), ("validation", validation)):
        (folder / split).mkdir(parents=True)
        for i in range(count):
            write_case(folder / split / f"pt_{i}.npz", i)
    return folder


def config(length: int, **more) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "name": "tiny",
            "model": {"structures": ORGANS, "channels": (6, 6, 6, 6), "output_channels": 6},
            "preprocess": {"spacing_mm": (6.0, 6.0, 6.0)},
            "loss": {"stage": [{"name": "dice_focal_balanced", "until": 60}, {"name": "dice_focal"}]},
            "schedule": {"length": length, "validate_every": 1000, "checkpoint_every": 3},
            "optimiser": {"stage": [{"learning_rate": 3e-3, "weight_decay": 1e-2, "warmup": 2}]},
            **more,
        }
    )


def ball(identifier: str = "p1") -> Case:
    """The phantom's bright ball is what the network draws as the brainstem, and it draws no spinal cord."""
    volume = phantom()
    mask = volume.hu > 250
    return Case(identifier, volume, dict.fromkeys(TRUTH, mask), TRUTH)
