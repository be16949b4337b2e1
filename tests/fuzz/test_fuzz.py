"""The short form of `make fuzz`: a fixed seed, some hundred inputs."""

from __future__ import annotations

import pytest

from tests.fuzz.bounds import GROWTH_MB, PEAK_MB
from tests.fuzz.campaign import play_apart

SEED = 2026
INPUTS = {"reader": 400, "stores": 400, "connections": 80, "answers": 200, "notices": 200, "requests": 200}

# Inputs that once did harm: campaign, seed, number.
MENDED = (("reader", 1, 39350), ("reader", 1, 47350), ("stores", 1, 27404), ("answers", 1, 866), ("answers", 5, 9))


def test_hostile_bytes_do_no_harm() -> None:
    """No crash, no hang, no growth, no exception that is not ours, no file where none belongs, no false Success."""
    for figures, inputs in zip(play_apart(list(INPUTS), SEED, 0, INPUTS), INPUTS.values(), strict=True):
        print(figures.text())
        assert figures.failures == []
        assert figures.inputs == inputs
        assert figures.refused > inputs / 10
        assert 0 < figures.peak_mb < PEAK_MB
        assert figures.growth_mb < GROWTH_MB


@pytest.mark.parametrize(("name", "seed", "number"), MENDED)
def test_what_once_did_harm_does_none(name: str, seed: int, number: int) -> None:
    (figures,) = play_apart([name], seed, number, {name: 1})
    assert (figures.inputs, figures.failures) == (1, [])
