"""What may strike a process of contourd, and where: values, shared by the launcher that arms them and by the tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

VARIABLE = "CHAOS_FAULTS"  # read by tests/chaos/launcher.py alone
MARKER = "CHAOS_MARKER"
THREAD = "CHAOS_THREAD"  # a file that names the thread which is to end


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes
    ----------
    action
        ``kill`` the process that is there, ``kill node``: it and its daemon, ``kill worker``: it if it is the worker,
        ``stall`` it for ever, or ``raise``.
        A kill strikes once, in whichever process is first.
    when
        ``enter`` or ``leave`` a call; ``before`` or ``after`` the commit of a transition.
    what
        ``module:name`` of the call, or ``table OLD NEW`` of the transition; OLD is ``-`` for a new row.
    nth
        On which pass.
    inside
        ``module:name`` of a call that must be under way in the same thread.
    """

    action: str
    when: str
    what: str
    nth: int = 1
    inside: str = ""


def pack(faults: Sequence[Fault]) -> str:
    return json.dumps([asdict(fault) for fault in faults])


def unpack(text: str) -> list[Fault]:
    return [Fault(**fields) for fields in json.loads(text)]
