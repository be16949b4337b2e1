"""docs/operating.md names every alert, every class of reasons and every reason to hold that the code can give."""

from __future__ import annotations

import re
from pathlib import Path

from contourd.reasons.catalogue import CATALOGUE
from contourd.reasons.codes import HOLDING
from contourd.settings.alerts import RULES
from tests import reason_table

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    body = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [row.strip().strip("|").split(" | ") for row in body.splitlines() if row.startswith("| ")]
    return [[cell.strip() for cell in row] for row in cells[1:]]


def test_every_alert_is_explained():
    assert sorted(row[0] for row in rows("Alerts")) == sorted(RULES)
    assert all(row[2] for row in rows("Alerts"))


def test_the_table_of_reasons_is_made_of_the_catalogue():
    assert reason_table.PAGE.read_text(encoding="utf-8") == reason_table.page()


def test_every_code_of_the_table_can_be_looked_up():
    codes = re.findall(r"`([a-z0-9_]+)` ", "".join(row[0] for row in rows("Held")))
    assert sorted(codes) == sorted(code for code, entry in CATALOGUE.items() if entry.held_as in HOLDING)
    assert all(len(row) == 5 for row in rows("Held"))
