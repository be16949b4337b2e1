"""The network run by torch, on a CPU or a CUDA device."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray

from contourd.errors import DeviceUnavailable
from contourd.model.network import Network
from contourd.model.runtime import check_memory, place, processor
from contourd.model.runtime_description import RuntimeDescription
from contourd.model.slabs import slabs
from contourd.reasons.catalogue import HoldReason

# What torch says where CUDA, its libraries or the driver fail; a process that has met it does not get the device again.
LOST = ("CUDA error", "CUDA driver", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "NVIDIA driver", "CUDA GPUs")


class TorchRuntime:
    """Runs one network on one device.

    Parameters
    ----------
    network
        In evaluation mode; a copy of it is moved to the device.
    precision
        ``fp32``, or ``fp16`` on a CUDA device: convolutions in half precision, norms and soft-max in single.
    """

    def __init__(self, network: Network, device: torch.device, precision: str = "fp32") -> None:
        self._network = place(network.for_inference(), device)
        self._device = device
        self._half = precision == "fp16"

    @property
    def description(self) -> RuntimeDescription:
        """Where the network runs and how: what decides the last bits of its answer."""
        on_gpu = self._device.type == "cuda"
        return RuntimeDescription(
            name="torch",
            version=version("torch"),
            precision="fp16" if self._half else "fp32",
            device=str(self._device),
            hardware=torch.cuda.get_device_name(self._device) if on_gpu else processor(),
            threads=None if on_gpu else torch.get_num_threads(),
            cuda=str(torch.version.cuda) if on_gpu else "",
        )

    def probabilities(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return each organ's probability (organs, d, h, w) in an image (d, h, w); 0 in the air around the body.

        Raises
        ------
        DeviceError
            The device's memory does not suffice.
        DeviceUnavailable
            It does not suffice now, or the device fails.
        """
        check_memory(self._device, image.size, self._network.peak_bytes_per_voxel["torch"])
        found = np.zeros((self._network.config.classes - 1, *image.shape), dtype=np.float32)
        try:
            with torch.inference_mode(), torch.autocast(self._device.type, torch.float16, enabled=self._half):
                x = torch.from_numpy(image)[None, None].to(self._device, memory_format=torch.channels_last_3d)
                features = self._network.decoded(x)[-1]
                for slab in slabs(image):
                    coarse, part = features[:, :, *slab.at_stride(self._network.stride)], x[:, :, *slab.read]
                    logits = self._network.at_full_resolution(coarse, part)[0, :, *slab.inner]
                    found[:, *slab.kept] = torch.softmax(logits.float(), dim=0)[1:].cpu().numpy()
        except RuntimeError as error:
            raise_unavailable(error, self._device)
            raise
        return found


def raise_unavailable(error: RuntimeError, device: torch.device) -> None:
    """Raise DeviceUnavailable where what torch raised says so; return where it says something else.

    Raises
    ------
    DeviceUnavailable
        Its memory ran out, or (``lost``) the driver or the device failed.
    """
    message = str(error).partition("\n")[0]
    if isinstance(error, torch.OutOfMemoryError):
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what is only kept is given to whoever needs it
        raise DeviceUnavailable(HoldReason.DEVICE_OUT_OF_MEMORY, device=str(device), said=message) from error
    if device.type == "cuda" and any(words in message for words in LOST):
        raise DeviceUnavailable(HoldReason.DEVICE_FAILED, device=str(device), said=message) from error
