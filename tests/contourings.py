"""What made a structure set, for tests that only need that something did."""

from __future__ import annotations

from contourd.model.model_identity import ModelIdentity
from contourd.model.runtime_description import RuntimeDescription
from contourd.store.contourings import Contouring

CONTOURING = Contouring(
    ModelIdentity("hn7", "1", "0" * 64),
    "1.0",
    RuntimeDescription("torch", "2", "fp32", "cpu", "x86_64, AVX2", 2),
    {},
    "{}",
    1,
    "0" * 64,
    (),
)
