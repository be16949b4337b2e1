"""`contourd init`: the shipped file with a site's answers, valid, and never in place of another without being told."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contourd.cli import app
from contourd.errors import NodeError, SettingsError
from contourd.settings import load_settings
from contourd.settings.configuration import SiteAnswers, configuration_text, write_configuration

SHIPPED = (Path(__file__).resolve().parents[3] / "etc" / "contourd.toml").read_text(encoding="utf-8")
# As shipped, but for the page, which `init` switches on.
WRITTEN = SHIPPED.replace("[web]\nenabled = false ", "[web]\nenabled = true  ").replace(
    "descriptions = false ", "descriptions = true  "
)
SITE = SiteAnswers(
    ae_title="HN_NODE",
    port=104,
    spool="/srv/contourd",
    destination="tps",
    destination_ae_title="RAYSTATION",
    destination_host="tps.example.org",
    destination_port=11104,
    profile="raystation",
    allowed_callers=("CT1", "CT2"),
)


def comments(text: str) -> list[str]:
    return [line[line.index("#") :] for line in text.splitlines() if "#" in line]


def test_the_defaults_are_the_shipped_file() -> None:
    first, rest = configuration_text(SiteAnswers()).split("\n", 1)
    assert re.fullmatch(r"# Written by `contourd init` of contourd [\d.]+\.", first)
    assert rest == WRITTEN != SHIPPED


def test_a_site_s_answers_are_its_values_and_every_comment_stays() -> None:
    text = configuration_text(SITE)
    content, shipped = tomllib.loads(text), tomllib.loads(WRITTEN)
    assert content["node"] == {**shipped["node"], "ae_title": "HN_NODE", "port": 104, "allowed_callers": ["CT1", "CT2"]}
    assert content["spool"] == {**shipped["spool"], "root": "/srv/contourd"}
    where = {"name": "tps", "ae_title": "RAYSTATION", "host": "tps.example.org", "port": 11104, "profile": "raystation"}
    assert content["destination"] == [{**shipped["destination"][0], **where}]
    assert content["route"] == [{"model": "hn7", "destinations": ["tps"]}]
    untouched = set(shipped) - {"node", "spool", "destination", "route"}
    assert {key: content[key] for key in untouched} == {key: shipped[key] for key in untouched}
    assert comments(text)[1:] == comments(SHIPPED)


def test_what_is_special_in_toml_is_quoted(tmp_path: Path) -> None:
    settings = write_configuration(tmp_path / "c.toml", replace(SITE, spool='/srv/a "b" # é', ae_title="A #1"))
    assert str(settings.spool.root) == '/srv/a "b" # é'
    assert settings.node.ae_title == "A #1"


def test_an_answer_that_is_not_valid_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "contourd.toml"
    with pytest.raises(SettingsError, match=r"node\.port"):
        write_configuration(path, replace(SITE, port=70000))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "contourd.toml"
    path.write_text("mine")
    with pytest.raises(NodeError, match="--force"):
        write_configuration(path, SITE)
    assert path.read_text() == "mine"
    ran = CliRunner().invoke(app, ["init", "--yes", "--output", str(path)])
    assert isinstance(ran.exception, NodeError)
    assert path.read_text() == "mine"
    assert CliRunner().invoke(app, ["init", "--yes", "--force", "--output", str(path)]).exit_code == 0
    assert load_settings(path).node.ae_title == "CONTOURD"


def test_yes_asks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "contourd.toml"
    ran = CliRunner().invoke(app, ["init", "--yes", "--output", str(path)], input="")
    assert ran.exit_code == 0, ran.output
    assert path.read_text(encoding="utf-8").split("\n", 1)[1] == WRITTEN
    assert f"contourd check --config {path}" in ran.output


def test_the_questions_and_what_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "contourd.toml"
    answers = [
        *("A TITLE THAT IS TOO LONG", "HN_NODE"),
        *("eleven", "70000", "104"),
        *("CT1, BACK\\SLASH", "CT1, CT2"),
        "/srv/contourd",
        *("t p s", "tps"),
        "RAYSTATION",
        "tps.example.org",
        "11104",
        *("siddon", "raystation"),
    ]
    ran = CliRunner().invoke(app, ["init", "--output", str(path)], input="\n".join(answers) + "\n")
    assert ran.exit_code == 0, ran.output
    assert path.read_text(encoding="utf-8") == configuration_text(SITE)
    assert ran.output.count("Error: ") == 6


def test_enter_takes_the_defaults_and_an_end_of_input_writes_nothing(tmp_path: Path) -> None:
    path, other = tmp_path / "contourd.toml", tmp_path / "other.toml"
    ran = CliRunner().invoke(app, ["init", "--output", str(path)], input="\n" * 9)
    assert ran.exit_code == 0, ran.output
    assert path.read_text(encoding="utf-8").split("\n", 1)[1] == WRITTEN
    assert CliRunner().invoke(app, ["init", "--output", str(other)], input="HN_NODE\n").exit_code == 1
    assert not other.exists()
