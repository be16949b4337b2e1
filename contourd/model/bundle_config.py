"""What every bundle says of itself, whatever its kind; a subclass adds what its kind has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contourd.model.limits import Limits
from contourd.model.model_identity import ModelIdentity
from contourd.model.plausibility import OrganSpread
from contourd.model.structures import Pairs, catalogue_pairs, refuse_other_pairs


class OrgansConfig(BaseModel):
    """``model`` in model.json: what a kind needs to build its network. A subclass adds what its kind has.

    structures
        Organ names, in the order in which the model answers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    structures: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(min_length=1, max_length=256)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        if len(set(self.structures)) != len(self.structures):
            raise ValueError("structures must not repeat a name")
        if not all(name.isprintable() for name in self.structures):
            raise ValueError("structures must be printable")
        return self


class BundleConfig(BaseModel):
    """What model.json says of any model.

    kind
        Which subclass reads the rest, and what contours with it: see ``contourd.model.kinds``.
    pairs
        (left, right) organs. Without them, as in bundles of earlier versions, they are those that the catalogue that
        ships knows.
    weights_sha256
        Of weights.safetensors.
    limits
        What the model was made for.
    distribution
        Organ -> its size and place in the training set; empty: nothing is judged.
    provenance
        What is known of the weights' origin: data, splits, recipe, steps, validation figures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")
    version: str = Field(pattern=r"^[A-Za-z0-9._-]{1,16}$")
    kind: str
    model: OrgansConfig
    pairs: Pairs | None = None
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

    def refuse_contradictions(self, path: Path) -> None:
        """Refuse what no single field says wrongly; raises ModelError. ``path`` is that of model.json."""


@dataclass(frozen=True, slots=True)
class Commissioning:
    """What a site measured of a model before it put it into use, or why it did not.

    Attributes
    ----------
    distribution
        Organ -> its size and place in the site's patients.
    without
        Why it is in use without being measured; empty: it was measured.
    sha256
        Of the record.
    """

    by: str
    distribution: Mapping[str, OrganSpread]
    without: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelBundle:
    """A bundle that was found and whose hash fits; what it holds is loaded on demand. A subclass for each kind.

    Attributes
    ----------
    sha256
        Of model.json, which holds the hash of the weights: it identifies the model.
    commissioning
        The site's record of it, if there is one.
    """

    configuration: ClassVar[type[BundleConfig]] = BundleConfig
    largest_weights_bytes: ClassVar[int] = 2 * 2**30

    folder: Path
    config: BundleConfig
    sha256: str
    commissioning: Commissioning | None = None

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

    @property
    def distribution(self) -> Mapping[str, OrganSpread]:
        """Organ -> its usual size and place: as the site measured it, else as the model's training set has it."""
        measured = self.commissioning.distribution if self.commissioning is not None else {}
        return {**self.config.distribution, **measured}

    def verify_weights(self) -> None:
        """See that the network takes the weights; raises ModelError."""
        raise NotImplementedError

    def parameters(self) -> int:
        """Count the numbers that were learnt; raises ModelError."""
        raise NotImplementedError
