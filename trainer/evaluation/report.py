"""An evaluation for people and for programs: report.html, report.json and the bundle's card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from contourd import __version__
from contourd.imaging.metrics import TOLERANCE_MM
from contourd.model.bundle_config import ModelBundle
from contourd.model.library import CARD_FILE
from trainer.atomic import write_text
from trainer.case import find_cases, read_case
from trainer.evaluation.card import write_card
from trainer.evaluation.figures import distribution_figure, legend, organ_figure
from trainer.evaluation.published import PUBLISHED
from trainer.evaluation.results import GROSS_FAILURE, RESAMPLES, CaseResult, OrganOutcome, Statistics
from trainer.page import inline, write_page
from trainer.progress import tracked

SCHEMA = 1
Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation that is complete.

    Attributes
    ----------
    folder
        Of the cases.
    split
        Its name; "validation" is the one that the model was chosen on.
    """

    bundle: ModelBundle
    folder: Path
    split: str
    results: tuple[CaseResult, ...]
    summary: Statistics


class _Report(BaseModel):
    """report.json."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA
    contourd: str = __version__
    model: str
    version: str
    bundle_sha256: str
    split: str
    surface_tolerance_mm: float = TOLERANCE_MM
    gross_failure_dice: float = GROSS_FAILURE
    summary: Statistics
    cases: tuple[CaseResult, ...]


@dataclass(frozen=True, slots=True)
class _Picture:
    caption: str
    source: str


def write_report(output: Path, evaluated: Evaluated, masks: Callable[[str], Masks]) -> None:
    """Write report.json, CARD.md and report.html into ``output``.

    Parameters
    ----------
    masks
        Case identifier -> the masks that were read back from its structure set.

    Raises
    ------
    DatasetError
        A case cannot be read, or scikit-image is not installed.
    """
    output.mkdir(parents=True, exist_ok=True)
    bundle = evaluated.bundle
    report = _Report(
        model=bundle.name,
        version=bundle.version,
        bundle_sha256=bundle.sha256,
        split=evaluated.split,
        summary=evaluated.summary,
        cases=evaluated.results,
    )
    write_text(output / "report.json", report.model_dump_json(indent=1) + "\n")
    write_card(output / CARD_FILE, bundle, evaluated.summary, evaluated.split)
    scores = {o.name: _scores(evaluated.results, o.name) for o in evaluated.summary.organs}
    context = {
        "model": bundle,
        "split": evaluated.split,
        "summary": evaluated.summary,
        "results": evaluated.results,
        "failures": list(_failures(evaluated.results)),
        "held": [r for r in evaluated.results if r.held],
        "distribution": inline(distribution_figure(scores, "Dice")),
        "surfaces": inline(distribution_figure(_surface_scores(evaluated), f"surface Dice at {TOLERANCE_MM:g} mm")),
        "legend": inline(legend()),
        "pictures": _pictures(evaluated, masks),
        "published": PUBLISHED,
        "tolerance_mm": TOLERANCE_MM,
        "gross_failure": GROSS_FAILURE,
        "resamples": RESAMPLES,
        "contourd": __version__,
    }
    write_page(output / "report.html", "evaluation.html", context)


def _scores(results: Sequence[CaseResult], name: str) -> list[float]:
    found = [organ for r in results if (organ := r.organ(name)) is not None]
    return [o.dice for o in found if o.dice is not None and o.outcome is not OrganOutcome.INVENTED]


def _surface_scores(evaluated: Evaluated) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {o.name: [] for o in evaluated.summary.organs}
    for result in evaluated.results:
        for organ in result.organs:
            if organ.surface_dice is not None and organ.outcome is not OrganOutcome.INVENTED:
                scores[organ.name].append(organ.surface_dice)
    return scores


@dataclass(frozen=True, slots=True)
class _Failure:
    case: str
    organ: str
    dice: float
    why: str


WHY = {
    OrganOutcome.FOUND: "drawn elsewhere, or much larger or smaller",
    OrganOutcome.MISSED: "nothing was drawn",
    OrganOutcome.WITHHELD: "drawn and kept back by the plausibility check",
    OrganOutcome.HELD: "the series was held",
    OrganOutcome.INVENTED: "drawn although the clinic found it outside of the field of view",
}


def _failures(results: Sequence[CaseResult]) -> list[_Failure]:
    found = []
    for result in results:
        for o in result.organs:
            if o.dice is not None and o.dice < GROSS_FAILURE:
                reason = WHY[o.outcome] + (f": {o.reason or result.held}" if o.reason or result.held else "")
                if o.outcome is OrganOutcome.FOUND and o.volume_ratio is not None:
                    reason += f" ({o.volume_ratio:.2f} times the clinic's volume)"
                found.append(_Failure(result.identifier, o.name, o.dice, reason))
    return sorted(found, key=lambda f: (f.organ, f.dice, f.case))


def _pictures(evaluated: Evaluated, masks: Callable[[str], Masks]) -> dict[str, list[_Picture]]:
    """Draw the best, the median and the worst case of each organ."""
    wanted: dict[str, dict[str, list[str]]] = {}  # case -> organ -> what it is
    for organ in evaluated.summary.organs:
        ranked = sorted(
            (o.dice, r.identifier)
            for r in evaluated.results
            if (o := r.organ(organ.name)) is not None and o.dice is not None and o.outcome is not OrganOutcome.INVENTED
        )
        if ranked:
            for what, rank in (("best", -1), ("median", len(ranked) // 2), ("worst", 0)):
                wanted.setdefault(ranked[rank][1], {}).setdefault(organ.name, []).append(what)
    found: dict[tuple[str, str], _Picture] = {}
    paths = {path.stem: path for path in find_cases(evaluated.folder)}
    for identifier, organs in tracked(sorted(wanted.items()), len(wanted), "pictures"):
        case, predicted = read_case(paths[identifier]), masks(identifier)
        nothing = np.zeros(case.volume.grid.shape, dtype=bool)
        result = next(r for r in evaluated.results if r.identifier == identifier)
        for name, places in organs.items():
            score = result.organ(name)
            assert score is not None
            assert score.dice is not None
            title = f"{name}, {identifier}: Dice {score.dice:.3f}"
            figure = organ_figure(case.volume, case.masks.get(name, nothing), predicted.get(name, nothing), title)
            for place in places:
                found[name, place] = _Picture(f"{place}: {title}", inline(figure, dpi=80))
    return {
        organ.name: [found[organ.name, place] for place in ("best", "median", "worst") if (organ.name, place) in found]
        for organ in evaluated.summary.organs
    }
