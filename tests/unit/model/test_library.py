"""Where a model lies: by its name, by its name with version and hash, or by its folder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from contourd.model.library import (
    SHIPPED_MODELS,
    Activation,
    Origin,
    bundle_folder,
    find_model,
    in_force,
    is_there,
    model_exists,
    places_of,
    shipped_model,
    stored_folder,
    stored_models,
)
from contourd.model.model_identity import ModelIdentity

SHIPPED = SHIPPED_MODELS / "hn7"
OURS = ModelIdentity("ours", "2", "0123456789ab" + "0" * 52)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def put(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.json").write_text("{}")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a spool in whose store is one model, and what a kill has left of a copy."""
    put(tmp_path / "models" / "ours-2-0123456789ab")
    put(tmp_path / "models" / ".partial-1")
    return tmp_path


@pytest.mark.parametrize(("asked", "folder", "origin"), [
    ("hn7", SHIPPED, Origin.SHIPPED),
    ("hn7-1-0123456789ab", SHIPPED, Origin.SHIPPED),  # whose hash is looked at when it is read
    ("hn7-1", "hn7-1", Origin.FOLDER),
    ("ours-2-0123456789ab", "models/ours-2-0123456789ab", Origin.STORED),
    ("ours", "ours", Origin.FOLDER),  # nothing was activated
    ("..", "..", Origin.FOLDER),
    ("/elsewhere/hn7", "/elsewhere/hn7", Origin.FOLDER),
])  # fmt: skip
def test_a_name_or_folder_leads_to_one_place(root, asked, folder, origin):
    found = find_model(asked, root, None)
    expected = root / folder if origin is Origin.STORED else Path(folder)
    assert (found.asked, found.folder, found.origin, found.sha256) == (asked, expected, origin, "")


def test_what_was_activated_takes_the_place_of_what_is_shipped(root):
    activation = Activation(
        1, NOON, ModelIdentity("hn7", "2", OURS.sha256), "models/ours-2-0123456789ab", "marie", "why"
    )
    found = find_model("hn7", root, in_force([activation])["hn7"])
    assert (found.folder, found.origin) == (root / "models" / "ours-2-0123456789ab", Origin.STORED)
    assert (found.sha256, found.activation) == (OURS.sha256, activation)
    taken_out = Activation(2, NOON, ModelIdentity("hn7", "", ""), "", "marie", "why", undoes=1)
    assert in_force([activation, taken_out]) == {}


def test_what_is_stored_is_listed_without_what_a_kill_has_left(root):
    assert [found.asked for found in stored_models(root)] == ["ours-2-0123456789ab"]
    assert root / stored_folder(OURS) == stored_models(root)[0].folder
    assert [place.origin for place in places_of(OURS, "ours", root)] == [Origin.STORED]
    assert model_exists("ours", root)
    assert model_exists("ours-2-0123456789ab", root)
    assert not model_exists("our", root)
    assert not model_exists("ours-2", root)


def test_a_bundle_is_given_by_the_name_of_a_shipped_one_or_by_its_folder(tmp_path):
    assert bundle_folder("hn7") == SHIPPED
    assert bundle_folder(tmp_path / "hn7") == tmp_path / "hn7"
    assert shipped_model("hn8") is None
    found = shipped_model("hn7")
    assert found is not None
    assert is_there(found)
