"""Every command that contourd tells people to type: found in the code, and each typed in the state that prints it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import typer

from contourd.cli import app
from contourd.commands import command, typed_with

PACKAGES = ("contourd", "trainer")
ROOT = Path(__file__).parents[2]
# Help and examples are read where nothing was given yet.
HELP = {"contourd/cli/examples.py", "contourd/cli/__init__.py"}


def subcommands() -> set[str]:
    """Return every subcommand, as ``db backup``."""
    found, group = set(), typer.main.get_command(app)
    for name, one in group.commands.items():
        inner = getattr(one, "commands", None)
        found |= {f"{name} {deeper}" for deeper in inner} if inner else {name}
    return found


def modules() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def docstrings_and_help(tree: ast.Module) -> set[int]:
    """Return the ids of the constants that are docstrings, or the help of an option."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                found.add(id(first.value))
        if isinstance(node, ast.keyword) and node.arg == "help":
            found |= {id(inner) for inner in ast.walk(node.value)}
    return found


def named() -> set[tuple[str, str]]:
    """Return module and subcommand of every call of ``command``."""
    calls = set()
    for module, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command":
                (first, *_) = node.args
                assert isinstance(first, ast.Constant), (
                    f"{module}, line {node.lineno}: the subcommand is not written out"
                )
                calls.add((module, str(first.value)))
    return calls


def test_a_command_can_be_typed_with_the_configuration_that_was_given(tmp_path: Path) -> None:
    assert command("retry", 2, "--override", "REASON") == "contourd retry 2 --override REASON"
    with typed_with(tmp_path / "a b.toml"):
        assert command("models list") == f"contourd models list --config '{tmp_path}/a b.toml'"
        with typed_with(None):
            assert command("models list") == "contourd models list"
        assert "--config" in command("serve")
    assert command("serve") == "contourd serve"


def test_every_text_takes_its_commands_from_one_place() -> None:
    written = re.compile(rf"\bcontourd ({'|'.join(sorted(subcommands(), key=len, reverse=True))})\b")
    for module, tree in modules():
        if module in HELP:
            continue
        passed = docstrings_and_help(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed:
                if not node.value.startswith("# Written by "):
                    assert not written.search(node.value), f"{module}, line {node.lineno}: {node.value!r}"
    for template in (ROOT / "contourd").rglob("*.html"):
        assert not written.search(template.read_text(encoding="utf-8")), template


def test_only_subcommands_are_named() -> None:
    assert {subcommand for _, subcommand in named()} <= subcommands()
