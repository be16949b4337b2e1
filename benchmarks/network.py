"""The network on this machine: the runtimes that contourd offers beside plain eager torch, in the same run.

    python benchmarks/network.py [--runs 1] [--shape 178 302 225] [--model BUNDLE]

Each runs in a process of its own, one after the other, from the image in memory to the probabilities in memory,
soft-max included. The floor is the time that a product of matrices takes here for as many operations. Then the mean
Dice of each runtime's masks with those of torch in single precision, on the reference patient with the shipped model;
and how many voxels the network is given of it, beside those of the whole CT at the same spacing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from figures import Figure, tell

from contourd.acceptance.reference_patient import reference_volume
from contourd.errors import DeviceError
from contourd.model.anatomynet import AnatomyNet, AnatomyNetConfig
from contourd.model.bundle import load_bundle
from contourd.model.network import Network
from contourd.model.openvino_runtime import OpenVinoRuntime, has_bf16, is_installed
from contourd.model.runtime import Runtime, choose_device, peak_bytes
from contourd.model.torch_runtime import TorchRuntime
from contourd.model.transforms import Preprocess, lattice_axes_mm
from contourd.models.runtimes import LEAST_DICE, masks_agree

ORGANS = tuple("abcdefghi")
# Of the network with the paper's channels and ten classes.
OPERATIONS_PER_VOXEL = 207e3
GOAL, PEAK_GB = 0.45, 3.5
MATRIX = 4096


def network_of(model: str) -> Network:
    """Load a model's network; without one make the paper's with weights of chance."""
    if model:
        return load_bundle(model).network()
    torch.manual_seed(0)
    return AnatomyNet(AnatomyNetConfig(structures=ORGANS)).eval()


def runtimes(device: torch.device, model: str) -> dict[str, Callable[[], Runtime]]:
    """Return what contourd offers here."""
    found: dict[str, Callable[[], Runtime]] = {"contourd, torch": lambda: TorchRuntime(network_of(model), device)}
    if device.type == "cuda":
        found["contourd, torch fp16"] = lambda: TorchRuntime(network_of(model), device, "fp16")
    elif is_installed():
        found["contourd, OpenVINO"] = lambda: OpenVinoRuntime(network_of(model), "0" * 64)
        if has_bf16():
            found["contourd, OpenVINO bf16"] = lambda: OpenVinoRuntime(network_of(model), "0" * 64, precision="bf16")
    return found


def eager(device: torch.device, network: Network, image: np.ndarray) -> np.ndarray:
    """Run the network as a tutorial does."""
    with torch.inference_mode():
        x = torch.from_numpy(image)[None, None].to(device)
        return np.asarray(torch.softmax(network.to(device)(x), dim=1)[0].cpu().numpy())


def measure(name: str, shape: tuple[int, ...], model: str) -> dict[str, float]:
    """Run one in this process; a small image first, as a worker that has contoured before."""
    device = choose_device("auto")
    image, small = (np.random.default_rng(0).uniform(-1, 1, s).astype(np.float32) for s in (shape, (48, 48, 48)))
    if name == "torch eager":
        run: Callable[[np.ndarray], np.ndarray] = lambda x: eager(device, network_of(model), x)  # noqa: E731
    else:
        run = runtimes(device, model)[name]().probabilities
    run(small)
    before = peak_bytes(device)
    began = time.perf_counter()
    run(image)
    seconds = time.perf_counter() - began
    peak = peak_bytes(device)
    return {"seconds": seconds, "gigabytes": peak / 1e9, "bytes_per_voxel": (peak - before) / image.size}


def in_process(name: str, shape: tuple[int, ...], model: str) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--only", name, "--shape", *map(str, shape), "--model", model]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def floor_seconds(device: torch.device, shape: tuple[int, ...]) -> float:
    """Return what a product of matrices takes for as many operations."""
    a = torch.randn(MATRIX, MATRIX, device=device)
    torch.mm(a, a)
    began, runs = time.perf_counter(), 3
    for _ in range(runs):
        product = torch.mm(a, a)
    float(product[0, 0])
    each = (time.perf_counter() - began) / runs
    return float(np.prod(shape)) * OPERATIONS_PER_VOXEL / (2 * MATRIX**3) * each


def tell_agreement(device: torch.device) -> None:
    """Compare masks on the reference patient, and count its voxels."""
    bundle = load_bundle("hn7")
    plain = TorchRuntime(bundle.network(), device)
    others: dict[str, Callable[[], Runtime]] = {
        "OpenVINO": lambda: OpenVinoRuntime(bundle.network(), bundle.sha256),
        "OpenVINO bf16": lambda: OpenVinoRuntime(bundle.network(), bundle.sha256, precision="bf16"),
    }
    if device.type == "cuda":
        others = {"torch fp16": lambda: TorchRuntime(bundle.network(), device, "fp16")}
    for name, make in others.items():
        try:
            dice = masks_agree(make(), plain, bundle)
        except DeviceError as error:
            print(f"left out: {error}")
            continue
        tell(Figure(f"One less the Dice of {name} with torch fp32", "", 1 - dice, limit=1 - LEAST_DICE))
    volume = reference_volume()
    image = Preprocess(bundle.config.preprocess).prepare(volume).image
    whole = np.prod([len(axis) for axis in lattice_axes_mm(volume.grid, bundle.config.preprocess.spacing_mm)])
    tell(Figure("Voxels of the reference patient, 1000", "", image.size / 1e3, "the whole CT", float(whole) / 1e3))


def main() -> None:
    """Run all in turn and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--shape", type=int, nargs=3, default=(178, 302, 225))
    parser.add_argument("--model", default="", help="a bundle's name or folder: its network in the paper's place")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = tuple(arguments.shape)
    if arguments.only:
        print(json.dumps(measure(arguments.only, shape, arguments.model)))
        return
    device = choose_device("auto")
    names = ["torch eager", *runtimes(device, arguments.model)]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(arguments.runs):
        for name in names:
            found[name].append(in_process(name, shape, arguments.model))
    median = {n: {k: statistics.median(r[k] for r in rows) for k in rows[0]} for n, rows in found.items()}
    floor = None if arguments.model else floor_seconds(device, shape)
    size = " x ".join(map(str, shape))
    for name in names[1:]:
        goal = GOAL if name == names[-1] and device.type == "cpu" and not arguments.model else None
        ours, theirs = median[name], median["torch eager"]
        subject = f"{name.removeprefix('contourd, ')}, {size}, {device.type}"
        tell(Figure(f"Network by {subject}", "s", ours["seconds"], "torch eager", theirs["seconds"], goal, floor=floor))
        limit = PEAK_GB if goal else None
        peaks = (ours["gigabytes"], "torch eager", theirs["gigabytes"])
        tell(Figure(f"Its peak memory by {subject}", "GB", *peaks, limit=limit))
        if arguments.model:
            tell(Figure(f"Of it for each voxel by {subject}", "B", ours["bytes_per_voxel"]))
    if not arguments.model:
        tell_agreement(device)


if __name__ == "__main__":
    main()
