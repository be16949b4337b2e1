"""A bundle is verified, tried, copied and put into use, or nothing changes."""

from __future__ import annotations

import json
import shutil
import stat

import pytest
import torch
from typer.testing import CliRunner

from contourd.cli import app
from contourd.errors import InvalidTransition, ModelError
from contourd.model.bundle import load_bundle, save_bundle
from contourd.models import activation
from contourd.models.activations import Activations
from contourd.models.records import Evidence
from contourd.settings import load_settings
from contourd.store.database import Database
from tests.bundles import brighter_bundle, bundle_of_version, damage, make_bright_bundle
from tests.interop.node import write_configuration


@pytest.fixture
def configuration(tmp_path):
    return write_configuration(tmp_path, 11112, "bright", {"pacs": ("PACS", 104)})


@pytest.fixture
def settings(configuration):
    return load_settings(configuration)


@pytest.fixture
def database(settings):
    settings.spool.root.mkdir()
    database = Database(settings.database_url)
    database.upgrade()
    yield database
    database.close()


def activate(database, settings, folder):
    return activation.activate(database, settings, str(folder), "marie", "trained here", Evidence(without="a test"))


def test_the_copy_is_in_use_whatever_becomes_of_the_folder(database, settings, fit_bundle, tmp_path):
    source = shutil.copytree(fit_bundle, tmp_path / "source")
    change = activate(database, settings, source)
    shutil.rmtree(source)
    assert (change.before, change.routes) == (None, (1,))
    found = Activations(database, settings.spool.root).find("bright")
    bundle = activation.load_found(found)
    assert bundle.identity == change.activation.model == load_bundle(fit_bundle).identity
    assert found.folder == settings.spool.root / "models" / bundle.identity.stored_name
    assert {stat.S_IMODE(file.stat().st_mode) for file in found.folder.iterdir()} == {0o400}


def test_the_second_version_and_back(database, settings, fit_bundle, tmp_path):
    first, second = fit_bundle, bundle_of_version(fit_bundle, tmp_path / "second", "2")
    activate(database, settings, first)
    assert activate(database, settings, second).before == load_bundle(first).identity.text()
    change = activation.roll_back(database, settings, "bright", "paul", "")
    assert change.activation.model.version == "1"
    assert activation.verify(Activations(database, settings.spool.root).find("bright")).version == "1"
    again = activate(database, settings, load_bundle(second).identity.stored_name)  # from the store
    assert again.activation.model.version == "2"


def test_a_damaged_bundle_changes_nothing(database, settings, fit_bundle, tmp_path):
    broken = shutil.copytree(fit_bundle, tmp_path / "broken")
    damage(broken / "weights.safetensors")
    with pytest.raises(ModelError, match="is damaged"):
        activate(database, settings, broken)
    with pytest.raises(ModelError, match="is no bundle"):
        activate(database, settings, tmp_path / "nowhere")
    assert list((settings.spool.root / "models").iterdir()) == []
    assert Activations(database, settings.spool.root).number() == 0


def test_a_network_that_answers_with_no_number_is_found_by_the_trial(database, settings, fit_bundle, tmp_path):
    """Its weights are finite, and their product is not."""
    known = load_bundle(fit_bundle)
    network = known.network()
    network.output.weight.data.fill_(torch.finfo(torch.float32).max)
    network.classify.weight.data.fill_(torch.finfo(torch.float32).max)
    wild = save_bundle(tmp_path / "wild", known.config, network).folder
    with pytest.raises(ModelError, match="no number on a small volume"):
        activate(database, settings, wild)
    assert Activations(database, settings.spool.root).number() == 0


def test_a_link_out_of_the_bundle_is_not_copied(database, settings, fit_bundle, tmp_path):
    (tmp_path / "secret").write_text("of somebody else")
    source = shutil.copytree(fit_bundle, tmp_path / "source")
    (source / "CARD.md").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="is a link out of the bundle"):
        activate(database, settings, source)


def test_a_damaged_copy_is_told_with_the_ways_out_and_replaced(database, settings, fit_bundle):
    activate(database, settings, fit_bundle)
    found = Activations(database, settings.spool.root).find("bright")
    damage(found.folder / "weights.safetensors")
    with pytest.raises(ModelError, match=r"damaged: .*`contourd models rollback bright`, or copy the bundle again"):
        activation.verify(found)
    with pytest.raises(InvalidTransition, match=r"in use already .* its copy is whole"):
        activate(database, settings, fit_bundle)
    assert activation.verify(found).version == "1"


def test_what_is_not_what_was_activated_is_refused(database, settings, fit_bundle, tmp_path):
    activate(database, settings, fit_bundle)
    found = Activations(database, settings.spool.root).find("bright")
    other = bundle_of_version(fit_bundle, tmp_path / "other", "1", {"mirror": True})
    (found.folder / "model.json").chmod(0o600)
    shutil.copyfile(other / "model.json", found.folder / "model.json")
    with pytest.raises(ModelError, match="is not the model that was activated"):
        activation.load_found(found)


def command(configuration, *words):
    return CliRunner().invoke(app, ["models", *words, "--config", str(configuration)])


@pytest.mark.usefixtures("database")
def test_the_commands(settings, configuration, fit_bundle, tmp_path):
    second = brighter_bundle(fit_bundle, tmp_path / "second")
    for folder in (bundle_of_version(fit_bundle, tmp_path / "first", "1"), second):
        done = command(configuration, "activate", str(folder), "--reason", "trained here", "--without-record", "a test")
        assert done.exit_code == 0, done.output
        assert "used by route 1" in done.output
        assert "record the constancy baseline anew" in done.output
    listed = {
        (m["name"], m["version"]): m for m in json.loads(command(configuration, "list", "--json").output)["models"]
    }
    assert [listed["bright", v]["active"] for v in ("1", "2")] == [False, True]
    assert (listed["bright", "2"]["routes"], listed["hn7", "3"]["routes"]) == ([1], [])
    assert "bright-2-" in command(configuration, "list").output
    shown = command(configuration, "show", listed["bright", "1"]["stored_name"]).output
    assert "The bright one, version 1" in shown
    assert "Brain, SpinalCanal" in shown
    told = json.loads(command(configuration, "show", "bright", "--json").output)
    assert [(a["version"], a["rollback"], a["reason"]) for a in told["activations"]] == [
        ("1", False, "trained here (without a commissioning record: a test)"),
        ("2", False, "trained here (without a commissioning record: a test)"),
    ]
    assert command(configuration, "verify").exit_code == 0
    damage(settings.spool.root / "models" / listed["bright", "2"]["stored_name"] / "weights.safetensors")
    red = command(configuration, "verify", "--json")
    assert red.exit_code == 1
    assert [(f["model"], f["well"]) for f in json.loads(red.output)["models"]][:2] == [("bright", False), ("hn7", True)]
    back = command(configuration, "rollback", "bright")
    assert "in use from the next job on; before: none that works" in back.output


def test_a_bundle_that_finds_an_organ_in_the_place_of_another(database, settings, tmp_path):
    """What is brighter than 250 HU is bone, and no brainstem."""
    bone = make_bright_bundle(tmp_path / "bone")
    wrong = r"bright 1 \(sha256 [0-9a-f]+\) contours the reference patient wrongly: Brainstem: it lies where "
    with pytest.raises(ModelError, match=wrong + r"Bone_Mandible is; compare the order"):
        activate(database, settings, bone)
    assert list((settings.spool.root / "models").iterdir()) == []
    assert Activations(database, settings.spool.root).number() == 0


def test_a_mirrored_bundle_without_its_pairs_is_not_put_into_use(database, settings, tmp_path):
    plexus = make_bright_bundle(tmp_path / "plexus", ("Rib03_L", "Rib03_R"))
    mirrored = bundle_of_version(plexus, tmp_path / "mirrored", "2", {"mirror": True})
    with pytest.raises(ModelError, match=f"^{mirrored}/model.json: the model is mirrored, and Rib03_L, "):
        activate(database, settings, mirrored)
    assert Activations(database, settings.spool.root).number() == 0
