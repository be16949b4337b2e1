"""By what a series is found, and why it took its route: written down when it is examined."""

from __future__ import annotations

import hashlib

import pytest
from sqlalchemy import select

from contourd.intake.describing import SeriesDescriber, name_hash
from contourd.settings import Route
from contourd.store.archive_tables import JobFacetRow, PatientNameRow, SeriesDescriptionRow
from contourd.store.route_choice import RouteChoice
from contourd.store.tables import JobRow, SeriesRow
from tests.intake_node import SETTINGS, Node
from tests.phantom import rewrite, setting, write_series

pytestmark = pytest.mark.both_databases

ROUTES = (
    Route(model="hn7", destinations=("pacs",), calling_ae="NOBODY"),
    Route(model="hn7", destinations=("pacs", "tps"), series_description="neck|doe"),
)


def sign(purpose: str, content: bytes) -> str:
    return hashlib.sha256(purpose.encode() + content).hexdigest()


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path)
    made.restarted(ROUTES, SETTINGS, describer=SeriesDescriber(sign, True), settings_sha256="c" * 64)
    yield made
    made.database.close()


def written(folder, **values):
    images = sorted(write_series(folder).iterdir())
    for path in images:
        rewrite(path, setting(**values))
    return images


def rows(node, table):
    with node.database.reading() as session:
        return list(session.scalars(select(table)))


def test_a_series_is_described_and_its_job_says_why_it_took_its_route(node, tmp_path):
    node.send(written(tmp_path / "ct", PatientName="Doe^Jane", SeriesDescription="Head Neck", StudyDate="20260101"))
    node.wait(1000)
    (job,) = rows(node, JobRow)
    choice = RouteChoice.from_json(job.route_choice)
    assert choice.text() == "route 2: series_description = 'neck|doe', found 'Head Neck'"
    assert choice.settings_sha256 == "c" * 64
    (described,) = rows(node, SeriesDescriptionRow)
    assert (described.series_id, described.description, described.study_date) == (1, "Head Neck", "20260101")
    hashes = {row.name_hmac for row in rows(node, PatientNameRow)}
    assert hashes == {name_hash(sign, "doe"), name_hash(sign, "doe jane")}
    facets = {(row.facet, row.value) for row in rows(node, JobFacetRow)}
    assert facets == {
        ("sender", "CT1"), ("model", "hn7"), ("route", "2"), ("destination", "pacs"), ("destination", "tps")
    }  # fmt: skip
    assert {row.at for row in rows(node, JobFacetRow)} == {job.created_at}


def test_no_name_is_written_down_that_the_description_holds(node, tmp_path):
    node.send(written(tmp_path / "ct", PatientName="Doe^Jane", SeriesDescription="HN DOE", ProtocolName="Neck"))
    node.wait(1000)
    (job,) = rows(node, JobRow)
    assert RouteChoice.from_json(job.route_choice).text() == "route 2: series_description = 'neck|doe'"
    (described,) = rows(node, SeriesDescriptionRow)
    assert (described.description, described.protocol) == ("", "Neck")


def test_a_site_that_wants_no_descriptions_has_none_and_names_are_found_all_the_same(node, tmp_path):
    node.restarted(ROUTES, SETTINGS, describer=SeriesDescriber(sign, False), settings_sha256="c" * 64)
    node.send(written(tmp_path / "ct", PatientName="Doe^Jane", SeriesDescription="Head Neck"))
    node.wait(1000)
    assert rows(node, SeriesDescriptionRow) == []
    assert len(rows(node, PatientNameRow)) == 2
    assert RouteChoice.from_json(rows(node, JobRow)[0].route_choice).conditions[0].found == ""


def test_a_series_of_two_patients_is_held_found_by_both_names_and_not_described(node, tmp_path):
    images = written(tmp_path / "ct", PatientName="Doe^Jane", SeriesDescription="Neck")
    rewrite(images[3], setting(PatientName="Roe^Richard", PatientID="2"))
    node.send(images)
    node.wait(1000)
    (series,) = rows(node, SeriesRow)
    assert series.state == "HELD"
    hashes = {row.name_hmac for row in rows(node, PatientNameRow)}
    assert {name_hash(sign, "doe"), name_hash(sign, "roe")} <= hashes
    assert rows(node, SeriesDescriptionRow) == []


def test_what_is_written_down_takes_the_place_of_what_was(node, tmp_path):
    images = written(tmp_path / "ct", PatientName="Doe^Jane", SeriesDescription="Neck")
    node.send(images[:-1])
    node.wait(1000)
    first = {row.name_hmac for row in rows(node, PatientNameRow)}
    node.send(images[-1:])
    node.wait(1000)
    assert {row.name_hmac for row in rows(node, PatientNameRow)} == first
    assert len(rows(node, SeriesDescriptionRow)) == 1
