"""Whether a model knows the usual size and place of its organs: without them a patient's organs are not compared."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from contourd.commands import command


def remedy_text() -> str:
    """Return what to do about it."""
    measure = command("models commission", "MODEL", "DATASET", "--output", "RECORD")
    return f"measure it on at least 10 patients with each organ (`{measure}`), and activate it with its record"


def unjudged_text(structures: Sequence[str], known: Collection[str]) -> str:
    """Return which organs of a model nobody compares with its training set; empty where all are.

    Parameters
    ----------
    known
        Organs of which the model knows size and place.
    """
    unknown = [name for name in structures if name not in known]
    if not unknown:
        return ""
    which = "any organ" if len(unknown) == len(structures) else ", ".join(unknown)
    return f"not commissioned: the model does not know the usual size and place of {which}, only sides are checked"
