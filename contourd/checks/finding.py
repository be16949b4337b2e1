"""The value objects of the checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class CheckStatus(Enum):
    """How a check ended."""

    OK = "ok"
    FAILED = "failed"  # a person must act before the first patient
    UNKNOWN = "not tested"  # it cannot be seen from here; what was said tells what to do by hand


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """What one check found.

    Attributes
    ----------
    text
        What was found, in words and figures.
    remedy
        What to do; empty where there is nothing to do.
    """

    state: CheckStatus
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class InstallationCheck:
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
    run: Callable[[], CheckFinding]
    remedy: str


def ok(text: str, remedy: str = "") -> CheckFinding:
    """Return that all is well."""
    return CheckFinding(CheckStatus.OK, text, remedy)


def failed(text: str, remedy: str = "") -> CheckFinding:
    """Return that a person must act."""
    return CheckFinding(CheckStatus.FAILED, text, remedy)


def unknown(text: str, remedy: str = "") -> CheckFinding:
    """Return that it cannot be seen from here."""
    return CheckFinding(CheckStatus.UNKNOWN, text, remedy)
