"""Settings are read once, validated as a whole, with every problem at once and its key's path."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from contourd.errors import SettingsError
from contourd.model.library import may_be_activated, model_exists
from contourd.model.site_structures import extended_catalogue
from contourd.settings.tree import Settings

SEARCHED = (Path("contourd.toml"), Path("/etc/contourd/contourd.toml"))


def find_settings_file(path: Path | None) -> Path:
    """Return the file that was named, or the first that is searched.

    Raises
    ------
    SettingsError
        There is none.
    """
    if path is not None:
        return path
    for candidate in SEARCHED:
        if candidate.is_file():
            return candidate
    raise SettingsError(
        "no configuration", [f"neither {' nor '.join(map(str, SEARCHED))} is there; give --config FILE"]
    )


def load_settings(path: Path | None = None) -> Settings:
    """Read and validate a TOML file.

    Raises
    ------
    SettingsError
        Every problem, each with its key's path.
    """
    file = find_settings_file(path)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(str(file), [f"cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(str(file), [f"not valid TOML: {error}"]) from error
    problems = _unresolved(content)
    try:
        settings = Settings.model_validate(content)
        problems += _uncommittable(settings) + _unreviewable(settings) + _other_structures(settings)
    except ValidationError as error:
        for item in error.errors():
            key = ".".join(map(str, item["loc"]))
            problems.append(f"{key}: {item['msg'].removeprefix('Value error, ')}")
    if problems:
        raise SettingsError(str(file), problems)
    return settings


def _unresolved(content: dict[str, Any]) -> list[str]:
    """Find names that lead nowhere; works on the raw file, so that these are told together with all else."""
    destinations, routes = (content.get(key) for key in ("destination", "route"))
    destinations = [d for d in destinations if isinstance(d, dict)] if isinstance(destinations, list) else []
    routes = [r for r in routes if isinstance(r, dict)] if isinstance(routes, list) else []
    counts = Counter(str(d.get("name")) for d in destinations)
    problems = [
        f"{key}: at least one [[{key}]] is needed" for key in ("destination", "route") if content.get(key) == []
    ]
    problems += [f"destination: the name {name!r} stands {n} times" for name, n in counts.items() if n > 1]
    for i, route in enumerate(routes):
        named = route.get("destinations", [])
        for name in named if isinstance(named, list) else []:
            if str(name) not in counts:
                problems.append(f"route.{i}.destinations: there is no destination {name!r}")
    return problems


def _uncommittable(settings: Settings) -> list[str]:
    """Find what keeps storage commitment from working: nobody to call back, or one that may not call."""
    node = settings.node
    titles = Counter(sender.ae_title for sender in settings.sender)
    problems = [f"sender: the ae_title {title!r} stands {n} times" for title, n in titles.items() if n > 1]
    if titles and not node.commitment:
        problems.append("sender: senders are called back with node.commitment = true only")
    if node.commitment and not titles:
        problems.append("node.commitment: needs a [[sender]] for each node that asks, which says where to call it back")
    answering = {d.ae_title for d in settings.destination if d.commitment} | set(titles)
    if node.allowed_callers and (outside := sorted(answering - set(node.allowed_callers))):
        problems.append(f"node.allowed_callers: {', '.join(outside)} must be in it, for storage commitment")
    return problems


def _unreviewable(settings: Settings) -> list[str]:
    """Find what keeps reviewed structure sets from being taken, or from being told apart."""
    titles = Counter(reviewer.ae_title for reviewer in settings.reviewer)
    problems = [f"reviewer: the ae_title {title!r} stands {n} times" for title, n in titles.items() if n > 1]
    known = {destination.name for destination in settings.destination}
    problems += [
        f"reviewer.{i}.destination: there is no destination {reviewer.destination!r}"
        for i, reviewer in enumerate(settings.reviewer)
        if reviewer.destination and reviewer.destination not in known
    ]
    allowed = settings.node.allowed_callers
    if allowed and (outside := sorted(set(titles) - set(allowed))):
        problems.append(f"node.allowed_callers: {', '.join(outside)} must be in it, for what they review to be taken")
    return problems


def _other_structures(settings: Settings) -> list[str]:
    """Find what keeps the site's own organs from being used."""
    try:
        extended_catalogue(settings.structures.file)
    except SettingsError as error:
        return [f"structures.file: {error.source}: {problem}" for problem in error.problems]
    return []


def require_models(settings: Settings) -> None:
    """Refuse routes to models that are not there; for ``serve`` alone, so that ``status`` works when one has vanished.

    Raises
    ------
    SettingsError
        Names each route.
    """
    problems = [
        f"route.{i}.model: no model {name!r}; give the name of a shipped or an activated model, or a bundle's folder"
        for i, route in enumerate(settings.route)
        for name in route.models
        if not model_exists(name, settings.spool.root)
        and not (settings.spool.store is not None and may_be_activated(name))
    ]
    if problems:
        raise SettingsError("the configuration", problems)
