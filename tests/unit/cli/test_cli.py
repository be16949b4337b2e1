"""The command line as a whole: exit statuses, version, help with an example of each command, completion, start."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contourd import __version__
from contourd.cli import COMMANDS, GROUPS, app, main
from contourd.cli.examples import EXAMPLES
from contourd.cli.statuses import status_of as status_of_command
from tests.peers import LOOPBACK, free_port
from tests.phantom import write_series

ROOT = Path(__file__).resolve().parents[3]
NAMES = [command.__name__ for commands in COMMANDS.values() for command in commands]
GROUPED = [f"{name} {verb}" for name, group in GROUPS.items() for verb in group.commands]
# pynetdicom leaves the sockets of broken connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
PLAIN = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def status_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["contourd", *arguments])
    monkeypatch.setenv("PYTHONSAFEPATH", "")  # main() sets it; what other tests start is to find the tests' own modules
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize(
    ("status", "arguments"),
    [
        (0, ("--version",)),
        (0, ("serve", "--help")),
        (1, ("contour", "{folder}", "--output", "rt.dcm", "--model", "nosuch")),  # what was to be done failed
        (1, ("echo", "PEER@127.0.0.1:{port}")),
        (2, ("status", "--config", "{folder}/nothing.toml")),  # the settings cannot be used
        (2, ("status", "--config", "{folder}/wrong.toml")),
        (2, ("contour", "{folder}/nothing", "--output", "rt.dcm")),  # what was named is not there
        (2, ("echo", "nobody")),
        (2, ("nosuch",)),  # wrong use
        (2, ("status", "--nosuch")),
        (2, ("send", "{folder}")),
    ],
)
def test_exit_statuses(status: int, arguments: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.toml").write_text("[node]\nprot = 104\n")
    if arguments[0] == "contour":
        write_series(tmp_path / "ct")
    filled = [argument.format(folder=tmp_path, port=free_port()) for argument in arguments]
    assert status_of(monkeypatch, *filled) == status


def heed_ctrl_c() -> None:
    """A shell has what it starts in the background ignore SIGINT, and this is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_with_130(tmp_path: Path) -> None:
    """A peer that never answers is asked; the signal comes when the connection is there, and nothing is waited for."""
    with socket.create_server((LOOPBACK, 0)) as silent:
        to = f"SILENT@{LOOPBACK}:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "contourd", "echo", to]
        with subprocess.Popen(
            command, stderr=subprocess.DEVNULL, cwd=tmp_path, env=environment(), preexec_fn=heed_ctrl_c
        ) as asking:
            silent.settimeout(60)
            connection, _ = silent.accept()
            with connection:
                asking.send_signal(signal.SIGINT)
                assert asking.wait(30) == 130


def test_a_reader_that_goes_away_gets_no_traceback(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "contourd", "--version"]
        ran = subprocess.run(
            command, stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, check=False, env=environment()
        )
    finally:
        os.close(write)
    assert (ran.returncode, ran.stderr) == (1, b"")


def environment() -> dict[str, str]:
    return {**os.environ, **PLAIN, "PYTHONPATH": str(ROOT)}


def test_the_documented_statuses_are_these() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8").split("## Exit statuses")[1].split("\n## ")[0]
    assert re.findall(r"^\| (\d+) \|", text, re.MULTILINE) == ["0", "1", "2", "130"]


def test_the_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"contourd {__version__}\n"


def test_help_groups_the_commands() -> None:
    shown = CliRunner().invoke(app, ["--help"], env=PLAIN).output
    places = [shown.index(f" {panel} ") for panel in COMMANDS]
    assert places == sorted(places)
    for name in NAMES:
        assert re.search(rf"^\W*{name} ", shown, re.MULTILINE)


def test_every_command_has_an_example() -> None:
    assert sorted(EXAMPLES) == sorted([*NAMES, *GROUPED])


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_the_example_whose_options_there_are(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"], env=PLAIN).output
    assert f"Example: {EXAMPLES[name]}" in shown
    assert EXAMPLES[name].split()[:2] == ["contourd", name]
    for option in re.findall(r"--[a-z-]+", EXAMPLES[name]):
        assert option in shown.split("Example:")[0]


@pytest.mark.parametrize("name", [*NAMES, *GROUPED])
def test_help_says_how_the_command_ends(name: str) -> None:
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env=PLAIN).output
    assert status_of_command(name) in " ".join(shown.split())
    assert re.search(r"Exit status: 0 .*, 2 ", status_of_command(name))


@pytest.mark.parametrize("group", [(), *((name,) for name in GROUPS)])
def test_each_command_has_a_line_of_a_terminal_of_80_columns(group: Sequence[str]) -> None:
    """What is longer would be folded and not be read at a glance; markup takes no word away."""
    shown = CliRunner().invoke(app, [*group, "--help"], env={**PLAIN, "COLUMNS": "80"}).output
    commands = GROUPS[group[0]].commands if group else {c.__name__: c for panel in COMMANDS.values() for c in panel}
    for name, command in commands.items():
        told = (command.__doc__ or "").split("\n\n")[0]
        assert re.search(rf"^. {name} +{re.escape(told)} *.$", shown, re.MULTILINE), f"{name}: {told}"


@pytest.mark.parametrize(
    ("shell", "word"), [("bash", "complete "), ("zsh", "#compdef"), ("fish", "complete --command")]
)
def test_completion_prints_a_script(shell: str, word: str) -> None:
    ran = CliRunner().invoke(app, [], prog_name="contourd", env={"_CONTOURD_COMPLETE": f"source_{shell}"})
    assert ran.exit_code == 0, ran.output
    assert word in ran.output
    assert "contourd" in ran.output


def test_completion_knows_the_commands() -> None:
    env = {"_CONTOURD_COMPLETE": "complete_bash", "COMP_WORDS": "contourd ac", "COMP_CWORD": "1"}
    assert CliRunner().invoke(app, [], prog_name="contourd", env=env).output.split() == ["accept"]


def test_help_loads_nothing_heavy() -> None:
    """What takes long to load is named, rather than timed on a machine that others use too."""
    heavy = "{'torch', 'numpy', 'pydicom', 'pynetdicom', 'sqlalchemy', 'pydantic', 'scipy', 'jinja2', 'alembic'}"
    code = f"import sys, contourd.cli; print(sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    assert ran.stdout.strip() == "[]"


def test_a_recipe_is_shown_as_a_file_that_trains(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["recipe", "list"], env=PLAIN).output.splitlines()
    assert [line.split(":")[0] for line in listed] == ["hn7", "paper", "quick"]
    shown = CliRunner().invoke(app, ["recipe", "show", "quick"], env=PLAIN).output
    assert shown == (ROOT / "etc" / "recipes" / "quick.toml").read_text()
    (tmp_path / "mine.toml").write_text(shown.replace("length = 1000", "length = 7"))
    mine = CliRunner().invoke(app, ["recipe", "show", str(tmp_path / "mine.toml")], env=PLAIN).output
    assert "length = 7" in mine


def test_a_recipe_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(monkeypatch, "recipe", "show", "nosuch") == 2
    assert "no such recipe" in capsys.readouterr().err
