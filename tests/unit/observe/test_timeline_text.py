"""The audit trail for a person: one line an entry, folded to a terminal, settings key by key where they are few."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

import pytest

from contourd.cli.timeline_text import entry
from contourd.observe.timeline import TimelineEntry

pytestmark = pytest.mark.both_databases

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
FIRST = {f"node.key{n}": [None, "1"] for n in range(60)}


def line(action: str, detail: str, **more: str) -> TimelineEntry:
    return TimelineEntry(NOON, "contourd", action, more.get("subject", ""), more.get("state", ""), detail, None, None)


def words(told: str) -> str:
    return " ".join(told.split()[2:])


def test_an_entry_is_one_line_without_control_characters():
    told = entry(line("job hold", "held by alice: \x1b[2Jlook\nthere", subject="job 3", state="HELD"), verbose=False)
    assert words(told) == "contourd job hold job 3 HELD held by alice: \\x1b[2Jlook\\nthere"


def test_the_first_settings_are_counted_and_listed_on_request():
    first = line("configuration", json.dumps(FIRST))
    assert (
        words(entry(first, verbose=False)) == "contourd configuration the first settings: 60 keys; --verbose shows each"
    )
    lines = entry(first, verbose=True).splitlines()
    assert lines[1] == "    node.key0 = 1"
    assert len(lines) == 61


def test_a_few_changes_are_shown_at_once_and_many_are_counted():
    few = {"node.port": ["104", "11112"], "web.token_file": ["set", None], "check.rt_utils": [None, "true"]}
    assert entry(line("configuration", json.dumps(few)), verbose=False).splitlines()[1:] == [
        "    node.port: 104 -> 11112",
        "    web.token_file: set -> not set",
        "    check.rt_utils = true",
    ]
    many = {f"key{n}": ["1", "2"] for n in range(9)}
    assert entry(line("configuration", json.dumps(many)), verbose=False).endswith(
        "9 keys changed; --verbose shows each"
    )


def test_a_model_is_told_with_the_beginning_of_its_hash():
    model = line("model", json.dumps({"model": "m", "version": "2", "sha256": "a" * 64, "before": "b" * 64}))
    assert entry(model, verbose=False).endswith("version 2, sha256 aaaaaaaaaaaa, before bbbbbbbbbbbb")
    assert entry(model, verbose=True).endswith(f"sha256 {'a' * 64}, before {'b' * 64}")


@pytest.mark.parametrize("columns", [60, 100])
def test_a_terminal_gets_folded_lines_and_a_file_whole_ones(columns, monkeypatch):
    long = line("series hold", "missing slices at z = " + ", ".join(f"{z}.00" for z in range(40)), state="HELD")
    whole = entry(long, verbose=False)
    assert len(whole.splitlines()) == 1
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    folded = entry(long, verbose=False).splitlines()
    assert max(map(len, folded)) <= columns
    assert all(part.startswith("    ") for part in folded[1:])
    assert " ".join(" ".join(folded).split()) == " ".join(whole.split())
