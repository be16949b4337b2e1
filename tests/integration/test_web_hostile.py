"""The page and what it is asked that nothing can be, or by whom it is told that somebody else asks."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from contourd.store.tables import AuditRow
from contourd.web.access import TRIES
from tests import showcase
from tests.paging import Page, served, write_token

ARABIC_INDIC = "%D9%A1"  # which Python takes for a digit
TOO_LARGE = ("9223372036854775808", "9" * 26, "9" * 5000)
NO_NUMBERS = (*TOO_LARGE, "-1", "1.0", "1e3", "0x1", "+1", "%00", "1%00", "%20", ARABIC_INDIC)


@pytest.fixture
def acting(tmp_path):
    with served(tmp_path, token_file=write_token(tmp_path)) as page:
        showcase.fill_queue(page.database, page.spool)
        yield page


def refusals(page: Page) -> list[str]:
    wanted = select(AuditRow.detail).where(AuditRow.action == "sign in refused").order_by(AuditRow.id)
    with page.database.reading() as session:
        return list(session.scalars(wanted))


@pytest.mark.parametrize("number", NO_NUMBERS, ids=lambda number: number[:24])
def test_a_number_that_nothing_can_have_is_404_without_a_traceback(acting, number, caplog):
    acting.sign_in()
    csrf = acting.csrf
    for path in (
        *("/jobs/{}", "/jobs/{}/scene", "/jobs/{}/pixels/axial/1", "/jobs/1/pixels/axial/{}", "/jobs/1/pixels/{}/1"),
        *("/jobs/1/outlines/axial/{}", "/series/{}", "/series/{}/scene", "/series/2/pixels/axial/{}", "/models/{}"),
        "/static/{}",
    ):
        no_images = path == "/jobs/1/pixels/{}/1"  # there is such a job, and that is what is wrong with it
        assert acting.get(path.format(number)).status == (409 if no_images else 404), path
    for path in ("/jobs/{}/retry", "/jobs/{}/patient", "/series/{}/release", "/jobs/1/{}"):
        assert acting.post(path.format(number), {"csrf": csrf, "reason": "x"}).status == 404, path
    assert "Traceback" not in caplog.text


def test_an_address_that_somebody_claims_counts_from_a_named_proxy_only(tmp_path):
    forged = "198.51.100.66"
    with served(tmp_path, token_file=write_token(tmp_path)) as page:
        page.post("/sign-in", {"name": "Eve", "token": "wrong"}, X_Forwarded_For=forged)
        for _ in range(TRIES - 1):  # all of them are this machine's tries, whatever they claim
            assert page.post("/sign-in", {"name": "Eve", "token": "wrong"}, X_Forwarded_For="203.0.113.1").status == 403
        assert page.post("/sign-in", {"name": "Eve", "token": "wrong"}, X_Forwarded_For="203.0.113.2").status == 429
        assert refusals(page) == ["from 127.0.0.1"] * (TRIES + 1)


def test_a_named_proxy_tells_who_asks_and_what_lies_further_left_may_be_forged(tmp_path):
    with served(tmp_path, token_file=write_token(tmp_path), proxies=["127.0.0.0/8", "192.0.2.7"]) as page:
        for claimed in ("198.51.100.66, 203.0.113.5", "203.0.113.5, 192.0.2.7", "203.0.113.5"):
            page.post("/sign-in", {"name": "Eve", "token": "wrong"}, X_Forwarded_For=claimed)
        assert refusals(page) == ["from 203.0.113.5"] * 3
