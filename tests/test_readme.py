"""What the documents promise is there: sections, commands, options, keys, links, version."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from contourd import __version__
from contourd.settings import load_settings
from tests import settings_page

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SECTIONS = [
    "The first contour of your own CT",
    "A node",
    "A model of your own",
    "Documents",
]


@cache
def commands() -> list[str]:
    """Every command line in a shell block of the documents."""
    blocks = [b for d in DOCUMENTS for b in re.findall(r"```sh\n(.*?)```", d.read_text(encoding="utf-8"), re.DOTALL)]
    lines = [line.split("#")[0].strip().removeprefix(".venv/bin/") for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


@cache
def help_of(*subcommand: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "contourd", *subcommand, "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
    )
    return ran.stdout


def test_sections_in_their_order() -> None:
    assert re.findall(r"^## (.*)$", README, re.MULTILINE) == SECTIONS


def test_the_readme_is_read_in_minutes_and_begins_with_a_picture_and_two_commands() -> None:
    assert len(README.encode()) < 8000
    first = README.split("\n## ")[0]
    assert first.index("![") < first.index("make demo") < first.index("make test") < 1000


def test_the_paths_that_the_guide_names_are_there() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:contourd|trainer|tests|etc|migrations|docs)/[\w./]*)`", guide))
    below = set(re.findall(r"`(\w+/[\w/]+\.py)`", guide))
    assert len(named) > 20 and len(below) > 10  # noqa: PT018
    assert not [path for path in named if not (ROOT / path).exists()]
    assert not [path for path in below if not ((ROOT / path).exists() or (ROOT / "contourd" / path).exists())]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {line.split()[1] for line in commands() if line.startswith("make ")}
    assert {"demo", "test"} <= named <= targets


def test_subcommands_and_their_options_exist() -> None:
    lines = [line.split() for line in commands() if line.startswith("contourd ")]
    assert {"serve", "contour", "status"} <= {words[1] for words in lines}
    for words in lines:
        path = words[1:3] if words[1] in ("db", "constancy", "models", "recipe") else words[1:2]
        for n, subcommand in enumerate(path):
            assert re.search(rf"^\W*{subcommand}\b", help_of(*path[:n]), re.MULTILINE), f"contourd {' '.join(path)}"
        for option in re.findall(r"--[a-z-]+", " ".join(words)):
            assert option in help_of(*path), f"contourd {' '.join(path)} {option}"


def test_the_settings_page_is_made_of_the_example_and_the_defaults() -> None:
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page()


def test_the_example_configuration_names_and_explains_every_key() -> None:
    keys = [key for table in settings_page.tables() for key in table.keys]
    assert sorted(key.path for key in keys) == sorted(settings_page.fields())
    assert [key.path for key in keys if not key.meaning] == []


def test_the_example_configuration_holds_the_defaults() -> None:
    fields = settings_page.fields()
    chosen = {"destination.ae_title", "destination.host", "destination.name", "destination.port"}
    chosen |= {"route.destinations", "route.model"}
    defaults = {path: settings_page.default_of(fields[path]) for path in settings_page.values()}
    differing = {path for path, value in settings_page.values().items() if value != defaults[path]}
    assert differing == chosen


def test_the_readme_s_configuration_is_one(tmp_path: Path) -> None:
    block = README.split("## A node")[1].split("```toml\n")[1].split("```")[0]
    (tmp_path / "contourd.toml").write_text(block, encoding="utf-8")
    assert load_settings(tmp_path / "contourd.toml").destination[0].name == "pacs"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_resolve(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    relative = [link for link in links if "://" not in link]
    assert [link for link in relative if not (document.parent / link).exists()] == []


def test_the_page_for_the_wall_is_one_page() -> None:
    lines = (ROOT / "docs" / "wall.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
    assert sum(map(len, lines)) <= 4000


def test_the_changelog_has_this_version() -> None:
    assert re.search(
        rf"^## {re.escape(__version__)} \(\d{{4}}-\d\d-\d\d\)$",
        (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
