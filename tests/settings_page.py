"""docs/settings.md, made of etc/contourd.toml and the program's own defaults: ``python -m tests.settings_page``."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from contourd.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "etc" / "contourd.toml"
PAGE = ROOT / "docs" / "settings.md"
SECTION = re.compile(r"(?:# ?)?\[(?P<many>\[)?(?P<name>[a-z_.]+)\]\]?\s*")
ENTRY = re.compile(
    r'(?:# ?)?(?P<key>[a-z_]+) = (?P<value>"[^"]*"|\[[^\]]*\]|\{[^}]*\}|[^\s#]+)\s*(?:# (?P<meaning>.*))?'
)
HEAD = """# Settings

Every key of the configuration, with its default and its meaning. This page is made of
[etc/contourd.toml](../etc/contourd.toml), which `contourd init` copies with your answers, and of the program's own
defaults (`python -m tests.settings_page`): change those, not this page.

One TOML file: the one that `--config` names, else `./contourd.toml`, else `/etc/contourd/contourd.toml`. It is checked
as a whole: all problems are reported at once, each with the key's path, and unknown keys are refused. Only
`[[destination]]` and `[[route]]` must be given.
"""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the example: ``section.key``, whether it is commented out, its value there, and its meaning."""

    path: str
    commented: bool
    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Table:
    """One section of the example with the paragraph above it; ``many`` where it is ``[[section]]``."""

    name: str
    many: bool
    about: str
    keys: tuple[Key, ...]


def tables() -> Iterator[Table]:
    """Read the example's sections in their order; whatever is neither section, key nor comment is an error."""
    name, many, about, keys, comment = "", False, "", list[Key](), list[str]()
    for number, line in enumerate(EXAMPLE.read_text(encoding="utf-8").splitlines(), 1):
        if section := SECTION.fullmatch(line):
            if name:
                yield Table(name, many, about, tuple(keys))
            name, many, about, keys = section["name"], bool(section["many"]), " ".join(comment), []
            comment = []
        elif entry := ENTRY.fullmatch(line):
            keys.append(Key(f"{name}.{entry['key']}", line.startswith("#"), entry["value"], entry["meaning"] or ""))
            comment = []
        elif line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
        elif line.strip():
            raise ValueError(f"{EXAMPLE.name}, line {number}: neither section, key nor comment: {line}")
        else:
            comment = []
    yield Table(name, many, about, tuple(keys))


def fields(model: type[BaseModel] = Settings, prefix: str = "") -> dict[str, FieldInfo]:
    """Every key of the settings, as ``section.key``, with its field."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        inner = [t for t in (field.annotation, *get_args(field.annotation)) if isinstance(t, type)]
        section = next((t for t in inner if issubclass(t, BaseModel)), None)
        path = f"{prefix}{field.alias or name}"
        found |= fields(section, f"{path}.") if section else {path: field}
    return found


def default_of(field: FieldInfo) -> object:
    """Return the default as TOML would hold it; None where there is none to write."""
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    if isinstance(value, str | bool | int | float) or value is None:
        return value
    return list(value) if isinstance(value, tuple | frozenset | list) else value if value == {} else str(value)


def shown_default(field: FieldInfo) -> str:
    """Return the table's cell: the default as TOML writes it, or that the key must be given."""
    value = default_of(field)
    if field.is_required():
        return "to be given"
    return "" if value is None else f"`{json.dumps(value)}`"


def page() -> str:
    """Return the whole page."""
    known, parts = fields(), [HEAD]
    for table in tables():
        title = f"[[{table.name}]]" if table.many else f"[{table.name}]"
        parts.append(f"\n## `{title}`\n")
        if table.about:
            parts.append(f"\n{table.about}\n")
        parts.append("\n| key | default | meaning |\n|---|---|---|\n")
        for key in table.keys:
            meaning = key.meaning.replace("|", "\\|")
            parts.append(f"| `{key.path}` | {shown_default(known[key.path])} | {meaning} |\n")
    return "".join(parts)


def values(commented: bool = False) -> dict[str, object]:
    """Return the example's values by key, of what is commented out or of what is not."""
    entries = [key for table in tables() for key in table.keys if key.commented is commented]
    return {key.path: tomllib.loads(f"value = {key.value}")["value"] for key in entries}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
