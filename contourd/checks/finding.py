"""The value objects of the checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """How a check ended."""

    OK = "ok"
    FAILED = "failed"  # a person must act before the first patient
    UNKNOWN = "not tested"  # it cannot be seen from here; what was said tells what to do by hand


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    told
        What was found, in words and figures.
    remedy
        What to do; empty where there is nothing to do.
    """

    state: State
    told: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A check that can be run.

    Attributes
    ----------
    name
        Stable, for scripts: ``port``, ``echo:pacs``.
    run
        May raise: the check has then failed.
    remedy
        What to do where it raises, or fails without saying more.
    """

    name: str
    run: Callable[[], Finding]
    remedy: str


def ok(told: str, remedy: str = "") -> Finding:
    """Return that all is well."""
    return Finding(State.OK, told, remedy)


def failed(told: str, remedy: str = "") -> Finding:
    """Return that a person must act."""
    return Finding(State.FAILED, told, remedy)


def unknown(told: str, remedy: str = "") -> Finding:
    """Return that it cannot be seen from here."""
    return Finding(State.UNKNOWN, told, remedy)
