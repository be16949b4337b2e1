"""A site's own configuration, made of the commented one that ships with the package."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contourd import __version__
from contourd.errors import NodeError
from contourd.model.structures import etc_folder
from contourd.settings import Settings, load_settings

SECTION = re.compile(r"\[\[?(?P<name>[a-z_.]+)\]\]?\s*")
ENTRY = re.compile(r'(?P<head>(?P<key>[a-z_]+) = )(?P<value>"[^"]*"|\[[^\]]*\]|[^\s#]+)(?P<space>\s*)(?P<comment>#.*)?')


@dataclass(frozen=True, slots=True)
class SiteAnswers:
    """What a site must say of itself; the defaults are those of the shipped configuration.

    But the page is served, and lists tell what a series is.

    Attributes
    ----------
    allowed_callers
        Calling AE titles; empty: any.
    """

    ae_title: str = "CONTOURD"
    port: int = 11112
    spool: str = "/var/lib/contourd"
    destination: str = "pacs"
    destination_ae_title: str = "ORTHANC"
    destination_host: str = "127.0.0.1"
    destination_port: int = 4242
    profile: str = "strict"
    allowed_callers: tuple[str, ...] = ()

    def values(self) -> Mapping[str, object]:
        """Key of the file -> value."""
        return {
            "node.ae_title": self.ae_title,
            "node.port": self.port,
            "node.allowed_callers": list(self.allowed_callers),
            "spool.root": self.spool,
            "destination.name": self.destination,
            "destination.ae_title": self.destination_ae_title,
            "destination.host": self.destination_host,
            "destination.port": self.destination_port,
            "destination.profile": self.profile,
            "route.destinations": [self.destination],
            "series.descriptions": True,
            "web.enabled": True,
        }


def configuration_text(answers: SiteAnswers) -> str:
    """Return the shipped configuration with a site's values, its comments where they were.

    Raises
    ------
    NodeError
        The shipped file lacks a key: the installation is damaged.
    """
    wanted = dict(answers.values())
    lines, section = [f"# Written by `contourd init` of contourd {__version__}."], ""
    for line in (etc_folder() / "contourd.toml").read_text(encoding="utf-8").splitlines():
        header, entry = SECTION.fullmatch(line), ENTRY.fullmatch(line)
        section = header["name"] if header else section
        key = f"{section}.{entry['key']}" if entry else ""
        lines.append(_changed(entry, wanted.pop(key)) if entry and key in wanted else line)
    if wanted:
        raise NodeError(f"the shipped contourd.toml has no {', '.join(wanted)}; install contourd again")
    return "\n".join(lines) + "\n"


def _changed(entry: re.Match[str], value: object) -> str:
    """Put another value into a line; the comment keeps its column where it can."""
    text = json.dumps(value, ensure_ascii=False)  # strings, numbers and lists of strings are the same in TOML
    comment = entry["comment"] or ""
    space = max(len(entry["value"]) + len(entry["space"]) - len(text), 2) if comment else 0
    return f"{entry['head']}{text}{' ' * space}{comment}"


def write_configuration(path: Path, answers: SiteAnswers, replace: bool = False) -> Settings:
    """Write a configuration that was read back and found valid, or nothing.

    Raises
    ------
    NodeError
        There is a file already, or it cannot be written.
    SettingsError
        An answer is not valid: its key is named.
    """
    if path.exists() and not replace:
        raise NodeError(f"{path} is there already and was left as it is; choose another --output, or --force")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(configuration_text(answers), encoding="utf-8")
            settings = load_settings(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise NodeError(f"{path} cannot be written: {error.strerror}") from error
    return settings
