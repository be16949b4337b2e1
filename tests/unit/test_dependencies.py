"""What is pinned is what is wanted and what is installed."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def pinned() -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    for line in filter(None, lines):
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), f"{line!r} is no exact version"
    return {canonicalize_name(name): pin for name, pin in (line.split("==") for line in filter(None, lines))}


def wanted() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found = [Requirement(text) for group in groups for text in group]
    return [requirement for requirement in found if requirement.name != "contourd"]


@pytest.mark.parametrize("requirement", wanted(), ids=str)
def test_each_requirement_is_pinned_within_its_bounds(requirement: Requirement) -> None:
    assert pinned()[canonicalize_name(requirement.name)] in requirement.specifier


def test_what_is_installed_is_what_is_pinned() -> None:
    other = {}
    for name, pin in pinned().items():
        try:
            if version(name).partition("+")[0] != pin.partition("+")[0]:
                other[name] = (version(name), pin)
        except PackageNotFoundError:
            continue  # of an extra that is not installed
    assert other == {}
