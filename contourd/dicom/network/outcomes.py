"""How a try to reach another node ended: what the DICOM side finds, and the queue records."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class OutcomeKind(Enum):
    """What to do next."""

    ACCEPTED = "accepted"  # Success, or a warning: the other node has it
    RETRY = "retry"  # it answers, but is busy, out of resources, or broke off
    UNREACHABLE = "unreachable"  # no association came about, and nobody said why: nothing else will get there either
    IMPROPER = "improper"  # it answers, but not what it was asked, or by no rule: tried again as where it is busy
    REFUSED = "refused"  # it will not take this: a person must act


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a try ended; ``reason`` is for the person who reads the status.

    ``status`` is the DIMSE status if any, ``after_s`` how long the other node asks to wait.
    """

    kind: OutcomeKind
    reason: str
    status: int | None = None
    after_s: float = 0.0


# What a try comes to that an exception ends: it counts as one in vain, so that nothing is tried without a wait.
BROKE_OFF = Outcome(OutcomeKind.RETRY, "an error of contourd's own; see its log")
