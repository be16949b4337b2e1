"""Time that nobody can set: a clock may jump by a day, and nothing may fire or be stranded by that.

How long something has lasted is measured by the monotonic clock wherever one process sees both ends of it; the time of
day only dates what is written down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from datetime import UTC, datetime
from typing import Protocol

# More than a correction that is due: the clock was set.
STEP_S = 30.0
Monotonic = Callable[[], float]


class Clock(Protocol):
    """Tells the time; swapped in tests."""

    def __call__(self) -> datetime:
        """Return the time, aware."""


def utc_now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


class AgeTracker:
    """For how long a moment that is written down has stood unchanged."""

    def __init__(self, clock: Clock = utc_now, monotonic: Monotonic = time.monotonic) -> None:
        self._now = clock
        self._monotonic = monotonic
        self._seen: dict[Hashable, tuple[datetime, float]] = {}
        self._looked: float | None = None  # where hosts with clocks of their own write

    def trust_no_clock(self) -> None:
        """Let what changed since the last look be no older than that look: another host's clock may say anything."""
        self._looked = self._monotonic()

    def note(self, key: Hashable, moment: datetime) -> None:
        """Record that a moment is written down just now."""
        self._seen[key] = moment, self._monotonic()

    def age_s(self, key: Hashable, moment: datetime) -> float:
        """Return the age of a moment; of one that another process wrote, by the clock when it is first seen."""
        age_s = max(0.0, (self._now() - moment).total_seconds())
        if self._looked is not None:
            age_s = min(age_s, self._monotonic() - self._looked)
        return self._since(key, moment, age_s)

    def seen_s(self, key: Hashable, moment: datetime) -> float:
        """Return for how long a moment has been seen here."""
        return self._since(key, moment, 0.0)

    def _since(self, key: Hashable, moment: datetime, at_first_s: float) -> float:
        known = self._seen.get(key)
        if known is None or known[0] != moment:
            known = self._seen[key] = (moment, self._monotonic() - at_first_s)
        return self._monotonic() - known[1]

    def keep(self, keys: Iterable[Hashable]) -> None:
        """Forget all others; this was a look at all that there are."""
        if self._looked is not None:
            self._looked = self._monotonic()
        kept = set(keys)
        self._seen = {key: seen for key, seen in list(self._seen.items()) if key in kept}

    def clear(self) -> None:
        """Forget all: the time until now does not count."""
        self._seen.clear()


class ClockStepDetector:
    """Notices that the clock was set."""

    def __init__(self, clock: Clock = utc_now, monotonic: Monotonic = time.monotonic) -> None:
        self._now = clock
        self._monotonic = monotonic
        self._offset_s = self._offset()

    def _offset(self) -> float:
        return self._now().timestamp() - self._monotonic()

    def step_s(self) -> float:
        """Return by how much the clock was set since the last call, forwards positive; 0 where it was not."""
        before, self._offset_s = self._offset_s, self._offset()
        step = self._offset_s - before
        return step if abs(step) > STEP_S else 0.0
