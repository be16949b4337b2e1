"""The constancy check in the status, on the page, in the figures and among the alerts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from contourd.constancy.requests import ConstancyChecks
from contourd.observe.alerts import Alerts
from contourd.observe.metrics import NodeMetrics, exposition
from contourd.observe.status import read_status, to_json
from contourd.observe.status_tables import to_table
from contourd.settings import Settings
from contourd.spool.folder import Spool
from contourd.store.constancy_result import ConstancyResult, ModelConstancy, OrganConstancy
from contourd.store.database import Database
from contourd.store.states import ConstancyState
from tests.paging import served, settings_for

LARYNX = {"Larynx": OrganConstancy(dice=0.75, shift_mm=2.5)}
RESULT = ConstancyResult(
    models=(
        ModelConstancy(model="hn7", name="hn7", version="1", sha256="a", seconds=5, baseline_seconds=6, organs=LARYNX),
    ),
    remarks=("C-ECHO failed: tps",),
)
RED = "hn7: Larynx has Dice 0.7500"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path, 1, {})


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    Spool(settings.spool.root)
    database = Database(settings.database_url)
    database.upgrade()
    yield database
    database.close()


def check(database: Database, root: Path, reason: str = "") -> None:
    """Let a check end, red with a reason or green."""
    (root / "constancy-baseline.json").touch()
    checks = ConstancyChecks(database)
    number = checks.request("contourd")
    checks.begin(number)
    checks.end(number, ConstancyState.RED if reason else ConstancyState.GREEN, reason, RESULT)


def shown(settings: Settings) -> str:
    out = StringIO()
    Console(width=120, file=out).print(to_table(read_status(settings), settings, datetime.now(UTC)))
    return out.getvalue()


def test_the_status_tells_it(settings, database):
    assert "constancy NO BASELINE" in shown(settings)
    assert "contourd constancy baseline makes one" in shown(settings)
    check(database, settings.spool.root, RED)
    told = shown(settings)
    for words in ("constancy RED   checked", RED, "C-ECHO failed: tps"):
        assert words in told
    found = json.loads(to_json(read_status(settings), settings))["constancy"]
    assert (found["state"], found["reason"], found["remarks"]) == ("RED", RED, ["C-ECHO failed: tps"])
    assert (found["last"], found["overdue"], found["under_way"]) == (1, None, False)
    check(database, settings.spool.root)
    assert "constancy GREEN   checked" in shown(settings)


def test_each_red_check_is_alerted_anew_and_a_missing_one_too(settings, database):
    now = datetime.now(UTC)
    alerts = Alerts(settings, database, [], lambda: now)
    assert [c for c in alerts.concerns() if c.rule == "constancy"] == []
    keys = set()
    for _ in range(2):
        check(database, settings.spool.root, RED)
        (concern,) = [c for c in alerts.concerns() if c.rule == "constancy"]
        assert concern.text == "the constancy check is red: contourd constancy show says why"
        keys.add(concern.key)
    assert len(keys) == 2
    check(database, settings.spool.root)
    assert [c for c in alerts.concerns() if c.rule == "constancy"] == []
    later = settings.constancy.last_due(now + timedelta(days=2)) + timedelta(hours=2)
    (missing,) = [c for c in Alerts(settings, database, [], lambda: later).concerns() if c.rule == "constancy"]
    assert "did not come to an end" in missing.text
    silent = settings.model_copy(update={"alerts": settings.alerts.model_copy(update={"rules": ("held",)})})
    assert [c.rule for c in Alerts(silent, database, [], lambda: later).concerns()] == []


def test_the_figures(settings, database):
    check(database, settings.spool.root, RED)
    text = exposition(NodeMetrics(settings, database, list)).decode()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    lights = [
        found["contourd_constancy_state", light] for light in ("green", "red", "no_baseline", "not_checked", "off")
    ]
    assert lights == [0, 1, 0, 0, 0]
    assert found["contourd_constancy_dice", "hn7", "Larynx"] == 0.75
    assert found["contourd_constancy_shift_meters", "hn7", "Larynx"] == 0.0025
    assert found["contourd_constancy_seconds", "hn7"] == 5
    assert found["contourd_constancy_last_timestamp_seconds",] == pytest.approx(datetime.now(UTC).timestamp(), abs=60)


def test_the_page_tells_it(tmp_path):
    with served(tmp_path) as page:
        assert "no baseline" in page.get("/").text
        check(page.database, page.spool.root, RED)
        told = page.get("/").text
        assert '<span class="pill bad">red</span>' in told
        assert RED in told
        assert "C-ECHO failed: tps" in told
        assert page.get("/readyz").status == 200
        check(page.database, page.spool.root)
        assert '<span class="pill good">green</span>' in page.get("/").text
