"""No part of the program reads what another one wrote for people: parts hand each other codes and records."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.formats import FORMATS, LONGEST

ROOT = Path(__file__).resolve().parents[1]
CUTTING = {"startswith", "endswith", "split", "rsplit", "partition", "rpartition", "removeprefix", "removesuffix"}
PATTERNS = {"compile", "search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer"}
# Arrays are partitioned and split, too.
NO_TEXT = {"np", "re"}
# What holds a sentence for a person.
SENTENCES = {"reason", "told", "remarks", "sentence", "message"}


@cache
def nodes() -> tuple[tuple[str, ast.AST], ...]:
    paths = [path for folder in ("contourd", "trainer") for path in sorted((ROOT / folder).rglob("*.py"))]
    return tuple(
        (f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", node)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


def is_reading(node: ast.Call) -> bool:
    if not isinstance(node.func, ast.Attribute):
        return False
    owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
    return (owner == "re" and node.func.attr in PATTERNS) or (owner not in NO_TEXT and node.func.attr in CUTTING)


def readings() -> Iterator[tuple[str, str]]:
    for where, node in nodes():
        if isinstance(node, ast.Call) and is_reading(node):
            yield where, ast.unparse(node)[:LONGEST]


def test_whatever_is_read_by_a_pattern_or_cut_up_is_of_a_known_format() -> None:
    known = frozenset().union(*FORMATS.values())
    assert not [f"{where}: {text}" for where, text in readings() if text not in known]


def test_every_known_format_is_read() -> None:
    read = {text for _, text in readings()}
    assert not sorted(frozenset().union(*FORMATS.values()) - read)


def holds_a_sentence(node: ast.expr) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    cast = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str" and node.args
    return name in SENTENCES or (bool(cast) and holds_a_sentence(node.args[0]))  # type: ignore[attr-defined]


def is_written(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and bool(node.value)
    return isinstance(node, ast.JoinedStr)


def finds_words(node: ast.AST) -> bool:
    """Say whether words, written down here, are looked for in a sentence, or compared with one."""
    if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.In | ast.NotIn | ast.Eq | ast.NotEq):
        return False
    one, other = node.left, node.comparators[0]
    written = any(
        isinstance(side, ast.JoinedStr)
        or (isinstance(side, ast.Constant) and isinstance(side.value, str) and side.value)
        for side in (one, other)
    )
    return written and (holds_a_sentence(one) or holds_a_sentence(other))


def test_no_sentence_is_searched_for_words() -> None:
    assert not [where for where, node in nodes() if finds_words(node)]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("'is gone' in reason", True),
        ("f'replace {n} ' in job.reason", True),
        ("str(error.reason) == 'no route'", True),
        ("reason == ''", False),
        ("'a' in names", False),
        ("roi.name in remarks.withheld", False),
    ],
)
def test_a_search_is_told_from_others(line: str, found: bool) -> None:
    assert finds_words(ast.parse(line, mode="eval").body) == found
