"""Webhooks and mail servers that drip, never end, or point nowhere: bounded in time and bytes, and tried again."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError

from contourd.errors import NoticeNotSent
from contourd.observe.alerts import Alerts
from contourd.observe.notices import MailChannel, Notice, NotificationChannel, WebhookChannel, notice_of_test
from contourd.settings.alerts import AlertSettings, MailSettings
from contourd.store.database import Database
from tests.paging import settings_for
from tests.sinks import raw_sink

TIMEOUT_S, WITHIN_S, GROWTH_MB = 1.0, 4.0, 20.0
Play = Callable[[socket.socket], None]


def taken(connection: socket.socket) -> None:
    """Read the request, which is small."""
    content = b""
    while b"\r\n\r\n" not in content:
        content += connection.recv(65536)


def http(*content: bytes, step_s: float = 0.0) -> Play:
    """Answer a request by the first part once and by the second for ever."""

    def play(connection: socket.socket) -> None:
        taken(connection)
        connection.sendall(content[0])
        while len(content) > 1:
            connection.sendall(content[1])
            time.sleep(step_s)

    return play


HTTP: dict[str, Play] = {
    "drips its status": http(b"HTTP/1.1 ", b"2", step_s=0.05),
    "drips a line": http(b"HTTP/1.1 100 Continue\r\n", b"x", step_s=0.05),
    "never ends its line": http(b"HTTP/1.1 200 ", bytes(65536).replace(b"\0", b"x")),
    "continues for ever": http(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "has early hints for ever": http(b"HTTP/1.1 103 Early Hints\r\n", b"Link: </a>\r\n" * 1000),
    "is silent": http(b"", b"", step_s=WITHIN_S),
    "is no HTTP": http(b"220 mail.example\r\n"),
    "says nothing": http(b""),
}
REPLY = b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n"
LOCATIONS = (b"http://[", b"http://\xff\xfe", b"//[::", b"file:///etc/passwd", b"/elsewhere")


def not_sent(channel: NotificationChannel) -> str:
    """Send a notice in vain, within its time and memory; returns why."""
    before, began = psutil.Process().memory_info().rss, time.monotonic()
    with pytest.raises(NoticeNotSent) as told:
        channel.send(notice_of_test("NODE"))
    assert time.monotonic() - began < WITHIN_S
    assert (psutil.Process().memory_info().rss - before) / 2**20 < GROWTH_MB
    assert str(told.value).isprintable()
    return str(told.value)


@pytest.mark.parametrize("what", HTTP)
def test_a_webhook_is_bounded(what: str) -> None:
    with raw_sink(HTTP[what]) as port:
        not_sent(WebhookChannel(f"http://127.0.0.1:{port}/", TIMEOUT_S))


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_redirection_is_no_success_and_no_error_of_ours(location: bytes) -> None:
    with raw_sink(http(REPLY % location)) as port:
        assert "302 Found" in not_sent(WebhookChannel(f"http://127.0.0.1:{port}/", TIMEOUT_S))


def test_what_comes_after_the_status_is_not_waited_for() -> None:
    with raw_sink(http(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n", b"X-Endless: x\r\n")) as port:
        began = time.monotonic()
        WebhookChannel(f"http://127.0.0.1:{port}/", 10.0).send(notice_of_test("NODE"))
        assert time.monotonic() - began < WITHIN_S


def smtp(greeting: bytes, for_ever: bytes, step_s: float = 0.0) -> Play:
    def play(connection: socket.socket) -> None:
        connection.sendall(greeting)
        while True:
            connection.sendall(for_ever)
            time.sleep(step_s)

    return play


SMTP: dict[str, Play] = {
    "drips its greeting": smtp(b"220 ", b"x", 0.05),
    "greets for ever": smtp(b"", b"220-welcome\r\n" * 1000),
    "drips an answer": smtp(b"220 sink\r\n", b"250-x\r\n", 0.05),
    "answers for ever": smtp(b"220 sink\r\n", b"250-x\r\n" * 1000),
    "never ends its line": smtp(b"220 sink\r\n", bytes(65536).replace(b"\0", b"x")),
    "is no SMTP": smtp(b"\xff\xfe\r\n", b"abc\r\n"),
}


@pytest.mark.parametrize("what", SMTP)
@pytest.mark.parametrize("security", ["none", "starttls"])
def test_a_mail_server_is_bounded(what: str, security: str) -> None:
    with raw_sink(SMTP[what]) as port:
        settings = MailSettings.model_validate(
            {"host": "127.0.0.1", "port": port, "recipients": ["a@b.example"], "timeout_s": TIMEOUT_S}
            | {"security": security}
        )
        not_sent(MailChannel(settings))


@pytest.mark.parametrize(
    "url",
    ["http://[", "http://host:99999/", "http://host:0/", "http:///x", "http://u:p@host/", "https://a b/", "http://"],
)
def test_an_address_that_is_none_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ValidationError, match="webhook"):
        AlertSettings(webhook=url)


class Breaking:
    """A channel on which contourd itself breaks down."""

    name = "breaking"

    def __init__(self) -> None:
        self.tries = 0

    def send(self, notice: Notice) -> None:
        self.tries += 1
        raise ZeroDivisionError(notice.subject())


def test_whatever_a_channel_raises_it_waits_longer_each_time(tmp_path: Path, database: Database) -> None:
    channel, passed_s = Breaking(), 0.0
    settings = settings_for(tmp_path, 1, {})
    settings.spool.root.mkdir()
    settings = settings.model_copy(update={"alerts": AlertSettings(disk_free_gb=1e9)})  # less is free than that
    alerts = Alerts(settings, database, [channel], elapsed=lambda: passed_s)
    for _ in range(240):  # an hour of looks, every 15 s
        with suppress(ZeroDivisionError):
            alerts.check()
        passed_s += 15.0
    # At once, and 30, 60, 120, 240, 480 and 960 s and up to a tenth later: the seventh after 1890 s or a little more.
    assert channel.tries == 7
