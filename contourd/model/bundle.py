"""A model on disk: model.json, weights.safetensors, a model card, and the hash that ties them.

Weights are read by safetensors, so a bundle from elsewhere runs no code; and what it claims is measured against bounds
before memory is taken for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import ValidationError
from torch import Tensor

from contourd.errors import ModelError
from contourd.model.bundle_config import BundleConfig, ModelBundle
from contourd.model.kinds import kind_of, known_kinds
from contourd.model.library import CARD_FILE, MODEL_FILE, WEIGHTS_FILE, bundle_folder, shipped_names
from contourd.model.network import Network
from contourd.model.networks import FIRST_KIND, UNKNOWN_KIND
from contourd.reasons.catalogue import HoldReason
from contourd.system.logs import one_line
from contourd.system.regular_files import read_regular

LARGEST_MODEL_FILE_BYTES = 4 * 2**20
# Of the errors in a file, the first few tell what is wrong.
MOST_ERRORS = 5


def load_bundle(name_or_folder: str | Path) -> ModelBundle:
    """Find a bundle by the name of a shipped one or by its folder, and check the weights' hash.

    Raises
    ------
    ModelError
        There is none, or it is damaged.
    """
    folder = bundle_folder(name_or_folder)
    try:
        text = _own(folder, MODEL_FILE, LARGEST_MODEL_FILE_BYTES).read_bytes()
        kind = kind_of(_said_kind(text))
        with _own(folder, WEIGHTS_FILE, kind.bundle.largest_weights_bytes).open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        known = ", ".join(shipped_names()) or "none"
        raise ModelError(
            HoldReason.MODEL_UNKNOWN,
            model=str(name_or_folder),
            said=error.strerror,
            file=str(error.filename),
            known=known,
        ) from error
    try:
        config = kind.bundle.configuration.model_validate_json(text)
    except ValidationError as error:
        _refuse_unknown_kind(folder / MODEL_FILE, error)
        raise ModelError(
            HoldReason.MODEL_FILE_INVALID, path=str(folder / MODEL_FILE), said=_error_text(error)
        ) from error
    config.refuse_contradictions(folder / MODEL_FILE)
    if weights != config.weights_sha256:
        raise ModelError(
            HoldReason.MODEL_DAMAGED, path=str(folder / WEIGHTS_FILE), sha256=weights, expected=config.weights_sha256
        )
    return kind.bundle(folder, config, hashlib.sha256(text).hexdigest())


def _said_kind(text: bytes) -> object:
    """Return the kind that a model.json says, the first where it says none or cannot be read, which is told later."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return FIRST_KIND
    return said.get("kind", FIRST_KIND) if isinstance(said, dict) else FIRST_KIND


def _refuse_unknown_kind(path: Path, error: ValidationError) -> None:
    for found in error.errors(include_url=False):
        if found["type"] == UNKNOWN_KIND:
            kind, known = found["ctx"]["kind"], ", ".join(known_kinds())
            raise ModelError(HoldReason.MODEL_KIND_UNKNOWN, path=str(path), kind=kind, known=known) from error


def bundle_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that a bundle is made of; the card may be missing.

    Raises
    ------
    ModelError
        One of them is a link out of the folder, no file, or too large.
    OSError
        One is not there.
    """
    described = _own(folder, MODEL_FILE, LARGEST_MODEL_FILE_BYTES)
    most_bytes = kind_of(_said_kind(read_regular(described))).bundle.largest_weights_bytes
    files = [described, _own(folder, WEIGHTS_FILE, most_bytes)]
    if (folder / CARD_FILE).exists():
        files.append(_own(folder, CARD_FILE, LARGEST_MODEL_FILE_BYTES))
    return tuple(files)


def _own(folder: Path, name: str, most_bytes: int) -> Path:
    """Return a file of the bundle; what lies elsewhere, is no file or is too large is none of it."""
    path = folder / name
    if not path.resolve(strict=True).is_relative_to(folder.resolve()):
        raise ModelError(HoldReason.MODEL_FILE_IS_LINK, path=str(path))
    if not path.is_file():
        raise ModelError(HoldReason.MODEL_FILE_ABSENT, path=str(path))
    if path.stat().st_size > most_bytes:
        raise ModelError(HoldReason.MODEL_FILE_TOO_LARGE, path=str(path), bytes=path.stat().st_size, most=most_bytes)
    return path


def _error_text(error: ValidationError) -> str:
    """Name the keys that are wrong and why, without their values."""
    found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
    return one_line("; ".join(found[:MOST_ERRORS]) + (" ..." if len(found) > MOST_ERRORS else ""))


def save_bundle(
    folder: Path, config: BundleConfig | Mapping[str, Any], weights: Network | Mapping[str, Tensor]
) -> ModelBundle:
    """Write a bundle; ``config`` without its hash will do. Weights are stored as they are, those of a network as such.

    Raises
    ------
    ModelError
        The configuration is not valid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = weights.state_dict() if isinstance(weights, Network) else weights
    stored = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    safetensors.torch.save_file(stored, folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors leaves it to its owner alone
    digest = hashlib.sha256(read_regular(folder / WEIGHTS_FILE)).hexdigest()
    fields = config.model_dump(mode="json") if isinstance(config, BundleConfig) else dict(config)
    configuration = kind_of(fields.get("kind", FIRST_KIND)).bundle.configuration
    try:
        complete = configuration.model_validate({**fields, "weights_sha256": digest})
    except ValidationError as error:
        _refuse_unknown_kind(folder / MODEL_FILE, error)
        raise ModelError(HoldReason.MODEL_INCOMPLETE, folder=str(folder), said=str(error)) from error
    complete = complete.model_copy(update={"pairs": complete.known_pairs})
    complete.refuse_contradictions(folder / MODEL_FILE)
    unsaid = {"kind"} if complete.kind == FIRST_KIND else None  # versions that know but one kind take the bundle
    message = complete.model_dump(mode="json", exclude=unsaid)
    (folder / MODEL_FILE).write_text(json.dumps(message, indent=1) + "\n", encoding="utf-8")
    return load_bundle(folder)
