"""Seeded augmentation on the training device: affine, elastic, field of view, mirror image and intensity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainer.training.config import AugmentConfig


@dataclass(frozen=True, slots=True, eq=False)
class Augment:
    """Random transforms of one sample.

    Attributes
    ----------
    spacing_mm
        Of the lattice, (z, y, x).
    mirrored
        Index of each organ's partner on the other side.
    """

    config: AugmentConfig
    spacing_mm: tuple[float, float, float]
    mirrored: tuple[int, ...]

    def __call__(self, image: Tensor, organs: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Transform image (d, h, w) and organs (organs, d, h, w), both float, on the device that they are on.

        The field of view may get shorter. What is random is drawn on the CPU, so every device sees the same.
        """
        image, organs = self._cut(image, organs, rng)
        stack = torch.cat([image[None] + 1, organs])[None]  # (1, 1 + organs, d, h, w), air is zero
        grid = self._grid(image.shape, image.device, rng)
        stack = functional.grid_sample(stack, grid, align_corners=False)[0]
        image, organs = stack[0] - 1, stack[1:]
        if rng.random() < self.config.mirror:
            image, organs = image.flip(-1), organs.flip(-1)[list(self.mirrored)]
        return self._intensity(image, rng), organs

    def _cut(self, image: Tensor, organs: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        shortest = math.ceil(self.config.shortest_mm / self.spacing_mm[0])
        slices = image.shape[0]
        if slices <= shortest or rng.random() >= self.config.cut:
            return image, organs
        length = int(rng.integers(shortest, slices))
        start = int(rng.integers(0, slices - length + 1))
        return image[start : start + length], organs[:, start : start + length]

    def _grid(self, shape: torch.Size, device: torch.device, rng: np.random.Generator) -> Tensor:
        """Draw sampling positions (1, d, h, w, 3), last axis (x, y, z) in [-1, 1]."""
        size_mm = torch.tensor([n * s for n, s in zip(shape, self.spacing_mm, strict=True)])  # (z, y, x)
        c = self.config
        angles = np.deg2rad(rng.uniform(-c.rotation_deg, c.rotation_deg, 3))
        scale = np.exp(rng.uniform(-c.scale, c.scale)) * np.exp(rng.uniform(-c.scale, c.scale, 3) / 3)
        matrix = torch.tensor(_rotation(angles) * scale, dtype=torch.float32)  # patient mm, (x, y, z)
        half = size_mm.flip(0) / 2
        matrix = matrix * half[None, :] / half[:, None]
        shift = torch.tensor(rng.uniform(-c.shift_mm, c.shift_mm, 3), dtype=torch.float32) / half
        theta = torch.cat([matrix, shift[:, None]], dim=1)[None]
        grid = functional.affine_grid(theta.to(device), [1, 1, *shape], align_corners=False)
        if c.elastic_mm:
            knots = [max(2, round(float(s) / c.elastic_spacing_mm)) for s in size_mm]
            field = torch.tensor(rng.normal(0, c.elastic_mm, (1, 3, *knots)), dtype=torch.float32).to(device)
            field = functional.interpolate(field, size=tuple(shape), mode="trilinear", align_corners=False)
            grid = grid + (field / half.to(device)[None, :, None, None, None]).permute(0, 2, 3, 4, 1)
        return grid

    def _intensity(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        c = self.config
        body = image > -1
        image = image * float(rng.uniform(1 - c.contrast, 1 + c.contrast)) + float(rng.normal(0, c.brightness))
        if c.blur and rng.random() < 0.3:
            image = _blurred(image, float(rng.uniform(0.2, c.blur)))
        if c.noise and rng.random() < 0.5:
            seed = int(rng.integers(2**31))
            noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
            image = image + noise.to(image.device) * float(rng.uniform(0, c.noise))
        return torch.where(body, image, -1.0).clamp(-1, 1)


def _rotation(
    angles_rad: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles_rad), np.sin(angles_rad)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    taps = torch.arange(-2, 3, dtype=torch.float32, device=image.device)
    kernel = torch.exp(-(taps**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    x = image[None, None]
    for axis in range(3):
        shape, pad = [1, 1, 1, 1, 1], [0] * 6
        shape[2 + axis] = 5
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = 2
        x = functional.conv3d(functional.pad(x, pad, mode="replicate"), kernel.reshape(shape))
    return x[0, 0]
