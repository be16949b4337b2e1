"""The settings of a training run; saved in the checkpoint and in the bundle."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contourd.errors import SettingsError
from contourd.model.limits import Limits
from contourd.model.networks import FIRST_KIND, ConfigOfKind, Kind
from contourd.model.structures import (
    Pairs,
    Structure,
    catalogue_pairs,
    etc_folder,
    refuse_other_pairs,
    unpaired,
)
from contourd.model.transforms import PreprocessConfig
from trainer.training.chosen import RegistryEntry
from trainer.training.losses import LOSSES, Term
from trainer.training.optimisers import OPTIMISERS, Optimiser

RECIPES = "recipes"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LossStage(RegistryEntry):
    """One of LOSSES with its own parameters, used before ``until``; None: to the end."""

    registry, kind = LOSSES, "loss"

    name: str = "dice_focal"
    until: int | None = Field(default=None, ge=1)

    def term(self) -> Term:
        """Return the loss with its parameters."""
        return LOSSES[self.name].model_validate(self.model_extra)


class LossConfig(_Section):
    """The losses of a run, one stage after the other, and what an unannotated organ does.

    missing
        ``mask``: its terms, and the background's, are left out (equation 3). ``marginal``: its terms are left out and
        its probability counts as background (Shi et al., MedIA 2021).
    stage
        ``dice_focal_balanced`` first finds small organs, to which Dice and focal alone give nearly no gradient, and
        draws all organs too large; a stage after it mends that.
    deep_supervision
        Weight of the same loss on the decoder's stages at lower resolution, each through a layer of its own that is
        not kept (Lee et al., "Deeply-supervised nets", 2015); 0: none.
    """

    missing: Literal["mask", "marginal"] = "marginal"
    stage: tuple[LossStage, ...] = (LossStage(),)
    deep_supervision: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _stages_follow_each_other(self) -> Self:
        _check_ends([stage.until for stage in self.stage])
        return self

    def at(self, step: int) -> LossStage:
        """Return the stage of a step."""
        return next(stage for stage in self.stage if stage.until is None or step < stage.until)


class OptimiserStage(RegistryEntry):
    """One of OPTIMISERS with its own parameters and its learning rate, used before ``until``; None: to the end.

    Each stage begins anew.

    warmup
        Over which the rate rises linearly, at the stage's begin.
    decay, decay_over
        How the rate falls to zero, and over how much at the stage's end; 0: all of the stage after the warm-up.
    """

    registry, kind = OPTIMISERS, "optimiser"

    name: str = "adamw"
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup: int = Field(default=0, ge=0)
    decay: Literal["none", "linear", "cosine"] = "none"
    decay_over: int = Field(default=0, ge=0)
    until: int | None = Field(default=None, ge=1)

    def optimiser(self) -> Optimiser:
        """Return the optimiser with its parameters."""
        return OPTIMISERS[self.name].model_validate(self.model_extra)


class OptimiserConfig(_Section):
    """The optimisers of a run, gradient clipping, and an exponential moving average of the weights.

    gradient_norm
        To which longer gradients are shortened; 0: never.
    ema_decay
        0: the weights themselves are validated and kept.
    """

    gradient_norm: float = Field(default=5.0, ge=0)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    stage: tuple[OptimiserStage, ...] = (OptimiserStage(),)

    @model_validator(mode="after")
    def _stages_follow_each_other(self) -> Self:
        _check_ends([stage.until for stage in self.stage])
        return self


def _check_ends(ends: Sequence[int | None]) -> None:
    if not ends:
        raise ValueError("there must be a stage")
    numbers = [end for end in ends[:-1] if end is not None]
    if ends[-1] is not None or len(numbers) < len(ends) - 1 or numbers != sorted(set(numbers)):
        raise ValueError("every stage but the last ends at a later step than the one before it, the last at none")


class ScheduleConfig(_Section):
    """How long a run is.

    unit
        Of ``length``, ``validate_every``, and of the stages' ``until``, ``warmup`` and ``decay_over``: optimiser steps,
        or epochs, in which every case is seen once.
    batch_size
        Volumes, or patches, per step, over all devices together.
    checkpoint_every
        Always in steps.
    """

    unit: Literal["step", "epoch"] = "step"
    length: int = Field(default=4000, ge=1)
    batch_size: int = Field(default=1, ge=1)
    validate_every: int = Field(default=500, ge=1)
    checkpoint_every: int = Field(default=100, ge=1)


class PatchConfig(_Section):
    """Parts of a volume instead of the whole, for devices with little memory.

    size_mm
        (z, y, x); None: whole volumes.
    foreground
        Share of the patches whose middle is a voxel of an annotated organ, each organ as often.
    """

    size_mm: tuple[float, float, float] | None = None
    foreground: float = Field(default=0.7, ge=0, le=1)


class ComputeConfig(_Section):
    """How the device calculates.

    precision
        ``bf16`` and ``fp16`` by autocast; fp16 on a CUDA device only, with a gradient scaler.
    compile
        By torch.compile.
    """

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False


class AugmentConfig(_Section):
    """Ranges of the random augmentation; zero switches a part off.

    mirror, cut
        Probabilities: of a left-right mirror image with the paired organs exchanged, and of a shorter field of view.
    """

    rotation_deg: float = Field(default=10.0, ge=0)
    scale: float = Field(default=0.12, ge=0, lt=1)
    shift_mm: float = Field(default=12.0, ge=0)
    elastic_mm: float = Field(default=5.0, ge=0)
    elastic_spacing_mm: float = Field(default=48.0, gt=0)
    contrast: float = Field(default=0.15, ge=0, lt=1)
    brightness: float = Field(default=0.06, ge=0)
    noise: float = Field(default=0.06, ge=0)
    blur: float = Field(default=0.7, ge=0)
    mirror: float = Field(default=0.5, ge=0, le=1)
    cut: float = Field(default=0.6, ge=0, le=1)
    shortest_mm: float = Field(default=120.0, gt=0)


class TrainConfig(_Section):
    """Everything that fixes a run but the data set's path.

    kind
        Of the network, one of NETWORKS (``contourd.model.networks``); ``model`` is what it is built from.
    half_voxel
        Validate and release with the mean over two lattices (see BundleConfig).
    initial
        Bundle, by name or folder, whose weights the run begins with; empty: random ones.
    pairs
        (left, right) organs, which a mirror image exchanges; None: those that the catalogue knows.
    """

    name: str
    version: str = "1"
    seed: int = 0
    initial: str = ""
    kind: Kind = FIRST_KIND
    model: ConfigOfKind
    pairs: Pairs | None = None
    preprocess: PreprocessConfig = PreprocessConfig()
    loss: LossConfig = LossConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    patch: PatchConfig = PatchConfig()
    compute: ComputeConfig = ComputeConfig()
    augment: AugmentConfig = AugmentConfig()
    limits: Limits = Limits()
    half_voxel: bool = False

    @model_validator(mode="after")
    def _mirrored_in_pairs(self) -> Self:
        refuse_other_pairs(self.model.structures, self.pairs or ())
        alone = unpaired(self.model.structures, self.known_pairs)
        if alone and self.augment.mirror > 0:
            raise ValueError(
                f"augment.mirror: {', '.join(alone)} {'is' if len(alone) == 1 else 'are'} in no pair, and a mirror "
                'image would put left onto right: name the pairs (pairs = [["..._L", "..._R"]], or a file with them by '
                "--structures), or set augment.mirror = 0"
            )
        return self

    @model_validator(mode="after")
    def _supervised_where_there_are_stages(self) -> Self:
        if self.loss.deep_supervision and not self.model.supervised_channels:
            raise ValueError(f"loss.deep_supervision: {self.kind} has no coarser stages to weigh; set it to 0")
        return self

    @property
    def known_pairs(self) -> Pairs:
        """The recipe's pairs, or those of the catalogue where it says none."""
        return catalogue_pairs(self.model.structures) if self.pairs is None else self.pairs

    def ending_at(self, steps: int | None) -> Self:
        """Return a recipe in steps that is no longer than this; its rates decay over what is left of it."""
        if steps is None or steps >= self.schedule.length:
            return self
        return self.model_copy(update={"schedule": self.schedule.model_copy(update={"length": steps})})

    def in_steps(self, cases: int) -> Self:
        """Return the same recipe with all lengths in steps; an epoch of a batch that does not divide it is rounded up.

        Parameters
        ----------
        cases
            Of the training split.
        """
        if self.schedule.unit == "step":
            return self
        factor = -(-cases // self.schedule.batch_size)

        def steps(number: int | None) -> int | None:
            return None if number is None else number * factor

        optimisers = [
            {**s.model_dump(), **{key: steps(getattr(s, key)) for key in ("until", "warmup", "decay_over")}}
            for s in self.optimiser.stage
        ]
        losses = [{**s.model_dump(by_alias=True), "until": steps(s.until)} for s in self.loss.stage]
        lengths = {key: steps(getattr(self.schedule, key)) for key in ("length", "validate_every")}
        content = self.model_dump(by_alias=True)
        content["optimiser"]["stage"] = optimisers
        content["loss"]["stage"] = losses
        content["schedule"] |= {**lengths, "unit": "step"}
        return type(self).model_validate(content)


def recipe_names() -> tuple[str, ...]:
    """Name the recipes that ship with the package."""
    return tuple(sorted(path.stem for path in (etc_folder() / RECIPES).glob("*.toml")))


def find_recipe(name_or_file: str | Path) -> Path:
    """Find a recipe by the name of a shipped one or by its file.

    Raises
    ------
    SettingsError
        There is none.
    """
    shipped = etc_folder() / RECIPES / f"{name_or_file}.toml"
    if shipped.is_file():
        return shipped
    if Path(name_or_file).is_file():
        return Path(name_or_file)
    raise SettingsError(
        str(name_or_file), [f"no such recipe: give a TOML file that exists or one of: {', '.join(recipe_names())}"]
    )


def load_recipe(path: Path, known: Mapping[str, Structure] | None = None) -> TrainConfig:
    """Read a recipe.

    Parameters
    ----------
    known
        A site's catalogue, whose pairs hold where the recipe names none.

    Raises
    ------
    SettingsError
        Every problem of the file, with the key's path.
    """
    content = read_toml(path)
    model = content.get("model")
    if known is not None and "pairs" not in content and isinstance(model, dict):
        content["pairs"] = catalogue_pairs([str(name) for name in model.get("structures", ())], known)
    return check_recipe(content, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    SettingsError
        It cannot be read, or is none.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(str(path), [f"not valid TOML: {error}"]) from error


def check_recipe(content: object, source: str) -> TrainConfig:
    """Validate a recipe that was read.

    Raises
    ------
    SettingsError
        Every problem, with the key's path.
    """
    try:
        return TrainConfig.model_validate(content)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise SettingsError(source, problems) from error
