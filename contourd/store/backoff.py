"""How long another node has been tried, and when it is tried again: by a clock that nobody can set."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime

from contourd.store.states import RetryPolicy

Seconds = Callable[[], float]


class Backoff:
    """The outage of one node: one probe for each step, however much waits for the node.

    Parameters
    ----------
    elapsed
        Monotonic seconds.
    """

    def __init__(self, policy: RetryPolicy, elapsed: Seconds) -> None:
        self._policy = policy
        self._elapsed = elapsed
        self._steps = 0
        self._until: float | None = None

    @property
    def is_down(self) -> bool:
        """Whether the node did not answer when it was last asked."""
        return self._until is not None

    @property
    def left_s(self) -> float:
        """How long to wait before the next probe."""
        return 0.0 if self._until is None else max(0.0, self._until - self._elapsed())

    def fail(self) -> float:
        """Record that the node did not answer; returns how long to wait."""
        self._steps += 1
        wait_s = self._policy.wait_s(self._steps)
        self._until = self._elapsed() + wait_s
        return wait_s

    def answer(self) -> None:
        """Record that the node answers a probe; whether it is well again, the first thing sent will show."""
        self._until = None

    def succeed(self) -> None:
        """Record that the node answered what it was sent: the next outage begins with a short wait."""
        self._until = None
        self._steps = 0


class WaitingTimes:
    """For how long each of several things has been tried since contourd started.

    The time during which contourd did not run does not count, and no change of the clock does. A thing that a person
    released has another date, and counts anew.
    """

    def __init__(self, elapsed: Seconds) -> None:
        self._elapsed = elapsed
        self._began: dict[tuple[int, datetime], float] = {}

    def waited_s(self, number: int, since: datetime) -> float:
        """Return how long ago the thing was first asked for, 0 at first."""
        now = self._elapsed()
        return now - self._began.setdefault((number, since), now)

    def __len__(self) -> int:
        return len(self._began)

    def forget(self, number: int, since: datetime) -> None:
        """Forget one that is done."""
        self._began.pop((number, since), None)

    def forget_but(self, numbers: Collection[int]) -> None:
        """Forget all others: they are done."""
        self._began = {key: began for key, began in self._began.items() if key[0] in numbers}
