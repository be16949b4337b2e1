"""Which series goes where."""

from __future__ import annotations

import numpy as np
import pytest

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.reading.series import read_instance
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.intake.routing import choose_route, explain_route, unmet_conditions
from contourd.settings import Route
from contourd.store.route_choice import MatchedCondition, RouteChoice
from tests.phantom import rewrite, setting


def one_slice(folder):
    grid = Grid.regular((1, 4, 4), (1.0, 1.0, 1.0))
    write_ct_series(Volume(grid, np.zeros(grid.shape, dtype=np.int16)), folder / "ct", SeriesIdentity("p", "A^B"))
    rewrite(folder / "ct" / "CT_0000.dcm", setting(ProtocolName="RT Head Neck", StationName="SIM1"))
    return read_instance(folder / "ct" / "CT_0000.dcm")


@pytest.mark.parametrize(
    ("route", "fits"),
    [
        ({}, True),
        ({"calling_ae": "CT1"}, True),
        ({"calling_ae": "CT2"}, False),
        ({"series_description": "h.*neck"}, True),
        ({"series_description": "^neck"}, False),
        ({"body_part": "headneck"}, True),
        ({"body_part": "HEAD"}, False),
        ({"calling_ae": "CT1", "body_part": "CHEST"}, False),
        ({"protocol": "rt.*neck"}, True),
        ({"protocol": "^neck"}, False),
        ({"station": "sim1"}, True),
        ({"station": "SIM"}, False),
    ],
)
def test_routes(tmp_path, route, fits):
    instance = one_slice(tmp_path)
    taken = choose_route([Route(model="hn7", destinations=("pacs",), **route)], instance, "CT1")
    assert (taken is not None) is fits


def test_the_first_route_that_fits_is_taken(tmp_path):
    instance = one_slice(tmp_path)
    routes = [
        Route(model=name, destinations=("pacs",), calling_ae=ae) for name, ae in (("a", "X"), ("b", "CT1"), ("c", None))
    ]
    assert choose_route(routes, instance, "CT1").model == "b"


def test_each_condition_that_does_not_fit_is_told(tmp_path):
    route = Route(model="hn7", destinations=("pacs",), calling_ae="CT2", body_part="headneck", protocol="chest")
    assert unmet_conditions(route, one_slice(tmp_path), "CT1") == (
        "calling_ae is 'CT1', not 'CT2'",
        "protocol is 'RT Head Neck', not 'chest'",
    )


def test_a_route_that_is_taken_is_explained_by_each_of_its_conditions(tmp_path):
    other = Route(model="hn7", destinations=("pacs",), calling_ae="CT2")
    taken = Route(model="hn7", destinations=("pacs",), calling_ae="CT1", protocol="neck$", station="sim1")
    choice = explain_route((other, taken), taken, one_slice(tmp_path), "CT1", "f" * 64)
    assert choice.number == 2
    assert choice.settings_sha256 == "f" * 64
    assert choice.conditions == (
        MatchedCondition("calling_ae", "CT1", "CT1"),
        MatchedCondition("protocol", "neck$", "RT Head Neck"),
        MatchedCondition("station", "sim1", "SIM1"),
    )
    assert RouteChoice.from_json(choice.to_json()) == choice
    assert choice.text() == (
        "route 2: calling_ae = 'CT1', found 'CT1'; protocol = 'neck$', found 'RT Head Neck'; "
        "station = 'sim1', found 'SIM1'"
    )
    assert choice.without_found().text() == "route 2: calling_ae = 'CT1'; protocol = 'neck$'; station = 'sim1'"
