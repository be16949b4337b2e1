"""Alerts through an SMTP server and a webhook on loopback: once, in words without a patient, and never lost."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from unittest.mock import ANY

import pytest
from typer.testing import CliRunner

from contourd.cli import app
from contourd.observe.alerts import Alerts
from contourd.operations.operations import Operations
from contourd.reasons.catalogue import HoldReason
from contourd.settings import Settings
from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.store.states import DeliveryState
from contourd.store.tables import DeliveryRow, SeriesRow
from contourd.store.told_alerts import ToldAlerts
from contourd.system.identity import host_name
from tests import showcase
from tests.paging import settings_for
from tests.peers import free_port
from tests.reasons import because
from tests.sinks import smtp_sink, webhook_sink

HELD = [
    "series 2 is held: missing slices",
    "job 1 is held: confirmation",
]


class Clock:
    def __init__(self) -> None:
        self.now = self.began = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    @property
    def both(self) -> dict[str, object]:
        """The time, and the seconds that passed: whoever asks is told both."""
        return {"clock": self, "elapsed": lambda: (self.now - self.began).total_seconds()}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def mailbox():
    with smtp_sink() as box:
        yield box


@pytest.fixture
def hook():
    with webhook_sink() as hook:
        yield hook


@pytest.fixture
def database(tmp_path):
    settings = settings_for(tmp_path, 1, {})
    spool, database = Spool(settings.spool.root), Database(settings.database_url)
    database.upgrade()
    showcase.fill_queue(database, spool)
    with database.transaction() as session:
        session.get_one(SeriesRow, 2).reason = because(
            "missing slices at z = 1; Reference^Patient", HoldReason.SLICES_MISSING
        )
    yield database
    database.close()


def settings_with(tmp_path, **alerts) -> Settings:
    base = settings_for(tmp_path, 1, {}).model_dump(exclude={"alerts"}, exclude_none=True)
    return Settings.model_validate({**base, "alerts": {"disk_free_gb": 0, "oldest_job_s": 1e6, **alerts}})


def mail_to(mailbox, **more) -> dict[str, object]:
    return {"host": "127.0.0.1", "port": mailbox.port, "recipients": ["physicist@hospital.example"], **more}


def test_what_needs_a_person_is_mailed_once(tmp_path, database, clock, mailbox):
    settings = settings_with(tmp_path, mail=mail_to(mailbox))
    Alerts(settings, database, **clock.both).check()
    (message,) = mailbox.messages
    assert message["To"] == "physicist@hospital.example"
    assert message["Subject"] == "[contourd CONTOURD] 2 held, failed, destination"
    assert message["Auto-Submitted"] == "auto-generated"
    lines = message.get_content().splitlines()
    assert lines[:4] == [*HELD, "job 5 failed", "destination tps takes nothing: 1 wait for it"]
    assert "Reference" not in message.as_string()
    Alerts(settings, database, **clock.both).check()  # after a restart, too
    assert len(mailbox.messages) == 1


def test_what_is_new_is_told_alone_and_what_comes_again_is_told_again(tmp_path, database, clock, hook):
    alerts = Alerts(settings_with(tmp_path, webhook=hook.url, rules=["held"]), database, **clock.both)
    alerts.check()
    assert [c["text"] for c in hook.posts[0]["began"]] == HELD
    marie = Operations(database, "marie", tmp_path, clock)
    marie.hold(2, "wait")
    alerts.check()
    assert hook.posts[1] == {
        "node": "CONTOURD",
        "began": [{"rule": "held", "subject": "job 2", "text": "job 2 is held: by a person"}],
        "ended": [],
    }
    marie.retry(2)
    alerts.check()
    assert len(hook.posts) == 2  # who released it knows
    marie.hold(2, "wait again")
    alerts.check()
    assert [c["subject"] for c in hook.posts[2]["began"]] == ["job 2"]


def test_a_destination_is_told_down_and_up_once_each(tmp_path, database, clock, hook):
    alerts = Alerts(settings_with(tmp_path, webhook=hook.url, rules=["destination"]), database, **clock.both)
    alerts.check()
    with database.transaction() as session:  # tried in vain again: the state is the same
        session.get_one(DeliveryRow, 4).attempts += 1
    alerts.check()
    with database.transaction() as session:
        session.get_one(DeliveryRow, 4).state = DeliveryState.DELIVERED
    alerts.check()
    alerts.check()
    assert hook.posts == [
        {
            "node": "CONTOURD",
            "began": [{"rule": "destination", "subject": "destination tps", "text": ANY}],
            "ended": [],
        },
        {"node": "CONTOURD", "began": [], "ended": ["destination tps"]},
    ]


def test_a_job_that_a_person_holds_says_nothing_of_its_destination(tmp_path, database, clock, hook):
    Operations(database, "marie", tmp_path, clock).hold(3, "wait")
    Alerts(settings_with(tmp_path, webhook=hook.url, rules=["destination"]), database, **clock.both).check()
    assert hook.posts == []


def test_a_destination_that_failed_a_moment_ago_is_not_down(tmp_path, database, clock, hook):
    settings = settings_with(tmp_path, webhook=hook.url, rules=["destination"], destination_down_s=1e6)
    Alerts(settings, database, **clock.both).check()
    assert hook.posts == []


def test_an_old_job_and_a_full_disk_are_told(tmp_path, database, clock, hook):
    settings = settings_with(tmp_path, webhook=hook.url, rules=["age", "disk"], oldest_job_s=1800, disk_free_gb=1e9)
    Alerts(settings, database, **clock.both).check()
    texts = [c["text"] for c in hook.posts[0]["began"]]
    assert re.fullmatch(r"the oldest open job is 4[34] minutes old", texts[0])
    assert texts[1:] == [f"less than 1e+09 GB of disk are free on host {host_name()}"]


def test_a_webhook_that_fails_is_tried_again_later_and_keeps_mail_from_nobody(tmp_path, database, clock, hook, mailbox):
    settings = settings_with(tmp_path, webhook=hook.url, mail=mail_to(mailbox), rules=["failed"])
    alerts = Alerts(settings, database, **clock.both)
    hook.status = 503
    alerts.check()
    assert (len(mailbox.messages), hook.posts) == (1, [])
    hook.status = 200
    clock.now += timedelta(seconds=29)
    alerts.check()
    assert hook.posts == []
    clock.now += timedelta(seconds=4)  # 30 s and up to a tenth
    alerts.check()
    assert [c["subject"] for c in hook.posts[0]["began"]] == ["job 5"]
    assert len(mailbox.messages) == 1


@pytest.mark.parametrize("status", [301, 404, 500])
def test_only_success_counts(tmp_path, database, clock, hook, status):
    hook.status = status
    alerts = Alerts(settings_with(tmp_path, webhook=hook.url), database, **clock.both)
    alerts.check()
    hook.status = 200
    clock.now += timedelta(seconds=33)
    alerts.check()
    assert len(hook.posts) == 1


def test_a_mail_server_that_refuses_or_is_off_is_tried_again(tmp_path, database, clock, mailbox):
    mailbox.refuses = True
    alerts = Alerts(settings_with(tmp_path, mail=mail_to(mailbox)), database, **clock.both)
    alerts.check()
    mailbox.refuses = False
    off = Alerts(settings_with(tmp_path, mail=mail_to(mailbox, port=free_port())), database, **clock.both)
    off.check()
    assert mailbox.messages == []
    clock.now += timedelta(seconds=33)
    alerts.check()
    assert len(mailbox.messages) == 1


def test_the_mail_server_gets_the_password_of_the_file(tmp_path, database, clock, mailbox):
    (tmp_path / "password").write_text("secret\n")
    mail = mail_to(mailbox, user="contourd", password_file=str(tmp_path / "password"))
    Alerts(settings_with(tmp_path, mail=mail), database, **clock.both).check()
    assert len(mailbox.messages) == 1
    assert any(command.startswith("AUTH PLAIN") for command in mailbox.commands)


def test_a_server_without_tls_gets_nothing_where_tls_is_asked_for(tmp_path, database, clock, mailbox):
    Alerts(settings_with(tmp_path, mail=mail_to(mailbox, security="starttls")), database, **clock.both).check()
    assert mailbox.messages == []


def test_the_command_sends_a_test_and_has_all_told_again_where_that_is_asked_for(tmp_path, database, hook):
    ToldAlerts(database).keep("webhook", ["held/job 1/1"])
    configuration = tmp_path / "contourd.toml"
    configuration.write_text(
        f'[spool]\nroot = "{tmp_path / "spool"}"\n[alerts]\nwebhook = "{hook.url}"\n'
        '[[destination]]\nname = "pacs"\nae_title = "A"\nhost = "h"\nport = 1\n'
        '[[route]]\nmodel = "hn7"\ndestinations = ["pacs"]\n'
    )
    done = CliRunner().invoke(app, ["alert", "--config", str(configuration)])
    assert (done.exit_code, done.output) == (0, "a test alert was sent by webhook\n")
    assert hook.posts[0]["began"][0]["rule"] == "test"
    assert ToldAlerts(database).read() == {"webhook": ["held/job 1/1"]}
    done = CliRunner().invoke(app, ["alert", "--again", "--config", str(configuration)])
    assert done.exit_code == 0
    assert ToldAlerts(database).read() == {}


@pytest.mark.parametrize(
    ("alerts", "told"),
    [
        ({"webhook": "ftp://x"}, "http"),
        ({"mail": {"host": "x"}}, "recipients"),
        ({"mail": {"host": "x", "recipients": ["a b@c"]}}, "e-mail address"),
        ({"mail": {"host": "x", "recipients": ["a@c"], "user": "u"}}, "password_file"),
        ({"rules": ["held", "everything"]}, "rules"),
    ],
)
def test_settings_that_cannot_be(tmp_path, alerts, told):
    with pytest.raises(ValueError, match=told):
        settings_with(tmp_path, **alerts)


def test_nobody_to_tell_costs_nothing(tmp_path, database, clock):
    assert not settings_with(tmp_path).alerts.wanted
    Alerts(settings_with(tmp_path), database, **clock.both).check()
    assert not (tmp_path / "spool" / "alerts.json").exists()
