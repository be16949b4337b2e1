"""A model on disk: model.json, weights.safetensors, a model card, and the hash that ties them.

Weights are read by safetensors, so a bundle from elsewhere runs no code; and what it claims is measured against bounds
before memory is taken for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open

from contourd.errors import ModelError
from contourd.model.library import CARD_FILE, MODEL_FILE, WEIGHTS_FILE, bundle_folder, shipped_names
from contourd.model.limits import Limits
from contourd.model.model_identity import ModelIdentity
from contourd.model.network import Network
from contourd.model.networks import FIRST_KIND, UNKNOWN_KIND, ConfigOfKind, Kind, build_network
from contourd.model.plausibility import OrganSpread
from contourd.model.structures import Pairs, catalogue_pairs, refuse_other_pairs, unpaired
from contourd.model.transforms import PreprocessConfig
from contourd.reasons.catalogue import HoldReason
from contourd.system.logs import one_line
from contourd.system.regular_files import read_regular

LARGEST_MODEL_FILE_BYTES, LARGEST_WEIGHTS_BYTES = 4 * 2**20, 2 * 2**30
# Of the errors in a file, the first few tell what is wrong.
MOST_ERRORS = 5


class BundleConfig(BaseModel):
    """model.json.

    kind
        Of the network, one of NETWORKS (``contourd.model.networks``). Without it, as in bundles of earlier versions,
        it is AnatomyNet.
    pairs
        (left, right) organs, which a mirror image exchanges. Without them, as in bundles of earlier versions, they are
        those that the catalogue that ships knows.
    mirror
        Average with the prediction of the mirror image, paired organs exchanged.
    half_voxel
        Average with the prediction on a lattice that lies half a voxel beside, along each axis.
    weights_sha256
        Of weights.safetensors.
    limits
        What the model was made for.
    distribution
        Organ -> its size and place in the training set; empty: nothing is judged.
    provenance
        What the trainer knows of the weights' origin: data, splits, recipe, steps, validation figures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")
    version: str = Field(pattern=r"^[A-Za-z0-9._-]{1,16}$")
    kind: Kind = FIRST_KIND
    model: ConfigOfKind
    preprocess: PreprocessConfig
    pairs: Pairs | None = None
    mirror: bool = False
    half_voxel: bool = False
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    limits: Limits = Limits()
    distribution: Mapping[str, OrganSpread] = Field(default_factory=dict)
    provenance: Mapping[str, object] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _pairs_of_own_organs(self) -> Self:
        refuse_other_pairs(self.model.structures, self.pairs or ())
        return self

    @property
    def known_pairs(self) -> Pairs:
        """The model's pairs, or those of the catalogue where it says none."""
        return catalogue_pairs(self.model.structures) if self.pairs is None else self.pairs


@dataclass(frozen=True, slots=True)
class ModelBundle:
    """A bundle that was found and whose hash fits; the network is loaded on demand.

    Attributes
    ----------
    sha256
        Of model.json, which holds the hash of the weights: it identifies the model.
    """

    folder: Path
    config: BundleConfig
    sha256: str

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name

    @property
    def version(self) -> str:
        """The model's version."""
        return self.config.version

    @property
    def identity(self) -> ModelIdentity:
        """Which model it is."""
        return ModelIdentity(self.name, self.version, self.sha256)

    def network(self) -> Network:
        """Build the network with its weights, in evaluation mode, on the CPU.

        Raises
        ------
        ModelError
            The weights do not fit the configuration.
        """
        path = self.folder / WEIGHTS_FILE
        network = build_network(self.config.kind, self.config.model)
        try:
            _refuse_other_shapes(path, network)
            weights = safetensors.torch.load_file(path)
            network.load_state_dict({key: value.float() for key, value in weights.items()})
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise ModelError(HoldReason.WEIGHTS_UNFIT, path=str(path), said=one_line(error)) from error
        if not all(bool(torch.isfinite(value).all()) for value in network.state_dict().values()):
            raise ModelError(HoldReason.WEIGHTS_NOT_FINITE, path=str(path))
        return network.eval()


def _refuse_other_shapes(path: Path, network: Network) -> None:
    """Compare what the file's header says with the network, before a tensor is read."""
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    with safe_open(path, framework="pt") as file:
        found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (no mapping)
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        raise ValueError(
            f"{len(wrong)} tensors differ, as {wrong[0]}: {found.get(wrong[0])}, not {expected.get(wrong[0])}"
        )


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
        with _own(folder, WEIGHTS_FILE, LARGEST_WEIGHTS_BYTES).open("rb") as file:
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
        config = BundleConfig.model_validate_json(text)
    except ValidationError as error:
        _refuse_unknown_kind(folder / MODEL_FILE, error)
        raise ModelError(
            HoldReason.MODEL_FILE_INVALID, path=str(folder / MODEL_FILE), said=_error_text(error)
        ) from error
    _refuse_unpaired(folder / MODEL_FILE, config)
    if weights != config.weights_sha256:
        raise ModelError(
            HoldReason.MODEL_DAMAGED, path=str(folder / WEIGHTS_FILE), sha256=weights, expected=config.weights_sha256
        )
    return ModelBundle(folder, config, hashlib.sha256(text).hexdigest())


def _refuse_unknown_kind(path: Path, error: ValidationError) -> None:
    for found in error.errors(include_url=False):
        if found["type"] == UNKNOWN_KIND:
            raise ModelError(
                HoldReason.MODEL_KIND_UNKNOWN, path=str(path), kind=found["ctx"]["kind"], known=found["ctx"]["known"]
            ) from error


def _refuse_unpaired(path: Path, config: BundleConfig) -> None:
    """Refuse a model of which nobody knows what a mirror image makes of its left organs."""
    alone = unpaired(config.model.structures, config.known_pairs)
    if config.mirror and alone:
        raise ModelError(HoldReason.MODEL_UNPAIRED, path=str(path), organs=list(alone))


def bundle_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that a bundle is made of; the card may be missing.

    Raises
    ------
    ModelError
        One of them is a link out of the folder, no file, or too large.
    OSError
        One is not there.
    """
    files = [_own(folder, MODEL_FILE, LARGEST_MODEL_FILE_BYTES), _own(folder, WEIGHTS_FILE, LARGEST_WEIGHTS_BYTES)]
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


def save_bundle(folder: Path, config: BundleConfig | Mapping[str, object], network: Network) -> ModelBundle:
    """Write a bundle; ``config`` without its hash will do. Weights are stored in float32.

    Raises
    ------
    ModelError
        The configuration is not valid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    safetensors.torch.save_file(weights, folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors leaves it to its owner alone
    digest = hashlib.sha256(read_regular(folder / WEIGHTS_FILE)).hexdigest()
    fields = config.model_dump(mode="json") if isinstance(config, BundleConfig) else dict(config)
    try:
        complete = BundleConfig.model_validate({**fields, "weights_sha256": digest})
    except ValidationError as error:
        _refuse_unknown_kind(folder / MODEL_FILE, error)
        raise ModelError(HoldReason.MODEL_INCOMPLETE, folder=str(folder), said=str(error)) from error
    complete = complete.model_copy(update={"pairs": complete.known_pairs})
    _refuse_unpaired(folder / MODEL_FILE, complete)
    unsaid = {"kind"} if complete.kind == FIRST_KIND else None  # versions that know but one kind take the bundle
    message = complete.model_dump(mode="json", exclude=unsaid)
    (folder / MODEL_FILE).write_text(json.dumps(message, indent=1) + "\n", encoding="utf-8")
    return load_bundle(folder)
