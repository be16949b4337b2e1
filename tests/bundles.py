"""Bundles as a trainer would leave them: the bright model, the same as another version, and a small one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from contourd.model.anatomynet import AnatomyNet, AnatomyNetConfig
from contourd.model.bundle import load_bundle, save_bundle


def bundle_of_version(bundle: Path, folder: Path, version: str, changes: Mapping[str, object] | None = None) -> Path:
    """Copy a bundle as another version, with what else is to be changed in its model.json."""
    shutil.copytree(bundle, folder)
    said = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    (folder / "model.json").write_text(json.dumps({**said, "version": version, **(changes or {})}), encoding="utf-8")
    (folder / "CARD.md").write_text(f"# The bright one, version {version}\n", encoding="utf-8")
    return folder


def brighter_bundle(bundle: Path, folder: Path) -> Path:
    """Make version 2: its ball is what is brighter than 375 HU, and so a little smaller than with 250 HU.

    The window maps -250 to 500 HU to -1 to 1, so 375 HU is 2/3; the logit is 30 x - 20.
    """
    known = load_bundle(bundle)
    network = known.network()
    network.classify.bias.data[1] = -20.0
    fields = {**known.config.model_dump(mode="json"), "version": "2"}
    return save_bundle(folder, fields, network).folder


def damage(weights: Path) -> None:
    """Change one byte, as a disk that rots would."""
    weights.chmod(0o600)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def make_bright_bundle(
    folder: Path, structures: tuple[str, str] = ("Brainstem", "SpinalCord"), name: str = "bright"
) -> Path:
    """Make a bundle whose answer is known: its first organ is what is brighter than 250 HU, the second is never found.

    Only the last two layers count: the image passes the first of them, and the second has one weight. The window maps
    -250 to 500 HU to -1 to 1, so 250 HU is 1/3 and the logit 30 x - 10 is zero there, as is the background's.
    """
    config = AnatomyNetConfig(structures=structures, channels=(4, 4, 4, 4))
    network = AnatomyNet(config)
    with torch.no_grad():
        for layer in (network.output, network.classify):
            layer.weight.zero_()
            layer.bias.zero_()
        network.output.weight[0, -1, 1, 1, 1] = 1.0
        network.classify.weight[1, 0, 1, 1, 1] = 30.0
        network.classify.bias[1] = -10.0
        network.classify.bias[2] = -50.0
    fields = {"name": name, "version": "1", "model": config.model_dump(mode="json"), "preprocess": {}}
    return save_bundle(folder, fields, network).folder


def make_small_bundle(folder: Path) -> Path:
    """Make a model of small layers on a coarse lattice, with weights by chance (seed 0)."""
    config = AnatomyNetConfig(structures=("Brain",), channels=(4, 4, 4, 4))
    fields = {
        "name": "small",
        "version": "1",
        "model": config.model_dump(mode="json"),
        "preprocess": {"spacing_mm": (12.0, 12.0, 12.0)},
    }
    torch.manual_seed(0)
    return save_bundle(folder, fields, AnatomyNet(config)).folder
