"""The figures that Prometheus gets: each by hand from what is in the queue."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from contourd.observe.metrics import NodeMetrics, exposition
from contourd.observe.pulse import Pulse
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.spool.folder import Spool
from contourd.spool.watching import StoreStanding
from contourd.store.database import Database
from contourd.store.processes import Processes, ProcessFigures
from contourd.store.states import ProcessRole
from contourd.store.tables import AttemptRow, AuditRow, EventRow
from contourd.system.identity import host_name
from tests import showcase
from tests.databases import open_queue
from tests.paging import settings_for

pytestmark = pytest.mark.both_databases


@pytest.fixture
def node(tmp_path):
    settings = settings_for(tmp_path, 1, {})
    spool, database, pulse = Spool(settings.spool.root), open_queue(tmp_path), Pulse()
    database.upgrade()
    metrics = NodeMetrics(settings, database, lambda: [("hn7", "1", "ab12")], pulse)
    showcase.fill_queue(database, spool)
    pulse.beat(True)
    yield database, metrics
    database.close()


def figures(metrics: NodeMetrics) -> dict[str, float]:
    """Name and labels -> value, as Prometheus' own parser reads them."""
    text = exposition(metrics).decode()
    return {
        sample.name + "".join(f",{k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_is_there_is_counted(node):
    _, metrics = node
    found = figures(metrics)
    assert found["contourd_series,state=held"] == 1
    assert found["contourd_series,state=receiving"] == 1
    states = ("queued", "contouring", "confirming", "failed", "delivered")
    assert [found[f"contourd_jobs,state={s}"] for s in states] == [
        0, 1, 1, 1, 1,
    ]  # fmt: skip
    assert found["contourd_deliveries,destination=pacs,state=delivered"] == 3
    assert found["contourd_instances_received_total"] == sum(60 + 7 * n for n in range(2, 8))  # series 1 has none here
    assert found["contourd_model_info,model=hn7,sha256=ab12,version=1"] == 1
    assert found["contourd_up"] == found["contourd_worker_up"] == 1
    assert found["contourd_disk_free_bytes"] > 1e6
    # Jobs 2 and 3 are open; job 3's series came 45 minutes ago, and its job was made two minutes later.
    assert found["contourd_oldest_job_age_seconds"] == pytest.approx(43 * 60, abs=60)
    assert found["contourd_destination_last_success_timestamp_seconds,destination=tps"] > 1.7e9


def test_the_dashboard_asks_for_what_is_there(node):
    """Every metric in etc/grafana-dashboard.json is one that the node gives."""
    _, metrics = node
    given = {name.partition(",")[0] for name in figures(metrics)}
    board = (Path(__file__).resolve().parents[3] / "etc" / "grafana-dashboard.json").read_text(encoding="utf-8")
    expressions = [target["expr"] for panel in json.loads(board)["panels"] for target in panel["targets"]]
    asked = {name for expression in expressions for name in re.findall(r"contourd_\w+", expression)}
    assert len(asked) >= 10
    assert asked <= given


def test_attempts_are_counted_by_outcome_and_status(node):
    _, metrics = node
    found = figures(metrics)
    assert found["contourd_delivery_attempts_total,destination=pacs,outcome=accepted,status=0x0000"] == 3
    assert found["contourd_delivery_attempts_total,destination=tps,outcome=unreachable,status="] == 3
    assert found["contourd_delivery_attempts_total,destination=tps,outcome=refused,status="] == 1


def test_stages_are_timed(node):
    # Each of five jobs waited 1 s; four were contoured in 41 s, and one of them was delivered 5 s later.
    _, metrics = node
    found = figures(metrics)
    assert found["contourd_job_stage_seconds_count,stage=waiting"] == 5
    assert found["contourd_job_stage_seconds_sum,stage=waiting"] == pytest.approx(5)
    assert found["contourd_job_stage_seconds_sum,stage=contouring"] == pytest.approx(4 * 41)
    assert found["contourd_job_stage_seconds_bucket,le=30.0,stage=contouring"] == 0
    assert found["contourd_job_stage_seconds_bucket,le=60.0,stage=contouring"] == 4
    assert found["contourd_job_stage_seconds_count,stage=delivering"] == 1


def test_nothing_is_counted_twice_and_nothing_new_is_missed(node):
    database, metrics = node
    before = figures(metrics)
    assert figures(metrics)["contourd_job_stage_seconds_count,stage=waiting"] == 5
    now = datetime.now(UTC)
    with database.transaction() as session:
        for event, state, seconds in (("queued", "QUEUED", 0), ("claim", "CONTOURING", 7)):
            session.add(
                EventRow(at=now + timedelta(seconds=seconds), subject="job", subject_id=9, event=event, state=state)
            )
        session.add(
            EventRow(
                at=now,
                subject="series",
                subject_id=3,
                event="hold",
                state="HELD",
                reason=Reason(HoldReason.SLICES_MISSING),
            )
        )
        session.add(AttemptRow(delivery_id=1, destination="pacs", at=now, outcome="refused", status=0xA900))
    after = figures(metrics)
    assert after["contourd_job_stage_seconds_count,stage=waiting"] == 6
    assert after["contourd_job_stage_seconds_sum,stage=waiting"] == pytest.approx(12)
    assert after["contourd_held_total,reason=missing_slices"] == before["contourd_held_total,reason=missing_slices"] + 1
    assert after["contourd_delivery_attempts_total,destination=pacs,outcome=refused,status=0xA900"] == 1


def test_remarks_are_counted_when_a_job_is_contoured(node):
    database, metrics = node
    counted = "contourd_remarks_total,check=volume,verdict=flag"
    assert figures(metrics)[counted] == 1  # of the larynx of job 4
    now = datetime.now(UTC)
    with database.transaction() as session:
        session.add(EventRow(at=now, subject="job", subject_id=4, event="contoured", state="DELIVERING"))
    assert figures(metrics)[counted] == figures(metrics)[counted] == 2


def test_counters_begin_with_the_process_and_numbers_do_not(node, tmp_path):
    database, metrics = node
    counted = ("contourd_job_stage_seconds_count,stage=waiting", "contourd_held_total,reason=confirmation")
    numbers = (
        "contourd_jobs,state=confirming",
        "contourd_delivery_attempts_total,destination=pacs,outcome=accepted,status=0x0000",
    )
    first = figures(metrics)
    assert all(first[name] > 0 for name in (*counted, *numbers))
    later = figures(NodeMetrics(settings_for(tmp_path, 1, {}), database, list))
    assert [later[name] for name in counted] == [0, 0]
    assert [later[name] for name in numbers] == [first[name] for name in numbers]


@pytest.mark.sqlite_alone
def test_a_process_that_finds_no_database_begins_with_its_first_look(tmp_path):
    settings = settings_for(tmp_path, 1, {})
    spool, database = Spool(settings.spool.root), Database(settings.database_url)
    metrics = NodeMetrics(settings, database, list)
    database.upgrade()
    showcase.fill_queue(database, spool)
    assert figures(metrics)["contourd_job_stage_seconds_count,stage=waiting"] == 0
    assert figures(metrics)["contourd_jobs,state=confirming"] == 1
    database.close()


def test_associations_are_counted_though_one_row_may_stand_for_many(node):
    database, metrics = node
    with database.transaction() as session:
        for action, times in (
            ("association accepted", 1),
            ("association accepted", 41),
            ("association rejected", 2),
            ("association cut off", 1),
            ("sign in", 1),
        ):
            session.add(AuditRow(at=datetime.now(UTC), actor="CT1", action=action, subject="peer", times=times))
    found = figures(metrics)
    assert found["contourd_associations_total,outcome=accepted"] == 42
    assert found["contourd_associations_total,outcome=rejected"] == 2
    assert found["contourd_associations_total,outcome=cut_off"] == 1
    assert found["contourd_associations_total,outcome=aborted"] == 0


def test_disks_and_the_object_store_are_those_of_each_host(node):
    database, metrics = node
    since = datetime(2026, 1, 1, 12, tzinfo=UTC)
    processes = Processes(database)
    processes.begin("ct1", ProcessRole.SERVE)
    processes.beat("ct1", ProcessFigures(7, 9, StoreStanding(False, since, "it refuses"), 12))
    found = figures(metrics)
    host = host_name()
    assert found[f"contourd_host_disk_free_bytes,host={host}"] == 7
    assert found[f"contourd_host_disk_size_bytes,host={host}"] == 9
    assert found[f"contourd_store_up,host={host}"] == 0
    assert found[f"contourd_store_since_timestamp_seconds,host={host}"] == since.timestamp()
    assert found[f"contourd_store_waiting_images,host={host}"] == 12
    processes.beat("ct1", ProcessFigures(7, 9, StoreStanding(True, since, "it refuses")))
    found = figures(metrics)
    assert found[f"contourd_store_up,host={host}"] == 1
    assert f"contourd_store_waiting_images,host={host}" not in found
