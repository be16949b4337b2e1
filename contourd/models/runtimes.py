"""What runs a bundle's network on this machine: chosen by the settings, and never used on trust.

Everything but torch in single precision is compared with it on the reference patient before it contours anybody: the
masks must agree. Where the settings leave the choice and it does not, torch takes its place, and the log says so; where
they name it, nothing is contoured.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contourd.acceptance.reference_patient import load_reference
from contourd.errors import DeviceError
from contourd.imaging.contours import MaskInBox
from contourd.model.agreement import LEVEL
from contourd.model.bundle_config import ModelBundle
from contourd.model.kinds import predictor_for, require_own
from contourd.model.lattice_bundle import LatticeBundle
from contourd.model.lattice_predictor import SMALLEST_SIDE
from contourd.model.network import Network
from contourd.model.openvino_runtime import CpuPrecision, OpenVinoRuntime, is_installed
from contourd.model.predictor import Predictor, RunOptions
from contourd.model.runtime import Device, Runtime, choose_device
from contourd.model.runtime_description import RuntimeDescription
from contourd.model.torch_runtime import TorchRuntime
from contourd.model.transforms import Prepared, Preprocess
from contourd.reasons.catalogue import HoldReason
from contourd.settings import Precision, WorkerSettings

log = logging.getLogger(__name__)

LEAST_DICE = 0.999
# Of the reference patient; what is compared takes a second or two.
MOST_VOXELS = 600_000
FOLDER = "runtimes"


def user_cache() -> Path:
    """Return where a user's own commands keep what was exported."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "contourd"


def make_predictor(bundle: ModelBundle, worker: WorkerSettings, cache: Path | None = None) -> Predictor:
    """Make a predictor that runs as the settings say.

    Parameters
    ----------
    cache
        Folder for what is made once for a bundle.

    Raises
    ------
    ModelError
        The weights do not fit the bundle.
    DeviceError
        The device or the runtime that the settings name is not there, or does not give the masks that it must.
    """
    options = RunOptions(
        choose_device(worker.device),
        int(worker.memory_gb * 1e9),
        lambda found, network, device: _chosen(require_own(found), network, device, worker, cache),
    )
    predictor = predictor_for(bundle, options=options)
    text = predictor.runtime.description.text()
    log.info("%s %s runs on %s", bundle.name, bundle.version, text, extra={"action": "runtime"})
    return predictor


def _chosen(
    bundle: LatticeBundle, network: Network, device: Device, worker: WorkerSettings, cache: Path | None
) -> Runtime:
    """Choose what runs a network of contourd's own kinds, and compare it with torch in single precision."""
    plain = TorchRuntime(network, device)
    runtime: Runtime = plain
    if worker.precision == "fp16":
        if device.type != "cuda":
            raise DeviceError(HoldReason.PRECISION_NEEDS_CUDA, key="worker.precision", instead="auto or fp32")
        runtime = TorchRuntime(network, device, worker.precision)
        _require_agreement(runtime, plain, bundle)
    elif worker.runtime == "openvino" or worker.precision == "bf16":
        if device.type != "cpu" or worker.runtime == "torch":
            raise DeviceError(HoldReason.OPENVINO_IS_FOR_CPU, runtime=worker.runtime, device=str(device))
        runtime = _openvino(bundle, network, plain, cache, worker.precision)
    elif worker.runtime == "auto" and device.type == "cpu" and is_installed():
        try:
            runtime = _openvino(bundle, network, plain, cache, worker.precision)
        except DeviceError as error:
            log.warning("torch takes the place of OpenVINO: %s", error, extra={"action": "runtime"})
    if device.type == "cuda":  # kernels are loaded and chosen now, not while the first patient waits
        runtime.probabilities(_reference_image(bundle))
    return runtime


def worker_of(description: RuntimeDescription) -> WorkerSettings:
    """Return the settings that lead to a runtime again."""
    if description.name == "nnunetv2":  # which has no choice of its own
        return WorkerSettings(device=description.device)
    return WorkerSettings(device=description.device, runtime=description.name, precision=description.precision)


def _openvino(
    bundle: LatticeBundle, network: Network, plain: Runtime, cache: Path | None, precision: Precision
) -> Runtime:
    """Choose the precision where the settings leave it: bf16, if it gives the masks."""
    if precision == "auto":
        try:
            return _openvino_in(bundle, network, plain, cache, "bf16")
        except DeviceError as error:
            log.info("fp32 takes the place of bf16: %s", error, extra={"action": "runtime"})
    return _openvino_in(bundle, network, plain, cache, "bf16" if precision == "bf16" else "fp32")


def _openvino_in(
    bundle: LatticeBundle, network: Network, plain: Runtime, cache: Path | None, precision: CpuPrecision
) -> Runtime:
    """Take what was exported earlier, and where that disagrees, as when the disk damaged it, export anew."""
    if cache is not None:
        kept = OpenVinoRuntime(network, bundle.sha256, cache, precision)
        if masks_agree(kept, plain, bundle) >= LEAST_DICE:
            return kept
    runtime = OpenVinoRuntime(network, bundle.sha256, precision=precision)
    _require_agreement(runtime, plain, bundle)
    return runtime


def _require_agreement(runtime: Runtime, plain: Runtime, bundle: LatticeBundle) -> None:
    dice = masks_agree(runtime, plain, bundle)
    if not dice >= LEAST_DICE:
        raise DeviceError(
            HoldReason.MASKS_DIFFER,
            runtime=runtime.description.text(),
            plain=plain.description.text(),
            dice=dice,
            least=LEAST_DICE,
        )


def masks_agree(runtime: Runtime, plain: Runtime, bundle: LatticeBundle) -> float:
    """Return the mean Dice, on the CT's own grid as contours are drawn, of the organs that either finds.

    The CT is the reference patient's. Where both find none, one less the largest difference of a probability stands
    for it. On the network's lattice a small organ has some hundred voxels, and one that is rounded to the other side
    of the level would cost it 0.003.
    """
    preprocess = Preprocess(bundle.config.preprocess)
    prepared = _reference(preprocess)
    one, other = runtime.probabilities(prepared.image), plain.probabilities(prepared.image)
    if not np.isfinite(one).all():
        return 0.0
    shape, scores = prepared.source.shape, list[float]()
    for both in zip(one, other, strict=True):
        restored = [preprocess.restore(probability, prepared) for probability in both]
        p, q = (MaskInBox(box, probability >= LEVEL).on(shape) for box, probability in restored)
        if total := np.count_nonzero(p) + np.count_nonzero(q):
            scores.append(2 * np.count_nonzero(p & q) / total)
    return float(np.mean(scores)) if scores else 1.0 - float(np.abs(one - other).max())


def _reference_image(bundle: LatticeBundle) -> NDArray[np.float32]:
    return _reference(Preprocess(bundle.config.preprocess)).image


def _reference(preprocess: Preprocess) -> Prepared:
    """Prepare the reference patient; of a fine lattice only so many slices in the middle as are soon done."""
    prepared = preprocess.prepare(load_reference().volume)
    image, (z, y, x) = prepared.image, prepared.axes_mm
    slices = max(MOST_VOXELS // (image.shape[1] * image.shape[2]), SMALLEST_SIDE)
    first = max((image.shape[0] - slices) // 2, 0)
    part = slice(first, first + slices)
    return replace(prepared, image=np.ascontiguousarray(image[part]), axes_mm=(z[part], y, x))
