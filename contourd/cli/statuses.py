"""The exit statuses of each command, shown under its help; docs/commands.md has them in one table."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

NOT_TRIED = "2 not tried (options, settings, or something that is not there)"
USUAL = f"0 done, 1 it could not be done, {NOT_TRIED}"
STATUSES: Mapping[str, str] = MappingProxyType(
    {
        "check": "0 nothing is red, 1 something is red, 2 the settings cannot be used",
        "echo": f"0 every node answers, 1 one does not, {NOT_TRIED}",
        "send": f"0 every file was taken, 1 one was not, {NOT_TRIED}",
        "accept": f"0 everything was taken, 1 not everything was, {NOT_TRIED}",
        "route": f"0 every series would be contoured, 1 one would not, {NOT_TRIED}",
        "replay": f"0 the same bytes, 1 other bytes, or it cannot be contoured as it was, {NOT_TRIED}",
        "models verify": f"0 every model is whole, 1 one is not, {NOT_TRIED}",
        "constancy run": "0 green, 1 red, 2 not tried (settings, no baseline, or nobody serves)",
        "worker": "0 stopped in order, 2 it cannot work here",
        "serve": "0 stopped in order, 2 it cannot serve, or a part of it ended by itself",
    }
)


def status_of(name: str) -> str:
    """Return the exit statuses of a command in a line."""
    return f"Exit status: {STATUSES.get(name, USUAL)}"
