"""Model bundles: written, read, and refused when damaged."""

from __future__ import annotations

import json

import pytest
import torch

from contourd.errors import ModelError
from contourd.model.anatomynet import AnatomyNet, ModelConfig
from contourd.model.bundle import ModelBundle, bundle_names, load_bundle, save_bundle

MODEL = ModelConfig(structures=("Parotid_L", "Parotid_R"), channels=(4, 4, 4, 4))


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
    for name in bundle_names():
        assert name in str(error.value)
