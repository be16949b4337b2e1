"""A patient who was corrected at the source, on the page: what is offered, what is done, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from contourd.dicom.network.events import ReceivedInstance
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.intake.intake import Intake
from contourd.settings import Route, SeriesSettings
from contourd.store.tables import AuditRow, InstanceRow, SeriesRow
from tests.paging import Page, served, write_token
from tests.phantom import rewrite, setting, write_series

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def page(tmp_path):
    with served(tmp_path, token_file=write_token(tmp_path)) as page:
        yield page


def receive(page: Page, images: list[Path]) -> None:
    route = Route(model="hn7", destinations=("pacs",))
    intake = Intake(page.database, page.spool.root, SeriesSettings(), (route,), lambda: NOW)
    for image in images:
        path = page.spool.store_instance([image.read_bytes()])
        header = {"series_instance_uid": "1.2.3", "sop_instance_uid": f"1.2.3.{image.stem[-4:].lstrip('0') or '0'}"}
        sha256 = stored_sha256(page.spool.root / path)
        intake.instance_stored(ReceivedInstance(1, "CT1", **header, path=path, sha256=sha256, patient="p"))
    intake.association_closed(1, aborted=False)


def corrected(images: list[Path]) -> list[Path]:
    for image in images:
        rewrite(image, setting(PatientID="corrected"))
    return images


def test_the_newer_images_are_offered_and_taken_and_the_earlier_ones_are_not(page, tmp_path):
    images = sorted(write_series(tmp_path / "ct").iterdir())
    receive(page, images)
    receive(page, corrected(images[:20]))
    page.sign_in()
    shown = page.get("/series/1").text
    assert "Take the newer images" in shown
    assert "20 came again with other content" in shown
    assert "Examine it again" not in shown
    page.act("/series/1/release", reason="as it was")
    assert "Not done: 20 images of series 1 came again with another PatientID" in page.get("/series/1").text
    page.act("/series/1/replace", reason="ID corrected")
    assert "Not done: 20 of 24 images came again" in page.get("/series/1").text
    receive(page, corrected(images[20:]))
    page.act("/series/1/replace", reason="")
    assert "Not done: give a reason" in page.get("/series/1").text
    page.act("/series/1/replace", reason="ID corrected")
    assert "Done: 24 images of series 1 were replaced by the newer ones" in page.get("/series/1").text
    with page.database.reading() as session:
        assert session.scalars(select(SeriesRow.state)).all() == ["RECEIVING"]
        paths = set(session.scalars(select(InstanceRow.path)))
        (audited,) = session.scalars(select(AuditRow).where(AuditRow.action == "replace"))
    assert audited.actor == "Marie Curie"
    assert {f"incoming/{p.parent.name}/{p.name}" for p in page.spool.root.glob("incoming/*/*.dcm")} == paths
    assert page.act("/series/1/explode").status == 404


def test_who_only_reads_is_told_the_command(page, tmp_path):
    images = sorted(write_series(tmp_path / "ct").iterdir())
    receive(page, images)
    receive(page, corrected(images))
    assert "contourd replace 1" in page.get("/series/1").text
