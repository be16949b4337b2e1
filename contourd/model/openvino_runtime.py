"""The network run by OpenVINO on the CPU: half of the time that torch takes, or less, for the same masks.

The network is exported once per bundle, in two parts: the trunk, up to the decoder's last features, and the output
block behind it, which runs slab by slab. On a processor that has bfloat16 the trunk, where most of the time goes, can
run in it; the output block is always in single precision, for what is rounded there moves contours. What was exported
is kept in a folder by the bundle's hash. It is read back without a hash of its own: a runtime is used only after it
gave the masks that torch gives (``contourd.models.runtimes``).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contourd.errors import DeviceError
from contourd.model.network import Network
from contourd.model.runtime import check_memory, processor
from contourd.model.runtime_description import RuntimeDescription
from contourd.model.slabs import slabs
from contourd.reasons.catalogue import HoldReason

# A larger volume is worth a compilation for its own shape: a tenth less time, a quarter less memory.
LARGE_VOXELS = 4_000_000
EXAMPLE = (32, 32, 32)
PARTS = ("trunk", "output")
CpuPrecision = Literal["fp32", "bf16"]
HINT: Mapping[CpuPrecision, str] = MappingProxyType({"fp32": "f32", "bf16": "bf16"})


class _Trunk(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network.decoded(image)[-1]


class _Output(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        return torch.softmax(self.network.at_full_resolution(features, image), dim=1)


def is_installed() -> bool:
    """Return whether OpenVINO is there (the extra ``contourd[cpu]``)."""
    return find_spec("openvino") is not None


def has_bf16() -> bool:
    """Return whether OpenVINO computes in bfloat16 on this processor."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoRuntime:
    """Runs one network on the CPU.

    Parameters
    ----------
    network
        In evaluation mode, on the CPU; it is only exported.
    sha256
        Of the bundle that it is from.
    cache
        Folder for what was exported; None: it is exported each time.
    precision
        Of the trunk: ``fp32`` or ``bf16``.

    Raises
    ------
    DeviceError
        OpenVINO is not installed, or cannot be loaded or take the network; or the processor has no bfloat16.
    """

    def __init__(
        self, network: Network, sha256: str, cache: Path | None = None, precision: CpuPrecision = "fp32"
    ) -> None:
        try:
            import openvino
        except (ImportError, OSError, RuntimeError) as error:
            raise DeviceError(HoldReason.OPENVINO_NOT_LOADED, said=str(error)) from error
        self._core = openvino.Core()
        self._version = openvino.__version__.split("-")[0]
        self._classes = network.config.classes
        self._stride = network.stride
        self._precision = precision
        self._peak_bytes_per_voxel = network.peak_bytes_per_voxel["openvino"]
        self._processor, self._threads = processor(), torch.get_num_threads()
        try:
            if precision == "bf16" and not has_bf16():
                raise DeviceError(HoldReason.PROCESSOR_WITHOUT_BF16, processor=self._processor)
            self._trunk, output = self._models(network, sha256, cache)
            self._any_trunk, self._output = self._compiled(self._trunk, precision), self._compiled(output, "fp32")
        except (RuntimeError, OSError) as error:
            raise DeviceError(HoldReason.OPENVINO_REFUSES, version=self._version, said=str(error)) from error

    @property
    def description(self) -> RuntimeDescription:
        """Where the network runs and how: what decides the last bits of its answer."""
        return RuntimeDescription(
            name="openvino",
            version=self._version,
            precision=self._precision,
            device="cpu",
            hardware=self._processor,
            threads=self._threads,
        )

    def probabilities(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return each organ's probability (organs, d, h, w) in an image (d, h, w); 0 in the air around the body.

        Raises
        ------
        DeviceError
            The memory does not suffice.
        """
        check_memory(torch.device("cpu"), image.size, self._peak_bytes_per_voxel)
        found = np.zeros((self._classes - 1, *image.shape), dtype=np.float32)
        x = image[None, None]
        features = self._features(x)
        for slab in slabs(image):
            inputs = [
                np.ascontiguousarray(a) for a in (features[:, :, *slab.at_stride(self._stride)], x[:, :, *slab.read])
            ]
            answer = self._output(inputs, share_outputs=True)[0]
            found[:, *slab.kept] = answer[0, 1:, *slab.inner]
        return found

    def _features(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        trunk = self._any_trunk
        if x.size >= LARGE_VOXELS:
            own = self._trunk.clone()
            own.reshape({0: list(x.shape)})
            trunk = self._compiled(own, self._precision)
        return np.asarray(trunk([x])[0])

    def _compiled(self, model: Any, precision: CpuPrecision) -> Any:
        how = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINT[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        return self._core.compile_model(model, "CPU", how)

    def _models(self, network: Network, sha256: str, cache: Path | None) -> tuple[Any, Any]:
        paths = [cache / f"{sha256[:32]}-openvino-{self._version}-{part}.xml" for part in PARTS] if cache else []
        try:
            trunk, output = (self._core.read_model(path) for path in paths)
        except (RuntimeError, ValueError):  # it is not there, damaged, or not to be kept
            trunk, output = export_network(network)
            for model, path in zip((trunk, output), paths, strict=False):
                with suppress(OSError, RuntimeError):  # what cannot be kept is exported anew the next time
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    _keep(model, path)
        return trunk, output


def export_network(network: Network) -> tuple[Any, Any]:
    """Bring both parts into OpenVINO's form; by its front end, for ``convert_model`` would call home."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    network, image = network.for_inference(), torch.zeros(1, 1, *EXAMPLE)
    with torch.inference_mode():
        features = network.decoded(image)[-1]
    front_end = FrontEndManager().load_by_framework("pytorch")
    models = []
    for module, example in ((_Trunk(network), (image,)), (_Output(network), (features.clone(), image))):
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the tracer, about sizes: they stay free
            decoder = TorchScriptPythonDecoder(
                module.eval(), example_input=example, shared_memory=False, trace_kwargs={"check_trace": False}
            )  # it is compared with torch as a whole, before it is used
            loaded = front_end.load(decoder)
            models.append(front_end.convert(loaded))
    return models[0], models[1]


def _keep(model: Any, path: Path) -> None:
    """Write a model so that it is whole or absent: its weights first, then what names them."""
    import openvino

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
        partial = Path(folder) / path.name
        openvino.save_model(model, partial, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            partial.with_suffix(suffix).replace(path.with_suffix(suffix))
