"""Shadows in the database: claimed with a token, dropped where nothing is left, and never of anybody else's doing."""

from __future__ import annotations

from datetime import timedelta

import pytest

from contourd.errors import LeaseLost
from contourd.model.model_identity import ModelIdentity
from contourd.observe.overview import read_job
from contourd.observe.shadows import read_shadows
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Route
from contourd.store.contourings import add_contouring, images_sha256
from contourd.store.processes import Processes
from contourd.store.shadow_tables import ShadowState
from contourd.store.shadows import OrganAgreement, ShadowClaim, Shadows
from contourd.store.states import JobState, ProcessRole
from contourd.store.tables import InstanceRow, JobRow, SeriesRow
from contourd.store.transitions import add_job as add_routed_job
from tests.contourings import CONTOURING
from tests.queueing import START, add_job
from tests.shadows import add_shadow, agreements_of, compared_shadow, failed_shadow, shadow_of

pytestmark = pytest.mark.both_databases

MODEL = ModelIdentity("candidate", "2", "c" * 64)
WHY = Reason.of(HoldReason.FAULT, said="it broke")
ORGAN = OrganAgreement("Parotid_L", CONTOURING.model, 0.9, 0.95, 2.5, 20.0, 22.0)
ALONE = OrganAgreement("BrainStem", CONTOURING.model, None, None, None, None, 25.0)


@pytest.fixture
def shadows(database, clock):
    return Shadows(database, clock, monotonic=clock.elapsed)


@pytest.fixture
def processes(database, clock):
    found = Processes(database, clock, clock.elapsed)
    for name in ("w1", "w2"):
        found.begin(name, ProcessRole.WORKER, "cpu")
    return found


def contoured_job(database, number: int = 1, model: str = "candidate") -> int:
    """Make a job that was contoured, with a shadow that waits."""
    job = add_job(database, number)
    with database.transaction() as session:
        session.get_one(JobRow, job).state = JobState.DELIVERED
        made = CONTOURING.__class__(
            **{name: getattr(CONTOURING, name) for name in CONTOURING.__slots__}
            | {"images": 2, "images_sha256": images_sha256(["", ""])}
        )
        add_contouring(session, job, "w0", made, START)
    add_shadow(database, job, model)
    return job


def claim(shadows, worker: str = "w1", models=("candidate",)):
    return shadows.claim(worker, "elsewhere", 60, models, [""])


def changed(database, job: int, **changes) -> None:
    with database.transaction() as session:
        row = session.get_one(JobRow, job)
        for name, value in changes.items():
            setattr(row if hasattr(row, name) else session.get_one(SeriesRow, row.series_id), name, value)


def test_a_route_with_a_shadow_makes_one_with_the_job(database):
    add_job(database, 1)
    with database.transaction() as session:
        series = session.get_one(SeriesRow, 1)
        series.revision = 2
        route = Route(model="hn7", destinations=("pacs",), shadow="candidate")
        job = add_routed_job(session, series, route, "hn7", START).id
    shadow = shadow_of(database, job)
    assert (shadow.model, shadow.state, shadow.attempts) == ("candidate", ShadowState.WAITING, 0)


def test_one_claims_it_and_what_it_brings_counts_once(database, shadows, clock):
    job = contoured_job(database)
    mine = claim(shadows)
    assert (mine.claim.job_id, mine.model, list(mine.images)) == (job, "candidate", ["1/0", "1/1"])
    assert claim(shadows, "w2") is None
    shadows.renew(mine.claim, 60)
    assert shadows.finish(mine.claim, MODEL, "outgoing/1-shadow1-c1.dcm", "f" * 64, [ORGAN, ALONE])
    shadow = shadow_of(database, job)
    assert (shadow.state, shadow.output, shadow.model_version) == (
        ShadowState.COMPARED,
        "outgoing/1-shadow1-c1.dcm",
        "2",
    )
    rows = agreements_of(database, job)
    assert [(r.organ, r.dice, r.live_cc, r.shadow_cc) for r in rows] == [
        ("Parotid_L", 0.9, 20.0, 22.0),
        ("BrainStem", None, None, 25.0),
    ]
    assert (rows[0].at, rows[0].live_sha256, rows[0].shadow_sha256) == (clock(), CONTOURING.model.sha256, MODEL.sha256)
    with pytest.raises(LeaseLost):
        shadows.finish(mine.claim, MODEL, "again", "", [])


@pytest.mark.usefixtures("processes")
def test_a_worker_that_comes_too_late_changes_nothing(database, shadows, clock):
    contoured_job(database)
    late = claim(shadows)
    shadows.recover(60, 3)
    assert shadow_of(database, 1).state == ShadowState.RUNNING  # it lives, and its lease is fresh
    clock.advance(61)
    shadows.recover(60, 3)
    assert (shadow_of(database, 1).state, shadow_of(database, 1).attempts) == (ShadowState.WAITING, 1)
    now = claim(shadows, "w2")
    assert now.claim.token == late.claim.token + 1
    for call in (
        lambda: shadows.finish(late.claim, MODEL, "late", "", [ORGAN]),
        lambda: shadows.give_back(late.claim),
        lambda: shadows.fail(late.claim, WHY),
        lambda: shadows.drop(late.claim, WHY),
        lambda: shadows.renew(late.claim, 60),
    ):
        with pytest.raises(LeaseLost):
            call()
    assert (shadow_of(database, 1).worker, shadow_of(database, 1).state) == ("w2", ShadowState.RUNNING)
    assert agreements_of(database, 1) == []


def test_what_a_dead_worker_had_is_spent_after_its_attempts(database, shadows, processes):
    contoured_job(database)
    for state in (ShadowState.WAITING, ShadowState.FAILED):
        assert claim(shadows) is not None
        processes.end_as_gone("w1")
        shadows.recover(60, 2)
        assert shadow_of(database, 1).state == state
    assert "its worker has ended" in str(shadow_of(database, 1).reason)


def test_it_waits_while_anything_else_is_to_do(database, shadows, processes):
    contoured_job(database)
    other = add_job(database, 2)
    assert claim(shadows) is None  # a patient's job waits
    changed(database, other, contouring_order="of another version")
    assert claim(shadows) is not None  # which this worker cannot do
    assert not shadows.must_give_way("elsewhere", [""])
    changed(database, other, contouring_order="")
    assert shadows.must_give_way("elsewhere", [""])
    shadows.give_back(shadow_claim(database))
    changed(database, other, state=JobState.CONTOURING, worker="w2")
    here = processes.running()[0].identity.host
    assert shadows.claim("w1", here, 60, ["candidate"], [""]) is None  # on this host
    assert claim(shadows) is not None  # on another one
    shadows.give_back(shadow_claim(database))
    with database.transaction() as session:
        session.get_one(JobRow, other).state = JobState.DELIVERED
        session.get_one(SeriesRow, 2).state = "RECEIVING"
    assert claim(shadows) is None  # images arrive


def shadow_claim(database):
    row = shadow_of(database, 1)
    return ShadowClaim(row.id, 1, row.worker, row.claims)


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.CONTOURING])
def test_it_waits_for_the_end_of_its_own_job(database, shadows, state):
    job = contoured_job(database)
    changed(database, job, state=state, contouring_order="cannot be done here")
    assert claim(shadows) is None
    assert shadows.drop_vain() == 0


def test_a_model_that_the_worker_has_not_is_left_to_others(database, shadows):
    contoured_job(database)
    assert shadows.models_waiting() == ["candidate"]
    assert claim(shadows, models=("another",)) is None
    assert claim(shadows, models=()) is None


@pytest.mark.parametrize("when", ["waiting", "running"])
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"purged_at": START}, HoldReason.FILES_PURGED),
        ({"state": JobState.SUPERSEDED, "reason": Reason.of(HoldReason.NEWER_REVISION, because="a late image")}, None),
        ({"corrected_revision": 2}, HoldReason.IMAGES_REPLACED),
    ],
)
def test_a_job_that_is_over_drops_its_shadow_with_the_reason(database, shadows, changes, told, when):
    job = contoured_job(database)
    mine = claim(shadows) if when == "running" else None
    changed(database, job, **changes)
    if mine is None:
        assert shadows.drop_vain() == 1
    else:
        assert not shadows.finish(mine.claim, MODEL, "outgoing/1-shadow1-c1.dcm", "", [ORGAN])
    shadow = shadow_of(database, job)
    assert (shadow.state, shadow.reason.code) == (ShadowState.DROPPED, told or HoldReason.NEWER_REVISION)
    assert (shadow.output, agreements_of(database, job)) == ("", [])


def test_images_that_are_gone_or_others_drop_it(database, shadows):
    first, second = contoured_job(database, 1), contoured_job(database, 2)
    with database.transaction() as session:
        for row in session.query(InstanceRow).where(InstanceRow.series_id == 1):
            session.delete(row)
        session.query(InstanceRow).where(InstanceRow.series_id == 2).first().sha256 = "other"
    assert shadows.drop_vain() == 1
    assert claim(shadows) is None  # the other one is found when it is claimed
    assert [shadow_of(database, job).state for job in (first, second)] == [ShadowState.DROPPED] * 2


def test_what_gives_way_costs_no_attempt_and_what_fails_does(database, shadows):
    job = contoured_job(database)
    shadows.give_back(claim(shadows).claim)
    assert (shadow_of(database, job).attempts, shadow_of(database, job).reason) == (0, None)
    shadows.fail(claim(shadows).claim, WHY, 2)
    assert (shadow_of(database, job).state, shadow_of(database, job).attempts) == (ShadowState.WAITING, 1)
    shadows.fail(claim(shadows).claim, WHY, 2)
    assert (shadow_of(database, job).state, shadow_of(database, job).reason) == (ShadowState.FAILED, WHY)
    with database.reading() as session:
        row = session.get_one(JobRow, job)
        assert (row.state, row.reason) == (JobState.DELIVERED, None)


def test_the_report_has_quartiles_weeks_and_the_worst_cases(database):
    jobs = [add_job(database, number) for number in range(1, 6)]
    for job, dice, days in zip(jobs, (0.9, 0.8, 0.7, 0.6, 0.5), (0, 1, 7, 8, 9), strict=True):
        compared_shadow(database, job, dice, START + timedelta(days=days))
    failed = add_job(database, 6)
    failed_shadow(database, failed)
    report = read_shadows(database)
    assert report.counts == {"WAITING": 0, "RUNNING": 0, "COMPARED": 5, "FAILED": 1, "DROPPED": 0}
    (line,) = report.shadows
    assert (line.model, line.jobs, [one.name for one in line.live]) == (MODEL, 5, ["hn7"])
    parotid, stem = line.organs
    assert (parotid.organ, parotid.cases, parotid.only_live) == ("Parotid_L", 5, 0)
    assert (parotid.dice.first, parotid.dice.median, parotid.dice.third) == (0.6, 0.7, 0.8)
    assert parotid.volume.median == pytest.approx(1.1)
    assert [(case.job, case.dice) for case in parotid.worst] == [(jobs[4], 0.5), (jobs[3], 0.6), (jobs[2], 0.7)]
    # START is Thursday 1 January 2026: days 0 and 1 are of the week of 29 December, the others of 5 January.
    assert [(f"{w.monday:%m-%d}", w.cases, w.dice.median) for w in parotid.weeks] == [
        ("12-29", 2, pytest.approx(0.85)),
        ("01-05", 3, 0.6),
    ]
    assert (stem.cases, stem.only_live, stem.dice, stem.worst, stem.weeks) == (0, 5, None, (), ())
    assert [(one.job, one.state, one.reason) for one in report.troubles] == [(failed, "FAILED", WHY)]
    later = read_shadows(database, since=START + timedelta(days=8))
    assert later.shadows[0].jobs == 2
    assert read_shadows(database, "candidate").shadows == report.shadows
    assert read_shadows(database, "another").shadows == ()
    (one,) = read_job(database, jobs[0]).shadows
    assert (one.identity, one.state, [a.organ for a in one.agreements]) == (
        MODEL,
        "COMPARED",
        ["Parotid_L", "BrainStem"],
    )
