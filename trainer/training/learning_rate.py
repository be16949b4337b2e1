"""The learning rate of each step, and the optimiser's stage that it belongs to."""

from __future__ import annotations

import math

from trainer.training.config import OptimiserConfig


def stage_at(config: OptimiserConfig, step: int) -> int:
    """Return the index of the stage of a step."""
    return next(i for i, stage in enumerate(config.stage) if stage.until is None or step < stage.until)


def learning_rate(config: OptimiserConfig, step: int, length: int) -> float:
    """Return the rate of a step: warm-up, plateau and decay within the step's stage.

    Parameters
    ----------
    length
        Of the whole run, in steps; the last stage ends there.
    """
    index = stage_at(config, step)
    stage = config.stage[index]
    first = config.stage[index - 1].until or 0 if index else 0
    last = min(stage.until or length, length)
    rate = stage.learning_rate
    if stage.warmup:
        rate *= min(1.0, (step - first + 1) / stage.warmup)
    over = stage.decay_over or last - first - stage.warmup
    if stage.decay == "none" or over <= 0:
        return rate
    left = min(1.0, (last - step) / over)
    return rate * (left if stage.decay == "linear" else (1 - math.cos(math.pi * left)) / 2)
