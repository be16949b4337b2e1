"""docs/operating.md names every alert, every class of reasons and every reason to hold that the code can give."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from contourd.jobs.reasons import NAMES, REMEDIES, class_of
from contourd.settings.alerts import RULES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
# Exceptions that hold a series or a job, with the words that follow them.
HOLDS = {"SeriesUnusable", "SeriesIncomplete"}
# These speak of a page's pictures or of one file, and never become the reason of a series.
ELSEWHERE = ("contourd/web/", "contourd/dicom/viewing.py", "contourd/dicom/isolation.py", "contourd/replaying.py")


def rows(heading: str) -> list[list[str]]:
    body = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [row.strip().strip("|").split(" | ") for row in body.splitlines() if row.startswith("| ")]
    return [[cell.strip() for cell in row] for row in cells[1:]]


def test_every_alert_is_explained():
    assert sorted(row[0] for row in rows("Alerts")) == sorted(RULES)
    assert all(row[2] for row in rows("Alerts"))


def test_every_class_of_reasons_is_explained_and_has_a_remedy():
    held = rows("Held")
    assert {row[1].strip("`") for row in held} == set(NAMES) == set(REMEDIES)
    for row in held:
        for begins in row[0].split(" / "):
            assert class_of(begins.replace("...", "0")) == row[1].strip("`"), begins
        assert row[3], row[0]


def pattern_of(cell: str) -> str:
    return ".*".join(re.escape(part) for part in re.split(r"\s?\.\.\.\s?", cell))


def words(node: ast.expr) -> str | None:
    """Return a message with its gaps as 0, None where it is not written down here."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in node.values)
    return None


def reasons() -> Iterator[str]:
    for path in sorted((ROOT / "contourd").rglob("*.py")):
        if str(path.relative_to(ROOT)).startswith(ELSEWHERE):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in HOLDS and node.args:
                told = words(node.args[0])
                if told is not None:
                    yield told


@pytest.mark.parametrize("reason", sorted(set(reasons())))
def test_every_reason_that_the_code_can_give_is_explained(reason: str) -> None:
    begins = [begin for row in rows("Held") for begin in row[0].split(" / ")]
    assert any(re.match(pattern_of(begin), reason) for begin in begins)
