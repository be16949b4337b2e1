"""What a person must know of what the models of a job drew: each organ is judged by the model that drew it."""

from __future__ import annotations

from collections.abc import Sequence

from contourd.contour.drawing import ModelDrawing
from contourd.contour.options import ContouringOptions
from contourd.model.bundle_config import ModelBundle
from contourd.model.commissioning import unjudged_text
from contourd.model.model_use import ModelUse
from contourd.model.plausibility import OrganGeometry, assess
from contourd.model.remarks import Finding, Remark, RemarkCheck, Remarks, RemarkVerdict
from contourd.model.sides import Sides
from contourd.model.structures import Pairs, catalogue_pairs
from contourd.settings import PlausibilitySettings


def judge(drawings: Sequence[ModelDrawing], uses: Sequence[ModelUse], order: ContouringOptions) -> Remarks:
    """Judge the organs of all models together, each by the size and the place that its own model knows."""
    missing = [use.missing_text() for use in uses if not use.drew]
    several = len(uses) > 1
    organs = [one for drawing in drawings for one in drawing.geometry]
    released, unmeasured, findings, unclear = list[str](), list[str](), list[Finding](), list[Finding]()
    for drawing in drawings:
        called = f"{drawing.bundle.name}: " if several else ""
        if drawing.beyond:
            released.append(f"{order.override} ({called}{'; '.join(drawing.beyond)})")
        if several and not drawing.own:
            continue  # nothing of it is in the structure set
        unmeasured += [f"{called}{text}" for text in _unmeasured(drawing.bundle, drawing.own)]
        findings += _findings(drawing, organs, _pairs(drawing, drawings), order.plausibility.limit_sd)
        unclear += drawing.unclear
    return (
        Remarks.noted(RemarkCheck.INCOMPLETE, missing)
        + Remarks.noted(RemarkCheck.LIMITS, released)
        + Remarks.noted(RemarkCheck.DISTRIBUTION, unmeasured)
        + judged((*findings, *unclear), order.plausibility)
    )


def _findings(drawing: ModelDrawing, organs: Sequence[OrganGeometry], pairs: Pairs, limit_sd: float) -> list[Finding]:
    """Compare a model's own organs with what it knows of them, among the organs of all models."""
    own = set(drawing.own)
    known = {name: spread for name, spread in drawing.bundle.distribution.items() if name in own}
    found = assess(organs, known, limit_sd, Sides(pairs, drawing.midline_mm))
    # Sides are judged of every organ that is given; that of another model's is for that one to say.
    return [one for one in found if one.check is not RemarkCheck.LATERALITY or one.structure in own]


def _pairs(drawing: ModelDrawing, drawings: Sequence[ModelDrawing]) -> Pairs:
    """Return a model's pairs, and those that its organs make with another model's."""
    own, names = set(drawing.own), [name for one in drawings for name in one.own]
    across = [pair for pair in catalogue_pairs(names) if len(own.intersection(pair)) == 1]
    return (*drawing.bundle.config.known_pairs, *across)


def _unmeasured(bundle: ModelBundle, organs: Sequence[str]) -> tuple[str, ...]:
    """Return why a model is in use without having been measured, who said so, and what nobody compares."""
    known, texts = bundle.commissioning, list[str]()
    if known is not None and known.without:
        texts.append(f"in use without a commissioning record: {known.without} ({known.by})")
    if unjudged := unjudged_text(organs, bundle.distribution):
        texts.append(unjudged)
    return tuple(texts)


def judged(findings: Sequence[Finding], settings: PlausibilitySettings) -> Remarks:
    """Return what becomes of findings by the settings; an organ that is withheld is not to be looked at besides."""
    verdicts = {"flag": RemarkVerdict.FLAG, "withhold": RemarkVerdict.WITHHOLD}
    remarks = [
        Remark(finding, verdicts[verdict])
        for finding in findings
        if (verdict := settings.verdict(finding.check)) in verdicts
    ]
    withheld = {r.finding.structure for r in remarks if r.verdict is RemarkVerdict.WITHHOLD}
    return Remarks(
        tuple(r for r in remarks if r.verdict is RemarkVerdict.WITHHOLD or r.finding.structure not in withheld)
    )
