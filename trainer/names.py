"""The review file of a training set, in which a person confirms or corrects what each spelling is taken for.

What contourd takes a spelling for by itself, ``contourd.model.spellings`` says. A name that is not surely an organ is
UNKNOWN: masked, never background.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contourd.errors import DatasetError
from contourd.model.spellings import (
    NO_ORGAN,
    TILDES,
    UNSURE,
    Certainty,
    Reading,
    Vocabulary,
    interpret,
    shipped_vocabulary,
)
from trainer.atomic import write_text


@dataclass(frozen=True, slots=True)
class Spelling:
    """A line of the review file."""

    spelling: str
    cases: int
    reading: Reading


NOTE = """# What the archive calls its structures, and what each name is taken for. Edit `taken_for` and curate again:
#   a TG-263 name    the organ          ""   unknown: left out of the loss           "-"   no organ
# An entry whose `taken_for` differs from what contourd reads by itself is a person's, and is never changed.
"""


def read_review(path: Path, vocabulary: Vocabulary | None = None) -> dict[str, Reading]:
    """Read what a person decided: the entries that differ from what contourd reads by itself.

    Raises
    ------
    DatasetError
        The file is damaged, or names an organ that the catalogue does not know.
    """
    vocabulary = vocabulary or shipped_vocabulary()
    if not path.is_file():
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        entries = [
            (str(entry["spelling"]), str(entry["taken_for"]), str(entry.get("sure", "")))
            for entry in content.get("name", [])
        ]
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is damaged: {error}; correct it, or remove it to begin anew") from error
    unknown = sorted(
        {taken for _, taken, _ in entries if taken not in ("", NO_ORGAN) and taken not in vocabulary.known}
    )
    if unknown:
        known = ", ".join(vocabulary.known)
        raise DatasetError(
            f"{path}: {', '.join(unknown)} stand in no catalogue; known are {known}; more by --structures FILE"
        )
    return {
        spelling: Reading(taken, Certainty.CONFIRMED)
        for spelling, taken, sure in entries
        if taken != interpret(spelling, vocabulary).taken_for and not _read_before(spelling, taken, sure, vocabulary)
    }


def _read_before(spelling: str, taken: str, sure: str, vocabulary: Vocabulary) -> bool:
    """Return whether an entry is what an earlier contourd read by itself, and not what a person made of it."""
    if sure in (Certainty.EXACT.value, Certainty.ALIAS.value):
        without = "".join(c for c in spelling if c not in TILDES)
        now = interpret(spelling, vocabulary).suggestion, interpret(without, vocabulary).taken_for
        return taken != "" and taken in now
    by_itself = {c.value: NO_ORGAN if c is Certainty.NO_ORGAN else "" for c in UNSURE}
    return by_itself.get(sure) == taken


def review(counts: Mapping[str, int], path: Path, vocabulary: Vocabulary | None = None) -> dict[str, Spelling]:
    """Read every spelling, obey the review file, and write it anew with what is new.

    Parameters
    ----------
    counts
        Spelling -> cases in which it stands.
    vocabulary
        By default that of the catalogue that ships.

    Raises
    ------
    DatasetError
        The review file cannot be used.
    """
    decided = read_review(path, vocabulary)
    names = {**counts, **decided}
    spelt = {
        name: Spelling(name, counts.get(name, 0), decided.get(name, interpret(name, vocabulary))) for name in names
    }
    lines = [NOTE]
    for one in sorted(spelt.values(), key=lambda s: (s.reading.taken_for or "~", s.spelling.casefold(), s.spelling)):
        lines.append("[[name]]")
        lines.append(f"spelling = {_quoted(one.spelling)}")
        lines.append(f"cases = {one.cases}")
        lines.append(f"taken_for = {_quoted(one.reading.taken_for)}")
        lines.append(f"sure = {_quoted(one.reading.certainty.value)}")
        if one.reading.suggestion:
            lines.append(f"suggestion = {_quoted(one.reading.suggestion)}")
        lines.append("")
    write_text(path, "\n".join(lines))
    return spelt


def _quoted(text: str) -> str:
    """Write a TOML string; TOML knows no surrogate pairs and no bare DEL, which JSON writes."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def mapping(spelt: Mapping[str, Spelling]) -> dict[str, str]:
    """Return spelling -> organ, of those that are taken for one."""
    return {name: one.reading.organ for name, one in spelt.items() if one.reading.organ is not None}
