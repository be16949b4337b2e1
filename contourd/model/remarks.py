"""What a person must know of a structure set, as records: kept with the job, counted, and rendered at the edge.

A finding says what of an organ is not as expected, with the measured value; a remark says what became of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

# The probability at which a contour is drawn, and how near to it one is undecided.
LEVEL, UNDECIDED = 0.5, 0.05


class RemarkCheck(StrEnum):
    """What was looked at. The first five are the keys of ``[plausibility]``."""

    VOLUME = "volume"
    POSITION = "position"
    LATERALITY = "laterality"
    SYMMETRY = "symmetry"
    AGREEMENT = "agreement"
    READ_BACK = "read_back"  # the organ as it was written, against the voxels it was contoured from
    INCOMPLETE = "incomplete"  # one of several models did not draw, and its organs are missing
    LIMITS = "limits"  # the series lies outside of the model's, and a person released it
    DISTRIBUTION = "distribution"  # the model does not know the usual size and place of its organs
    HEADER = "header"  # what of the CT's header is not copied as it is written there
    EARLIER = "earlier"  # of an earlier version, which kept words alone


class RemarkVerdict(StrEnum):
    """What became of what was found."""

    FLAG = "flag"  # it is to be looked at first: the ROI is labelled CHECK
    WITHHOLD = "withhold"  # the organ is not in the structure set
    NOTE = "note"  # it is said, and changes nothing


class Measure(StrEnum):
    """What a finding's value is."""

    NONE = ""
    VOLUME_CC = "volume_cc"
    STANDARD_DEVIATIONS = "standard_deviations"  # from the usual place
    VOLUME_RATIO = "volume_ratio"  # of the left organ to the right one
    LATTICES = "lattices"  # that found it
    DICE = "dice"  # of two lattices
    UNDECIDED_PART = "undecided_part"  # of its voxels


@dataclass(frozen=True, slots=True)
class Finding:
    """One organ that failed one check.

    Attributes
    ----------
    structure
        The organ; empty where it is the whole series.
    value, expected
        What was measured, as ``measure`` says, and the least and the most that was expected.
    volumes_cc
        Of a pair of organs, the left one first.
    words
        What only words can say, as where a contour differs.
    """

    structure: str
    check: RemarkCheck
    measure: Measure = Measure.NONE
    value: float | None = None
    expected: tuple[float, float] | None = None
    volumes_cc: Mapping[str, float] = field(default_factory=dict)
    words: str = ""

    @property
    def reason(self) -> str:
        """The reason for a person."""
        if self.value is None or self.expected is None:
            return "it lies on the other side of the patient" if self.check is RemarkCheck.LATERALITY else self.words
        value, (low, high) = self.value, self.expected
        match self.measure:
            case Measure.VOLUME_CC:
                return f"volume {value:.1f} cc, expected {low:.1f} to {high:.1f} cc"
            case Measure.STANDARD_DEVIATIONS:
                return f"its place among the other organs is {value:.1f} standard deviations from the usual one"
            case Measure.VOLUME_RATIO:
                (left, left_cc), (right, right_cc) = self.volumes_cc.items()
                return f"{left} has {left_cc:.1f} cc and {right} {right_cc:.1f} cc"
            case Measure.LATTICES:
                return f"its lattices disagree: {value:.0f} of {high:.0f} found it"
            case Measure.DICE:
                return f"its lattices disagree: Dice {value:.2f}, at least {low} expected"
            case Measure.UNDECIDED_PART:
                return (
                    f"its probability is a plateau at {LEVEL}: {value:.0%} of its voxels between "
                    f"{LEVEL - UNDECIDED:.2f} and {LEVEL + UNDECIDED:.2f}, at most {high:.0%} expected"
                )
            case _:
                return self.words


@dataclass(frozen=True, slots=True)
class Remark:
    """A finding, and what became of it."""

    finding: Finding
    verdict: RemarkVerdict

    def to_record(self) -> dict[str, Any]:
        """Return it as plain values; what is empty is left out."""
        found = {f.name: getattr(self.finding, f.name) for f in fields(self.finding)}
        record = {"organ": found.pop("structure"), "check": found.pop("check"), "verdict": self.verdict, **found}
        return {
            key: str(value) if isinstance(value, StrEnum) else value
            for key, value in record.items()
            if value not in ("", None, {})
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read what ``to_record`` returned."""
        expected = record.get("expected")
        finding = Finding(
            record.get("organ", ""),
            RemarkCheck(record["check"]),
            Measure(record.get("measure", "")),
            record.get("value"),
            (expected[0], expected[1]) if expected is not None else None,
            record.get("volumes_cc", {}),
            record.get("words", ""),
        )
        return cls(finding, RemarkVerdict(record["verdict"]))


@dataclass(frozen=True, slots=True)
class Remarks:
    """All of one structure set."""

    records: tuple[Remark, ...] = ()

    @classmethod
    def noted(cls, check: RemarkCheck, words: Iterable[str]) -> Self:
        """Return notes on the whole series."""
        return cls(tuple(Remark(Finding("", check, words=one), RemarkVerdict.NOTE) for one in words))

    def __add__(self, other: Remarks) -> Remarks:
        """Return both."""
        return Remarks((*self.records, *other.records))

    @property
    def flagged(self) -> dict[str, str]:
        """Organ -> why it is to be looked at first."""
        return self._reasons(RemarkVerdict.FLAG)

    @property
    def withheld(self) -> dict[str, str]:
        """Organ -> why it is not in the structure set."""
        return self._reasons(RemarkVerdict.WITHHOLD)

    @property
    def rejected(self) -> frozenset[str]:
        """The organs that are withheld because they did not read back as they were contoured."""
        return frozenset(r.finding.structure for r in self.records if r.finding.check is RemarkCheck.READ_BACK)

    @property
    def incomplete(self) -> tuple[str, ...]:
        """Which models did not draw, why, and what is missing for it."""
        return self._words(RemarkCheck.INCOMPLETE)

    @property
    def formal(self) -> tuple[str, ...]:
        """What of the CT's header is not copied as it is written there, and why."""
        return self._words(RemarkCheck.HEADER)

    def _reasons(self, verdict: RemarkVerdict) -> dict[str, str]:
        reasons: dict[str, list[str]] = {}
        for remark in self.records:
            if remark.verdict is verdict:
                reasons.setdefault(remark.finding.structure, []).append(remark.finding.reason)
        return {organ: "; ".join(text) for organ, text in reasons.items()}

    def _words(self, check: RemarkCheck) -> tuple[str, ...]:
        return tuple(
            r.finding.words for r in self.records if r.verdict is RemarkVerdict.NOTE and r.finding.check is check
        )

    def without(self, rejected: Mapping[str, str]) -> Remarks:
        """Return them with organs withheld that do not read back, which are not to be looked at then."""
        kept = [r for r in self.records if r.verdict is not RemarkVerdict.FLAG or r.finding.structure not in rejected]
        further = [
            Remark(Finding(organ, RemarkCheck.READ_BACK, words=reason), RemarkVerdict.WITHHOLD)
            for organ, reason in rejected.items()
        ]
        return Remarks((*kept, *further))

    def lines(self, but: RemarkVerdict | None = None) -> list[str]:
        """Return them in words, one line for each organ and note; those of one verdict can be left out."""
        lines = [*self.incomplete, *self._words(RemarkCheck.EARLIER)]
        lines += [f"outside the model's limits, released: {text}" for text in self._words(RemarkCheck.LIMITS)]
        lines += self._words(RemarkCheck.DISTRIBUTION)
        if but is not RemarkVerdict.WITHHOLD:
            lines += [f"withheld: {organ} ({reason})" for organ, reason in self.withheld.items()]
        if but is not RemarkVerdict.FLAG:
            lines += [f"check: {organ} ({reason})" for organ, reason in self.flagged.items()]
        return lines + [f"header: {change}" for change in self.formal]

    def text(self) -> str:
        """Return them in words, empty where there is nothing to tell."""
        return "; ".join(self.lines())

    def to_json(self) -> str:
        """Return them as the queue keeps them."""
        return json.dumps([remark.to_record() for remark in self.records])

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``to_json`` wrote."""
        return cls(tuple(map(Remark.from_record, json.loads(text))))


NO_REMARKS = Remarks()
