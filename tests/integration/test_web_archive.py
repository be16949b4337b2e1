"""The page's list of all jobs: what the first page counts, patients, names, and addresses that say nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from sqlalchemy import select

from contourd.intake.describing import name_hash
from contourd.model.model_identity import ModelIdentity
from contourd.model.model_use import ModelUse
from contourd.model.runtime_description import RuntimeDescription
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.store.archive_tables import PatientNameRow, SeriesDescriptionRow
from contourd.store.contourings import Contouring, add_contouring
from contourd.store.processes import Processes
from contourd.store.states import ProcessRole
from contourd.store.tables import AuditRow, InstanceRow
from tests import showcase
from tests.paging import Page, served, write_token
from tests.phantom import write_series

CONTOURING = Contouring(
    ModelIdentity("hn7", "1", "0" * 64),
    "1",
    RuntimeDescription("torch", "2", "fp32", "cpu", "x", 2),
    {},
    "{}",
    1,
    "",
    (),
)
NAMED = "/archive/names"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page where a person can sign in, of a queue whose job 4 has an image, a name and a description."""
    root = tmp_path_factory.mktemp("page")
    with served(root, token_file=write_token(root)) as made:
        image = min(write_series(root / "ct").iterdir())
        path = made.spool.store_instance([image.read_bytes()])
        showcase.fill_queue(made.database, made.spool)
        Processes(made.database).begin("w1", ProcessRole.WORKER, "cpu")
        now = datetime.now(UTC)
        with made.database.transaction() as session:
            first = select(InstanceRow).where(InstanceRow.series_id == 5).order_by(InstanceRow.id).limit(1)
            session.scalars(first).one().path = path
            session.add(PatientNameRow(name_hmac=name_hash(made.spool.signature, "curie"), series_id=5))
            session.add(
                SeriesDescriptionRow(
                    series_id=5,
                    study_date="19991231",
                    description="Head & <Neck>",
                    body_part="HEAD",
                    protocol="",
                    station="",
                )
            )
            for job, ago in ((1, 10), (1, 20), (3, 30), (4, 90)):
                add_contouring(session, job, "w1", CONTOURING, now - timedelta(minutes=ago))
        yield made


@pytest.fixture
def signed_in(page):
    page.sign_in()
    yield page
    page.cookie = ""


def listed(text: str) -> list[str]:
    """Return what a list's lines lead to."""
    return re.findall(r'<a class="number" href="(/(?:jobs|series)/\d+)">', text)


def whole(page: Page, address: str) -> list[str]:
    lines: list[str] = []
    while address:
        answer = page.get(address)
        assert answer.status == 200, answer.text
        lines += listed(answer.text)
        following = re.search(r'<a class="button" href="([^"]+)" rel="next">', answer.text)
        address = unescape(following[1]) if following else ""
    return lines


def trail(page: Page, action: str) -> list[tuple[str, str, str]]:
    with page.database.reading() as session:
        rows = session.scalars(select(AuditRow).where(AuditRow.action == action).order_by(AuditRow.id))
        return [(row.actor, row.subject, row.detail) for row in rows]


def test_every_number_of_the_first_page_leads_to_what_it_counts(page):
    links = re.findall(r'<a[^>]* href="(/archive\?[^"]+)">\s*(?:<b>)?(\d+)', page.get("/").text)
    assert len(links) == 6 + 3 + 1  # by state, of the destinations, of the worker
    for address, number in links:
        lines = whole(page, unescape(address))
        assert len(lines) == len(set(lines)) == int(number), address


def test_a_job_of_several_models_says_which_draws_what(page):
    uses = (
        ModelUse("hn7", CONTOURING.model, CONTOURING.runtime, ("Brainstem", "Parotid_L")),
        ModelUse("glands", None, None, ("Glnd_Submand_L",), Reason.of(HoldReason.MODEL_OF_JOB_GONE, model="glands 1")),
        ModelUse("old", CONTOURING.model, CONTOURING.runtime),
    )
    with page.database.transaction() as session:
        add_contouring(session, 2, "", replace(CONTOURING, several=uses), datetime.now(UTC))
    (section,) = re.findall(r'<section class="card" id="models">.*?</section>', page.get("/jobs/2").text, re.DOTALL)
    drawn, failed, none = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", section)
    assert drawn == ("hn7 1", "Brainstem, Parotid_L")
    assert failed[0] == "glands"
    assert failed[1].startswith("Drew nothing: ")
    assert failed[1].endswith(". Missing: Glnd_Submand_L")
    assert none == ("hn7 1", "No organ: others list all of its own")
    assert 'id="models"' not in page.get("/jobs/1").text


def test_the_list_holds_every_job_and_open_series_with_its_reason(page):
    text = page.get("/archive").text
    assert sorted(listed(text)) == sorted([*(f"/jobs/{n}" for n in range(1, 6)), "/series/2", "/series/6"])
    for told in ("missing slices at z", "Larynx", "Head &amp; &lt;Neck&gt;", "1999-12-31", "route 1"):
        assert (told in text) is (told not in ("Head &amp; &lt;Neck&gt;", "1999-12-31")), told  # descriptions are off


@pytest.mark.parametrize(
    ("query", "lines"),
    [
        ("state=DELIVERED", ["/jobs/4"]),
        ("state=HELD&sender=PLANNINGCT", ["/series/2"]),
        ("state=HELD&sender=NOBODY", []),
        ("reason=missing_slices", ["/series/2"]),
        ("destination=tps&delivery=refused", ["/jobs/5"]),
        ("remark=volume", ["/jobs/4"]),
        ("since=1min", []),
        ("sender=&state=&route=", None),
    ],
)
def test_an_address_says_what_is_listed(page, query, lines):
    text = page.get(f"/archive?{query}").text
    assert listed(text) == (lines if lines is not None else listed(page.get("/archive").text))
    if lines == []:
        assert "Nothing fits all of these filters" in text


@pytest.mark.parametrize(
    "query", ["state=GONE", "x=1", "before=now", "since=%00", "state=" + "A" * 300, "sender=%E2%80%AE", "route=-1"]
)
def test_an_address_that_says_nothing_is_refused_in_words(page, query):
    answer = page.get(f"/archive?{query}")
    assert answer.status == 400
    assert "The list cannot be chosen so" in answer.text


def test_a_patient_is_found_by_what_is_typed_and_the_address_has_neither(signed_in):
    for typed, kept in (("Curie", name_hash(signed_in.spool.signature, "curie")), ("REFERENCE-5", "")):
        kept = kept or signed_in.spool.pseudonym(typed)
        answer = signed_in.act("/archive/patient", typed=typed, query="state=DELIVERED&state=FAILED")
        assert answer.status == 303
        assert answer.headers["location"] == f"/archive?state=DELIVERED&state=FAILED&patient={kept}"
        assert listed(signed_in.get(answer.headers["location"]).text) == ["/jobs/4"]
        assert trail(signed_in, "search patient")[-1] == ("Marie Curie", kept[:10], "")


def test_a_patient_whom_nobody_knows_is_told_with_what_to_do(signed_in):
    answer = signed_in.act("/archive/patient", typed="Doe^Jane", query="")
    assert answer.status == 404
    assert "contourd db describe" in answer.text
    assert "Doe" not in answer.text
    assert trail(signed_in, "search patient")[-1] == ("Marie Curie", "", "nobody found")


@pytest.mark.parametrize(
    ("typed", "query"), [("", ""), ("A" * 201, ""), ("Curie", "state=GONE"), ("Curie", "a=1&" * 50)]
)
def test_a_search_for_nothing_is_refused(signed_in, typed, query):
    assert signed_in.act("/archive/patient", typed=typed, query=query).status == 400


def test_names_are_shown_to_who_signed_in_and_audited_once_for_the_list(signed_in):
    before = len(trail(signed_in, "show patient"))
    answer = signed_in.act(NAMED, query="route=1")
    assert answer.status == 200
    assert "Phantom^Head (" in answer.text or re.search(r"\w+\^\w+ \(\w+", answer.text)
    assert len(listed(answer.text)) == 4
    assert trail(signed_in, "show patient")[before:] == [("Marie Curie", "list of jobs", "route=1")]


def test_who_has_not_signed_in_neither_searches_nor_sees_names(page):
    for path in ("/archive/patient", NAMED):
        assert page.post(path, {"typed": "Curie", "query": ""}).status == 403
    assert "Find the patient" not in page.get("/archive").text
