"""A training run for people: what was trained on what, how the loss fell, and which step was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from contourd import __version__
from trainer.page import inline, write_page
from trainer.training.config import TrainConfig
from trainer.training.dataset import Split
from trainer.training.log import Step


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A run, up to now.

    Attributes
    ----------
    history
        One row per validation: step, mean, organ -> Dice.
    """

    config: TrainConfig
    split: Split
    steps: tuple[Step, ...]
    history: tuple[Mapping[str, float], ...]
    best_step: int


def write_training_report(path: Path, output: Path, trained: Trained) -> None:
    """Write the report through a temporary file.

    Parameters
    ----------
    output
        Of the bundle.
    """
    known = trained.split.known
    organs = trained.config.model.structures
    seconds = [step.seconds for step in trained.steps]
    waited = sum(step.waited for step in trained.steps)
    context = {
        "config": trained.config,
        "recipe": trained.config.model_dump_json(indent=1, by_alias=True),
        "output": output.name,
        "cases": len(trained.split.samples),
        "refused": trained.split.refused,
        "annotated": dict(zip(organs, known.sum(0).tolist(), strict=True)),
        "complete": int(known.all(axis=1).sum()),
        "history": trained.history,
        "organs": organs,
        "best_step": trained.best_step,
        "step": trained.history[-1]["step"],
        "seconds": float(np.median(seconds)) if seconds else None,
        "waited": waited / sum(seconds) if seconds and sum(seconds) else None,
        "loss": inline(_loss_figure(trained.steps)) if trained.steps else "",
        "dice": inline(_dice_figure(trained.history, trained.best_step)),
        "contourd": __version__,
    }
    write_page(path, "training.html", context)


def _loss_figure(steps: Sequence[Step]) -> Figure:
    figure = Figure(figsize=(9, 3.6))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    numbers, losses = [s.step for s in steps], np.array([s.loss for s in steps])
    width = max(1, min(50, len(losses) // 4))
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    axes.plot(numbers, losses, color="#0b57d0", alpha=0.2, lw=0.8)
    axes.plot(numbers[width - 1 :], smooth, color="#0b57d0", lw=1.6, label=f"mean of {width} steps")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(loc="upper right", frameon=False)
    rates = axes.twinx()
    rates.plot(numbers, [s.learning_rate for s in steps], color="#b3261e", lw=1, ls="--")
    rates.set_ylabel("learning rate (dashed)")
    return figure


def _dice_figure(history: Sequence[Mapping[str, float]], best_step: int) -> Figure:
    figure = Figure(figsize=(9, 4))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [row["step"] for row in history]
    for name in sorted({key for row in history for key in row} - {"step", "mean"}):
        axes.plot(steps, [row.get(name, np.nan) for row in history], marker="o", ms=3, lw=1, label=name)
    axes.plot(steps, [row["mean"] for row in history], color="black", marker="o", ms=4, lw=2, label="mean")
    axes.axvline(best_step, color="grey", ls=":", lw=1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("step")
    axes.set_ylabel("Dice on the validation split")
    axes.legend(loc="lower right", frameon=False, ncols=3, fontsize=8)
    return figure
