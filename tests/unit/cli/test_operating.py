"""The commands that a person gives about a job, in that person's name."""

from __future__ import annotations

import getpass

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from contourd.cli import app
from contourd.errors import InvalidTransition
from contourd.observe.report import read_report
from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.store.tables import AuditRow
from tests import showcase


@pytest.fixture
def configuration(tmp_path):
    root = tmp_path / "spool"
    path = tmp_path / "contourd.toml"
    path.write_text(
        f'[spool]\nroot = "{root}"\n[[route]]\nmodel = "hn7"\ndestinations = ["pacs", "tps"]\n'
        + "".join(f'[[destination]]\nname = "{n}"\nae_title = "A"\nhost = "h"\nport = 1\n' for n in ("pacs", "tps"))
    )
    spool = Spool(root)
    database = Database(f"sqlite:///{root / 'contourd.sqlite'}")
    database.upgrade()
    showcase.fill_queue(database, spool)
    database.close()
    return path


def command(configuration, *arguments: str):
    return CliRunner().invoke(app, [*arguments, "--config", str(configuration)])


def test_each_command_does_its_work_and_is_kept(configuration, tmp_path):
    (tmp_path / "model.json").write_text("{}")
    done = [
        command(configuration, "confirm", "1"),
        command(configuration, "hold", "3", "--reason", "wait for the physicist"),
        command(configuration, "cancel", "2", "--reason", "sent by mistake"),
        command(configuration, "resend", "4", "--to", "tps"),
        command(configuration, "recontour", "4", "--model", str(tmp_path)),
        command(configuration, "retry", "5"),
        command(configuration, "release", "2", "--reason", "all slices are there"),
    ]
    assert [d.output for d in done if d.exit_code] == []
    assert "job 6 contours the series of job 4" in done[4].output
    database = Database(f"sqlite:///{tmp_path / 'spool' / 'contourd.sqlite'}")
    states = {job.id: job.state for job in read_report(database).jobs}
    with database.reading() as session:
        trail = [(a.actor, a.action, a.subject) for a in session.scalars(select(AuditRow).order_by(AuditRow.id))]
    database.close()
    assert states == {1: "DELIVERING", 2: "CANCELLED", 3: "HELD", 4: "DELIVERING", 5: "DELIVERING", 6: "QUEUED"}
    subjects = ("job 1", "job 3", "job 2", "job 4", "job 4", "job 5", "series 2")
    actions = ("confirm", "hold", "cancel", "resend", "recontour", "retry", "release")
    assert trail == [(getpass.getuser(), action, subject) for action, subject in zip(actions, subjects, strict=True)]


def test_what_cannot_be_done_is_said(configuration):
    done = command(configuration, "confirm", "4")
    assert isinstance(done.exception, InvalidTransition)
    assert "does not wait for confirmation" in str(done.exception)
