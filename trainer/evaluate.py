"""Bundle + split -> Dice per organ, contoured, written as RTSTRUCT, read back and compared on the CT's own grid."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contourd.contouring import contour_series
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.rtstruct_read import rasterise, read_structure_set
from contourd.dicom.series import find_series
from contourd.model.bundle import load_bundle
from contourd.model.predictor import Predictor
from trainer.case import Case, find_cases, read_case
from trainer.metrics import dice


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case: organ -> Dice of the annotated organs, 0 where none was found."""

    identifier: str
    dice: dict[str, float]


def evaluate_case(case: Case, predictor: Predictor) -> CaseResult:
    """Write the case as a CT series, contour it as the node does, and read the structure set back.

    Raises
    ------
    ContourdError
        The series or the structure set is refused.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_ct_series(case.volume, Path(folder), SeriesIdentity(case.identifier, case.identifier))
        (instances,) = find_series(Path(folder)).values()
        dataset = contour_series(instances, predictor).dataset
    contours = {roi.name: roi.contours for roi in read_structure_set(dataset)}
    scores = {}
    for name, truth in case.masks.items():
        if name in predictor.bundle.config.model.structures:
            predicted = rasterise(contours.get(name, ()), case.volume.grid)
            scores[name] = dice(truth, predicted)
    return CaseResult(case.identifier, scores)


def evaluate(
    bundle: str | Path, split: Path, report: Callable[[CaseResult], None], device: str = "auto"
) -> list[CaseResult]:
    """Evaluate every case of a split; ``report`` is called after each."""
    predictor = Predictor(load_bundle(bundle), device)
    results = []
    for path in find_cases(split):
        results.append(evaluate_case(read_case(path), predictor))
        report(results[-1])
    return results


def table(results: list[CaseResult]) -> dict[str, dict[str, float]]:
    """Cases, mean, median, least Dice per organ, and ``mean`` over the organs' means."""
    names = sorted({name for result in results for name in result.dice})
    rows = {}
    for name in names:
        values = np.array([r.dice[name] for r in results if name in r.dice])
        rows[name] = {
            "cases": len(values),
            "mean": float(values.mean()),
            "median": float(np.median(values)),
            "least": float(values.min()),
            "failures": float((values < 0.3).mean()),
        }
    means = [row["mean"] for row in rows.values()]
    return {**rows, "mean": {"cases": len(results), "mean": float(np.mean(means))}}


def run(bundle: str, dataset: Path, output: Path | None = None) -> None:
    """Print the table of ``dataset/validation`` (or of ``dataset`` itself) and write it as JSON."""
    split = dataset / "validation" if (dataset / "validation").is_dir() else dataset

    def report(result: CaseResult) -> None:
        scores = "  ".join(f"{name} {value:.3f}" for name, value in sorted(result.dice.items()))
        print(f"{result.identifier}: {scores}", flush=True)

    results = evaluate(bundle, split, report)
    rows = table(results)
    print(f"\n{'organ':<16} cases   mean  median   least  share under 0.3")
    for name, row in rows.items():
        if name != "mean":
            figures = (row[k] for k in ("mean", "median", "least", "failures"))
            print(f"{name:<16} {row['cases']:>5}  " + "  ".join(f"{f:6.3f}" for f in figures))
    print(f"{'mean':<16} {rows['mean']['cases']:>5}  {rows['mean']['mean']:6.3f}")
    if output is not None:
        content = {"table": rows, "cases": {r.identifier: r.dice for r in results}}
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
