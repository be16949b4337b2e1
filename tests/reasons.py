"""Reasons as tests give them: a code with the words that are shown."""

from __future__ import annotations

from contourd.reasons.catalogue import VERBATIM, HoldReason, Reason


def because(words: str, code: HoldReason = HoldReason.OTHER) -> Reason:
    """Return a reason whose sentence is these words, whatever the code's template says."""
    return Reason.of(code, **{VERBATIM: words})
