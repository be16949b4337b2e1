"""Which runtime contours, and that none is used that does not give the masks of torch."""

from __future__ import annotations

import logging
import socket
import sys

import numpy as np
import openvino
import pytest
import torch

from contourd.acceptance.reference_patient import load_reference
from contourd.errors import DeviceError
from contourd.imaging.metrics import dice
from contourd.model import openvino_runtime
from contourd.model.bundle import load_bundle
from contourd.model.lattice_predictor import LatticePredictor
from contourd.model.openvino_runtime import OpenVinoRuntime, has_bf16
from contourd.model.predictor import RunOptions
from contourd.model.runtime_description import RuntimeDescription
from contourd.model.torch_runtime import TorchRuntime
from contourd.models import runtimes
from contourd.models.runtimes import LEAST_DICE, make_predictor, masks_agree, user_cache, worker_of
from contourd.settings import WorkerSettings

CPU = {"device": "cpu"}


@pytest.fixture
def bundle(bright_bundle):
    return load_bundle(bright_bundle)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """What tests export that do not look at how it is done."""
    return tmp_path_factory.mktemp("exported")


def image(shape=(40, 33, 36)) -> np.ndarray:
    return np.random.default_rng(4).uniform(-1, 1, shape).astype(np.float32)


def answer_with(monkeypatch, bundle, value: float) -> None:
    organs = len(bundle.config.model.structures)
    monkeypatch.setattr(
        OpenVinoRuntime, "probabilities", lambda self, image: np.full((organs, *image.shape), value, dtype=np.float32)
    )


@pytest.mark.parametrize("shape", [(16, 16, 16), (40, 33, 36)])
def test_openvino_answers_as_torch_does(shape, monkeypatch, cache):
    bundle = load_bundle("hn7")
    one = OpenVinoRuntime(bundle.network(), bundle.sha256, cache).probabilities(image(shape))
    other = TorchRuntime(bundle.network(), torch.device("cpu")).probabilities(image(shape))
    np.testing.assert_allclose(one, other, atol=1e-3)
    assert other.max() > 0.01
    monkeypatch.setattr(openvino_runtime, "LARGE_VOXELS", 1)
    large = OpenVinoRuntime(bundle.network(), bundle.sha256, cache).probabilities(image(shape))
    np.testing.assert_allclose(large, other, atol=1e-3)


def test_a_network_is_exported_once(bundle, tmp_path, monkeypatch):
    first = OpenVinoRuntime(bundle.network(), bundle.sha256, tmp_path / "cache").probabilities(image())
    names = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert len(names) == 4
    assert all(name.startswith(bundle.sha256[:32]) for name in names)
    monkeypatch.setattr(openvino_runtime, "export_network", None)  # a call would raise TypeError
    again = OpenVinoRuntime(bundle.network(), bundle.sha256, tmp_path / "cache").probabilities(image())
    np.testing.assert_array_equal(again, first)


def test_nobody_is_called_meanwhile(bundle, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "sendto", refuse)
    OpenVinoRuntime(bundle.network(), bundle.sha256)


def test_what_is_kept_and_damaged_is_exported_anew(bundle, tmp_path):
    make_predictor(bundle, WorkerSettings(**CPU, runtime="openvino"), tmp_path)
    for weights in tmp_path.glob("*.bin"):
        weights.write_bytes(bytes(weights.stat().st_size))
    predictor = make_predictor(bundle, WorkerSettings(**CPU, runtime="openvino"), tmp_path)
    assert predictor.runtime.probabilities(image()).max() > 0.5
    for model in tmp_path.glob("*.xml"):
        model.write_bytes(b"<net")
    assert (
        make_predictor(bundle, WorkerSettings(**CPU, runtime="openvino"), tmp_path).runtime.description.name
        == "openvino"
    )


def test_a_folder_that_cannot_be_written_stops_nothing(bundle, tmp_path):
    (tmp_path / "file").touch()
    predictor = make_predictor(bundle, WorkerSettings(**CPU, runtime="openvino"), tmp_path / "file" / "cache")
    assert predictor.runtime.description.name == "openvino"


def test_auto_takes_openvino_where_it_is_installed(bundle, cache):
    assert make_predictor(bundle, WorkerSettings(**CPU), cache).runtime.description.name == "openvino"


def test_without_openvino_torch_runs_it(bundle, monkeypatch):
    monkeypatch.setattr(runtimes, "is_installed", lambda: False)
    assert make_predictor(bundle, WorkerSettings(**CPU)).runtime.description.name == "torch"


def test_a_runtime_that_disagrees_is_not_used(bundle, monkeypatch, caplog):
    answer_with(monkeypatch, bundle, 0.0)
    with caplog.at_level(logging.WARNING):
        assert make_predictor(bundle, WorkerSettings(**CPU)).runtime.description.name == "torch"
    assert "torch takes the place of OpenVINO" in caplog.text
    with pytest.raises(DeviceError, match="does not give the masks"):
        make_predictor(bundle, WorkerSettings(**CPU, runtime="openvino"))


def test_an_answer_that_is_no_number_is_no_agreement(bundle, monkeypatch):
    answer_with(monkeypatch, bundle, np.nan)
    with pytest.raises(DeviceError, match=r"mean Dice 0\.0000"):
        make_predictor(bundle, WorkerSettings(**CPU, runtime="openvino"))


def test_what_is_named_and_not_there_is_said(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(DeviceError, match=r"install contourd\[cpu\], or set worker\.runtime to torch"):
        make_predictor(bundle, WorkerSettings(**CPU, runtime="openvino"))
    with pytest.raises(DeviceError, match=r"worker\.precision fp16 needs a CUDA device"):
        make_predictor(bundle, WorkerSettings(**CPU, precision="fp16"))
    with pytest.raises(DeviceError, match="OpenVINO and bf16 are for the CPU, and here torch is to run on cpu"):
        make_predictor(bundle, WorkerSettings(**CPU, runtime="torch", precision="bf16"))


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_what_a_runtime_says_of_itself_leads_back_to_it(bundle, runtime, cache):
    asked = WorkerSettings(**CPU, runtime=runtime, precision="fp32")
    assert worker_of(make_predictor(bundle, asked, cache).runtime.description) == asked


def test_bf16_leads_back_to_it():
    said = RuntimeDescription("openvino", "2026.1", "bf16", "cpu", "x86_64, AVX512", 2)
    assert worker_of(said) == WorkerSettings(device="cpu", runtime="openvino", precision="bf16")


@pytest.mark.parametrize(("said", "told"), [
    (RuntimeDescription("openvino", "2026.1", "bf16", "cpu", "x86_64, AVX512", 2),
     "cpu (x86_64, AVX512, 2 threads, OpenVINO 2026.1 bf16)"),
    (RuntimeDescription("torch", "2.9.1", "fp16", "cuda:0", "NVIDIA H200", cuda="13.0"),
     "cuda:0 (NVIDIA H200, CUDA 13.0, torch 2.9.1 fp16)"),
    (RuntimeDescription("torch", "", "fp32", "cpu", "", words="cpu"), "cpu"),
])  # fmt: skip
def test_a_runtime_is_told_in_words_and_kept_as_a_record(said, told):
    assert said.text() == told
    assert RuntimeDescription.from_json(said.to_json()) == said


@pytest.fixture
def without_bf16(monkeypatch):
    class Old(openvino.Core):
        def get_property(self, device, name):
            told = super().get_property(device, name)
            return [one for one in told if one != "BF16"] if name == "OPTIMIZATION_CAPABILITIES" else told

    monkeypatch.setattr(openvino, "Core", Old)


@pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16")
def test_bf16_gives_the_masks_of_single_precision_and_other_bits(cache):
    bundle = load_bundle("hn7")
    plain = TorchRuntime(bundle.network(), torch.device("cpu"))
    runtime = OpenVinoRuntime(bundle.network(), bundle.sha256, cache, "bf16")
    assert runtime.description.precision == "bf16"
    assert masks_agree(runtime, plain, bundle) >= LEAST_DICE
    volume = load_reference().volume  # as it is contoured: from both lattices and their mirror images
    cpu = torch.device("cpu")
    options = [RunOptions(cpu, choose_runtime=lambda *_, one=one: one) for one in (runtime, plain)]
    both = [LatticePredictor(bundle, one).predict(volume) for one in options]
    masks = [[one.mask(name).on(volume.grid.shape) for one in both] for name in both[0].structures]
    assert np.mean([dice(*pair) for pair in masks]) >= 0.9995
    other = OpenVinoRuntime(bundle.network(), bundle.sha256, cache).probabilities(image())
    assert np.abs(runtime.probabilities(image()) - other).max() > 1e-5


def test_auto_takes_bf16_where_the_processor_has_it(bundle, cache):
    expected = "bf16" if has_bf16() else "fp32"
    assert make_predictor(bundle, WorkerSettings(**CPU), cache).runtime.description.precision == expected


@pytest.mark.usefixtures("without_bf16")
def test_without_bf16_auto_takes_fp32_and_who_named_it_is_told(bundle, cache):
    made = make_predictor(bundle, WorkerSettings(**CPU), cache)
    assert made.runtime.description.name == "openvino"
    assert made.runtime.description.precision == "fp32"
    with pytest.raises(DeviceError, match=r"no bf16 .*set worker\.precision to auto or fp32"):
        make_predictor(bundle, WorkerSettings(**CPU, precision="bf16"), cache)


@pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16")
def test_bf16_that_disagrees_is_not_used(bundle, monkeypatch, cache):
    """Single precision takes its place, by OpenVINO all the same."""
    right = OpenVinoRuntime.probabilities

    def answer(self, image):
        return right(self, image) * (0 if self.description.precision == "bf16" else 1)

    monkeypatch.setattr(OpenVinoRuntime, "probabilities", answer)
    made = make_predictor(bundle, WorkerSettings(**CPU), cache).runtime.description
    assert (made.name, made.precision) == ("openvino", "fp32")
    with pytest.raises(DeviceError, match=r"bf16.* does not give the masks"):
        make_predictor(bundle, WorkerSettings(**CPU, precision="bf16"), cache)


def test_half_precision_on_a_device_leads_back_to_it():
    said = RuntimeDescription("torch", "2.13.0", "fp16", "cuda:1", "NVIDIA H100", cuda="12.8")
    assert worker_of(said) == WorkerSettings(device="cuda:1", runtime="torch", precision="fp16")


def test_the_cache_of_a_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "contourd"
