"""Where the network runs: chosen by the settings, never silently.

``auto`` takes the first CUDA device where there is one, and the CPU otherwise; ``cpu``, ``cuda``, ``cuda:N`` name one.
What runs it there is a :class:`Runtime`; ``contourd.models.runtimes`` chooses it.
"""

from __future__ import annotations

import platform
import resource
from typing import Protocol, TypeVar

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import nn

from contourd.errors import DeviceError, DeviceUnavailable
from contourd.model.runtime_description import RuntimeDescription
from contourd.reasons.catalogue import HoldReason

NetworkT = TypeVar("NetworkT", bound=nn.Module)
Device = torch.device


class Runtime(Protocol):
    """Runs one network; all give the same masks."""

    @property
    def description(self) -> RuntimeDescription:
        """Where the network runs and how: what decides the last bits of its answer."""

    def probabilities(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return each organ's probability (organs, d, h, w) in an image (d, h, w), no side of it under 16.

        Raises
        ------
        DeviceError
            The device's memory does not suffice.
        """


def choose_device(name: str) -> torch.device:
    """Return the device that the settings name.

    Raises
    ------
    DeviceError
        It is not there.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(HoldReason.DEVICE_UNKNOWN, name=name) from error
    if device.type == "cpu":
        return device
    if device.type != "cuda" or not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise DeviceUnavailable(HoldReason.DEVICE_ABSENT, name=name, found=found)
    return device


def check_memory(device: torch.device, voxels: int, bytes_per_voxel: int) -> None:
    """Refuse a volume that the device's free memory cannot hold.

    Raises
    ------
    DeviceError
        It never can: with what is needed and what there is.
    DeviceUnavailable
        It cannot now: with what is free.
    """
    needed = voxels * bytes_per_voxel
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
    else:
        memory = psutil.virtual_memory()
        free, total = memory.available, memory.total
    needed_gib, total_gib = needed / 2**30, total / 2**30
    if needed > total:
        raise DeviceError(HoldReason.DEVICE_TOO_SMALL, needed_gib=needed_gib, device=str(device), total_gib=total_gib)
    if needed > free:
        raise DeviceUnavailable(
            HoldReason.DEVICE_MEMORY_TAKEN,
            needed_gib=needed_gib,
            device=str(device),
            free_gib=free / 2**30,
            total_gib=total_gib,
        )


def peak_bytes(device: torch.device) -> int:
    """Return the most memory so far: what torch held on a CUDA device, or what this process held on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def processor() -> str:
    """Name the processor's architecture, and what of its instructions is used."""
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def place(network: NetworkT, device: torch.device) -> NetworkT:
    """Move a network to a device with channels last, the layout that 3D convolutions run fastest in."""
    return network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]
