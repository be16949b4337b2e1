"""Bundles as a trainer would leave them: the bright model again, as another version that answers otherwise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

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
