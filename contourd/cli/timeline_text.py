"""The audit trail for a person to read: one line for each entry, folded to a terminal, and key by key on request."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

from contourd.system.logs import one_line

if TYPE_CHECKING:
    from contourd.observe.timeline import TimelineEntry

INDENT = " " * 4
FEWEST_COLUMNS = 40
SHOWN_KEYS = 8
SHOWN_HASH = 12
# An entry whose detail is a JSON object.
CONFIGURATION, MODEL = "configuration", "model"


def entry(line: TimelineEntry, verbose: bool) -> str:
    """Return one entry; ``verbose``: every key of the settings that changed on a line of its own, and whole hashes."""
    at = line.at.astimezone().isoformat(sep=" ", timespec="seconds")
    first, more = _detail(line, verbose)
    words = "  ".join(one_line(part) for part in (line.state, line.destination, first) if part)
    head = f"{at}  {one_line(line.actor):<12} {line.action:<20} {one_line(line.subject):<12} {words}".rstrip()
    return "\n".join([_folded(head, INDENT), *(_folded(INDENT + one_line(text), INDENT * 2) for text in more)])


def _detail(line: TimelineEntry, verbose: bool) -> tuple[str, list[str]]:
    """Part a detail into what stands in the entry's own line and the lines below it."""
    if line.action == CONFIGURATION:
        return _settings(json.loads(line.detail), verbose)
    if line.action == MODEL:
        return _model(json.loads(line.detail), verbose), []
    return line.detail, []


def _settings(changed: dict[str, list[str | None]], verbose: bool) -> tuple[str, list[str]]:
    is_first = all(before is None for before, _ in changed.values())
    number = f"{len(changed)} key{'s' if len(changed) > 1 else ''}"
    text = f"the first settings: {number}" if is_first else f"{number} changed"
    if verbose or (len(changed) <= SHOWN_KEYS and not is_first):
        return text, [_key(key, before, after) for key, (before, after) in changed.items()]
    return f"{text}; --verbose shows each", []


def _key(key: str, before: str | None, after: str | None) -> str:
    if before is None:
        return f"{key} = {after}"
    return f"{key}: {before} -> {'not set' if after is None else after}"


def _model(content: dict[str, str | None], verbose: bool) -> str:
    length = None if verbose else SHOWN_HASH
    sha256, before = (str(content[key] or "")[:length] for key in ("sha256", "before"))
    return f"version {content['version']}, sha256 {sha256}" + (f", before {before}" if before else "")


def _folded(text: str, indent: str) -> str:
    """Fold a line to the terminal's width; what goes to a file or a program stays on one line."""
    if not sys.stdout.isatty():
        return text
    columns = max(FEWEST_COLUMNS, shutil.get_terminal_size().columns)
    return textwrap.fill(text, columns, subsequent_indent=indent, break_on_hyphens=False)
