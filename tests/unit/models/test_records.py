"""A model that does not ship is used with the record of that very bundle, or with a reason, which is told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from contourd.cli import app
from contourd.contour.contouring import contour_series
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.reading.series import find_series
from contourd.errors import ModelError, RecordInvalid
from contourd.model.bundle import load_bundle
from contourd.model.kinds import predictor_for
from contourd.model.plausibility import OrganSpread, RobustSpread
from contourd.models import activation
from contourd.models.activations import Activations
from contourd.models.records import RECORD_FILE, CommissioningRecord, Evidence, read_record, write_record
from contourd.settings import Settings
from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.system.clock import utc_now
from tests.bright import BALL_CC, phantom
from trainer.case import Annotation, Case, write_case

pytestmark = pytest.mark.usefixtures("one_thread")
ORGAN = "Brain"  # of the bundle that fits the reference patient


@pytest.fixture
def settings(tmp_path):
    return Settings.model_validate(
        {
            "spool": {"root": tmp_path / "spool", "min_free_gb": 0},
            "worker": {"device": "cpu", "runtime": "torch"},
            "route": [{"model": "bright", "destinations": ["tps"]}],
            "destination": [{"name": "tps", "ae_title": "TPS", "host": "127.0.0.1", "port": 104}],
        }
    )


@pytest.fixture
def database(settings):
    settings.spool.root.mkdir()
    database = Database(settings.database_url)
    database.upgrade()
    yield database
    database.close()


def record_of(bundle, **more) -> CommissioningRecord:
    said = {"by": "marie", "at": utc_now(), "contourd": "1", "dataset": "necks", "cases": 12}
    identity = {"name": bundle.name, "version": bundle.version, "sha256": bundle.sha256}
    return CommissioningRecord(**said, **identity, **more)


def activate(database, settings, folder, **evidence):
    return activation.activate(database, settings, str(folder), "marie", "measured", Evidence(**evidence))


def in_use(database, settings):
    return activation.load_found(Activations(database, settings.spool.root).find("bright"))


def test_without_a_record_it_is_refused_with_the_commands(database, settings, fit_bundle):
    with pytest.raises(RecordInvalid, match=r"models commission .* --record RECORD .* --without-record"):
        activate(database, settings, fit_bundle)
    with pytest.raises(ModelError):
        in_use(database, settings)


def test_a_model_that_ships_needs_none(database, settings):
    assert activate(database, settings, "hn7").activation.model.name == "hn7"


def test_plausibility_goes_by_the_record(database, settings, fit_bundle, tmp_path):
    bundle, spool = load_bundle(fit_bundle), Spool(settings.spool.root)
    ten_times = RobustSpread(median=6.1, sd=0.1)  # of a ball of 45 cc, whose logarithm is 3.8
    spread = {ORGAN: OrganSpread(log_volume_cc=ten_times, offsets_mm={})}
    write_record(tmp_path / "record" / RECORD_FILE, spool, record_of(bundle, distribution=spread))
    activate(database, settings, fit_bundle, record=tmp_path / "record")
    found = in_use(database, settings)
    assert found.sha256 == bundle.sha256
    assert found.distribution == spread
    (instances,) = find_series(write_ct_series(phantom(), tmp_path / "ct", SeriesIdentity("p", "A^B"))).values()
    with pytest.raises(Exception, match="does not look like a head and neck"):
        contour_series(instances, predictor_for(found, "cpu"))
    usual = contour_series(instances, predictor_for(bundle, "cpu"))
    assert usual.structures.rois[0].volume_cc == pytest.approx(BALL_CC, rel=0.2)


def test_a_reason_in_place_of_a_record_stands_in_each_structure_set(database, settings, fit_bundle, tmp_path):
    made = activate(database, settings, fit_bundle, without="for research alone")
    assert "without a commissioning record: for research alone" in made.activation.reason
    (instances,) = find_series(write_ct_series(phantom(), tmp_path / "ct", SeriesIdentity("p", "A^B"))).values()
    found = in_use(database, settings)
    dataset = contour_series(instances, predictor_for(found, "cpu")).dataset
    assert "in use without a commissioning record: for research alone (marie)" in dataset.StructureSetDescription
    plain = contour_series(instances, predictor_for(replace(found, commissioning=None), "cpu")).dataset
    assert plain.SOPInstanceUID != dataset.SOPInstanceUID


def test_the_record_of_another_model_is_refused(database, settings, fit_bundle, tmp_path):
    other = record_of(load_bundle("hn7"))
    write_record(tmp_path / RECORD_FILE, Spool(settings.spool.root), other)
    with pytest.raises(RecordInvalid, match=r"is the record of hn7 .*, not of bright"):
        activate(database, settings, fit_bundle, record=tmp_path)


def test_a_record_that_was_changed_is_refused_also_in_the_store(database, settings, fit_bundle, tmp_path):
    bundle, path = load_bundle(fit_bundle), tmp_path / RECORD_FILE
    write_record(path, Spool(settings.spool.root), record_of(bundle))
    said = json.loads(path.read_text())
    said["record"]["cases"] = 1200
    path.write_text(json.dumps(said))
    with pytest.raises(RecordInvalid, match="was changed, or signed with another key"):
        activate(database, settings, fit_bundle, record=path)
    activate(database, settings, fit_bundle, without="a test")
    stored = settings.spool.root / "models" / bundle.identity.stored_name / RECORD_FILE
    said = json.loads(stored.read_text())
    said["record"]["without"] = ""
    stored.chmod(0o600)
    stored.write_text(json.dumps(said))
    with pytest.raises(ModelError, match="was changed"):
        in_use(database, settings)


def test_the_command_measures_and_signs(database, settings, fit_bundle, tmp_path):
    pytest.importorskip("skimage")
    (tmp_path / "data" / "test").mkdir(parents=True)
    volume = phantom()
    ball = volume.hu == 400
    for number in range(10):
        annotations = {ORGAN: Annotation.PRESENT}
        case = Case(f"p{number}", volume, {ORGAN: ball}, annotations)
        write_case(case, tmp_path / "data" / "test" / f"p{number}.npz")
    config = tmp_path / "contourd.toml"
    root = settings.spool.root
    config.write_text(
        f'[spool]\nroot = "{root}"\nmin_free_gb = 0\n[worker]\ndevice = "cpu"\nruntime = "torch"\n'
        '[[route]]\nmodel = "bright"\ndestinations = ["tps"]\n'
        '[[destination]]\nname = "tps"\nae_title = "TPS"\nhost = "127.0.0.1"\nport = 104\n'
    )
    asked = ["models", "commission", str(fit_bundle), str(tmp_path / "data"), "--output", str(tmp_path / "record")]
    told = CliRunner().invoke(app, [*asked, "--config", str(config)])
    assert told.exit_code == 0, told.output
    record = read_record(tmp_path / "record", Spool(root))
    assert record.sha256 == load_bundle(fit_bundle).sha256
    assert (record.cases, record.dataset) == (10, "data/test")
    assert record.organs[ORGAN].dice[0] > 0.8
    assert record.organs[ORGAN].other_side == 0
    assert record.distribution[ORGAN].log_volume_cc.median == pytest.approx(3.8, abs=0.1)  # ln 44.6
    page = (tmp_path / "record" / "record.html").read_text()
    assert "Commissioning record of bright" in page
    assert "10 of 10" in page
    activate(database, settings, fit_bundle, record=tmp_path / "record")
    assert in_use(database, settings).commissioning.by == record.by
