"""The figures of docs/performance.md: ratios, aims, and what was lost since the last table."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("figures", ROOT / "benchmarks" / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["figures"] = module
    spec.loader.exec_module(module)
    return module


def test_a_figure_says_its_ratio_and_its_aim(figures) -> None:
    figure = figures.Figure("reading", "s", 1.0, "Orthanc", 2.0, goal=0.6, limit=1.5)
    assert figure.ratio == 0.5
    assert figure.reached is True
    assert figure.line() == "reading: 1 s; Orthanc 2 s, ratio 0.50; ratio at most 0.6; at most 1.5 s"


@pytest.mark.parametrize(("goal", "limit", "reached"), [(0.4, None, False), (0.6, 0.9, False), (None, None, None)])
def test_an_aim_that_is_missed_is_said(figures, goal, limit, reached) -> None:
    figure = figures.Figure("reading", "s", 1.0, "Orthanc", 2.0, goal=goal, limit=limit)
    assert figure.reached is reached
    assert ("**missed**" in figures.table([figure], {"reading": "python benchmarks/x.py"})) is (reached is False)


def test_a_ratio_that_lost_more_than_a_fifth_is_named(figures) -> None:
    old = {"reading": figures.Figure("reading", "s", 1.0, "Orthanc", 2.0)}
    within, beyond = (figures.Figure("reading", "s", ours, "Orthanc", 2.0) for ours in (1.19, 1.21))
    assert figures.lost([within], old) == []
    assert figures.lost([beyond], old) == ["reading: ratio 0.60, and 0.50 before"]
    other_peer = figures.Figure("reading", "s", 9.0, "storescp", 2.0)
    assert figures.lost([other_peer], old) == []


def test_what_was_told_is_read_again(figures, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(figures.TOLD_TO, str(tmp_path / "told"))
    told = figures.Figure("reading", "s", 1.0, floor=0.3)
    figures.tell(told)
    assert figures.read_told(tmp_path / "told") == [told]


def test_the_table_in_the_document_is_that_of_the_kept_figures(figures) -> None:
    kept = json.loads((ROOT / "benchmarks" / "figures.json").read_text(encoding="utf-8"))
    rows = [figures.kept_figure(row) for row in kept.values()]
    table = figures.table(rows, {subject: row["command"] for subject, row in kept.items()})
    assert table in (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
