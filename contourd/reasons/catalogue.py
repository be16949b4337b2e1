"""The catalogue of reasons: of each code what it means, its sentence, what a person does, and what lets it go on.

Parts of the program hand a ``Reason`` on, a code with its detail, and read its code. People read its sentence, which
is rendered where it is shown: on the command line, the page, in the log.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from contourd.commands import command
from contourd.reasons import of_jobs, of_reviews, of_series
from contourd.reasons.codes import Detail, HoldClass, HoldReason, Json, NextStep, ReasonEntry

__all__ = ["CATALOGUE", "Detail", "HoldClass", "HoldReason", "Json", "NextStep", "Reason", "ReasonEntry"]

CATALOGUE: Mapping[HoldReason, ReasonEntry] = MappingProxyType(
    {**of_series.ENTRIES, **of_jobs.ENTRIES, **of_reviews.ENTRIES}
)
# In the detail of a reason that was written before there were codes: its sentence, as it was.
VERBATIM = "verbatim"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something does not go on: a code, and what of this case is needed to say it.

    Attributes
    ----------
    detail
        Numbers, identifiers and words that may be kept, as JSON can hold them; nothing of a patient.
    """

    code: HoldReason
    detail: Detail = field(default_factory=dict)

    @classmethod
    def of(cls, code: HoldReason, **detail: object) -> Reason:
        """Make one of numbers, words, further reasons, and sequences and mappings of them."""
        return cls(code, {key: _plain(value) for key, value in detail.items()})

    @classmethod
    def read(cls, code: str, detail: str) -> Reason | None:
        """Read what a row keeps; None where it keeps no reason."""
        if not code:
            return None
        try:
            return cls(HoldReason(code), json.loads(detail) if detail else {})
        except ValueError:  # a newer version's
            return cls.of(HoldReason.OTHER, said=f"{code} {detail}")

    @classmethod
    def read_whole(cls, text: str) -> Reason | None:
        """Read what ``dump_whole`` gave; None for a text that is no reason."""
        try:
            whole = json.loads(text)
            return cls.read(str(whole["code"]), json.dumps(whole["detail"]))
        except (ValueError, LookupError, TypeError):
            return None

    def dump_whole(self) -> str:
        """Return code and detail as one text, for what keeps a reason elsewhere than in a row."""
        return json.dumps(self.plain())

    def dump(self) -> str:
        """Return the detail as a row keeps it."""
        return json.dumps(dict(self.detail)) if self.detail else ""

    def plain(self) -> dict[str, Json]:
        """Return it as JSON has it."""
        return {"code": self.code.value, "detail": dict(self.detail)}

    @property
    def held_as(self) -> HoldClass:
        """Its class, which metrics and alerts name."""
        return CATALOGUE[self.code].held_as

    @property
    def remedy(self) -> str:
        """What a person does about it."""
        return CATALOGUE[self.code].remedy

    def __str__(self) -> str:
        """Return the sentence for a person."""
        if VERBATIM in self.detail:
            return str(self.detail[VERBATIM])
        entry, detail = CATALOGUE[self.code], {key: _rendered(value) for key, value in self.detail.items()}
        try:
            return entry.sentence.format_map(detail) if isinstance(entry.sentence, str) else entry.sentence(detail)
        except (LookupError, ValueError, TypeError, AssertionError):  # another version's detail
            return f"{entry.means} ({self.dump()})"


def command_for_job(job: int, reason: Reason | None) -> str:
    """Return the command that lets a held or failed job go on, as it can be typed.

    A job that the model was not made for, or that shows no head and neck, is held again unless a person answers for it.
    """
    way = CATALOGUE[reason.code].way if reason else NextStep.AGAIN
    if way is NextStep.CONFIRM:
        return command("confirm", job)
    return command("retry", job, "--override", "REASON") if way is NextStep.OVERRIDE else command("retry", job)


def command_for_series(series: int, reason: Reason | None) -> str:
    """Return the command that lets a held series go on, as it can be typed; empty where only its sender can do that."""
    way = CATALOGUE[reason.code].way if reason else NextStep.AGAIN
    if way is NextStep.SENDER:
        return ""
    if way is NextStep.REPLACE:
        return command("replace", series, "--reason", "REASON")
    if way is NextStep.GIVE_REASON:
        return command("release", series, "--reason", "REASON")
    return command("release", series)


def _plain(value: object) -> Json:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Reason):
        return value.plain()
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [_plain(one) for one in value]
    try:
        return operator.index(value)  # type: ignore[arg-type]  # of numpy's integers, too
    except TypeError:
        return float(value)  # type: ignore[arg-type]


def _rendered(value: Json) -> Json:
    """Return a part of a detail with each further reason as its sentence."""
    if isinstance(value, list):
        return [_rendered(one) for one in value]
    if isinstance(value, Mapping):
        if value.keys() == {"code", "detail"}:
            return str(Reason.read(str(value["code"]), json.dumps(value["detail"])))
        return {key: _rendered(one) for key, one in value.items()}
    return value
