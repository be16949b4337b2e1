"""Where the network runs: chosen by the settings, never silently.

``auto`` takes the first CUDA device where there is one, and the CPU otherwise; ``cpu``, ``cuda``, ``cuda:N`` name one.
"""

from __future__ import annotations

import platform
import resource
from typing import TypeVar

import psutil
import torch
from torch import nn

from contourd.errors import DeviceError

NetworkT = TypeVar("NetworkT", bound=nn.Module)

# Peak of a forward pass with the paper's channels and ten classes: 460 measured on the CPU, and a fifth to spare.
BYTES_PER_VOXEL = 550


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
        raise DeviceError(f"worker.device {name!r} is no device: use auto, cpu, cuda or cuda:N") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda" or not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise DeviceError(f"worker.device {name!r} is not there ({found} CUDA devices found); use auto or cpu")
    return device


def check_memory(device: torch.device, voxels: int) -> None:
    """Refuse a volume that the device's free memory cannot hold.

    Raises
    ------
    DeviceError
        With what is needed and what is free.
    """
    needed = voxels * BYTES_PER_VOXEL
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise DeviceError(
            f"the volume needs about {needed / 2**30:.1f} GiB on {device}, {free / 2**30:.1f} GiB are free: "
            "use a device with more memory or a model with larger voxels"
        )


def peak_bytes(device: torch.device) -> int:
    """Return the most memory so far: what torch held on a CUDA device, or what this process held on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def described(device: torch.device) -> str:
    """Say in words where a network runs: what decides the last bits of its answer."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda})"
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{device} ({platform.machine()}, {kind}, {torch.get_num_threads()} threads)"


def place(network: NetworkT, device: torch.device) -> NetworkT:
    """Move a network to a device with channels last, the layout that 3D convolutions run fastest in."""
    return network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]
