"""A bundle from elsewhere runs no code, takes no memory that it should not, and is refused by its file's name."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from contourd.errors import ModelError
from contourd.model.anatomynet import AnatomyNet, AnatomyNetConfig
from contourd.model.bundle import load_bundle, save_bundle

MODEL = AnatomyNetConfig(structures=("Parotid_L", "Parotid_R"), channels=(4, 4, 4, 4))
MOST_MB = 300


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    fields = {"name": "tiny", "version": "1", "model": MODEL.model_dump(mode="json"), "preprocess": {}}
    return save_bundle(tmp_path / "tiny", fields, AnatomyNet(MODEL)).folder


def rewrite(folder: Path, **changes: Any) -> None:
    """Change keys of model.json, dotted by two underscores."""
    path = folder / "model.json"
    fields = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = fields
        for parent in parents:
            place = place[parent]
        place[last] = value
    path.write_text(json.dumps(fields))


def with_weights(folder: Path, content: bytes) -> None:
    """Put other weights there, with the hash that fits: whoever makes a bundle can do so."""
    (folder / "weights.safetensors").write_bytes(content)
    rewrite(folder, weights_sha256=hashlib.sha256(content).hexdigest())


def load(folder: Path) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load_bundle(folder).network()
    finally:
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024 < MOST_MB


class Exploit:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("save", [lambda thing, path: path.write_bytes(pickle.dumps(thing)), torch.save])
def test_a_pickle_in_place_of_the_weights_is_not_run(folder: Path, tmp_path: Path, save: Callable[..., Any]) -> None:
    made, file = tmp_path / "made", tmp_path / "pickled"
    save(Exploit(made), file)
    with_weights(folder, file.read_bytes())
    with pytest.raises(ModelError, match=r"weights\.safetensors: the weights do not fit"):
        load(folder)
    assert not made.exists()


def header(tensors: dict[str, Any], body: bytes = b"") -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + body


HUGE = {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}
FILES = {
    "nothing": b"",
    "a header that is longer than the file": struct.pack("<Q", 2**62) + b"{}",
    "a header that is no JSON": struct.pack("<Q", 4) + b"\xff\xff\xff\xff",
    "a tensor of four terabytes": header({"stem.weight": HUGE}),
    "offsets beyond the end": header({"stem.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"abc"),
    "a hundred thousand tensors": header(
        {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}
    ),
    "another network": safetensors.torch.save({"x": torch.zeros(3)}),
}


@pytest.mark.parametrize("what", FILES)
def test_weights_that_lie(folder: Path, what: str) -> None:
    with_weights(folder, FILES[what])
    with pytest.raises(ModelError, match=r"weights\.safetensors") as caught:
        load(folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(folder: Path, value: float) -> None:
    weights = safetensors.torch.load_file(folder / "weights.safetensors")
    first = next(iter(weights.values()))
    first.view(-1)[0] = value
    with_weights(folder, safetensors.torch.save(weights))
    with pytest.raises(ModelError, match=r"weights\.safetensors holds weights that are no numbers"):
        load(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json"])
def test_a_link_out_of_the_bundle(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=f"{name} is a link out of the bundle"):
        load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"model__channels": [10**6] * 4},
        {"model__channels": [0, 4, 4, 4]},
        {"model__output_channels": 10**9},
        {"model__pools": 10**6},
        {"model__structures": [f"organ{n}" for n in range(10_000)]},
        {"model__structures": ["x" * 10_000]},
        {"model__structures": ["a\n\x1b[2J"]},
        {"preprocess__spacing_mm": [1e-6, 1e-6, 1e-6]},
        {"preprocess__half_width_mm": 1e12},
        {"preprocess__length_mm": 1e12},
        {"preprocess__margin_mm": 1e12},
        {"limits__kernels": ["("]},
        {"limits__kernels": ["(a+)+$" * 100]},
        {"name": "../../etc/passwd"},
        {"weights_sha256": "0" * 64},
        {"weights_sha256": "no hash"},
    ],
    ids=str,
)
def test_a_model_file_that_claims_what_no_model_has(folder: Path, changes: dict[str, Any]) -> None:
    rewrite(folder, **changes)
    with pytest.raises(ModelError, match=r"model\.json|weights\.safetensors is damaged") as caught:
        load(folder)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 3000


def test_a_model_file_of_another_size_than_any(folder: Path) -> None:
    path = folder / "model.json"
    path.write_bytes(path.read_bytes() + b" " * (5 * 2**20))
    with pytest.raises(ModelError, match=r"model\.json has 5\d+ bytes, more than"):
        load(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"model": ' * 50_000, "null", '"\\ud800"', "\ufeff{}"])
def test_json_that_is_none_of_ours(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(ModelError, match=r"model\.json is not a model"):
        load(folder)
