"""What would become of a folder: each answer is the real gate's, the real routes' and the real model's."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from contourd.cli import app
from contourd.dicom.uids import derived_uid
from tests.bundles import bundle_of_version
from tests.interop.node import write_configuration
from tests.phantom import rewrite, setting

NECK = '[[route]]\nmodel = "{model}"\ndestinations = ["pacs"]\nprotocol = "neck"\nconfirm = true\n'


@pytest.fixture
def foresee(tmp_path, bright_bundle):
    """Return what `contourd route` says of a folder: exit status, and its JSON."""

    def ask(folder, *words, more="", model=bright_bundle, node="", change=("", "")):
        names = {"pacs": ("PACS", 104)}
        configuration = write_configuration(tmp_path / "node", 11112, model, names, more, node)
        configuration.write_text(configuration.read_text().replace(*change, 1))
        ran = CliRunner().invoke(app, ["route", str(folder), "--config", str(configuration), "--json", *words])
        assert not (tmp_path / "node" / "spool").exists()  # nothing is written
        return ran.exit_code, json.loads(ran.output)

    return ask


def test_the_route_that_is_taken_and_why_the_others_are_not(foresee, make_series, bright_bundle):
    folder = make_series("p1", setting(ProtocolName="Head Neck"))
    status, told = foresee(folder, more=NECK.format(model=bright_bundle), node='allowed_callers = ["CT1"]')
    (one,) = told["series"]
    assert (status, one["outcome"]) == (1, "refused")
    assert "node.allowed_callers (CT1)" in one["reason"]
    assert one["reason_code"] == "sender_not_allowed"
    assert one["reason_detail"] == {"sender": "a sender without a name", "allowed": "CT1"}
    status, told = foresee(folder, "--calling-ae", "CT1", more=NECK.format(model=bright_bundle))
    (one,) = told["series"]
    assert (status, one["outcome"], one["confirm"]) == (0, "contoured", False)
    assert (one["reason"], one["reason_code"], one["reason_detail"]) == ("", "", {})
    assert [(r["taken"], r["unfit"]) for r in one["routes"]] == [(True, []), (False, [])]
    assert (one["model"]["name"], one["model"]["version"], one["destinations"]) == ("bright", "1", {"pacs": "strict"})


def test_several_series_each_with_its_reason(foresee, make_series):
    folder = make_series("many/whole").parent
    make_series("many/gap")
    sorted((folder / "gap").iterdir())[10].unlink()
    make_series("many/magnet", setting(Modality="MR"))
    cut = sorted(make_series("many/cut").iterdir())[3]
    cut.write_bytes(cut.read_bytes()[:-100])
    status, told = foresee(folder)
    by_images = {(s["images"], s["outcome"]): s["reason"] for s in told["series"]}
    assert status == 1
    assert by_images[24, "contoured"] == ""
    assert "modality MR" in by_images[24, "held"]
    assert [reason.split(" at ")[0] for (n, _), reason in by_images.items() if n == 23] == ["missing slices"]
    ((path, unreadable),) = told["unreadable"].items()
    assert path.rpartition("/")[2] == cut.name
    assert unreadable["reason_code"] == "cut_off"
    assert unreadable["reason"]
    codes = {s["reason_code"]: s["reason_detail"] for s in told["series"] if s["outcome"] == "held"}
    assert codes.keys() == {"other_modality", "slices_missing"}
    assert codes["other_modality"]["modality"] == "MR"


def test_more_images_than_the_settings_allow(foresee, make_series):
    (one,) = foresee(make_series("p1"), change=("[series]\n", "[series]\nmax_instances = 20\n"))[1]["series"]
    assert (one["outcome"], one["reason_code"]) == ("refused", "more_images_than_allowed")
    assert one["reason_detail"] == {"images": 24, "most": 20}


def test_no_route_fits(foresee, make_series):
    asking = ("[[route]]\n", '[[route]]\ncalling_ae = "CT1"\n')
    (one,) = foresee(make_series("p1"), "--calling-ae", "CT2", change=asking)[1]["series"]
    assert (one["outcome"], one["reason_code"]) == ("held", "no_route")
    assert one["reason_detail"]["calling_ae"] == "CT2"
    assert one["reason"].startswith("no route fits (from CT2, body part ")


def test_no_route_and_a_model_s_limits(foresee, make_series, bright_bundle, tmp_path):
    folder = make_series("p1")
    narrow = bundle_of_version(bright_bundle, tmp_path / "narrow", "2", {"limits": {"slice_spacing_mm": [None, 2.5]}})
    status, told = foresee(folder, model=narrow)
    (one,) = told["series"]
    assert (status, one["outcome"]) == (1, "held")
    assert "outside the limits of bright: slices are 3.00 mm apart" in one["reason"]
    missing = foresee(folder, model=tmp_path / "nosuch")[1]["series"][0]
    assert "no model" in missing["reason"]
    assert (one["reason_code"], one["reason_detail"]["model"]) == ("outside_limits", "bright")
    assert missing["reason_code"] == "model_not_there"
    # Two series of a route whose only condition does not fit.
    for path in folder.iterdir():
        rewrite(path, setting(SeriesInstanceUID=derived_uid("other"), BodyPartExamined="CHEST"))
    body = f'[[route]]\nmodel = "{bright_bundle}"\ndestinations = ["pacs"]\nbody_part = "HEADNECK"\n'
    routes = foresee(folder, model=bright_bundle, more=body)[1]["series"][0]["routes"]
    assert [(r["taken"], r["unfit"]) for r in routes] == [(True, []), (False, ["body_part is 'CHEST', not 'HEADNECK'"])]


def test_it_is_said_in_words(make_series, tmp_path, bright_bundle):
    configuration = write_configuration(tmp_path / "node", 11112, bright_bundle, {"pacs": ("PACS", 104)})
    asked = ["route", str(make_series("p1")), "--config", str(configuration)]
    words = CliRunner().invoke(app, asked).output
    assert "-> contoured with bright 1 (sha256 " in words
    assert "sent to pacs (profile strict)" in words
    assert f"route 1 ({bright_bundle} to pacs): taken" in words
    empty = tmp_path / "empty"
    empty.mkdir()
    asked[1] = str(empty)
    assert "holds no DICOM images" in str(CliRunner().invoke(app, asked).exception)
