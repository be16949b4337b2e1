"""Kinds of networks: a second one is saved, loaded, run and trained as the first is, and an unknown one is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from contourd.contour.contouring import contour_series
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.reading.series import find_series
from contourd.dicom.rtstruct.reader import read_structure_set
from contourd.errors import DatasetError, ModelError, SettingsError
from contourd.model.bundle import load_bundle, save_bundle
from contourd.model.network import Network, NetworkConfig
from contourd.model.networks import NETWORKS
from contourd.models.runtimes import make_predictor
from contourd.reasons.catalogue import HoldReason
from contourd.settings import WorkerSettings
from tests.bright import BALL_CC, phantom
from tests.training import ORGANS, config
from trainer.training.config import check_recipe
from trainer.training.fit import CHECKPOINT, fit
from trainer.training.state import set_up

pytestmark = pytest.mark.usefixtures("one_thread")


class TinyConfig(NetworkConfig):
    """One convolution of so many voxels."""

    kernel: int = 3


class Tiny(Network):
    """A convolution, and nothing else."""

    configuration = TinyConfig

    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config)
        self.only = nn.Conv3d(1, config.classes, config.kernel, padding=config.kernel // 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.only(image)


@pytest.fixture(autouse=True)
def _tiny_kind(monkeypatch) -> None:
    monkeypatch.setitem(NETWORKS, "tiny", Tiny)


@pytest.fixture
def bundle(tmp_path):
    """Its first organ is what is brighter than 250 HU, as the bright bundle's, and its second is never found."""
    config = TinyConfig(structures=("Brainstem", "SpinalCord"))
    network = Tiny(config)
    with torch.no_grad():
        network.only.weight.zero_()
        network.only.weight[1, 0, 1, 1, 1] = 30.0
        network.only.bias.copy_(torch.tensor([0.0, -10.0, -50.0]))
    fields = {"name": "one", "version": "1", "kind": "tiny", "model": config.model_dump(), "preprocess": {}}
    return save_bundle(tmp_path / "one", fields, network)


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_a_second_kind_contours_on_the_same_path(bundle, runtime, tmp_path):
    (instances,) = find_series(write_ct_series(phantom(), tmp_path / "ct", SeriesIdentity("p1", "A^B"))).values()
    predictor = make_predictor(
        load_bundle(bundle.folder), WorkerSettings(device="cpu", runtime=runtime, precision="fp32"), tmp_path / "cache"
    )
    assert predictor.runtime.description.name == runtime
    contoured = contour_series(instances, predictor)
    (roi,) = read_structure_set(contoured.dataset)
    assert roi.name == "Brainstem"
    volumes = {roi.name: roi.volume_cc for roi in contoured.structures.rois}
    assert volumes["Brainstem"] == pytest.approx(BALL_CC, rel=0.12)


def test_a_second_kind_in_slabs_gives_what_it_gives_in_one_piece(tmp_path):
    network = Tiny(TinyConfig(structures=("A", "B"), kernel=15)).eval()
    fields = {"name": "wide", "version": "1", "kind": "tiny", "model": network.config.model_dump(), "preprocess": {}}
    bundle = save_bundle(tmp_path / "wide", fields, network)
    image = np.random.default_rng(0).uniform(-0.9, 1, (70, 31, 29)).astype(np.float32)
    with torch.inference_mode():
        whole = torch.softmax(network(torch.from_numpy(image)[None, None]), dim=1)[0, 1:].numpy()
    found = make_predictor(bundle, WorkerSettings(device="cpu", runtime="torch")).runtime.probabilities(image)
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_the_kind_stands_in_the_file_where_it_is_not_the_first(bundle, bright_bundle):
    assert json.loads((bundle.folder / "model.json").read_text())["kind"] == "tiny"
    first = load_bundle(bright_bundle)
    assert "kind" not in json.loads((first.folder / "model.json").read_text())
    assert first.config.kind == "anatomynet"


def test_an_unknown_kind_is_refused_with_those_that_are_known(bundle, monkeypatch):
    monkeypatch.delitem(NETWORKS, "tiny")
    with pytest.raises(
        ModelError, match=r"model\.json: 'tiny' is no kind of network .* \(anatomynet.*\); take"
    ) as caught:
        load_bundle(bundle.folder)
    assert caught.value.reason.code is HoldReason.MODEL_KIND_UNKNOWN
    with pytest.raises(SettingsError) as refused:
        check_recipe({"name": "x", "kind": "tiny", "model": {"structures": ["A"], "kernel": 3}}, "recipe.toml")
    (problem,) = refused.value.problems
    assert problem == "kind: tiny is no kind of network that this version knows: anatomynet"


def test_the_configuration_is_the_kind_s_own(bundle):
    path = bundle.folder / "model.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "kind": "anatomynet"}))
    with pytest.raises(ModelError, match=r"model\.json is not a model of this version: model\.kernel: Extra"):
        load_bundle(bundle.folder)


def tiny_recipe(length: int, structures=ORGANS, **more):
    return config(length, kind="tiny", model={"structures": structures}, **more)


def test_a_second_kind_is_trained(training_set, tmp_path):
    state = fit(training_set, tmp_path / "run", tiny_recipe(2), "cpu")
    bundle = load_bundle(tmp_path / "run")
    assert (bundle.config.kind, bundle.config.model.kernel) == ("tiny", 3)
    assert isinstance(bundle.network(), Tiny)
    assert "A network of the kind tiny: 112 parameters." in (bundle.folder / "CARD.md").read_text()
    begun = set_up(tiny_recipe(1, initial=str(bundle.folder)), torch.device("cpu")).network
    assert torch.equal(begun.only.weight, state.average.only.weight)
    with pytest.raises(ModelError, match="another structures"):  # which weights are an organ's it does not say
        set_up(tiny_recipe(1, ORGANS[:1], initial=str(bundle.folder)), torch.device("cpu"))
    with pytest.raises(ModelError, match="another kind"):
        set_up(config(1, initial=str(bundle.folder)), torch.device("cpu"))
    with pytest.raises(DatasetError, match="trained with another kind, model"):
        fit(training_set, tmp_path / "run", config(3), "cpu")


def test_deep_supervision_is_refused_where_there_are_no_stages():
    with pytest.raises(ValueError, match=r"loss\.deep_supervision: tiny has no coarser stages"):
        tiny_recipe(1, loss={"deep_supervision": 0.5})


def test_a_run_of_an_earlier_version_goes_on(training_set, tmp_path, capsys):
    """Its checkpoint says no kind."""
    fit(training_set, tmp_path / "run", config(1), "cpu")
    path = tmp_path / "run.run" / CHECKPOINT
    content = torch.load(path, weights_only=True)
    del content["config"]["kind"]
    torch.save(content, path)
    assert fit(training_set, tmp_path / "run", config(2), "cpu").step == 2
    assert "the recipe's schedule changed since" in capsys.readouterr().out
