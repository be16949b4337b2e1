"""A curation for people: what is in the data set, what was left out and why, and how every case looks."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from contourd import __version__
from contourd.model.spellings import NO_ORGAN
from contourd.model.structures import Structure, catalogue, colour_of
from trainer.case import Annotation
from trainer.curation.archive import SkippedItem
from trainer.curation.audit import AuditFinding, Rule
from trainer.curation.conversion import Converted, sheet_file
from trainer.curation.splits import SPLITS
from trainer.curation.twin_splits import TwinPair
from trainer.names import Spelling
from trainer.page import inline, write_page

CASES_PER_PART = 25


@dataclass(frozen=True, slots=True)
class Curation:
    """What a curation made.

    Attributes
    ----------
    splits
        Case -> split.
    rules
        That exclude.
    structures
        The catalogue.
    twins
        Cases that are the same scan.
    blind
        Cases without bones, whose twins cannot be seen.
    """

    output: Path
    cases: tuple[Converted, ...]
    refused: tuple[SkippedItem, ...]
    findings: tuple[AuditFinding, ...]
    spellings: tuple[Spelling, ...]
    splits: Mapping[str, str]
    rules: frozenset[Rule]
    structures: Mapping[str, Structure] = field(default_factory=catalogue)
    twins: tuple[TwinPair, ...] = ()
    blind: tuple[str, ...] = ()

    @property
    def exclusions(self) -> frozenset[tuple[str, str]]:
        """Case and organ of everything that a rule excluded."""
        return frozenset((f.case, f.organ) for f in self.findings if f.rule in self.rules)

    @property
    def open_names(self) -> int:
        """How many spellings are taken for nothing yet."""
        return sum(spelling.reading.taken_for == "" for spelling in self.spellings)


@dataclass(frozen=True, slots=True)
class _Sheet:
    case: str
    split: str
    organs: str
    source: str


MEANING = {
    Rule.VOLUME: "volume that cannot be: four times smaller or larger than the archive's median",
    Rule.OUTSIDE: "a quarter or more of it outside of the body, or where the CT was masked",
    Rule.SIDES: "on the other side of the patient",
    Rule.HOLES: "empty slices in its middle",
    Rule.UNUSUAL: "size or place far from the archive's own, yet possible",
    Rule.CUT: "the field of view ends in it",
}


def write_curation_report(path: Path, work: Path, curation: Curation) -> None:
    """Write the report through a temporary file; ``work`` holds the cases' pictures."""
    excluded = curation.exclusions
    table: dict[str, Counter[str]] = defaultdict(Counter)  # organ -> column -> cases
    for case in curation.cases:
        for organ, annotation in case.annotations.items():
            if (case.identifier, organ) in excluded:
                table[organ]["excluded"] += 1
            elif annotation is Annotation.PRESENT:
                table[organ][f"source {case.source}"] += 1
                table[organ][f"split {curation.splits[case.identifier]}"] += 1
            elif annotation is Annotation.ABSENT:
                table[organ]["absent"] += 1
    voxels: Counter[str] = Counter()
    for case in curation.cases:
        voxels.update({organ: n for organ, n in case.voxels.items() if (case.identifier, organ) not in excluded})
    by_rule: dict[str, list[AuditFinding]] = defaultdict(list)
    for finding in curation.findings:
        by_rule[finding.rule.value].append(finding)
    context = {
        "name": curation.output.name,
        "contourd": __version__,
        "cases": curation.cases,
        "counts": Counter(curation.splits.values()),
        "splits": SPLITS,
        "sources": sorted({case.source for case in curation.cases}),
        "table": dict(sorted(table.items())),
        "frequencies": _frequencies(voxels),
        "frequency": inline(_frequency_figure(voxels, curation.structures)) if len(voxels) > 1 else "",
        "refused": curation.refused,
        "twins": curation.twins,
        "blind": curation.blind,
        "findings": dict(by_rule),
        "meaning": {rule.value: text for rule, text in MEANING.items()},
        "rules": {rule.value for rule in curation.rules},
        "excluded": excluded,
        "remarks": [(case.identifier, remark) for case in curation.cases for remark in case.remarks],
        "removed": sorted((case.identifier, case.removed_mm) for case in curation.cases if case.removed_mm),
        "spellings": sorted(
            curation.spellings, key=lambda s: (s.reading.taken_for == NO_ORGAN, s.reading.taken_for or " ", s.spelling)
        ),
        "parts": _sheets(curation, work),
    }
    write_page(path, "curation.html", context)


def _frequencies(voxels: Counter[str]) -> list[tuple[str, float, float]]:
    """Return organ, share of all voxels, and share of the organs' voxels, in per cent; the background first."""
    whole = voxels[""]
    organs = {organ: n for organ, n in voxels.items() if organ}
    inside = sum(organs.values())
    if not whole:
        return []
    rows = [(organ, 100 * n / whole, 100 * n / inside if inside else 0.0) for organ, n in sorted(organs.items())]
    return [("background", 100 * (whole - inside) / whole, float("nan")), *rows]


def _frequency_figure(voxels: Counter[str], known: Mapping[str, Structure]) -> Figure:
    organs = sorted(((n, organ) for organ, n in voxels.items() if organ), reverse=True)
    figure = Figure(figsize=(8, 0.35 * len(organs) + 1))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    inside = sum(n for n, _ in organs)
    places = np.arange(len(organs))
    axes.barh(places, [100 * n / inside for n, _ in organs], color=[colour_of(organ, known) for _, organ in organs])
    axes.set_yticks(places, [organ for _, organ in organs])
    axes.invert_yaxis()
    axes.set_xlabel("per cent of the organs' voxels")
    return figure


def _sheets(curation: Curation, work: Path) -> Sequence[Sequence[tuple[_Sheet, str]]]:
    sheets = []
    for case in curation.cases:
        picture = sheet_file(work, case.identifier)
        present = sorted(o for o, a in case.annotations.items() if a is Annotation.PRESENT)
        sheet = _Sheet(case.identifier, curation.splits[case.identifier], ", ".join(present), case.source)
        data = base64.b64encode(picture.read_bytes()).decode("ascii") if picture.is_file() else ""
        sheets.append((sheet, f"data:image/png;base64,{data}"))
    return [sheets[i : i + CASES_PER_PART] for i in range(0, len(sheets), CASES_PER_PART)]
