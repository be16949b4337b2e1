"""How much memory an nnU-Net takes of a CT of some size: said before it is taken, and refused where it is not there.

The bounds are added up from the arrays of nnunetv2's steps, one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import psutil
import torch

from contourd.errors import DeviceError
from contourd.model.nnunet_plans import NnunetModel, feature_bytes
from contourd.model.runtime import check_memory
from contourd.reasons.catalogue import HoldReason

# Of a voxel of the CT: the CT itself, its copy, the mask of what is not zero and what fills it, and what resampling
# takes in double precision (before the network); two greatest logits, the label, and one label's logits in single and
# double precision (after it).
BEFORE_BYTES, AFTER_BYTES = 34, 34
# Of a voxel of nnU-Net's lattice: the image, in double precision while it is made.
IMAGE_BYTES = 20


@dataclass(frozen=True, slots=True)
class Memory:
    """What one CT takes at most, in bytes.

    Attributes
    ----------
    host
        Of the machine's memory, beside what the process has already.
    device
        Of the device's, where it is a GPU; the logits need not lie there.
    """

    host: int
    device: int

    @classmethod
    def of(
        cls, model: NnunetModel, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], weights_bytes: int
    ) -> Memory:
        """Estimate it for an array of nnU-Net's of that shape and spacing, (z, y, x)."""
        planned, forward = model.planned, model.plans["transpose_forward"]
        sides, steps = [shape[i] for i in forward], [spacing_mm[i] for i in forward]
        target = list(planned["spacing"])
        target = [steps[0], *target] if len(target) < 3 else target
        patch = [1] * (3 - len(planned["patch_size"])) + list(planned["patch_size"])
        lattice = [
            max(round(side * step / new), at_least)
            for side, step, new, at_least in zip(sides, steps, target, patch, strict=True)
        ]
        ct = prod(shape)
        voxels = prod(lattice)
        classes = len(model.dataset["labels"])
        logits = 2 * classes * voxels
        features = feature_bytes(planned, classes)
        several = len(model.folds) > 1
        running = features + logits * (2 if several else 1) + 2 * voxels
        host = max(
            BEFORE_BYTES * ct + IMAGE_BYTES * voxels,
            running + 4 * (ct + voxels),
            AFTER_BYTES * ct + logits + 12 * voxels,
        )
        return cls(host, features + weights_bytes)


def require_memory(needed: Memory, device: torch.device, limit_bytes: int) -> None:
    """Refuse what the settings, the machine or the device do not have.

    Parameters
    ----------
    limit_bytes
        What this process may take in all; 0: what there is.

    Raises
    ------
    DeviceError
        It never can: with what is needed and what there is.
    DeviceUnavailable
        It cannot now: with what is free.
    """
    host = needed.host
    if device.type == "cuda":
        check_memory(device, needed.device, 1)
    held = psutil.Process().memory_info().rss
    if limit_bytes and held + host > limit_bytes:
        raise DeviceError(
            HoldReason.OVER_WORKER_MEMORY,
            needed_gb=(held + host) / 1e9,
            held_gb=held / 1e9,
            limit_gb=limit_bytes / 1e9,
        )
    check_memory(torch.device("cpu"), host, 1)
