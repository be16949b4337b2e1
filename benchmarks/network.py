"""The network on this machine: the runtime that contourd uses beside plain eager torch, in the same run.

    python benchmarks/network.py [--runs 3] [--shape 89 151 112]

Prints the median seconds of both, interleaved, and their ratio; below 1 contourd is faster.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from contourd.model.anatomynet import AnatomyNet, ModelConfig
from contourd.model.runtime import choose_device, place


def seconds(network: nn.Module, image: torch.Tensor) -> float:
    """Time one forward pass with its soft-max."""
    began = time.perf_counter()
    with torch.inference_mode():
        torch.softmax(network(image), dim=1)
    if image.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Run both in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--shape", type=int, nargs=3, default=(89, 151, 112), help="an eighth of 178 x 302 x 225")
    arguments = parser.parse_args()
    device = choose_device("auto")
    torch.manual_seed(0)
    eager = AnatomyNet(ModelConfig(structures=tuple("abcdefghi"))).eval().to(device)
    ours = AnatomyNet(eager.config).eval()
    ours.load_state_dict(eager.state_dict())
    ours = place(ours, device)
    image = torch.randn(1, 1, *arguments.shape, device=device)
    last = image.contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        difference = float((eager(image) - ours(last)).abs().max())
    times = [(seconds(ours, last), seconds(eager, image)) for _ in range(arguments.runs)]
    mine, theirs = (statistics.median(t) for t in zip(*times, strict=True))
    print(f"AnatomyNet 28/30/32/34, 10 classes, {arguments.shape}, {device}, {torch.get_num_threads()} threads")
    print(f"contourd {mine:.2f} s   torch eager {theirs:.2f} s   ratio {mine / theirs:.2f}")
    print(f"largest difference of a logit {difference:.1e}")


if __name__ == "__main__":
    main()
