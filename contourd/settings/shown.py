"""The settings as flat keys that may be recorded: no password, and no path of a private key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from contourd.settings.tree import Settings

SECRET = frozenset({"key", "password", "passphrase", "token", "secret", "webhook"})


def shown_settings(settings: Settings) -> dict[str, str]:
    """Return every key that has a value, as ``destination.pacs.port``, with its value as JSON.

    Routes are numbered from 1 in their order; of what is secret only that it is set is told.
    """
    tree = settings.model_dump(mode="json")
    tree["destination"] = {d["name"]: d for d in tree["destination"]}
    tree["route"] = {str(n): route for n, route in enumerate(tree["route"], 1)}
    return {key: _shown(key, value) for key, value in _flat(tree, "") if value not in (None, "", [], {})}


def settings_sha256(settings: Settings) -> str:
    """Return the hash by which the settings are told from others, of what ``shown_settings`` returns."""
    return hashlib.sha256(json.dumps(shown_settings(settings), sort_keys=True).encode()).hexdigest()


def _flat(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(key: str, value: Any) -> str:
    if key.rpartition(".")[2] in SECRET:
        return "set"
    return json.dumps(_without_password(value) if key == "database.url" else value)


def _without_password(url: str) -> str:
    """Leave out the password, whatever is in it, and the query, which may hold one too."""
    scheme, separator, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{user.partition(':')[0]}{at}{place.partition('?')[0]}"
