"""Every command that contourd tells people to type: found in the code, and each typed in the state that prints it."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from contourd.cli import app
from contourd.commands import command, use_configuration_path
from contourd.reasons.catalogue import HoldReason
from contourd.settings import load_settings
from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.store.tables import JobRow
from tests import showcase

PACKAGES = ("contourd", "trainer")
ROOT = Path(__file__).resolve().parents[3]
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
    with use_configuration_path(tmp_path / "a b.toml"):
        assert command("models list") == f"contourd models list --config '{tmp_path}/a b.toml'"
        with use_configuration_path(None):
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
            text = node.value if isinstance(node, ast.Constant) and id(node) not in passed else None
            if isinstance(text, str) and not text.startswith("# Written by "):
                assert not written.search(text), f"{module}, line {node.lineno}: {text!r}"
    for template in (ROOT / "contourd").rglob("*.html"):
        assert not written.search(template.read_text(encoding="utf-8")), template


def test_only_subcommands_are_named() -> None:
    assert {subcommand for _, subcommand in named()} <= subcommands()


def parsed(words: list[str]) -> str:
    """Have the command line read words as it would, without doing what they say; returns the subcommand."""
    one, path, context = typer.main.get_command(app), [], None
    while (inner := getattr(one, "commands", None)) is not None:
        path.append(words.pop(0))
        one = inner[path[-1]]
    context = one.make_context(" ".join(path), words)
    context.close()
    return " ".join(path)


def calls() -> Iterator[tuple[str, list[str]]]:
    """Give each call of ``command`` as it is printed, with 1 for what is only known when it is."""
    for module, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command":
                words = [str(one.value) if isinstance(one, ast.Constant) else "1" for one in node.args]
                yield f"{module}:{node.lineno}", [*words[0].split(), *words[1:], "--config", "contourd.toml"]


@pytest.mark.parametrize(("place", "words"), list(calls()), ids=lambda value: value if isinstance(value, str) else "")
def test_the_command_line_takes_what_is_printed(place: str, words: list[str]) -> None:
    placeholders = {"JOB": "1", "SERIES": "1"}
    assert parsed([placeholders.get(word, word) for word in words]) in subcommands(), place


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """Make a node of one morning: job 1 waits for confirmation, 4 is delivered, 5 failed; series 2 is held."""
    root, path = tmp_path / "spool", tmp_path / "contourd.toml"
    path.write_text(
        f'[spool]\nroot = "{root}"\n[[route]]\nmodel = "hn7"\ndestinations = ["pacs", "tps"]\n'
        + "".join(f'[[destination]]\nname = "{n}"\nae_title = "A"\nhost = "h"\nport = 1\n' for n in ("pacs", "tps"))
    )
    spool, database = Spool(root), Database(f"sqlite:///{root / 'contourd.sqlite'}")
    database.upgrade()
    showcase.fill_queue(database, spool)
    database.close()
    return path


def typed(line: str, **known: str) -> Result:
    """Type a line that was printed, with what the person knows in the place of words in capitals."""
    program, *words = shlex.split(line)
    assert program == "contourd"
    return CliRunner().invoke(app, [known.get(word, word) for word in words])


def printed_in(text: str, configuration: Path) -> list[str]:
    """Return the commands in a text that was printed with a configuration given."""
    return re.findall(rf"contourd [^`;\n]*? --config {re.escape(str(configuration))}", text)


def change(configuration: Path, job: int, **values: str) -> None:
    database = Database(load_settings(configuration).database_url)
    with database.transaction() as session:
        for key, value in values.items():
            setattr(session.get_one(JobRow, job), key, value)
    database.close()


def state_of(configuration: Path, job: int) -> tuple[str, str]:
    database = Database(load_settings(configuration).database_url)
    with database.reading() as session:
        row = session.get_one(JobRow, job)
        found = row.state, row.override
    database.close()
    return found


def shown(configuration: Path, *words: str) -> str:
    ran = CliRunner().invoke(app, ["status", *words, "--config", str(configuration)])
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_what_status_prints_of_a_job_that_waits_confirms_it(configuration: Path) -> None:
    (line,) = printed_in(shown(configuration, "1"), configuration)
    assert line == f"contourd confirm 1 --config {configuration}"
    assert typed(line).exit_code == 0
    assert state_of(configuration, 1)[0] == "DELIVERING"


@pytest.mark.parametrize(
    "code",
    [HoldReason.NO_HEAD_AND_NECK, HoldReason.OUTSIDE_LIMITS, HoldReason.NO_PATIENT],
)
def test_what_status_prints_of_a_job_that_would_be_held_again_overrides(configuration: Path, code: HoldReason) -> None:
    change(configuration, 5, state="HELD", reason_code=code)
    (line,) = printed_in(shown(configuration, "5"), configuration)
    assert typed(line, REASON="seen by the physicist").exit_code == 0
    assert state_of(configuration, 5)[1].startswith("seen by the physicist")


def test_what_status_prints_of_a_job_that_failed_and_of_a_series_lets_them_go_on(configuration: Path) -> None:
    (retry,) = printed_in(shown(configuration, "5"), configuration)
    assert typed(retry).exit_code == 0
    assert state_of(configuration, 5)[0] == "DELIVERING"
    (release,) = printed_in(shown(configuration, "--series", "2"), configuration)
    assert typed(release).exit_code == 0


def test_what_the_overview_prints_tells_one_in_full(configuration: Path) -> None:
    lines = printed_in(shown(configuration), configuration)
    assert [typed(line, JOB="4", SERIES="2").exit_code for line in lines if "status" in line] == [0, 0]


def test_what_a_refusal_prints_can_be_typed(configuration: Path) -> None:
    """The refusal of one command names another; that one works."""

    def refusal(*words: str) -> list[str]:
        ran = CliRunner().invoke(app, [*words, "--config", str(configuration)])
        return printed_in(str(ran.exception), configuration)

    (resend,) = refusal("retry", "4")
    assert typed(resend, DESTINATION="tps").exit_code == 0
    (confirm,) = refusal("retry", "1")
    assert typed(confirm).exit_code == 0
    (models,) = refusal("recontour", "4", "--model", "nothing")
    assert typed(models).exit_code == 0
    (status,) = printed_in(
        CliRunner().invoke(app, ["status", "99", "--config", str(configuration)]).exception.args[0], configuration
    )
    assert typed(status).exit_code == 0


def test_a_cancelled_and_a_held_job_are_taken_up_by_what_was_printed(configuration: Path) -> None:
    for job, verb in ((3, "hold"), (2, "cancel")):
        ran = CliRunner().invoke(app, [verb, str(job), "--reason", "wait", "--config", str(configuration)])
        (line,) = printed_in(ran.output, configuration)
        assert typed(line).exit_code == 0, verb


def test_an_older_database_is_brought_up_by_what_was_printed(configuration: Path) -> None:
    assert CliRunner().invoke(app, ["db", "downgrade", "0002", "--config", str(configuration)]).exit_code == 0
    (line,) = printed_in(
        str(CliRunner().invoke(app, ["status", "--config", str(configuration)]).exception), configuration
    )
    assert typed(line).exit_code == 0
    shown(configuration)


def test_what_init_prints_checks_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "a b.toml"
    ran = CliRunner().invoke(app, ["init", "--yes", "--output", str(path)])
    line = ran.output.strip().rpartition("run: ")[2]
    assert shlex.split(line) == ["contourd", "check", "--config", str(path)]
