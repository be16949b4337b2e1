"""What a model's name stands for: activations and the ways back, in the database alone."""

from __future__ import annotations

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from contourd.errors import InvalidTransition, ModelError
from contourd.model.library import SHIPPED_MODELS, Origin, in_force, model_exists, require_there
from contourd.model.model_identity import ModelIdentity
from contourd.models.activations import Activations
from contourd.store.tables import AuditRow
from tests.queueing import Clock

pytestmark = pytest.mark.both_databases

SHIPPED = ModelIdentity("hn7", "1", "0" * 64)
SECOND, THIRD = ModelIdentity("hn7", "2", "2" * 64), ModelIdentity("hn7", "3", "3" * 64)


@pytest.fixture
def activations(database, tmp_path) -> Activations:
    return Activations(database, tmp_path, Clock())


def put(activations, model):
    return activations.activate(model, f"models/{model.stored_name}", "marie", "better cords", "what was")


def test_a_name_stands_for_the_shipped_model_until_another_is_activated(activations, tmp_path):
    assert activations.number() == 0
    assert activations.find("hn7").folder == SHIPPED_MODELS / "hn7"
    put(activations, SECOND)
    found = activations.find("hn7")
    assert (found.folder, found.origin, found.sha256) == (
        tmp_path / "models" / "hn7-2-222222222222",
        Origin.STORED,
        SECOND.sha256,
    )
    assert activations.number() == 1


def test_a_folder_is_a_folder_whatever_is_activated(activations, tmp_path):
    put(activations, SECOND)
    assert activations.find(str(tmp_path / "hn7")).folder == tmp_path / "hn7"
    assert activations.find("..").origin is Origin.FOLDER


def test_each_way_back_goes_one_step_further(activations):
    put(activations, SECOND)
    put(activations, THIRD)
    assert activations.roll_back("hn7", SHIPPED, "marie", "").model == SECOND
    assert activations.find("hn7").sha256 == SECOND.sha256
    put(activations, THIRD)  # and forward again
    assert activations.roll_back("hn7", SHIPPED, "marie", "").model == SECOND
    assert activations.before("hn7") is None
    assert activations.roll_back("hn7", SHIPPED, "marie", "").model == SHIPPED
    assert activations.find("hn7").origin is Origin.SHIPPED
    with pytest.raises(InvalidTransition, match="nothing to take back"):
        activations.roll_back("hn7", SHIPPED, "marie", "")
    assert [one.model.version for one in activations.history("hn7")] == ["2", "3", "2", "3", "2", "1"]


def test_a_new_name_that_was_activated_wrongly_is_taken_out_of_use(activations, tmp_path):
    ours = ModelIdentity("ours", "1", "5" * 64)
    activations.activate(ours, "models/ours-1", "marie", "first", "")
    taken = activations.roll_back("ours", None, "marie", "sides exchanged")
    assert taken.out_of_use
    assert in_force(activations.history()) == {}
    with pytest.raises(ModelError, match="no model 'ours': it was taken out of use at 2026-01-01 12:00 UTC by marie"):
        require_there(activations.find("ours"))
    with pytest.raises(InvalidTransition, match="there is nothing to take back"):
        activations.roll_back("ours", None, "marie", "")
    activations.activate(ours, "models/ours-1", "marie", "mended", "")
    assert activations.find("ours").folder == tmp_path / "models" / "ours-1"


def test_what_is_in_use_is_not_activated_twice_nor_without_a_reason(activations):
    put(activations, SECOND)
    with pytest.raises(InvalidTransition, match=r"hn7 2 \(sha256 222222222222\) is in use already since 2026-01-01"):
        put(activations, SECOND)
    with pytest.raises(InvalidTransition, match="give a reason"):
        activations.activate(THIRD, "models/x", "marie", " ", "")
    assert activations.number() == 1


def test_the_audit_trail_has_both(activations, database):
    put(activations, SECOND)
    activations.roll_back("hn7", SHIPPED, "paul", "cords too short", "hn7 2")
    with database.reading() as session:
        rows = [(a.actor, a.action, a.subject, a.detail) for a in session.scalars(select(AuditRow))]
    assert rows == [
        ("marie", "model activate", "model hn7", f"2, sha256 {SECOND.sha256}; before: what was; better cords"),
        ("paul", "model rollback", "model hn7", f"1, sha256 {SHIPPED.sha256}; before: hn7 2; cords too short"),
    ]


@pytest.mark.parametrize("change", ["UPDATE activations SET version = '9'", "DELETE FROM activations"])
def test_what_is_written_stays_written(activations, database, change):
    put(activations, SECOND)
    with pytest.raises(IntegrityError, match="only appended to"), database.transaction() as session:
        session.execute(text(change))


def test_a_model_is_named_with_version_and_hash_too(activations, tmp_path):
    stored = tmp_path / "models" / SECOND.stored_name
    assert not model_exists("ours", tmp_path)
    stored.mkdir(parents=True)
    (stored / "model.json").touch()
    assert activations.find(SECOND.stored_name).folder == stored
    assert activations.find("hn7-1-0123456789ab").folder == SHIPPED_MODELS / "hn7"
    for name in ("hn7", SECOND.stored_name, "hn7-1-0123456789ab"):
        assert model_exists(name, tmp_path)
    assert not model_exists("hn", tmp_path)
