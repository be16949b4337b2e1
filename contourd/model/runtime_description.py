"""What ran a network, as a record: kept with each job, compared by a replay, and rendered for people at the edge."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

RuntimeName = Literal["torch", "openvino", "nnunetv2"]
RuntimePrecision = Literal["fp32", "fp16", "bf16"]
TITLES = {"torch": "torch", "openvino": "OpenVINO", "nnunetv2": "nnU-Net"}


@dataclass(frozen=True, slots=True)
class RuntimeDescription:
    """What decides the last bits of a network's answer.

    Attributes
    ----------
    name, version
        The library that runs the network.
    precision
        Of its convolutions.
    device
        ``cpu``, or ``cuda:N``.
    hardware
        The processor's architecture and what of its instructions is used, or the GPU's name.
    threads
        On a CPU; None on a GPU.
    cuda
        The version of CUDA; empty on a CPU.
    words
        What an earlier version kept in its place, where the words do not say all of these; else empty.
    """

    name: RuntimeName
    version: str
    precision: RuntimePrecision
    device: str
    hardware: str
    threads: int | None = None
    cuda: str = ""
    words: str = ""

    def text(self) -> str:
        """Return it in words."""
        how = f"CUDA {self.cuda}" if self.threads is None else f"{self.threads} thread{'s' * (self.threads != 1)}"
        what = f"{TITLES[self.name]} {self.version} {self.precision}"
        return self.words or f"{self.device} ({self.hardware}, {how}, {what})"

    def to_json(self) -> str:
        """Return it as the queue keeps it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RuntimeDescription:
        """Read what ``to_json`` wrote."""
        return cls(**json.loads(text))
