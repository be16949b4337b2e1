"""The tables of docs/commands.md, and what a JSON object holds, both as key -> types: so that they can be compared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
TYPES: Mapping[type, str] = {
    str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"
}  # fmt: skip


def documented() -> dict[str, dict[str, set[str]]]:
    """Return command -> key -> types, as the tables say; a table under several commands is each one's."""
    found: dict[str, dict[str, set[str]]] = {}
    for heading, body in re.findall(r"^### (.*)\n((?:(?!^##).*\n)*)", DOCUMENT.read_text(encoding="utf-8"), re.M):
        keys: dict[str, set[str]] = {}
        for named, kind in re.findall(r"^\| (`.*?`) \| ([a-z ]+)(?:,[^|]*)? \|", body, re.M):
            keys |= {key: set(kind.strip().split(" or ")) for key in re.findall(r"`([^`]+)`", named)}
        found |= dict.fromkeys(heading.split(", "), keys)
    return found


def commands() -> dict[str, bool]:
    """Return the commands of the first table, and whether it says that they have --json."""
    table = DOCUMENT.read_text(encoding="utf-8").split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z ]+)` \| .* \| (yes)? ?\|$", table, re.M)
    return {name: bool(told) for name, told in rows}


def scalars(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Give the key and type of everything in an object: ``jobs[].id``, integer."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from scalars(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from scalars(inner, f"{path}[]")
    else:
        yield path, TYPES[type(value)]


def key_of(path: str, keys: Mapping[str, set[str]]) -> str:
    """Return the documented key that a path falls under; the path itself where there is none."""
    if path in keys:
        return path
    patterns = {
        key: re.escape(key).replace(r"\*.", r"[^\[.]+.").replace(r"\*", r"[^\[]+") for key in keys if "*" in key
    }
    return next((key for key, pattern in patterns.items() if re.fullmatch(pattern, path)), path)
