"""What an evaluation says: per case and organ, and per organ with bootstrap intervals over patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats

from contourd.imaging.metrics import OrganMetrics

GROSS_FAILURE = 0.3
RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 1


class OrganOutcome(Enum):
    """What became of an annotated organ."""

    FOUND = "found"
    MISSED = "missed"  # annotated, and nothing was drawn
    WITHHELD = "withheld"  # found, and kept back by the node's plausibility check
    HELD = "held"  # the whole series was not contoured
    INVENTED = "invented"  # annotated as outside of the field of view, and drawn
    ABSENT = "absent"  # annotated as outside of the field of view, and not drawn


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OrganResult(_Record):
    """One annotated organ of one case; see ``metrics``. None: infinite or not defined, since a mask is empty."""

    name: str
    outcome: OrganOutcome
    reason: str = ""
    dice: float | None = None
    hausdorff_95_mm: float | None = None
    mean_surface_mm: float | None = None
    surface_dice: float | None = None
    added_path_mm: float | None = None
    volume_ratio: float | None = None
    islands: int = 0

    @classmethod
    def of(cls, name: str, outcome: OrganOutcome, found: OrganMetrics, reason: str = "") -> Self:
        """Build it from what was measured."""
        return cls(
            name=name,
            outcome=outcome,
            reason=reason,
            dice=_finite(found.dice),
            hausdorff_95_mm=_finite(found.hausdorff_95_mm),
            mean_surface_mm=_finite(found.mean_surface_mm),
            surface_dice=_finite(found.surface_dice),
            added_path_mm=_finite(found.added_path_mm),
            volume_ratio=_finite(found.volume_ratio),
            islands=found.islands,
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class CaseResult(_Record):
    """One case.

    Attributes
    ----------
    held
        Why the series was not contoured; every annotated organ then has Dice 0. Empty: it was.
    """

    identifier: str
    organs: tuple[OrganResult, ...]
    held: str = ""

    def organ(self, name: str) -> OrganResult | None:
        """Return one organ's result; None where it was not annotated."""
        return next((o for o in self.organs if o.name == name), None)


class MetricSummary(_Record):
    """Mean with its bootstrap interval, median, and the worst value; None where nothing could be measured."""

    cases: int
    mean: float | None
    low: float | None
    high: float | None
    median: float | None
    least: float | None
    most: float | None


class OrganStatistics(_Record):
    """All cases of one organ.

    Attributes
    ----------
    cases
        In which it is annotated and in the field of view.
    failures
        Share of them with Dice under GROSS_FAILURE.
    found, withheld, invented
        Numbers of cases. Distances are over the cases in which it was found.
    islands
        Cases with more than one part.
    """

    name: str
    cases: int
    failures: float
    found: int
    withheld: int
    invented: int
    islands: int
    dice: MetricSummary
    surface_dice: MetricSummary
    hausdorff_95_mm: MetricSummary
    mean_surface_mm: MetricSummary
    added_path_mm: MetricSummary
    volume_ratio: MetricSummary


class Statistics(_Record):
    """All organs, and the mean over the organs' mean Dice with its interval."""

    organs: tuple[OrganStatistics, ...]
    cases: int
    held: int
    mean_dice: float
    low: float
    high: float


def statistics(results: Sequence[CaseResult]) -> Statistics:
    """Summarise the cases; an organ that is annotated nowhere is left out."""
    names = sorted({o.name for r in results for o in r.organs if o.dice is not None})
    organs = tuple(_organ(name, [o for r in results if (o := r.organ(name)) is not None]) for name in names)
    matrix = np.full((len(results), len(names)), math.nan)  # (cases, organs)
    for i, result in enumerate(results):
        for j, name in enumerate(names):
            organ = result.organ(name)
            if organ is not None and organ.dice is not None:
                matrix[i, j] = organ.dice
    low, high = _interval_of_means(matrix)
    held = sum(bool(r.held) for r in results)
    return Statistics(organs=organs, cases=len(results), held=held, mean_dice=mean_of_means(matrix), low=low, high=high)


def _organ(name: str, found: Sequence[OrganResult]) -> OrganStatistics:
    in_view = [o for o in found if o.outcome not in (OrganOutcome.ABSENT, OrganOutcome.INVENTED)]
    scores = [o.dice for o in in_view if o.dice is not None]
    return OrganStatistics(
        name=name,
        cases=len(in_view),
        failures=float(np.mean([score < GROSS_FAILURE for score in scores])) if scores else 0.0,
        found=sum(o.outcome is OrganOutcome.FOUND for o in in_view),
        withheld=sum(o.outcome is OrganOutcome.WITHHELD for o in in_view),
        invented=sum(o.outcome is OrganOutcome.INVENTED for o in found),
        islands=sum(o.islands > 0 for o in found),
        dice=spread(scores),
        surface_dice=spread([o.surface_dice for o in in_view]),
        hausdorff_95_mm=spread([o.hausdorff_95_mm for o in in_view]),
        mean_surface_mm=spread([o.mean_surface_mm for o in in_view]),
        added_path_mm=spread([o.added_path_mm for o in in_view]),
        volume_ratio=spread([o.volume_ratio for o in in_view]),
    )


def spread(values: Sequence[float | None]) -> MetricSummary:
    """Summarise the values that are there; the interval is the percentile bootstrap's of the mean, seeded."""
    there = np.array([v for v in values if v is not None])
    if not len(there):
        return MetricSummary(cases=0, mean=None, low=None, high=None, median=None, least=None, most=None)
    low = high = None
    if len(there) > 1:
        interval = stats.bootstrap(
            (there,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile", rng=SEED
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return MetricSummary(
        cases=len(there),
        mean=float(there.mean()),
        low=low,
        high=high,
        median=float(np.median(there)),
        least=float(there.min()),
        most=float(there.max()),
    )


def mean_of_means(scores: NDArray[np.float64]) -> float:
    """Mean over the organs of the mean over their cases; scores (cases, organs), NaN where not annotated."""
    there = ~np.isnan(scores)
    counted = there.any(axis=0)
    if not counted.any():
        return math.nan
    means = np.where(there, scores, 0)[:, counted].sum(axis=0) / there[:, counted].sum(axis=0)
    return float(means.mean())


def _interval_of_means(scores: NDArray[np.float64]) -> tuple[float, float]:
    """Percentile bootstrap over patients: a patient is drawn with all of their organs."""
    if len(scores) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(SEED)
    drawn = [mean_of_means(scores[rng.integers(0, len(scores), len(scores))]) for _ in range(RESAMPLES)]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.nanpercentile(drawn, [tail, 100 - tail])
    return float(low), float(high)
