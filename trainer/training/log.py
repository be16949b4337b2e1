"""What a run writes down: every step and every validation as CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from trainer.atomic import replacing

LOG, VALIDATION = "log.csv", "validation.csv"


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step.

    Attributes
    ----------
    seconds
        In all; ``waited`` of them for its data.
    """

    step: int
    epoch: int
    loss: float
    learning_rate: float
    seconds: float
    waited: float


def write_steps(folder: Path, steps: Sequence[Step]) -> None:
    """Write all steps up to a checkpoint; a killed run's log ends where its checkpoint does."""
    _write(folder / LOG, [field.name for field in fields(Step)], [asdict(step) for step in steps])


def read_steps(folder: Path, until: int) -> list[Step]:
    """Read the steps up to the checkpoint's; what was not written down is missing."""
    try:
        with (folder / LOG).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        return []
    steps = [
        Step(
            int(row["step"]),
            int(row["epoch"]),
            *(float(row[key]) for key in ("loss", "learning_rate", "seconds", "waited")),
        )
        for row in rows
    ]
    return [step for step in steps if step.step <= until]


def write_validations(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write one row per validation."""
    names = sorted({key for row in history for key in row} - {"step", "mean"})
    _write(folder / VALIDATION, ["step", "mean", *names], history)


def _write(path: Path, names: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
