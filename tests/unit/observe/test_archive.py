"""The list of all jobs: every filter against a count by hand, page by page, and what an address cannot say."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from contourd.errors import FilterInvalid
from contourd.model.remarks import Finding, Remark, RemarkCheck, Remarks, RemarkVerdict
from contourd.observe.archive import ArchiveLine, read_archive
from contourd.observe.archive_filter import ArchiveKey, read_filter
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Route
from contourd.store.archive_tables import PatientNameRow
from contourd.store.facets import file_remarks
from contourd.store.route_choice import RouteChoice
from contourd.store.states import DeliveryState, JobState, SeriesState
from contourd.store.tables import ConstancyCheckRow, ConstancySeriesRow, ContouringRow, DeliveryRow, SeriesRow
from contourd.store.transitions import add_delivery, add_job
from tests.contourings import CONTOURING
from tests.databases import open_queue
from tests.queueing import START

pytestmark = pytest.mark.both_databases

NOW = START + timedelta(days=30)
REASONS = (
    Reason.of(HoldReason.SLICES_MISSING, z_mm=[1.0]),
    Reason.of(HoldReason.HELD_BY_PERSON, actor="x", words="y"),
    Reason.of(HoldReason.NO_ROUTE, calling_ae="CT1", body_part="X"),
)
STATES = ("QUEUED", "DELIVERED", "DELIVERED", "DELIVERED", "HELD", "FAILED", "CONFIRMING")
CHECKS = (RemarkCheck.VOLUME, RemarkCheck.POSITION)


@dataclass
class Told:
    """What one line is known to be, by hand."""

    job: bool
    at: datetime
    sender: str
    state: str
    reason: str
    patient: str
    name: str
    model: str = ""
    route: str = ""
    worker: str = ""
    deliveries: dict[str, str] = field(default_factory=dict)
    remarks: set[str] = field(default_factory=set)


def fill(database, dice: random.Random, number: int = 70) -> dict[tuple[bool, int], Told]:
    known: dict[tuple[bool, int], Told] = {}
    with database.transaction() as session:
        check = ConstancyCheckRow(purpose="check", state="GREEN", actor="contourd", requested_at=START)
        session.add(check)
        session.flush()
        for i in range(1, number + 1):
            at = START + timedelta(hours=dice.randrange(20))  # many at the same time
            patient, name = f"{i % 20:010x}", f"{i % 20:032x}"
            sender, reason = dice.choice(("CT1", "CT2", "PACS")), dice.choice(REASONS)
            is_open = i % 6 == 0
            state = dice.choice((SeriesState.HELD, SeriesState.RECEIVING)) if is_open else SeriesState.COMPLETE
            held = state == SeriesState.HELD
            series = SeriesRow(
                series_uid=f"2.25.{i}", state=state, calling_ae=sender, patient=patient, created_at=at,
                last_instance_at=at, reason=reason if held else None,
            )  # fmt: skip
            session.add(series)
            session.flush()
            session.add(PatientNameRow(name_hmac=name, series_id=series.id))
            if i % 17 == 0:  # a constancy check's own
                session.add(
                    ConstancySeriesRow(
                        series_uid=series.series_uid, check_id=check.id, series_id=series.id, model="hn7",
                        instances_sha256="",
                    )
                )  # fmt: skip
            own = i % 17 == 0
            told = Told(False, at, sender, str(state), reason.held_as.value if held else "", patient, name)
            if is_open:
                if not own:
                    known[False, series.id] = told
                continue
            destinations = dice.choice((("pacs",), ("pacs", "tps")))
            route = Route(model=dice.choice(("hn7", "glands")), destinations=destinations)
            choice = RouteChoice(dice.randrange(1, 3), (), "") if i % 5 else None
            job = add_job(session, series, route, "", at, choice)
            job.state = dice.choice(STATES)
            job.reason = reason if job.state in ("HELD", "FAILED") else None
            found = [one for one in CHECKS if dice.randrange(3) == 0]
            job.remarks = Remarks(tuple(Remark(Finding("A", one), RemarkVerdict.FLAG) for one in found))
            file_remarks(session, job, job.remarks)
            for name_ in destinations:
                add_delivery(session, job, name_, "", at).state = dice.choice(("PENDING", "DELIVERED", "REFUSED"))
            worker = dice.choice(("w1", "w2", ""))
            for _ in range(dice.randrange(1, 3) if worker else 0):
                session.add(
                    ContouringRow(
                        job_id=job.id, process=worker, at=at, model_name="hn7", model_version="1", model_sha256="0",
                        contourd="1", runtime=CONTOURING.runtime.to_json(), versions="{}", settings="{}", images=1,
                        images_sha256="", outputs="[]",
                    )
                )  # fmt: skip
            session.flush()
            if own:
                continue
            told.job, told.model, told.state = True, route.model, job.state
            told.route = str(choice.number) if choice else ""
            told.reason = reason.held_as.value if job.reason else ""
            told.worker = worker
            told.remarks = {*map(str, found), *(["flag"] if found else [])}
            told.deliveries = dict.fromkeys(destinations, "")
            known[True, job.id] = told
        session.flush()
        for row in session.scalars(select(DeliveryRow)):
            if (True, row.job_id) in known:
                known[True, row.job_id].deliveries[row.destination] = row.state
    return known


def fits(told: Told, pairs: list[tuple[str, str]]) -> bool:
    """Decide by hand."""
    one = dict(pairs)
    states = [value for key, value in pairs if key == "state"]
    patients = [value for key, value in pairs if key == "patient"]
    waiting = {"PENDING", "SENDING", "SENT"}
    delivered = told.deliveries.get(one.get("destination", ""), "")
    return all(
        (
            not states or told.state in states,
            not patients or told.patient in patients or told.name in patients,
            "sender" not in one or told.sender == one["sender"],
            "model" not in one or told.model == one["model"],
            "route" not in one or told.route == one["route"],
            "destination" not in one or one["destination"] in told.deliveries,
            "delivery" not in one
            or (delivered in waiting if one["delivery"] == "waiting" else delivered == one["delivery"].upper()),
            "remark" not in one or one["remark"] in told.remarks,
            "reason" not in one or told.reason == one["reason"],
            "since" not in one or told.at >= datetime.fromisoformat(one["since"]),
            "until" not in one or told.at < datetime.fromisoformat(one["until"]),
            "worker" not in one
            or (told.worker == one["worker"] and told.at >= datetime.fromisoformat(one["contoured"])),
        )
    )


def identity(line: ArchiveLine) -> tuple[bool, int]:
    return line.key.is_job, line.key.id


def pages(database, pairs: list[tuple[str, str]], most: int, few: int, look: int) -> list[ArchiveLine]:
    """Read the whole list, page by page, by what an address would say."""
    lines: list[ArchiveLine] = []
    before: list[tuple[str, str]] = []
    for _ in range(500):
        page = read_archive(database, read_filter([*pairs, *before], NOW), most, few, look)
        lines += page.lines
        assert len(page.lines) <= most
        if page.next is None:
            return lines
        assert page.lines or page.looked_to is not None
        before = [("before", page.next.text)]
    raise AssertionError("the list does not end")


def random_filters(dice: random.Random) -> list[tuple[str, str]]:
    since, until = (START + timedelta(hours=h) for h in sorted((dice.randrange(20), dice.randrange(20))))
    kinds = [
        [("state", s) for s in dice.sample(("QUEUED", "DELIVERED", "HELD", "FAILED", "CONFIRMING", "RECEIVING"), 2)],
        [("state", "DELIVERED")],
        [("sender", dice.choice(("CT1", "CT2", "NOBODY")))],
        [("model", dice.choice(("hn7", "glands")))],
        [("route", dice.choice(("1", "2")))],
        [("destination", dice.choice(("pacs", "tps")))],
        [("destination", "tps"), ("delivery", dice.choice(("waiting", "refused", "delivered")))],
        [("remark", dice.choice(("volume", "position", "flag", "symmetry")))],
        [("reason", dice.choice(("missing_slices", "by_a_person", "no_route", "device")))],
        [("patient", f"{dice.randrange(22):010x}"), ("patient", f"{dice.randrange(22):032x}")],
        [("since", since.isoformat()), ("until", until.isoformat())],
        [("worker", dice.choice(("w1", "w2"))), ("contoured", since.isoformat())],
    ]
    chosen = dice.sample(kinds, dice.randrange(0, 4))
    pairs = list(dict.fromkeys(pair for kind in chosen for pair in kind))
    once = {key: value for key, value in pairs if key not in ("state", "patient")}
    return [pair for pair in pairs if pair[0] in ("state", "patient")] + list(once.items())


def test_every_filter_lists_what_fits_it_once_and_in_order(tmp_path):
    dice = random.Random(4)
    database = open_queue(tmp_path)
    database.upgrade()
    known = fill(database, dice)
    tried = 0
    for n in range(70):
        pairs = [] if n == 0 else random_filters(dice)
        if len([p for p in pairs if p[0] == "state"]) > 2:
            continue
        expected = {key for key, told in known.items() if fits(told, pairs)}
        bounds = dice.choice(((50, 2000, 20_000), (7, 5, 40), (3, 0, 8), (2, 1, 3)))
        lines = pages(database, pairs, *bounds)
        assert sorted(map(identity, lines)) == sorted(expected), (pairs, bounds)
        keys = [line.key.order for line in lines]
        assert keys == sorted(keys, reverse=True), (pairs, bounds)
        tried += bool(expected)
    assert tried > 20
    database.close()


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ([("stat", "HELD")], "there is no filter 'stat'"),
        ([("state", "COMPLETE")], "state: there is no 'COMPLETE'; there are: QUEUED"),
        ([("state", "held")] * 11, "state is given 11 times"),
        ([("sender", "A"), ("sender", "B")], "sender is given 2 times; at most 1"),
        ([("since", "yesterday")], "since: 'yesterday' is neither a span as 2h nor a date"),
        ([("since", "0001-01-01")], "since: "),
        ([("until", "999999w")], "until: "),
        ([("route", "0")], "route: a number from 1, not '0'"),
        ([("route", "one")], "route: a number from 1"),
        ([("reason", "bad luck")], "reason: there is no 'bad luck'; there are: refused"),
        ([("remark", "fine")], "remark: there is no 'fine'"),
        ([("delivery", "refused")], "delivery: name the destination too"),
        ([("destination", "pacs"), ("delivery", "lost")], "delivery: there is no 'lost'"),
        ([("worker", "w")], "worker and contoured stand together"),
        ([("patient", "Doe^Jane")], "patient: the address takes a pseudonym or a hash"),
        ([("before", "then")], "before: 'then' is no place in the list"),
        ([("before", "20261399T000000000000Z-j1")], "is no place in the list"),
        ([("before", "20260101T000000000000Z-j" + "9" * 19)], "is no place in the list"),
        ([("sender", "A" * 256)], "sender: at most 255 printable characters"),
        ([("sender", "A\x00B")], "sender: at most 255 printable characters"),
    ],
)
def test_what_an_address_cannot_say_is_refused_in_words(pairs, told):
    with pytest.raises(FilterInvalid) as refused:
        read_filter(pairs, NOW)
    assert told in str(refused.value)


def test_empty_values_narrow_nothing_and_a_day_is_taken_in_as_a_whole():
    assert read_filter([("sender", " "), ("state", ""), ("since", "")], NOW) == read_filter([], NOW)
    day = read_filter([("since", "2026-01-01"), ("until", "2026-01-01")], NOW)
    assert day.since is not None
    assert day.until is not None
    assert day.until - day.since == timedelta(days=1)
    assert read_filter([("since", "2h")], NOW).since == NOW - timedelta(hours=2)
    key = ArchiveKey(datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), False, 12)
    assert key.text == "20260102T030405678901Z-s12"
    assert read_filter([("before", key.text)], NOW).before == key


def test_the_states_that_can_be_asked_for_are_those_that_a_line_can_have():
    for state in (*JobState, SeriesState.RECEIVING, SeriesState.HELD):
        assert read_filter([("state", str(state))], NOW).states == (str(state),)
    for state in DeliveryState:
        asked = [("destination", "pacs"), ("delivery", str(state))]
        assert read_filter(asked, NOW).delivery == (str(state),)
