"""The short form of `make fuzz`: a fixed seed, some thousand inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.bounds import FILES, GROWTH_MB, PEAK_MB, Figures
from tests.fuzz.reading import run_reader
from tests.fuzz.receiving import run_connections, run_stores

SEED = 2026

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # pydicom warns of much that is odd
    pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.mark.parametrize(("run", "inputs"), [(run_reader, 400), (run_stores, 400), (run_connections, 80)])
def test_hostile_bytes_do_no_harm(
    run: Callable[[Path, int, range], Figures], inputs: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No crash, no hang, no growth, no exception that is not ours, no file where none belongs, no false Success."""
    caplog.set_level("CRITICAL")  # a hostile peer makes many lines
    FILES.strays.clear()
    with FILES.only(writing=tmp_path):
        figures = run(tmp_path, SEED, range(inputs))
    print(figures.told())
    assert figures.failures == []
    assert figures.inputs == inputs
    assert figures.refused > inputs / 10
    assert figures.growth_mb < GROWTH_MB
    assert figures.peak_mb < PEAK_MB
