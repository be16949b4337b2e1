"""The clinic that benchmarks/clinic_day.py plays: when series come, and what counts as lost or doubled."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def clinic() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("clinic")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_a_day_has_its_burst_its_dip_and_every_kind(clinic):
    day = clinic.arrivals(5000, seed=1)
    assert [a.number for a in day] == list(range(5000))
    hours = [a.hour for a in day]
    assert hours == sorted(hours)
    assert hours[0] >= clinic.FIRST_H
    assert hours[-1] <= clinic.LAST_H
    # By hand: 1 + 2 x 3 + 2 x 1.5 + 0.5 + 4 x 1.2 + 2 x 0.4 = 16.1 parts; from 8 to 10, 3 / 16.1 x 5000 = 932 an hour.
    of_hour = Counter(int(hour) for hour in hours)
    assert of_hour[8] == pytest.approx(932, abs=100)
    assert of_hour[9] == pytest.approx(932, abs=100)
    assert of_hour[12] == pytest.approx(155, abs=50)
    kinds = Counter(a.kind for a in day)
    assert kinds[clinic.Kind.TWICE] == pytest.approx(500, abs=80)
    assert kinds[clinic.Kind.ABORTED] == pytest.approx(500, abs=80)
    assert clinic.arrivals(20, seed=1) != clinic.arrivals(20, seed=2)


def test_what_did_not_come_is_lost_and_what_came_again_is_doubled(clinic):
    archive = clinic.Archive()
    try:
        archive.at |= {"1.1": 0.0, "1.2": 0.0}
        archive.copies["1.1"] = ["2.1"]
        archive.copies["1.2"] = ["2.2", "2.2", "2.3"]  # the same again, and another one
        assert archive.lost(["1.1", "1.2", "1.3"]) == ["1.3"]
        assert archive.doubled() == 2
    finally:
        archive.go_away()
