"""The page over HTTP: what it shows and to whom, what it lets a person do, and what it refuses."""

from __future__ import annotations

import gzip
import io
import json
import re
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import select

from contourd.acceptance.reference_patient import load_reference
from contourd.model.remarks import RemarkCheck, Remarks
from contourd.observe.pulse import TOLD, SelfTestFault
from contourd.observe.report import read_report
from contourd.spool.watching import StoreStanding
from contourd.store.processes import Processes, ProcessFigures
from contourd.store.states import JobState, ProcessRole
from contourd.store.tables import AuditRow, JobRow, SeriesRow
from contourd.web.access import TRIES
from contourd.web.pages import rendered
from tests import showcase
from tests.paging import TOKEN, Page, served, write_token
from tests.reasons import because

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A page with the reference patient, that only reads."""
    root = tmp_path_factory.mktemp("shown")
    with served(root) as page:
        showcase.fill(page.database, page.spool)
        page.pulse.beat(True)
        yield page


@pytest.fixture
def acting(tmp_path):
    """A page with a queue and no images, where a person can sign in."""
    with served(tmp_path, token_file=write_token(tmp_path)) as page:
        showcase.fill_queue(page.database, page.spool)
        yield page


def states(page: Page) -> dict[int, str]:
    return {job.id: job.state for job in read_report(page.database).jobs}


def trail(page: Page) -> list[tuple[str, str, str, str]]:
    with page.database.reading() as session:
        return [
            (a.actor, a.action, a.subject, a.detail) for a in session.scalars(select(AuditRow).order_by(AuditRow.id))
        ]


def test_the_queue_is_shown_with_reasons(shown):
    text = shown.get("/").text
    for told in (
        "missing slices at z = -42.50, -37.50 mm",
        "waits for confirmation",
        "does not take RT Structure Set Storage",
        "3 tries, next in",
        "last success",
        "receives and contours",
        "hn7",
    ):
        assert told in text
    assert "read-only" in text
    assert "<form" not in text


def test_hosts_are_shown_with_their_disk_and_how_the_object_store_answers_them(shown):
    assert "<h2>Object store</h2>" not in shown.get("/").text
    processes, since = Processes(shown.database), datetime.now(UTC) - timedelta(minutes=4)
    processes.begin("node", ProcessRole.SERVE)
    processes.beat("node", ProcessFigures(4 * 10**9, 10**12, StoreStanding(False, since, "<b>it refuses"), 1240))
    text = shown.get("/").text
    assert '<span class="bad-text">4 of 1000 GB disk free</span>' in text
    store = text.partition("<h2>Object store</h2>")[2].partition("</section>")[0]
    assert re.search(r'<span class="bad-text">down for <time [^>]*>4 min</time></span>', store)
    assert "1240 images wait for it" in store
    assert "&lt;b&gt;it refuses" in store
    processes.beat("node", ProcessFigures(40 * 10**9, 10**12, StoreStanding(True, since, "it refused"), 1))
    text = shown.get("/").text
    assert "<span>40 of 1000 GB disk free</span>" in text
    assert "1 image waits for it" in text
    assert "it refused" not in text
    processes.end("node")


def test_every_page_comes_with_the_headers_that_keep_scripts_out(shown):
    for path in ("/", "/jobs/1", "/series/2", "/models/0", "/jobs/99", "/sign-in"):
        answer = shown.get(path)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", answer.text)
        assert "http://" not in answer.text.replace("http://www.w3.org", "")
        assert "https://" not in answer.text


def test_no_page_names_the_patient(shown):
    for path in ("/", "/jobs/1", "/jobs/1/scene", "/series/1", "/metrics"):
        text = shown.get(path).text
        assert "Reference^Patient" not in text
        assert "REFERENCE-1" not in text


def test_a_job_is_shown_with_timeline_and_deliveries(shown):
    text = shown.get("/jobs/3").text
    for told in ("contoured", "worker-1", "cannot be reached", "unreachable", "accepted", "0x0000"):
        assert told in text


def test_a_series_that_is_held_says_how_to_release_it(shown):
    assert "contourd release 2" in shown.get("/series/2").text


def test_the_models_card_is_shown(shown):
    text = shown.get("/models/0").text
    assert "Contours Brainstem, SpinalCord, Parotid_L" in text
    assert "<table>" in text
    assert "](" not in text


@pytest.mark.parametrize("path", ["/jobs/99", "/series/99", "/models/9", "/nothing", "/jobs/x"])
def test_what_is_not_there_is_404(shown, path):
    assert shown.get(path).status == 404


def test_the_pictures_are_those_of_the_spool(shown):
    scene = json.loads(shown.get("/jobs/1/scene").text)
    assert scene["planes"]["axial"]["pixels"] == [179, 99]
    assert scene["planes"]["axial"]["size_mm"] == [447.5, 247.5]
    assert {organ["name"] for organ in scene["organs"]} >= {"Brainstem", "Parotid_L", "Parotid_R"}
    assert [o["name"] for o in scene["organs"] if o["remark"]] == ["Parotid_R"]
    first = scene["planes"]["axial"]["first"]
    answer = shown.get(f"/jobs/1/pixels/axial/{first}")
    pixels = np.frombuffer(gzip.decompress(answer.body), dtype="<i2").reshape(99, 179)
    assert np.array_equal(pixels, load_reference().volume.hu[2 * first])
    outlines = json.loads(shown.get(f"/jobs/1/outlines/axial/{first}").text)
    assert len(outlines) >= 3
    assert all(path.startswith("M") for path in outlines.values())


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/1/pixels/axial/74",
        "/jobs/1/pixels/oblique/1",
        "/jobs/99/scene",
        "/jobs/1/pixels/axial/-1",
        "/jobs/99/pixels/axial/1",
    ],
)
def test_planes_that_are_not_there(shown, path):
    assert shown.get(path).status == 404


def test_a_card_brings_no_code():
    card = rendered("# A\n<script>x</script> [b](javascript:x) ![c](http://x/y.png)")
    assert card == "<h1>A</h1>\n<p>&lt;script&gt;x&lt;/script&gt; b c</p>\n"


def test_pictures_that_cannot_be_read_say_why(shown):
    answer = shown.get("/jobs/3/scene")
    assert answer.status == 409
    assert json.loads(answer.text)["problem"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../settings/web.py",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "/static/..%2fapp.py",
        "/../../etc/passwd",
    ],
)
def test_no_file_beside_the_static_ones(shown, path):
    assert shown.get(path).status == 404


def test_another_host_name_is_refused(shown):
    assert shown.get("/", Host="evil.example").status == 400
    assert shown.get("/", Host=f"localhost:{shown.port}").status == 200


def test_without_a_token_nobody_acts(shown):
    assert shown.post("/jobs/1/confirm").status == 403
    assert shown.post("/sign-in", {"name": "Mallory", "token": ""}).status == 403
    assert states(shown)[1] == JobState.CONFIRMING


def test_hostile_strings_are_text(acting):
    with acting.database.transaction() as session:
        session.get_one(JobRow, 1).reason = because(HOSTILE)
        session.get_one(JobRow, 1).remarks = Remarks.noted(RemarkCheck.HEADER, [HOSTILE])
        session.get_one(SeriesRow, 1).calling_ae = "<b>'\"&"
    acting.sign_in(HOSTILE[:25])
    for path in ("/", "/jobs/1"):
        text = acting.get(path).text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "&lt;script&gt;" in text
        assert "<b>'" not in text


def test_signing_in_gives_a_cookie_that_scripts_cannot_read(acting):
    answer = acting.post("/sign-in", {"name": "Marie", "token": TOKEN})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie
    acting.cookie = answer.headers["set-cookie"].split(";")[0]
    assert "Marie" in acting.get("/").text
    acting.act("/sign-out")
    assert "Sign in" in acting.get("/").text
    assert trail(acting) == [("Marie", "sign in", "", "from 127.0.0.1")]


def test_guessing_is_braked(acting):
    for _ in range(TRIES):
        assert acting.post("/sign-in", {"name": "Mallory", "token": "guess"}).status == 403
    answer = acting.post("/sign-in", {"name": "Mallory", "token": TOKEN})
    assert answer.status == 429
    assert 0 < int(answer.headers["retry-after"]) <= 61
    assert {action for _, action, _, _ in trail(acting)} == {"sign in refused"}


def test_a_form_of_another_site_is_refused(acting):
    acting.sign_in()
    form = {"csrf": acting.csrf, "reason": "x"}
    assert acting.post("/jobs/2/cancel", {"reason": "x"}).status == 403
    assert acting.post("/jobs/2/cancel", {"csrf": "x" * 43, "reason": "x"}).status == 403
    assert acting.post("/jobs/2/cancel", form, Origin="http://evil.example").status == 403
    assert acting.post("/jobs/2/cancel", form, Sec_Fetch_Site="cross-site").status == 403
    assert acting.post("/sign-in", {"name": "M", "token": TOKEN}, Origin="http://evil.example").status == 403
    assert acting.ask("GET", "/jobs/2/cancel").status == 405
    assert states(acting)[2] == JobState.CONTOURING
    acting.cookie = ""
    assert acting.post("/jobs/2/cancel", form).status == 403


def test_a_form_has_a_length(acting):
    acting.sign_in()
    assert acting.post("/jobs/2/cancel", {"reason": "x" * 10_000}).status == 413


def test_a_person_acts_and_is_named(acting):
    acting.sign_in()
    assert acting.act("/jobs/1/confirm").status == 303
    assert "is confirmed" in acting.get("/jobs/1").text
    acting.act("/jobs/2/cancel", reason="sent by mistake")
    acting.act("/jobs/3/hold", reason="wait")
    acting.act("/jobs/4/resend", destination="tps", confirmed="yes")
    acting.act("/jobs/5/retry")
    acting.act("/series/2/release", reason="complete")
    assert states(acting) == {1: "DELIVERING", 2: "CANCELLED", 3: "HELD", 4: "DELIVERING", 5: "DELIVERING"}
    assert "cancelled by Marie Curie: sent by mistake" in acting.get("/jobs/2").text
    assert trail(acting)[1:] == [
        ("Marie Curie", "confirm", "job 1", ""),
        ("Marie Curie", "cancel", "job 2", "sent by mistake"),
        ("Marie Curie", "hold", "job 3", "wait"),
        ("Marie Curie", "resend", "job 4", "to tps"),
        ("Marie Curie", "retry", "job 5", ""),
        ("Marie Curie", "release", "series 2", "complete"),
    ]


def test_what_cannot_be_done_is_said_on_the_page(acting):
    acting.sign_in()
    acting.act("/jobs/4/confirm")
    assert "Not done: job 4 does not wait for confirmation" in acting.get("/jobs/4").text
    acting.act("/jobs/4/recontour", model="/etc")
    assert "Not done: the page contours with the routes" in acting.get("/jobs/4").text
    assert acting.act("/jobs/4/explode").status == 404


def test_the_patient_is_named_on_request_and_that_is_kept(tmp_path):
    with served(tmp_path, token_file=write_token(tmp_path)) as page:
        image = page.spool.store_instance([showcase.coarse_reference().images[0]])
        showcase.fill_queue(page.database, page.spool, [image])
        assert page.post("/jobs/1/patient").status == 403
        page.sign_in()
        text = page.act("/jobs/1/patient").text
        assert "Reference^Patient" in text
        assert "Reference^Patient" not in page.get("/jobs/1").text
        assert ("Marie Curie", "show patient", "job 1", "") in trail(page)


def test_from_other_machines_nothing_is_read_without_the_token(tmp_path):
    with served(tmp_path, host="0.0.0.0", token_file=write_token(tmp_path)) as page:
        showcase.fill_queue(page.database, page.spool)
        assert page.get("/").headers["location"] == "/sign-in"
        for path in ("/jobs/1", "/series/2", "/models/0"):
            assert page.get(path).status == 303
        for path in ("/jobs/1/scene", "/jobs/1/pixels/axial/1", "/jobs/1/outlines/axial/1"):
            assert page.get(path).status == 403
        assert page.get("/healthz").status == 200
        page.sign_in()
        assert "Series 2" in page.get("/").text


def test_health_says_what_is_wrong(acting):
    assert (acting.get("/healthz").status, acting.get("/readyz").status) == (200, 200)
    acting.pulse.beat(False)
    answer = acting.get("/readyz")
    assert (answer.status, answer.text) == (503, "worker: it is not running\n")


def test_a_node_that_only_a_restart_mends_is_dead_to_healthz_too(acting):
    acting.pulse.beat(True, SelfTestFault.FULL | SelfTestFault.UNAVAILABLE)  # told, and no reason to kill it
    assert acting.get("/healthz").status == 200
    assert acting.get("/readyz").text.splitlines() == [TOLD[SelfTestFault.FULL], TOLD[SelfTestFault.UNAVAILABLE]]
    acting.pulse.beat(True, SelfTestFault.PORT)
    assert (acting.get("/healthz").status, acting.get("/readyz").text) == (503, TOLD[SelfTestFault.PORT] + "\n")
    assert "a C-ECHO to the node&#39;s own port is not answered" in acting.get("/").text
    assert "contourd_up 0.0" in acting.get("/metrics").text
    acting.clock.ahead_s += 16  # said nothing for longer than FRESH_S = 15 s
    assert acting.get("/healthz").status == 503


def test_the_page_loads_neither_torch_nor_pynetdicom():
    """Its process starts in a moment, and could not open the DICOM port if it wanted."""
    script = (
        "import sys, contourd.web.server\n"
        "sys.exit(', '.join({'torch', 'matplotlib', 'pynetdicom', 'apscheduler'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_structure_set_is_sent_again_only_where_that_is_ticked(acting):
    acting.sign_in()
    acting.act("/jobs/4/resend", destination="tps")
    assert "Not done: tick that it is to be sent" in acting.get("/jobs/4").text
    assert states(acting)[4] == JobState.DELIVERED
    assert not [entry for entry in trail(acting) if entry[1] == "resend"]


def test_a_jobs_files_are_given_as_a_zip_to_who_signed_in_and_it_is_audited(acting):
    acting.spool.store_output(4, 1, b"as it was made")
    assert acting.post("/jobs/4/export", {}).status == 403
    acting.sign_in()
    assert "Take them out" in acting.get("/jobs/4").text
    answer = acting.act("/jobs/4/export")
    assert answer.headers["content-disposition"] == 'attachment; filename="job-4.zip"'
    assert answer.headers["cache-control"] == "no-store"
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {"job-4/RT/4-c1.dcm": b"as it was made"}
    assert trail(acting)[-1] == ("Marie Curie", "export", "job 4", "1 structure sets, 0 images by the page")
    for job, why in ((1, "nothing of job 1 is given out: it is CONFIRMING"), (99, "there is no job 99")):
        assert acting.act(f"/jobs/{job}/export").status == 303
        assert f"Not done: {why}" in acting.get("/jobs/4").text


def test_a_job_says_why_it_took_its_route(shown):
    text = shown.get("/jobs/4").text
    for told in ("Why this route", "Route 1 of the settings", "RT Head Neck", "head|neck|HN", "5e7712655e77"):
        assert told in text
    assert "Not written down" in shown.get("/jobs/5").text
