"""Why a job took its route, as it is kept with the job."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class MatchedCondition:
    """One condition of a route: what it asks for, and what the series has; empty where that may hold a name."""

    key: str
    wanted: str
    found: str


@dataclass(frozen=True, slots=True)
class RouteChoice:
    """A route that was taken.

    Attributes
    ----------
    number
        Its place among the routes of the settings, from 1.
    settings_sha256
        Of the settings that were in force, without secrets.
    """

    number: int
    conditions: tuple[MatchedCondition, ...]
    settings_sha256: str

    def without_found(self) -> RouteChoice:
        """Return it without what the series has."""
        return replace(self, conditions=tuple(replace(one, found="") for one in self.conditions))

    def to_json(self) -> str:
        """Return it as a row keeps it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self | None:
        """Read it; None for a job of an earlier version, and for one that no route of the settings made."""
        if not text:
            return None
        kept: dict[str, Any] = json.loads(text)
        conditions = tuple(MatchedCondition(**one) for one in kept.pop("conditions"))
        return cls(conditions=conditions, **kept)

    def text(self) -> str:
        """Say it in a line."""
        return f"route {self.number}: " + ("; ".join(map(_said, self.conditions)) or "it asks for nothing")


def _said(one: MatchedCondition) -> str:
    return f"{one.key} = {one.wanted!r}" + (f", found {one.found!r}" if one.found else "")
