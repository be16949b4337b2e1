"""The settings of a training run; saved in the checkpoint and in the bundle."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contourd.errors import SettingsError
from contourd.model.anatomynet import ModelConfig
from contourd.model.limits import Limits
from contourd.model.transforms import PreprocessConfig


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LossStage(_Section):
    """One of ``trainer.losses.LOSSES`` with its lambda, used before step ``until``; None: to the end."""

    name: Literal["dice", "exp_log", "dice_focal", "dice_ce", "dice_focal_balanced"] = "dice_focal"
    lambda_: float = Field(default=0.5, ge=0, alias="lambda")
    until: int | None = Field(default=None, ge=1)


class LossConfig(_Section):
    """The losses of a run, one stage after the other, and what an unannotated organ does.

    missing
        ``mask``: its terms, and the background's, are left out (equation 3). ``marginal``: its terms are left out and
        its probability counts as background (Shi et al., MedIA 2021).
    stage
        ``dice_focal_balanced`` first finds small organs, to which Dice and focal alone give nearly no gradient, and
        draws all organs too large; a stage after it mends that.
    """

    missing: Literal["mask", "marginal"] = "marginal"
    stage: tuple[LossStage, ...] = Field(default=(LossStage(),), min_length=1)

    @model_validator(mode="after")
    def _stages_follow_each_other(self) -> Self:
        ends = [stage.until for stage in self.stage]
        numbers = [end for end in ends[:-1] if end is not None]
        if ends[-1] is not None or len(numbers) < len(ends) - 1 or numbers != sorted(set(numbers)):
            raise ValueError("every stage but the last ends at a later step than the one before it, the last at none")
        return self

    def at(self, step: int) -> LossStage:
        """Return the stage of a step."""
        return next(stage for stage in self.stage if stage.until is None or step < stage.until)


class ScheduleConfig(_Section):
    """Optimiser steps: a linear warm-up, a plateau, and a linear decay to zero over the last steps.

    A run can be resumed with fewer or more ``steps``: only where the decay begins depends on them.
    """

    steps: int = Field(default=4000, ge=1)
    warmup_steps: int = Field(default=100, ge=0)
    decay_steps: int = Field(default=1000, ge=0)
    validate_every: int = Field(default=500, ge=1)
    checkpoint_every: int = Field(default=100, ge=1)


class OptimiserConfig(_Section):
    """AdamW with gradient clipping and an exponential moving average of the weights."""

    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    gradient_norm: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.998, ge=0, lt=1)


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

    half_voxel
        Validate and release with the mean over two lattices (see BundleConfig).
    """

    name: str
    version: str = "1"
    seed: int = 0
    model: ModelConfig
    preprocess: PreprocessConfig = PreprocessConfig()
    loss: LossConfig = LossConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    augment: AugmentConfig = AugmentConfig()
    limits: Limits = Limits()
    half_voxel: bool = False


def load_recipe(path: Path) -> TrainConfig:
    """Read a recipe.

    Raises
    ------
    SettingsError
        Every problem of the file, with the key's path.
    """
    try:
        return TrainConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(str(path), [f"not valid TOML: {error}"]) from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise SettingsError(str(path), problems) from error
