"""Model bundles: written, read, and refused when damaged."""

from __future__ import annotations

import json

import pytest
import torch

from contourd.errors import ModelError
from contourd.model.anatomynet import AnatomyNet, AnatomyNetConfig
from contourd.model.bundle import ModelBundle, load_bundle, save_bundle
from contourd.model.library import shipped_names

MODEL = AnatomyNetConfig(structures=("Parotid_L", "Parotid_R"), channels=(4, 4, 4, 4))


@pytest.fixture
def bundle(tmp_path) -> ModelBundle:
    torch.manual_seed(1)
    fields = {"name": "tiny", "version": "1", "model": MODEL.model_dump(mode="json"), "preprocess": {}}
    return save_bundle(tmp_path / "tiny", fields, AnatomyNet(MODEL))


def test_round_trip(bundle):
    torch.manual_seed(1)
    expected = AnatomyNet(MODEL).state_dict()
    read = load_bundle(bundle.folder).network()
    assert not read.training
    for key, value in read.state_dict().items():
        torch.testing.assert_close(value, expected[key])


def test_the_hash_identifies_the_model(bundle):
    assert load_bundle(bundle.folder).sha256 == bundle.sha256
    text = (bundle.folder / "model.json").read_text()
    (bundle.folder / "model.json").write_text(text.replace('"version": "1"', '"version": "2"'))
    assert load_bundle(bundle.folder).sha256 != bundle.sha256


def test_damaged_weights(bundle):
    weights = bundle.folder / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        load_bundle(bundle.folder)


def test_weights_of_another_network(bundle):
    path = bundle.folder / "model.json"
    fields = json.loads(path.read_text())
    fields["model"]["channels"] = [5, 5, 5, 5]
    path.write_text(json.dumps(fields))
    with pytest.raises(ModelError, match="do not fit"):
        load_bundle(bundle.folder).network()


def test_unknown_keys_are_refused(bundle):
    path = bundle.folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "extra": 1}))
    with pytest.raises(ModelError, match="extra"):
        load_bundle(bundle.folder)


def test_no_such_model(tmp_path):
    with pytest.raises(ModelError, match="no model") as error:
        load_bundle(tmp_path / "nowhere")
    for name in shipped_names():
        assert name in str(error.value)


PLEXUS = ("Rib03_L", "Larynx", "Rib03_R")


def of(tmp_path, structures=PLEXUS, **fields) -> ModelBundle:
    model = AnatomyNetConfig(structures=structures, channels=(4, 4, 4, 4))
    given = {"name": "tiny", "version": "1", "model": model.model_dump(mode="json"), "preprocess": {}, **fields}
    return save_bundle(tmp_path / "tiny", given, AnatomyNet(model))


def test_the_pairs_are_the_model_s_own(tmp_path):
    """No catalogue knows this pair."""
    bundle = of(tmp_path, mirror=True, pairs=[["Rib03_L", "Rib03_R"]])
    assert bundle.config.known_pairs == (("Rib03_L", "Rib03_R"),)
    assert json.loads((bundle.folder / "model.json").read_text())["pairs"] == [["Rib03_L", "Rib03_R"]]


def test_a_bundle_is_written_with_the_pairs_that_the_catalogue_knows(bundle):
    assert json.loads((bundle.folder / "model.json").read_text())["pairs"] == [["Parotid_L", "Parotid_R"]]


def rewritten(folder, **fields):
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


def test_a_bundle_of_an_earlier_version_has_the_catalogue_s_pairs(bundle):
    path = bundle.folder / "model.json"
    said = json.loads(path.read_text())
    del said["pairs"]
    path.write_text(json.dumps({**said, "mirror": True}))
    assert load_bundle(bundle.folder).config.known_pairs == (("Parotid_L", "Parotid_R"),)


@pytest.mark.parametrize(
    ("structures", "pairs", "alone"),
    [
        (PLEXUS, [], "Rib03_L, Rib03_R are"),
        (("Parotid_L", "Larynx"), [], "Parotid_L is"),
        (("Parotid_L", "Parotid_R", "OpticNrv_L_PRV"), [["Parotid_L", "Parotid_R"]], "OpticNrv_L_PRV is"),
    ],
)
def test_a_mirrored_bundle_with_a_sided_organ_without_its_pair(tmp_path, structures, pairs, alone):
    bundle = of(tmp_path, structures, pairs=pairs)
    with pytest.raises(ModelError, match=f"model.json: the model is mirrored, and {alone} in no pair of it; if it was"):
        load_bundle(rewritten(bundle.folder, mirror=True))
    with pytest.raises(ModelError, match="in no pair of it"):  # one of an earlier version says no pairs
        of(tmp_path / "older", structures, mirror=True, pairs=pairs or None)


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ([["Parotid_L", "Larynx"]], "Larynx is no organ of the model"),
        ([["Parotid_R", "Parotid_L"]], "Parotid_R is to be the left one"),
        ([["Parotid_L", "Parotid_L"]], "an organ stands twice"),
        ([["Parotid_L", "Parotid_R"], ["Eye_L", "Parotid_R"]], "an organ stands twice"),
        ([["Parotid_L", "Eye_R"]], "Parotid_L and Eye_R are not the two sides of one organ"),
    ],
)
def test_pairs_that_are_none(tmp_path, pairs, reason):
    bundle = of(tmp_path, ("Parotid_L", "Parotid_R", "Eye_L", "Eye_R"))
    with pytest.raises(ModelError, match=reason):
        load_bundle(rewritten(bundle.folder, pairs=pairs))


def test_the_shipped_models_are_what_jobs_were_contoured_with():
    """Their hash is part of every structure set's UID: a change of model.json is another model."""
    assert load_bundle("hn7").sha256.startswith("fc692969f0b6")
    assert load_bundle("hn7").config.known_pairs == (("Parotid_L", "Parotid_R"),)
