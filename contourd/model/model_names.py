"""The models of a route or a job as one text: a single one is its name or folder, several are a list in JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

LONGEST_TEXT = 255
# What becomes of a job of which one model fails: it is held, or sent with what is missing named.
PartialRule = Literal["hold", "send"]


def text_of_names(names: Sequence[str]) -> str:
    """Return names or folders, in their order, as one text."""
    if len(names) == 1 and names_of_text(names[0]) == (names[0],):
        return names[0]
    return json.dumps(list(names), ensure_ascii=False)


def names_of_text(text: str) -> tuple[str, ...]:
    """Return the names or folders of a text; what is no list is the name of one."""
    try:
        names = json.loads(text)
    except ValueError:
        return (text,)
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return (text,)


def shown_names(text: str) -> str:
    """Return the names of a text for people."""
    return ", ".join(names_of_text(text))


def partial_rule(kept: str) -> PartialRule:
    """Return the rule that a row keeps; whatever is not known holds."""
    return "send" if kept == "send" else "hold"
