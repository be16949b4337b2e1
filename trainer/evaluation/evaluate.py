"""Bundle + split -> agreement per case and organ: contoured, written as RTSTRUCT, read back, compared on the CT's grid.

A case's result is kept as soon as it is there, so an evaluation that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from contourd import __version__
from contourd.contour.contouring import contour_series
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.reading.series import find_series
from contourd.dicom.rtstruct.reader import rasterise, read_structure_set
from contourd.errors import DatasetError, SeriesUnusable
from contourd.imaging.metrics import agreement
from contourd.model.bundle import load_bundle
from contourd.model.bundle_config import ModelBundle
from contourd.model.kinds import predictor_for
from contourd.model.predictor import Predictor
from contourd.system.regular_files import open_regular
from trainer.atomic import replacing, write_text
from trainer.case import Annotation, Case, find_cases, read_case, unusable
from trainer.evaluation.report import Evaluated, write_report
from trainer.evaluation.results import CaseResult, OrganOutcome, OrganResult, Statistics, statistics
from trainer.page import decimals
from trainer.progress import tracked

CASES = "cases"
Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """A case's result with the masks that were read back from the structure set, (z, y, x) on the CT's grid."""

    result: CaseResult
    masks: Masks


def evaluate_case(case: Case, predictor: Predictor) -> Compared:
    """Write the case as a CT series, contour it as the node does, and read the structure set back.

    Only annotated organs that the model knows are compared. A series that is held scores 0 in each of them.

    Raises
    ------
    ContourdError
        The structure set is refused, or the device is too small.
    """
    known = predictor.bundle.config.model.structures
    asked = [name for name in known if case.annotation(name) is not Annotation.UNKNOWN]
    masks: dict[str, NDArray[np.bool_]] = {}
    withheld: Mapping[str, str] = {}
    held = ""
    with tempfile.TemporaryDirectory() as folder:
        write_ct_series(case.volume, Path(folder), SeriesIdentity(case.identifier, case.identifier))
        (instances,) = find_series(Path(folder)).values()
        try:
            contoured = contour_series(instances, predictor)
        except SeriesUnusable as error:
            held = str(error)
        else:
            withheld = contoured.remarks.withheld
            for roi in read_structure_set(contoured.dataset):
                if roi.contours and roi.name not in withheld:
                    masks[roi.name] = rasterise(roi.contours, case.volume.grid)
    nothing = np.zeros(case.volume.grid.shape, dtype=bool)
    organs = []
    for name in asked:
        truth, predicted = case.masks.get(name, nothing), masks.get(name, nothing)
        outcome = _outcome(name in case.masks, bool(predicted.any()), name in withheld, bool(held))
        found = agreement(truth, predicted, case.volume.grid)
        organs.append(OrganResult.of(name, outcome, found, withheld.get(name, "")))
    return Compared(CaseResult(identifier=case.identifier, organs=tuple(organs), held=held), masks)


def _outcome(present: bool, drawn: bool, withheld: bool, held: bool) -> OrganOutcome:
    if not present:
        return OrganOutcome.INVENTED if drawn else OrganOutcome.ABSENT
    if drawn:
        return OrganOutcome.FOUND
    if held:
        return OrganOutcome.HELD
    return OrganOutcome.WITHHELD if withheld else OrganOutcome.MISSED


class _Kept(BaseModel):
    """A case's result on disk, and what it was made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle_sha256: str
    contourd: str
    case_sha256: str
    result: CaseResult


@dataclass(frozen=True, slots=True)
class Results:
    """The folder in which the results of one bundle are kept."""

    folder: Path
    bundle: ModelBundle

    def find(self, path: Path) -> CaseResult | None:
        """Return what is known of a case; None where it, or what it was made of, has changed.

        Raises
        ------
        DatasetError
            The folder holds another bundle's results.
        """
        try:
            kept = _Kept.model_validate_json((self.folder / f"{path.stem}.json").read_bytes())
        except (OSError, ValidationError):
            return None
        if kept.bundle_sha256 != self.bundle.sha256:
            raise DatasetError(
                f"{self.folder.parent} holds the evaluation of another model ({kept.bundle_sha256[:12]}, not "
                f"{self.bundle.sha256[:12]}): choose another --output, or remove it"
            )
        same = (kept.contourd, kept.case_sha256) == (__version__, _sha256(path))
        return kept.result if same and (self.folder / f"{path.stem}.npz").is_file() else None

    def keep(self, path: Path, compared: Compared) -> None:
        """Write a case's result and its masks, each through a temporary file, the masks first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / f"{path.stem}.npz") as partial, partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **dict(compared.masks))
        kept = _Kept(
            bundle_sha256=self.bundle.sha256,
            contourd=__version__,
            case_sha256=_sha256(path),
            result=compared.result,
        )
        write_text(self.folder / f"{path.stem}.json", kept.model_dump_json(indent=1) + "\n")

    def masks(self, identifier: str) -> Masks:
        """Read the masks of a case that was kept."""
        with np.load(self.folder / f"{identifier}.npz") as arrays:
            return {name: arrays[name] for name in arrays.files}


def _sha256(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unusable(path, error) from error


def evaluate(bundle: ModelBundle, split: Path, results: Results, device: str = "auto") -> Iterator[CaseResult]:
    """Yield the result of every case of a split in order; those that are kept already are not measured again.

    Raises
    ------
    DatasetError
        There is no case, one cannot be read, or the results are another bundle's.
    """
    paths = find_cases(split)
    known = {path: results.find(path) for path in paths}
    predictor = predictor_for(bundle, device)
    for path in tracked(paths, len(paths), bundle.name):
        result = known[path]
        if result is None:
            compared = evaluate_case(read_case(path), predictor)
            results.keep(path, compared)
            result = compared.result
        yield result


def run_evaluation(
    bundle: str, dataset: Path, output: Path | None = None, split: str = "validation", device: str = "auto"
) -> Evaluated:
    """Evaluate ``dataset/split`` (or ``dataset`` itself) as ``contourd evaluate`` does; the report goes to ``output``.

    Raises
    ------
    ContourdError
        The bundle or the data set cannot be used.
    """
    folder = dataset / split if (dataset / split).is_dir() else dataset
    loaded = load_bundle(bundle)
    with tempfile.TemporaryDirectory() as nowhere:
        results = Results((output or Path(nowhere)) / CASES, loaded)
        found = []
        for result in evaluate(loaded, folder, results, device):
            scores = "  ".join(f"{o.name} {o.dice:.3f}" for o in result.organs if o.dice is not None)
            print(f"{result.identifier}: {result.held or scores}", flush=True)
            found.append(result)
        evaluated = Evaluated(loaded, folder, split, tuple(found), statistics(found))
        print("\n" + table(evaluated.summary))
        if output is not None:
            write_report(output, evaluated, results.masks)
            print(f"\nreport: {output / 'report.html'}")
    return evaluated


def table(summary: Statistics) -> str:
    """Lay the figures out for a terminal."""
    lines = [f"{'organ':<16} cases  Dice  (95 % interval)   median  under 0.3  surface Dice  95 % HD mm"]
    for o in summary.organs:
        figures = (o.dice.mean, o.dice.low, o.dice.high, o.dice.median, o.failures, o.surface_dice.mean)
        mean, low, high, median, failures, surface = (decimals(f) for f in figures)
        distance = decimals(o.hausdorff_95_mm.mean, 1)
        lines.append(
            f"{o.name:<16} {o.cases:>5}  {mean}  ({low} to {high})  {median:>6}  {failures:>9}  {surface:>12}  "
            f"{distance:>10}"
        )
    lines.append(
        f"{'mean':<16} {summary.cases:>5}  {summary.mean_dice:.3f}  ({decimals(summary.low)} to "
        f"{decimals(summary.high)})"
    )
    return "\n".join(lines)
